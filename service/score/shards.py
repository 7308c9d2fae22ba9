"""Inputs and the shards that they are cut into.

Parquet is cut at its row groups; plain CSV and JSON Lines in UTF-8 at records, found by one scan that knows quotes. What cannot
be read from the middle (compressed files, UTF-16, a JSON array, a workbook, standard input) is one shard.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import IO, Any, cast

import msgspec

from service.errors import DataError
from service.posts import columns, files
from service.posts.flags import Format
from service.posts.headlines import BadRowError, HeadlineReader
from service.posts.sources import Adapter, Source
from service.posts.times import Times, ZoneNeededError

SHARD_BYTES = 16 << 20  # of text: some 150,000 headlines

# The columns that scoring adds.
SCORES = (
    "main_output",
    "aux_output",
    "best",
    "word_count",
    "unknown_word_count",
    "outlet_known",
    "model_version",
    "problem",
)

_log = logging.getLogger(__name__)

_SAMPLED = 1000  # rows that show how the file writes its times
_LONGEST_PLAIN = 1 << 16  # bytes of a line
_BUFFER = 1 << 20


class Shard(msgspec.Struct, frozen=True):
    """Part of an input."""

    first_row: int  # from 0; of JSON Lines, the first line
    start: int  # bytes; of Parquet, the row group
    end: int  # bytes, exclusive; of Parquet, the next row group; -1: the whole input
    first_line: int  # as messages count: from 1, the header included
    # Of CSV: every row has the header's columns and is quoted by the book, so that any reader finds the same cells.
    is_plain: bool = False


class Input(msgspec.Struct, frozen=True):
    """A file to score, and how it is read: what the manifest keeps, so that a job that goes on reads it in the same way."""

    name: str
    size: int  # bytes
    modified: int  # ns since 1970-01-01 UTC
    digest: str  # SHA-256 in hex; of Parquet, that of its schema and row groups' sizes
    format: str  # for people
    kind: str  # csv, lines, parquet or whole
    names: list[str]  # of its own columns that are kept, in order
    headline: list[str]
    posted_at: list[str]
    outlet: str | None
    html: bool
    spelling: str  # of its times
    delimiter: str  # of plain CSV
    head: int  # bytes of the header, which each shard is read behind
    head_lines: int
    shards: list[Shard]

    @property
    def plan(self) -> columns.Plan:
        """Its columns by what they hold."""
        return columns.Plan("", tuple(self.headline), tuple(self.posted_at), self.outlet, {}, html=self.html)


def cut(source: Source, written: Format, shard_bytes: int = SHARD_BYTES) -> Input:
    """Read what has to be known of an input, and cut it. Raises DataError, naming the file, and UsageError."""
    try:
        size, modified = source.state()
    except OSError as error:
        raise DataError(f"{source.name}: cannot be read: {error.strerror}") from None
    with files.open_table(source, hashlib.sha256(), written.encoding) as table:
        names = list(dict.fromkeys(name for name in table.names if name))
        if table.format.startswith("JSON"):  # nested fields are kept as they are, in the column of the outermost
            names = list(dict.fromkeys(name.partition(".")[0] for name in names))
        elif table.format == "Parquet":
            kept = {*_top_level(source), *source.constants}
            names = [name for name in names if name in kept]
        try:
            plan = columns.choose_unlabelled(table.names, named=written.columns)
        except DataError as error:
            raise DataError(f"{source.name}: {error}") from None
        spelling = _spelling(source, table, plan, written)
        form = table.format
    if replaced := [name for name in names if name in SCORES]:
        _log.warning("%s: has columns that are scores already, which new ones replace: %s", source.name, ", ".join(replaced))
        names = [name for name in names if name not in SCORES]
    kind = {"Parquet": "parquet", "JSON Lines": "lines"}.get(form, "csv" if re.fullmatch("CSV with [^,]+", form) else "whole")
    if kind != "parquet" and source.constants:
        kind = "whole"
    delimiter, head, head_lines = "", 0, 0
    if kind == "parquet":
        digest, shards = _row_groups(source)
    else:
        digest_ = hashlib.sha256()
        with source.open() as file:
            data = io.BufferedReader(cast("io.RawIOBase", files.Hashing(file, digest_)), _BUFFER)
            try:
                if kind == "csv":
                    delimiter, head, head_lines, shards = _cut_csv(data, shard_bytes, len(names))
                elif kind == "lines":
                    shards = _cut_lines(data, shard_bytes)
            except _CannotCutError:
                kind, head, head_lines = "whole", 0, 0
            while data.read(_BUFFER):
                pass
        digest = digest_.hexdigest()
    if kind == "whole":
        shards = [Shard(0, 0, -1, 1)]
    return Input(
        source.name,
        size,
        modified,
        digest,
        form,
        kind,
        names,
        list(plan.headline),
        list(plan.posted_at),
        plan.outlet,
        plan.html,
        spelling,
        delimiter,
        head,
        head_lines,
        shards,
    )


def read(source: Source, head: int, shard: Shard) -> IO[bytes]:
    """Open a shard of text behind the first `head` bytes of its input."""
    return cast("IO[bytes]", _Slice(source.open(), head, shard.start, shard.end))


class _CannotCutError(Exception):
    """The text can only be read as a whole."""


def _spelling(source: Source, table: files.Table, plan: columns.Plan, written: Format) -> str:
    """How the file's first times are written; empty if it has none."""
    times = Times(written.time_zone, written.time_format)
    if not plan.posted_at:
        return ""
    reader = HeadlineReader(plan, times)
    for read_, (line, cells) in enumerate(table.rows(plan.columns), 1):
        if not isinstance(cells, str) and is_there(reader.time(cells)):
            try:
                with suppress(BadRowError):
                    reader.posted_at(cells)
            except ZoneNeededError as error:
                raise DataError(f"{source.name}:{line}: {error}") from None
        if times.spelling or read_ >= _SAMPLED:
            break
    return times.spelling


