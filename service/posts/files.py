"""Files of posts, a row at a time, whatever tool wrote them.

    with open_table(source, hashlib.sha256()) as table:
        for line, cells in table.rows(["Tweet text", "time"]):
            ...

The format is found by content, never by the file's name: CSV with commas, semicolons, tabs or bars; JSON, JSON Lines, one
object of columns; Parquet; Excel workbooks. Text is UTF-8, or UTF-16 by its mark, or in the encoding that is given. Files may
be compressed (gzip, bzip2, xz, zstd, or the one file of a ZIP archive).

No message holds what stands in a cell, since in a damaged file any cell may be a headline.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import hashlib
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import IO, Any, TypeAlias, cast

from service.errors import DataError
from service.posts import json_records
from service.posts.sources import Adapter, Source
from service.posts.times import Instant

LONGEST_LINE = 4 << 20  # characters; without a bound a small .gz file without line ends would fill the memory

_BUFFER = 1 << 18  # bytes that are read and hashed at once
_HEAD = 4096  # bytes that tell the format
_LINE_END = re.compile("\r\n?|\n")
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_WEB_PAGES = (b"<!doctype html", b"<html", b"<head", b"<?xml")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
# What is sometimes found where posts should be.
_OTHERS = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself; fetch that with `git lfs pull`",
    b"\xd0\xcf\x11\xe0": "is a workbook of Excel 97 to 2003 (.xls); save it as .xlsx or as CSV UTF-8",
    b"SQLite format 3": "is an SQLite database; export the table as CSV or Parquet",
    b"ARROW1": "is an Arrow or Feather file; write it as Parquet",
    b"Obj\x01": "is an Avro file; write it as Parquet",
    b"ORC": "is an ORC file; write it as Parquet",
    b"%PDF": "is a PDF document, not a table",
    b"\x80\x04\x95": "is a Python pickle, which is not read since it may run code; write it as Parquet",
}

Hash: TypeAlias = "hashlib._Hash"
Cells = Sequence[Any]  # in the order of the columns that were asked for
Row = tuple[int, Cells | str]  # line (Parquet, JSON, Excel: row) from 1; its cells, or what is wrong with it
# Whether these columns, of which some were not there before, are to be read otherwise.
Changed = Callable[[Sequence[str]], bool]
Opened = tuple[str, Sequence[str], Callable[[Sequence[str], Changed], Iterator[Row]]]  # format, names and reader, as in Table


class NamesChangedError(Exception):
    """Later records of a JSON file have columns that change how it is to be read."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = names


@dataclass(frozen=True)
class Table:
    """An open file."""

    format: str  # for people, such as "CSV with semicolons, UTF-16, gzip"
    names: Sequence[str]  # of all columns; nested fields by dots; of JSON, those of the first thousand records
    read: Callable[[Sequence[str], Changed], Iterator[Row]]
    finish: Callable[[], None] = lambda: None  # called when all rows are read

    def rows(self, columns: Sequence[str], changed: Changed = lambda _: False) -> Iterator[Row]:
        """Yield the rows, once, with the cells of these columns. Raises NamesChangedError as soon as `changed` says so."""
        yield from self.read(columns, changed)
        self.finish()


@contextmanager
def open_table(source: Source, digest: Hash, encoding: str = "") -> Iterator[Table]:
    """Open a file. When all of its rows are read, `digest` holds all of its bytes.

    `encoding` is that of text without a mark, by default UTF-8. Raises DataError, naming the file, if it cannot be read.
    """
    try:
        with ExitStack() as stack:
            file = stack.enter_context(source.open())
            table = _open_binary(source.name, stack, file, digest, encoding) or _open_text(
                source.name, stack, file, digest, encoding
            )
            yield _with_constants(table, source.constants) if source.constants else table
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zipfile.BadZipFile):
        raise DataError(f"{source.name}: is damaged or incomplete, as a compressed file") from None
    except OSError as error:
        raise DataError(f"{source.name}: cannot be read: {error.strerror or 'the file is damaged'}") from None


