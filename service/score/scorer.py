"""A shard's rows to a Parquet file of scores.

Batches are cut by the number of a row in its shard, so that a shard that is scored twice on the same kind of CPU is the same
bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, repeat
from types import MappingProxyType
from typing import IO, Any, NamedTuple, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from service.errors import DataError, VersionError, reason
from service.model.preprocessing import is_time, text_problem
from service.model.version import Version
from service.posts import files, json_records
from service.posts.flags import Format
from service.posts.headlines import BadRowError, HeadlineReader, check_text, outlet_of
from service.posts.sources import Source
from service.posts.times import ZONED, Times, ZoneNeededError
from service.score import shards
from service.score.shards import Input, Shard

BATCH = 1024  # rows
ROW_GROUP = 64  # batches; one each would cost twice the time, and half as much again of the space
MAX_TEXT_BYTES = 4096  # of a headline, as a server allows by default
SUMMARY = b"headlines.summary"  # the key of a shard's summary in its file's metadata

Cells: TypeAlias = Any  # of a column: a Sequence or an Arrow array
# A Headline's fields; to make one takes longer than any other step of reading it.
AsHeadline: TypeAlias = tuple[str, float, str]

# In the order of shards.SCORES.
SCORES = pa.schema(
    [
        ("main_output", pa.float32()),
        ("aux_output", pa.float32()),
        ("best", pa.float32()),  # main_output, or aux_output where the outlet is not known
        ("word_count", pa.int32()),
        ("unknown_word_count", pa.int32()),
        ("outlet_known", pa.bool_()),
        ("model_version", pa.int64()),
        ("problem", pa.string()),  # why a row has no score
    ]
)


class Batch(NamedTuple):
    """Some rows of a shard."""

    lines: Sequence[int]  # from 1, as messages count
    own: Any  # the input's columns: a RecordBatch, or lists of cells by column
    headlines: list[AsHeadline]  # of the rows without a problem
    problems: list[str]  # of all rows; empty: none


@dataclass
class Summary:
    """What a shard held."""

    rows: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)  # the line of each problem's first row

    def add(self, batch: Batch) -> None:
        """Count a batch."""
        self.rows += len(batch.problems)
        if len(batch.headlines) < len(batch.problems):
            for line, problem in zip(batch.lines, batch.problems, strict=True):
                if problem:
                    self.problems[problem] += 1
                    self.first.setdefault(problem, line)

    def encode(self) -> bytes:
        """As JSON, for the file's metadata."""
        return json.dumps({"rows": self.rows, "problems": self.problems, "first": self.first}).encode()

    @classmethod
    def decode(cls, data: bytes) -> Summary:
        """What `encode` wrote."""
        found = json.loads(data)
        return cls(found["rows"], Counter(found["problems"]), found["first"])


def schema(input_: Input, source: Source) -> pa.Schema:
    """The columns of an input's shards: its own and the scores."""
    if input_.kind == "parquet":
        with source.open() as file:
            types = {it.name: it for it in pq.ParquetFile(file).schema_arrow}
    else:
        types = {}
    own = [types.get(name, pa.field(name, pa.string())) for name in input_.names]
    return pa.schema([*own, *SCORES])


def score(
    version: Version, source: Source, input_: Input, shard: Shard, written: Format, posted_at: float, out: IO[bytes]
) -> None:
    """Write the scores of a shard to `out`, as Parquet with a Summary. `posted_at` is for rows without a time.

    Raises DataError, naming the file, if the shard cannot be read, and VersionError if the engine cannot go on.
    """
    summary = Summary()
    columns = schema(input_, source)
    # Dictionaries of what hardly repeats would cost as much as all else that is written.
    repeated = [name for name in (input_.outlet, "outlet_known", "model_version", "problem") if name in columns.names]
    with pq.ParquetWriter(
        out, columns, compression="zstd", use_dictionary=repeated, write_statistics=list(SCORES.names)
    ) as writer:
        of_shard = batches(source, input_, shard, written, posted_at)
        while group := list(islice(of_shard, ROW_GROUP)):
            writer.write_table(pa.Table.from_batches([_scored(version, batch, columns) for batch in group]))
            for batch in group:
                summary.add(batch)
        writer.add_key_value_metadata({SUMMARY: summary.encode()})


def batches(source: Source, input_: Input, shard: Shard, written: Format, posted_at: float) -> Iterator[Batch]:
    """The rows of a shard, BATCH at a time. Raises DataError, naming the file, if it cannot be read."""
    if input_.kind == "parquet":
        yield from _parquet(source, shard, _Reader(input_, written, posted_at, input_.plan.columns))
        return
    if shard.is_plain and (plain := _plain_csv(source, input_, shard)) is not None:
        table, is_row_a_line = plain
        reader = _Reader(input_, written, posted_at, input_.plan.columns)
        yield from _columns(table, shard, reader, is_row_a_line=is_row_a_line)
        return
    read = list(dict.fromkeys([*input_.names, *input_.plan.columns]))
    reader = _Reader(input_, written, posted_at, read)
    nothing = [None] * len(read)
    rows = _rows(source, input_, shard, written, read)
    while part := list(islice(rows, BATCH)):
        wrong = {i: cells for i, (_, cells) in enumerate(part) if isinstance(cells, str)}
        columns = list(zip(*(nothing if isinstance(cells, str) else cells for _, cells in part), strict=True))
        headlines, problems = reader.read(columns, wrong)
        yield Batch([line for line, _ in part], columns[: len(input_.names)], headlines, problems)


