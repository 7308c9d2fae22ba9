"""Where records of text end, so that it can be cut between them.

Of CSV, whole blocks are scanned for quotes, separators and line ends by NumPy, as long as they are quoted by the book; the csv
module, which is some four times slower, reads the records that are not.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt

from service.posts import files

_BUFFER = 1 << 20  # bytes that are read at once
_BLOCK = 1 << 18  # bytes that are scanned at once, which with what is found in them fit a cache
_AWKWARD = 1 << 16  # bytes that the csv module reads before a scan is tried again
_LONGEST_PLAIN = 1 << 16  # bytes of a record
_QUOTE, _LINE_END, _RETURN = b'"\n\r'
_MARK = "\u00ef\u00bb\u00bf"  # the byte-order mark of UTF-8, as Latin-1


class CannotCutError(Exception):
    """The text can only be read as a whole."""


class Stretch(NamedTuple):
    """Records, one after another, each of which may be a shard's last."""

    ends: npt.NDArray[np.int64]  # bytes from the file's start
    rows: npt.NDArray[np.int64]  # how many rows a reader finds: 0 in an empty line, perhaps several in a broken record
    lines: npt.NDArray[np.int64]  # up to each end, from the file's start
    plain: npt.NDArray[np.bool_]  # whether it has the header's columns, and any reader finds the same cells


class Text:
    """A text's bytes, a line or a block at a time."""

    def __init__(self, file: IO[bytes]) -> None:
        self._read = file.read
        self._data, self._at = b"", 0
        self.offset = 0  # bytes that are taken
        self.lines = 0  # likewise

    def line(self) -> bytes | None:
        """Take a line, without its newline; None at the end. Raises CannotCutError."""
        while (end := self._data.find(b"\n", self._at)) < 0:
            if len(self._data) - self._at >= files.LONGEST_LINE:
                raise CannotCutError  # reading it says what is wrong
            if not self._more():
                break
        line = self._data[self._at : end if end >= 0 else None]
        if end < 0 and not line:
            return None
        if b"\r" in line and (end < 0 or line.find(b"\r") != len(line) - 1):
            raise CannotCutError  # a line end of old Macs, which ends a line also inside of this one
        self.take(len(line) + (end >= 0), 1)
        return line

    def block(self) -> bytes:
        """What follows, some 256 kB, without taking it; empty at the end."""
        while len(self._data) - self._at < _BLOCK and self._more():
            pass
        return self._data[self._at : self._at + _BLOCK]

    def take(self, size: int, lines: int) -> None:
        """Pass over this many bytes, which hold so many lines."""
        self._at += size
        self.offset += size
        self.lines += lines

    def _more(self) -> bool:
        chunk = self._read(_BUFFER)
        self._data, self._at = self._data[self._at :] + chunk, 0
        return bool(chunk)


def lines(text: Text) -> Iterator[Stretch]:
    """A text's lines, each of which is a record. Raises CannotCutError."""
    while block := text.block():
        ends = np.flatnonzero(np.frombuffer(block, np.uint8) == _LINE_END) + 1
        if not len(ends) or block.count(b"\r") != block.count(b"\r\n"):
            text.line()
            ends = np.array([0])
            before = text.lines - 1
        else:
            before = text.lines
            text.take(int(ends[-1]), len(ends))
        numbers = np.arange(before + 1, text.lines + 1)
        ends += text.offset - ends[-1]
        yield Stretch(ends, np.ones(len(ends), np.int64), numbers, np.ones(len(ends), np.bool_))


class CsvText(Text):
    """A CSV text, behind its header."""

    def __init__(self, file: IO[bytes]) -> None:
        """Read the header. Raises CannotCutError."""
        super().__init__(file)
        decoded = self._decoded()
        first = next(decoded, "").removeprefix(_MARK)
        told = files.told_delimiter(first)
        self.delimiter = told or files.delimiter(first)
        if told:
            first = next(decoded, "")
        try:
            header = next(csv.reader(chain([first], decoded), delimiter=self.delimiter, strict=True), [])
        except csv.Error:
            raise CannotCutError from None
        while len(header) > 1 and not header[-1].strip():
            header.pop()
        self.columns = len(header)
        self.head, self.head_lines = self.offset, self.lines  # bytes and lines up to its end

    def records(self) -> Iterator[Stretch]:
        """All that follow. Raises CannotCutError."""
        reader = csv.reader(self._decoded(), delimiter=self.delimiter, strict=True)
        while block := self.block():
            if (found := self._scan(block)) is None:
                found = self._read_some(reader)
            yield found

    def _decoded(self) -> Iterator[str]:
        # Quotes, delimiters and line ends are ASCII, so that any encoding which keeps bytes apart finds the same records.
        while (line := self.line()) is not None:
            yield line.decode("latin-1") + "\n"

    def _scan(self, block: bytes) -> Stretch | None:
        """Take the records at the block's begin that are quoted by the book; None if the first is not, or is longer."""
        data = np.frombuffer(block, np.uint8)
        separator = ord(self.delimiter)
        marked = (data == separator) | (data == _LINE_END) | (data == _QUOTE)
        if b"\r" in block:
            marked |= data == _RETURN
        places = np.flatnonzero(marked)
        kinds = data[places]
        is_quote, is_line = kinds == _QUOTE, kinds == _LINE_END
        inside = (np.cumsum(is_quote, dtype=np.uint8) & 1).astype(np.bool_)  # behind each mark, whether in quotes
        joins = np.diff(places, prepend=-1) == 1  # directly follows the one before it
        next_joins = np.append(joins[1:], False)
        # A quote opens a cell, or after one that closed makes a pair of them. Behind one that closes the cell ends.
        wrong = is_quote & ~np.where(inside, joins, next_joins)
        wrong |= (kinds == _RETURN) & ~(next_joins & np.append(is_line[1:], False))
        scanned = int(wrong.argmax()) if wrong.any() else len(places)
        marks = np.flatnonzero((is_line & ~inside)[:scanned])
        ends = places[marks] + 1
        sizes = np.diff(ends, prepend=0)
        counted = np.cumsum(is_line)[marks]
        same = np.diff(np.cumsum((kinds == separator) & ~inside)[marks], prepend=0) == self.columns - 1
        awkward = (sizes >= _LONGEST_PLAIN) | ((np.diff(counted, prepend=0) > 1) & ~same)
        good = int(awkward.argmax()) if awkward.any() else len(marks)
        if not good:
            return None
        ends, sizes, counted, same = ends[:good], sizes[:good], counted[:good], same[:good]
        empty = (sizes == 1) | ((sizes == 2) & (data[ends - 2] == _RETURN))
        found = Stretch(self.offset + ends, (~empty).astype(np.int64), self.lines + counted, same & ~empty)
        self.take(int(ends[-1]), int(counted[-1]))
        return found

    def _read_some(self, reader: Iterator[list[str]]) -> Stretch:
        """Take some records by the csv module."""
        begin = self.offset
        ends, rows, counted, plain = [], [], [], []
        while self.offset - begin < _AWKWARD:
            before = self.lines
            record: list[str] | None = None
            try:
                if (record := next(reader, None)) is None:
                    break
                is_same = len(record) == self.columns
                is_one = is_same or not files.width_problem(record, self.columns)
            except csv.Error:
                is_same = is_one = False
            ends.append(self.offset)
            rows.append(0 if record == [] else 1 if is_one else self.lines - before)
            counted.append(self.lines)
            plain.append(is_same)
        return Stretch(
            np.array(ends, np.int64), np.array(rows, np.int64), np.array(counted, np.int64), np.array(plain, np.bool_)
        )