def _open_binary(name: str, stack: ExitStack, file: IO[bytes], digest: Hash, encoding: str) -> Table | None:
    """A table in a format that is read in an order of its own, and whose bytes go into the digest afterwards."""
    head = file.read(_HEAD)
    file.seek(0)
    for start, problem in _OTHERS.items():
        if head.startswith(start):
            raise DataError(f"{name}: {problem}")
    if head.startswith(b"PAR1"):
        form, names, read = _open_parquet(name, stack, file)
    elif head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        archive = stack.enter_context(_open_zip(name, file))
        if "xl/workbook.xml" in archive.namelist():
            form, names, read = _open_workbook(name, stack, file)
        else:
            form, names, read = _open_archive(name, stack, archive, encoding)
    else:
        return None

    def finish() -> None:
        file.seek(0)
        while data := file.read(_BUFFER):
            digest.update(data)

    return Table(form, names, read, finish)


def _open_text(name: str, stack: ExitStack, file: IO[bytes], digest: Hash, encoding: str) -> Table:
    data: io.BufferedReader[Any] = stack.enter_context(io.BufferedReader(Hashing(file, digest), _BUFFER))
    text, compression = _decompress(stack, data)
    form, names, read = _open_characters(name, stack, text, encoding)

    def finish() -> None:
        while data.read(_BUFFER):  # what stands behind the last row
            pass

    return Table(f"{form}, {compression}" if compression else form, names, read, finish)


def _open_characters(name: str, stack: ExitStack, data: io.BufferedReader[Any], encoding: str) -> Opened:
    head = data.peek(_HEAD)[:_HEAD]
    for start, problem in _OTHERS.items():
        if head.startswith(start):
            raise DataError(f"{name}: {problem}")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:15].lower().startswith(_WEB_PAGES):
        raise DataError(f"{name}: is a web page, not a table; was its download refused, or is a login needed?")
    marked = next((found for mark, found in _MARKS.items() if head.startswith(mark)), "")
    wide = any(told.replace("_", "-").lower().startswith(("utf-16", "utf-32")) for told in (marked, encoding))
    if not wide and b"\0" in head[:64]:
        raise DataError(f"{name}: {_describe_binary(head)}")
    used = marked or encoding or "utf-8-sig"
    # What is not UTF-8 becomes lone surrogates, which are found row by row.
    utf8 = codecs.lookup(used).name.startswith("utf-8")
    text = io.TextIOWrapper(data, used, errors="surrogateescape" if utf8 else "replace", newline="")
    stack.callback(text.detach)
    lines = Lines(text, name)
    first = head.decode(used, "ignore").lstrip("\ufeff \t\r\n")
    form, names, read = _open_json(lines, name) if first.startswith(("{", "[", "window.YTD.")) else _open_csv(lines)
    return form if utf8 else f"{form}, {used.upper()}", names, read


def _describe_binary(head: bytes) -> str:
    order = "be" if head[:1] == b"\0" else "le"
    if len(head) / 3 < head.count(b"\0") < len(head) * 2 / 3:
        return f"looks like UTF-16 without the mark that says so; add --encoding utf-16-{order}"
    return "is a binary file of no kind that is read; write it as CSV, JSON Lines or Parquet"


def _decompress(stack: ExitStack, data: io.BufferedReader[Any]) -> tuple[io.BufferedReader[Any], str]:
    """The file's content, decompressed if it has to be, and the name of its compression."""
    head = data.peek(_HEAD)
    kind = next((kind for start, kind in _COMPRESSED.items() if head.startswith(start)), "")
    if not kind:
        return data, ""
    if kind == "zstd":
        import pyarrow as pa

        opened: Any = Adapter(pa.CompressedInputStream(pa.PythonFile(data, mode="r"), "zstd"))
    else:
        open_: Callable[[Any], Any] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}[kind]  # type: ignore[assignment]
        opened = open_(data)
    return stack.enter_context(io.BufferedReader(stack.enter_context(opened), _BUFFER)), kind