def _rows(source: Source, input_: Input, shard: Shard, written: Format, columns: Sequence[str]) -> Iterator[files.Row]:
    """These cells of a shard's rows."""
    if input_.kind == "lines":
        with shards.read(source, 0, shard) as file:
            text = io.TextIOWrapper(
                cast("Any", io.BufferedReader(cast("Any", file), 1 << 20)), "utf-8", "surrogateescape", newline=""
            )
            paths = [json_records.Path(name, (name,)) if name in input_.names else json_records.path(name) for name in columns]
            for line, record in json_records.of_lines(files.Lines(text, source.name)):
                number = shard.first_line - 1 + line
                yield number, record if isinstance(record, str) else [json_records.value(record, path) for path in paths]
        return
    part = source if shard.end < 0 else Source(source.name, lambda: shards.read(source, input_.head, shard))
    moved = shard.first_line - input_.head_lines - 1 if shard.end >= 0 else 0
    with files.open_table(part, hashlib.sha256(), written.encoding) as table:
        for line, cells in table.rows(columns):
            yield line + moved, cells


def _plain_csv(source: Source, input_: Input, shard: Shard) -> tuple[pa.Table, bool] | None:
    """The cells of a plain shard, read by Arrow in a fifth of the time, and whether no row has several lines.

    None if it is not UTF-8.
    """
    try:
        with shards.read(source, 0, shard) as file:
            text = file.read()
    except OSError as error:
        raise DataError(f"{source.name}: cannot be read: {reason(error)}") from None
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(text),
            pa_csv.ReadOptions(column_names=input_.names, use_threads=False),
            pa_csv.ParseOptions(delimiter=input_.delimiter, newlines_in_values=True),
            pa_csv.ConvertOptions(column_types=dict.fromkeys(input_.names, pa.string()), strings_can_be_null=False),
        )
    except pa.ArrowInvalid:
        return None
    lines = text.count(b"\n") + (not text.endswith(b"\n"))
    return table.combine_chunks(), lines == len(table)


def _columns(table: pa.Table, shard: Shard, reader: _Reader, *, is_row_a_line: bool) -> Iterator[Batch]:
    line = shard.first_line
    for own in table.to_batches(BATCH):
        if is_row_a_line:
            lines: Sequence[int] = range(line, line := line + own.num_rows)
        else:
            inside = sum(pc.count_substring(column, "\n").to_numpy() for column in own.columns)
            ends = line + np.cumsum(inside + np.ones(own.num_rows, np.int64))
            lines, line = [line, *ends[:-1].tolist()], int(ends[-1])
        headlines, problems = reader.read([own.column(name) for name in reader.names])
        yield Batch(lines, own, headlines, problems)