def is_there(cell: object) -> bool:
    """Whether a cell for a time holds anything."""
    return not (cell is None or cell != cell or (isinstance(cell, str) and not cell.strip()))


def _top_level(source: Source) -> Sequence[str]:
    import pyarrow.parquet as pq

    with source.open() as file:
        names: Sequence[str] = pq.ParquetFile(file).schema_arrow.names
    return names


def _row_groups(source: Source) -> tuple[str, list[Shard]]:
    import pyarrow.parquet as pq

    with source.open() as file:
        metadata = pq.ParquetFile(file).metadata
    digest = hashlib.sha256(str(metadata.schema).encode())
    shards, row = [], 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        digest.update(f"{group.num_rows} {group.total_byte_size} {group.column(0).file_offset}\n".encode())
        shards.append(Shard(row, number, number + 1, row + 1))
        row += group.num_rows
    return digest.hexdigest(), shards


class _Lines:
    """A text's lines as bytes, without their newlines, counted."""

    def __init__(self, file: IO[bytes]) -> None:
        self._read = file.read
        self.offset = 0  # bytes, behind the last line
        self.number = 0

    def __iter__(self) -> Iterator[bytes]:
        rest = b""
        while chunk := self._read(_BUFFER):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) >= files.LONGEST_LINE:
                raise _CannotCutError  # reading it says what is wrong
            for line in lines:
                if b"\r" in line and line.find(b"\r") != len(line) - 1:
                    raise _CannotCutError  # a line end of old Macs, which ends a line also inside of this one
                self.offset += len(line) + 1
                self.number += 1
                yield line
        if rest:
            if b"\r" in rest:
                raise _CannotCutError
            self.offset += len(rest)
            self.number += 1
            yield rest


