"""Inputs and the shards that they are cut into.

Parquet is cut at its row groups; plain CSV and JSON Lines in UTF-8 at records, found by one scan that knows quotes. What cannot
be read from the middle (compressed files, UTF-16, a JSON array, a workbook, standard input) is one shard.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import IO, Any, cast

import msgspec
import numpy as np

from service.errors import DataError, reason
from service.posts import columns, files
from service.posts.flags import Format
from service.posts.headlines import BadRowError, HeadlineReader
from service.posts.sources import Adapter, Source
from service.posts.times import Times, ZoneNeededError
from service.score.cutting import CannotCutError, CsvText, Stretch, Text, lines

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
        raise DataError(f"{source.name}: cannot be read: {reason(error)}") from None
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
    header: CsvText | None = None
    if kind == "parquet":
        digest, shards = _row_groups(source)
    else:
        digest, shards, header = _cut_text(source, kind, len(names), shard_bytes)
        if not shards:
            kind, shards = "whole", [Shard(0, 0, -1, 1)]
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
        header.delimiter if header else "",
        header.head if header else 0,
        header.head_lines if header else 0,
        shards,
    )


def read(source: Source, head: int, shard: Shard) -> IO[bytes]:
    """Open a shard of text behind the first `head` bytes of its input."""
    return cast("IO[bytes]", _Slice(source.open(), head, shard.start, shard.end))


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
    _, schema = str(metadata.schema).split("\n", 1)  # the first line is an address in memory
    digest = hashlib.sha256(schema.encode())
    shards, row = [], 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        digest.update(f"{group.num_rows} {group.total_byte_size} {group.column(0).file_offset}\n".encode())
        shards.append(Shard(row, number, number + 1, row + 1))
        row += group.num_rows
    return digest.hexdigest(), shards


def _cut_text(source: Source, kind: str, columns: int, shard_bytes: int) -> tuple[str, list[Shard], CsvText | None]:
    """The digest of a text, its shards, and its header if it is CSV, of which so many columns are kept.

    There are no shards if it can only be read as a whole.
    """
    digest = hashlib.sha256()
    shards: list[Shard] = []
    header: CsvText | None = None
    with source.open() as file:
        data = cast("IO[bytes]", files.Hashing(file, digest))
        try:
            if kind == "csv":
                header = CsvText(data)
                shards = _shards(header, header.records(), shard_bytes, is_plain=header.columns == columns)
            elif kind == "lines":
                text = Text(data)
                shards = _shards(text, lines(text), shard_bytes, is_plain=False)
        except CannotCutError:
            header = None
        while data.read(_BUFFER):
            pass
    return digest.hexdigest(), shards, header


def _shards(text: Text, records: Iterable[Stretch], shard_bytes: int, *, is_plain: bool) -> list[Shard]:
    """What is left of a text, cut behind those records that fill a shard."""
    shards: list[Shard] = []
    row, first_row, start, line, plain = 0, 0, text.offset, text.lines + 1, is_plain
    for stretch in records:
        begin = 0
        while begin < len(stretch.ends):
            fills = int(np.searchsorted(stretch.ends, start + shard_bytes))
            part = slice(begin, fills + 1)
            row += int(stretch.rows[part].sum())
            plain = plain and bool(stretch.plain[part].all())
            begin = fills + 1
            if fills < len(stretch.ends):
                shards.append(Shard(first_row, start, int(stretch.ends[fills]), line, plain))
                first_row, start, line, plain = row, int(stretch.ends[fills]), int(stretch.lines[fills]) + 1, is_plain
    if text.offset > start or not shards:
        shards.append(Shard(first_row, start, text.offset, line, plain))
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

    def readall(self) -> bytes:
        # By large reads, each of which is a request to an object store.
        return b"".join(iter(lambda: self.read(16 * _BUFFER), b""))

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
