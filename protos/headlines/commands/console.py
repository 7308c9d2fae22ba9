"""Standard input and output of the commands that people and programs use.

Whatever a headline holds and wherever it goes: one line stays one line, a terminal gets no control character, and a stream
that is closed, full or not UTF-8 ends in a sentence or in escapes, never in a traceback.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import TextIOWrapper
from typing import NamedTuple, cast

from headlines.commands import CommandError

_LONGEST_LINE = 1 << 20  # bytes; no server takes more in one headline
_SHOWN = 200  # characters of a line that is too long
_JOINERS = "\u200c\u200d"  # not printable to Python, but Persian and emoji need them


class Output:
    """Standard output, a line at a time, each written at once."""

    def __init__(self) -> None:
        """Raises CommandError if it is closed."""
        if sys.stdout is None:
            raise CommandError("standard output is closed")
        stream = cast(TextIOWrapper, sys.stdout)
        stream.reconfigure(errors="backslashreplace", line_buffering=True)
        self.width = _terminal_width() if stream.isatty() else None  # None: lines may be of any length

    def print(self, line: str = "") -> None:
        """Write a line. Raises CommandError if it cannot be written; without a message if the reader has closed the pipe."""
        try:
            print(line)
        except OSError as error:
            # Python writes what is left at its end, and would fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if isinstance(error, BrokenPipeError):
                raise CommandError from None
            raise CommandError(f"standard output cannot be written: {error.strerror}") from None


def note(text: str) -> None:
    """Write a line to standard error, if there is one."""
    if sys.stderr is not None:  # print() would take standard output for None
        with suppress(OSError):
            print(text, file=sys.stderr)


class Line(NamedTuple):
    """A line of standard input."""

    number: int  # from 1, blank lines counted
    text: str  # without outer white space
    problem: str = ""  # why it cannot be used; then the text is only an impression of it


def lines() -> Iterator[Line]:
    """The lines of standard input that are not blank. Raises CommandError if it cannot be read."""
    if sys.stdin is None:
        raise CommandError("standard input is closed; - reads the headlines from there")
    if sys.stdin.isatty():
        note("Reading headlines from the terminal, one a line; Ctrl-D ends the list.")
    # A buffer of its own: Python waits at its end for whoever still reads from sys.stdin, such as a thread of the client.
    stream = open(sys.stdin.fileno(), "rb", closefd=False)  # noqa: SIM115
    number = 0
    try:
        while data := stream.readline(_LONGEST_LINE):
            number += 1
            long = len(data) == _LONGEST_LINE and not data.endswith(b"\n")
            rest = data
            while len(rest) == _LONGEST_LINE and not rest.endswith(b"\n"):
                rest = stream.readline(_LONGEST_LINE)
            line = _line(number, data)
            if long:
                yield Line(number, line.text[:_SHOWN], "takes more than 1 MiB, which is no headline; are there line breaks?")
            elif line.text:
                yield line
    except OSError as error:
        raise CommandError(f"standard input cannot be read: {error.strerror}") from None


def _line(number: int, data: bytes) -> Line:
    if number == 1:
        data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return Line(number, data.decode().strip())
    except UnicodeDecodeError:
        utf_16 = number == 1 and data.startswith((b"\xff\xfe", b"\xfe\xff"))
        problem = "is not UTF-8" + (" but looks like UTF-16; convert the file first" if utf_16 else "")
        return Line(number, data.decode(errors="replace").strip(), problem)


def printable(text: str) -> str:
    """The text on one line, without characters that a terminal obeys: controls, and marks that turn the direction of text."""
    return "".join(
        character if character.isprintable() or character in _JOINERS else " " if character.isspace() else "\ufffd"
        for character in text
    )


def cut(text: str, width: int | None) -> str:
    """The text, ending in ... if it takes more columns of a terminal than `width`."""
    if width is None or len(text) * 2 <= width or sum(map(_columns, text)) <= width:
        return text
    used = 0
    for i, character in enumerate(text):
        used += _columns(character)
        if used > width - 3:
            return text[:i] + "..."
    return text


def wrapped(words: Iterable[str], width: int | None) -> list[str]:
    """The words with commas between them, in lines that take at most `width` columns of a terminal; a longer word is cut."""
    lines: list[str] = []
    for word in words:
        shown = cut(word, width and width - 1)  # the last column is for a comma
        if lines and (width is None or sum(map(_columns, f"{lines[-1]}, {shown}")) < width):
            lines[-1] += f", {shown}"
        else:
            lines = [*lines[:-1], f"{lines[-1]},", shown] if lines else [shown]
    return lines


def _terminal_width() -> int:
    import shutil  # here, since it takes a tenth of the command's start

    return shutil.get_terminal_size().columns


def _columns(character: str) -> int:
    if unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