class _Reader:
    """Columns of cells to headlines, a batch at a time."""

    def __init__(self, input_: Input, written: Format, posted_at: float, names: Sequence[str]) -> None:
        self.names = names  # of the columns
        self._times = Times(written.time_zone, written.time_format, input_.spelling)
        self._reader = HeadlineReader(input_.plan, self._times, names)
        self._posted_at = posted_at
        self._plan = input_.plan

    def read(
        self, columns: Sequence[Cells], wrong: Mapping[int, str] = MappingProxyType({})
    ) -> tuple[list[AsHeadline], list[str]]:
        """The headlines of the rows without a problem, and each row's problem. `wrong` are problems that are known, by row."""
        if not wrong and (headlines := self._read_alike(columns)) is not None:
            return headlines, [""] * len(headlines)
        return self._read_each(zip(*map(_as_list, columns), strict=True), wrong)

    def _read_alike(self, columns: Sequence[Cells]) -> list[AsHeadline] | None:
        """The headlines of rows that are written in the commonest way, in a third of the time; None if they are not."""
        plan, column = self._plan, dict(zip(self.names, columns, strict=True))
        if len(plan.headline) != 1 or plan.html or len(plan.posted_at) > 1:
            return None
        texts = _as_list(column[plan.headline[0]])
        if set(map(type, texts)) != {str} or any(map(text_problem, texts, repeat(MAX_TEXT_BYTES))):
            return None
        times = self._moments(column[plan.posted_at[0]]) if plan.posted_at else [self._posted_at] * len(texts)
        if times is None:
            return None
        names = _as_list(column[plan.outlet]) if plan.outlet else [""] * len(texts)
        try:
            outlets = {name: self._outlet(name) for name in set(names)}
            check_text(*texts)
        except (BadRowError, TypeError):
            return None
        return list(zip(texts, times, map(outlets.__getitem__, names), strict=True))

    def _moments(self, cells: Cells) -> Sequence[float] | None:
        """Times in the commonest spelling, in seconds since 1970; None if one is not, or is empty."""
        if self._times.spelling != ZONED:
            return None
        try:
            text = cells if isinstance(cells, pa.Array) else pa.array(cells, pa.string())
            found = text.cast(pa.timestamp("us", "UTC"))
        except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError):
            return None
        if found.null_count:
            return None
        seconds: list[float] = (found.cast(pa.int64()).to_numpy() / 1e6).tolist()
        return seconds if all(map(is_time, (min(seconds), max(seconds)))) else None

    def _outlet(self, cell: object) -> str:
        found = outlet_of(cell)
        check_text(found)
        return found

    def _read_each(self, rows: Iterable[Sequence[Any]], wrong: Mapping[int, str]) -> tuple[list[AsHeadline], list[str]]:
        headlines: list[AsHeadline] = []
        problems: list[str] = []
        for i, cells in enumerate(rows):
            try:
                if i in wrong:
                    raise BadRowError(wrong[i])
                headlines.append(self._read_one(cells))
                problems.append("")
            except BadRowError as error:
                problems.append(str(error))
            except ZoneNeededError:
                problems.append("posted_at is written otherwise than the file's first time")
        return headlines, problems

    def _read_one(self, cells: Sequence[Any]) -> AsHeadline:
        reader = self._reader
        text = reader.text(cells)
        if problem := text_problem(text, MAX_TEXT_BYTES):
            raise BadRowError(f"headline {problem}")
        time = reader.posted_at(cells) if shards.is_there(reader.time(cells)) else self._posted_at
        outlet = reader.outlet(cells)
        check_text(text, outlet)
        return text, time, outlet


def _as_list(cells: Cells) -> Sequence[Any]:
    values: Sequence[Any] = cells.to_pylist() if isinstance(cells, pa.Array) else cells
    return values


def _parquet(source: Source, shard: Shard, reader: _Reader) -> Iterator[Batch]:
    try:
        with source.open() as file:
            opened = pq.ParquetFile(file)
            line = shard.first_line
            for record_batch in opened.iter_batches(BATCH, row_groups=range(shard.start, shard.end)):
                for name, value in source.constants.items():
                    if name not in record_batch.schema.names:
                        record_batch = record_batch.append_column(name, pa.repeat(value, len(record_batch)))
                headlines, problems = reader.read([_inside(record_batch, name) for name in reader.names])
                yield Batch(range(line, line + len(problems)), record_batch, headlines, problems)
                line += len(problems)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise DataError(f"{source.name}: cannot be read as Parquet: {type(error).__name__}") from None
    except OSError as error:
        raise DataError(f"{source.name}: cannot be read: {reason(error)}") from None


def _inside(batch: Any, name: str) -> list[Any]:  # noqa: ANN401
    """The cells of a column, which may be inside of structs."""
    if name in batch.schema.names:
        return files.cells_of(batch.column(name))
    place = json_records.path(name).parts
    return [json_records.inside(cell, place[1:]) for cell in files.cells_of(batch.column(place[0]))]


def _scored(version: Version, batch: Batch, columns: pa.Schema) -> pa.RecordBatch:
    try:
        found = version.predict(batch.headlines)
    except OSError as error:  # the engine's own: others may have filled its GPU
        raise VersionError(f"version {version.number}: {reason(error)}") from error
    main, aux = np.array(found.main_output, np.float32), np.array(found.aux_output, np.float32)
    best = np.where(np.array(found.outlet_known, bool), main, aux)
    scores = [
        pa.array(main),
        pa.array(aux),
        pa.array(best),
        pa.array(found.word_count, pa.int32()),
        pa.array(found.unknown_word_count, pa.int32()),
        pa.array(found.outlet_known, pa.bool_()),
        pa.array(np.full(len(main), version.number, np.int64)),
    ]
    if len(main) < len(batch.problems):
        good = np.array([not problem for problem in batch.problems])
        places = pa.array(np.cumsum(good) - 1, mask=~good)
        scores = [column.take(places) for column in scores]
        problems = pa.array([problem or None for problem in batch.problems], pa.string())
    else:
        problems = pa.nulls(len(main), pa.string())
    if isinstance(batch.own, pa.RecordBatch):
        own = [batch.own.column(name) for name in columns.names[: -len(SCORES)]]
    else:
        own = list(map(_text, batch.own))
    return pa.RecordBatch.from_arrays([*own, *scores, problems], schema=columns)


def _text(cells: Sequence[Any]) -> pa.Array:
    """Cells as text: JSON of what is no text. Bytes that were not UTF-8 become the character for lost ones."""
    try:
        return pa.array(cells, pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError):
        return pa.array(map(_as_text, cells), pa.string())


def _as_text(cell: object) -> str | None:
    if cell is None:
        return None
    text = cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False, default=str)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