def _open_zip(name: str, file: IO[bytes]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (NotImplementedError, ValueError):
        raise DataError(f"{name}: is a ZIP archive of a rare kind; unpack it") from None


def _open_archive(name: str, stack: ExitStack, archive: zipfile.ZipFile, encoding: str) -> Opened:
    """The only file of a ZIP archive."""
    names = [it for it in archive.namelist() if it and not it.endswith("/") and not it.startswith(("__MACOSX/", "."))]
    if len(names) != 1:
        raise DataError(f"{name}: is a ZIP archive with {len(names)} files; unpack it and name those that are wanted")
    try:
        opened = stack.enter_context(archive.open(names[0]))
    except (RuntimeError, ValueError):
        raise DataError(f"{name}: is a ZIP archive that is encrypted or compressed in a rare way; unpack it") from None
    buffered = stack.enter_context(io.BufferedReader(cast("io.RawIOBase", opened), _BUFFER))
    form, columns, read = _open_characters(name, stack, buffered, encoding)
    return f"{form}, ZIP", columns, read


class Lines:
    """A text's lines, none of which is longer than a bound."""

    def __init__(self, file: IO[str], name: str) -> None:
        self._file = file
        self._name = name
        self._pending = ""
        self.number = 0  # of the line that was given last, from 1

    def __iter__(self) -> Iterator[str]:
        longest = LONGEST_LINE
        while line := self._take_line() if self._pending else self._file.readline(longest):
            self.number += 1
            if len(line) >= longest:
                raise DataError(f"{self._name}:{self.number}: is longer than {longest} characters; a line is to hold one post")
            yield line

    def _take_line(self) -> str:
        end = _LINE_END.search(self._pending)
        if end is None:
            line, self._pending = self._pending, ""
            return line + self._file.readline(LONGEST_LINE)
        line, self._pending = self._pending[: end.end()], self._pending[end.end() :]
        return line

    def read(self, characters: int) -> str:
        """Text across lines; empty at the end."""
        if self._pending:
            text, self._pending = self._pending, ""
            return text
        return self._file.read(characters)

    def back(self, text: str) -> None:
        """Give this text again."""
        self._pending = text + self._pending


def _open_csv(lines: Lines) -> Opened:
    first = next(iter(lines), "")
    used = told_delimiter(first)
    if not used:
        used = delimiter(first)
        lines.back(first)
        lines.number = 0
    # strict: a quote that is not closed costs the lines up to the next quote, and not, unseen, whole columns.
    reader = csv.reader(lines, delimiter=used, strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
    except csv.Error:
        header = []
    while header and not header[-1] and len(header) > 1:
        header.pop()  # spreadsheets write delimiters behind the last column
    begin = lines.number

    def read(columns: Sequence[str], _: Changed) -> Iterator[Row]:
        places = [header.index(column) for column in columns]
        whole = places == [*range(len(header))]
        width = len(header)
        line = begin
        while True:
            first, row = line + 1, None
            try:
                row = next(reader, None)
                problem = "" if row is None or len(row) == width else width_problem(row, width)
            except csv.Error as error:
                problem = f"is not CSV: {error}"
            line = lines.number
            if problem and row != []:
                for number in range(first, line + 1):  # what a stray quote swallowed were rows too
                    yield number, problem
            elif row is None:
                return
            elif row:
                yield first, row if whole and len(row) == width else [row[place] for place in places]

    return f"CSV with {_DELIMITERS.get(used, repr(used))}", header, read


def width_problem(row: Sequence[str], width: int) -> str:
    """What is wrong with a row that has another number of cells than the header; empty: nothing."""
    if len(row) > width and not any(row[width:]):
        return ""  # spreadsheets write delimiters behind the last column
    return f"has {len(row)} cells, but the header has {width}"


def told_delimiter(line: str) -> str:
    """The delimiter that a first line such as sep=; names; empty if it is none."""
    told = re.fullmatch(r"\"?sep=([!#-/:-@\[-`{-~\t])\"?\s*", line.lstrip("\ufeff"))
    return told[1] if told else ""


def delimiter(line: str) -> str:
    """What separates the names of the header: the delimiter that makes most of them, outside quotes."""
    bare = re.sub(r'"[^"]*"', "", line)
    return max(_DELIMITERS, key=bare.count)


def _open_json(lines: Lines, name: str) -> Opened:
    form, records = json_records.read(lines, name)
    sample, union = [], json_records.Union()
    for record in records:
        sample.append(record)
        if isinstance(record[1], dict):
            union.add(record[1])
        if len(sample) == json_records.SAMPLE:
            break

    def read(columns: Sequence[str], changed: Changed) -> Iterator[Row]:
        paths = [json_records.path(column) for column in columns]
        for number, record in chain(sample, records):
            if isinstance(record, str):
                yield number, record
                continue
            if union.add(record) and changed(union.names):
                raise NamesChangedError(union.names)
            yield number, [json_records.value(record, path) for path in paths]

    return form, union.names, read


def _open_parquet(name: str, stack: ExitStack, file: IO[bytes]) -> Opened:
    # Imported here, since it takes 0.2 s and 50 MB, and most files are not Parquet.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        opened = stack.enter_context(pq.ParquetFile(file))
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise DataError(f"{name}: cannot be read as Parquet: {type(error).__name__}") from None
    schema = opened.schema_arrow

    def read(columns: Sequence[str], _: Changed) -> Iterator[Row]:
        paths = [(column,) if column in schema.names else json_records.path(column).parts for column in columns]
        roots = list(dict.fromkeys(path[0] for path in paths))
        try:
            number = 0
            for batch in opened.iter_batches(batch_size=4096, columns=roots):
                lists = {root: cells_of(batch.column(root)) for root in roots}
                table = [
                    [json_records.inside(cell, path[1:]) for cell in lists[path[0]]] if path[1:] else lists[path[0]]
                    for path in paths
                ]
                for row in zip(*table, strict=True):
                    number += 1
                    yield number, row
        except (pa.ArrowException, ValueError, OverflowError) as error:
            raise DataError(f"{name}: cannot be read as Parquet: {type(error).__name__}") from None

    return "Parquet", [*_field_names(schema)], read


def _field_names(fields: Iterable[Any], above: str = "") -> Iterator[str]:
    """A schema's columns, those inside structs by dots."""
    import pyarrow as pa

    for column in fields:
        yield above + column.name
        if pa.types.is_struct(column.type):
            inner = [column.type.field(i) for i in range(column.type.num_fields)]
            yield from _field_names(inner, f"{above}{column.name}.")


def cells_of(column: Any) -> list[Any]:  # noqa: ANN401
    """A column's values as Python's, times as Instants."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        column = column.cast(pa.large_binary())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        # A string in a Parquet file may be any bytes; a bad one must not take its neighbours along.
        column = column.cast(pa.large_binary() if pa.types.is_large_string(kind) else pa.binary())
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type) or pa.types.is_fixed_size_binary(column.type):
        return [None if value is None else value.decode("utf-8", "surrogateescape") for value in column.to_pylist()]
    if pa.types.is_timestamp(kind):
        second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit]
        zone = kind.tz is not None
        return [value if value is None else Instant(value / second, zone) for value in column.cast(pa.int64()).to_pylist()]
    values: list[Any] = column.to_pylist()
    return values


def _open_workbook(name: str, stack: ExitStack, file: IO[bytes]) -> Opened:
    """The only sheet with cells of a workbook."""
    try:
        import openpyxl
    except ModuleNotFoundError:
        raise DataError(
            f"{name}: is an Excel workbook, which takes openpyxl to read (the extra `excel`); or save it as CSV UTF-8"
        ) from None
    try:
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
    except Exception as error:  # whatever a damaged archive makes of openpyxl
        raise DataError(f"{name}: cannot be read as a workbook: {type(error).__name__}") from None
    stack.callback(book.close)
    sheets = [sheet for sheet in book.worksheets if next(sheet.iter_rows(max_row=1, values_only=True), None)]
    if len(sheets) != 1:
        raise DataError(f"{name}: has {len(sheets)} sheets with cells; save the one with the posts as CSV UTF-8")
    rows = sheets[0].iter_rows(values_only=True)
    header = ["" if cell is None else str(cell).strip() for cell in next(rows)]

    def read(columns: Sequence[str], _: Changed) -> Iterator[Row]:
        places = [header.index(column) for column in columns]
        for number, row in enumerate(rows, 2):
            if any(cell is not None for cell in row):
                yield number, [row[place] if place < len(row) else None for place in places]

    return "Excel workbook", header, read


def _with_constants(table: Table, constants: Mapping[str, str]) -> Table:
    """A table with the columns that its directory's name holds, as Hive and Spark write them."""

    def read(columns: Sequence[str], changed: Changed) -> Iterator[Row]:
        inside = [column for column in columns if column in table.names or column not in constants]
        place = {column: i for i, column in enumerate(inside)}
        for number, cells in table.read(inside, lambda names: changed([*names, *constants])):
            if isinstance(cells, str):
                yield number, cells
            else:
                yield number, [cells[place[name]] if name in place else constants[name] for name in columns]

    names = [*table.names, *(name for name in constants if name not in table.names)]
    return Table(table.format, names, read, table.finish)


class Hashing(Adapter):
    """A file whose bytes go into a digest as they are read."""

    def __init__(self, file: IO[bytes], digest: Hash) -> None:
        super().__init__(file)
        self._digest = digest

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401, D102
        size = super().readinto(buffer)
        self._digest.update(memoryview(buffer)[:size])
        return size