def _cut_csv(file: IO[bytes], shard_bytes: int, names: int) -> tuple[str, int, int, list[Shard]]:
    """The delimiter, the header's bytes and lines, and the shards. `names` is how many columns are read."""
    lines = _Lines(file)
    # Quotes, delimiters and line ends are ASCII, so that any encoding which keeps bytes apart finds the same records.
    encoded = iter(lines)
    decoded = (line.decode("latin-1") + "\n" for line in encoded)
    first = next(decoded, "")
    told = files.told_delimiter(first.removeprefix("ï»¿"))
    delimiter = told or files.delimiter(first)
    if told:
        first = next(decoded, "")
    try:
        header = next(csv.reader(chain([first.removeprefix("ï»¿")], decoded), delimiter=delimiter, strict=True), [])
    except csv.Error:
        raise _CannotCutError from None
    while len(header) > 1 and not header[-1].strip():
        header.pop()
    head, head_lines, row = lines.offset, lines.number, 0
    shards, begin = [], (0, head, head_lines + 1)
    separators, separator = len(header) - 1, delimiter.encode()
    is_plain = all_plain = len(header) == names
    again: list[str] = []  # the line that the reader takes next, before those that follow
    reader = csv.reader(_fed(again, decoded), delimiter=delimiter, strict=True)
    for line in encoded:
        before = lines.number
        if b'"' not in line:
            rows = int(line not in (b"", b"\r"))
            if line.count(separator) != separators or not rows or len(line) >= _LONGEST_PLAIN:
                is_plain = False
        elif (after := _after_quoted(line, separator)) is not None:
            rows = 1
            if after.count(separator) != separators or len(line) >= _LONGEST_PLAIN:
                is_plain = False
        else:
            again.append(line.decode("latin-1") + "\n")
            try:
                record = next(reader)
                same = len(record) == len(header)
                good = same or not files.width_problem(record, len(header))
            except csv.Error:
                same = good = False
            is_plain = is_plain and same
            rows = 1 if good else lines.number - before + 1
        row += rows
        if lines.offset - begin[1] >= shard_bytes:
            shards.append(Shard(*begin[:2], lines.offset, begin[2], is_plain))
            begin, is_plain = (row, lines.offset, lines.number + 1), all_plain
    if lines.offset > begin[1] or not shards:
        shards.append(Shard(*begin[:2], lines.offset, begin[2], is_plain))
    return delimiter, head, head_lines, shards


def _after_quoted(line: bytes, separator: bytes) -> bytes | None:
    """What follows the first column of a line in which only that is quoted, as most headlines with commas are; else None."""
    if line[:1] != b'"' or line.count(b'"') != 2:
        return None
    after = line[line.find(b'"', 1) + 1 :]
    return after if after.startswith(separator) or after in (b"", b"\r") else None


def _fed(again: list[str], lines: Iterator[str]) -> Iterator[str]:
    while line := again.pop() if again else next(lines, ""):
        yield line


def _cut_lines(file: IO[bytes], shard_bytes: int) -> list[Shard]:
    lines = _Lines(file)
    shards, start, first = [], 0, 1
    for _ in lines:
        if lines.offset - start >= shard_bytes:
            shards.append(Shard(first - 1, start, lines.offset, first))
            start, first = lines.offset, lines.number + 1
    if lines.offset > start or not shards:
        shards.append(Shard(first - 1, start, lines.offset, first))
    return shards


class _Slice(Adapter):
    """The first bytes of a file, and then others of it, as if there were nothing between them."""

    def __init__(self, file: IO[bytes], head: int, start: int, end: int) -> None:
        super().__init__(file)
        self._head, self._start, self._end = head, start, end
        self._at = 0

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401
        in_head = self._at < self._head
        place = self._at if in_head else self._start + self._at - self._head
        room = (self._head if in_head else self._end) - place
        if room <= 0:
            return 0
        self._file.seek(place)
        size = super().readinto(memoryview(buffer)[:room])
        self._at += size
        return size

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation
        self._at = offset
        return offset

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
