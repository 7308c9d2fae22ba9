"""Files of posts, a row at a time: CSV, JSON Lines and Parquet.

No message holds what stands in a cell, since in a damaged file any cell may be a headline.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import logging
import re
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias

from service.errors import DataError

COUNTS = ("retweets", "likes")
FIELDS = ("headline", "posted_at", "outlet", *COUNTS, "synthetic")

# What other tools call these columns. They are not read, but named: what is left out unnoticed is missed too late.
_LOOKALIKES = {
    "headline": "title text tweet tweet_text full_text message status_message link_name raw_content content post_text caption",
    "posted_at": "created_at created created_utc date time datetime timestamp posted published published_at status_published "
    "post_created publish_date date_posted",
    "outlet": "account account_name page page_name user username user_name user_username user_screen_name screen_name handle "
    "author source subreddit publisher newspaper channel site",
    "retweets": "retweet retweet_count retweets_count num_retweets shares share_count shares_count num_shares reposts reblogs "
    "reposts_count",
    "likes": "like like_count likes_count num_likes favorites favourites favorite_count favourite_count favorites_count "
    "favourites_count reactions reaction_count num_reactions upvotes score points num_points hearts",
}

_LONGEST_LINE = 4 << 20  # characters; without a bound a small .gz file without line ends would fill the memory
_ABSENT = dict.fromkeys(COUNTS, 0)  # the cell of a column that a file has not; None for the others

_BUFFER = 1 << 18  # bytes that are read and hashed at once

Hash: TypeAlias = "hashlib._Hash"
Cells = Sequence[Any]  # in the order of FIELDS
Row = tuple[int, Cells | str]  # line (Parquet: row) from 1; its cells, or what is wrong with it
_Rows = Generator[tuple[int, Any], None, None]  # the first is line 0, and the names of all columns

_log = logging.getLogger(__name__)


class Moment(NamedTuple):
    """A Parquet timestamp."""

    seconds: float
    has_zone: bool


def check_columns(files: Sequence[Path]) -> tuple[str, ...]:
    """The engagement columns, which must be the same in all files.

    Logs which columns are read though they are written differently, and which look as if they were to be read but are not.
    """
    if not files:
        raise DataError("no file is named")
    common: tuple[str, ...] | None = None
    for path in files:
        names = _names(path)
        columns = _match(path, names)
        similar = [(name, field) for name in names if (field := _similar_field(name)) and field not in columns]
        missing = [name for name in ("headline", "posted_at") if name not in columns]
        counts = tuple(name for name in COUNTS if name in columns)
        if not counts:
            missing.append("retweets or likes")
        if missing:
            looks = "".join(f"; {name!r} looks like {field}: rename it" for name, field in similar)
            raise DataError(f"{path}: has no column {', '.join(missing)}{looks or _format(path).hint}")
        for field, name in columns.items():
            if name != field:
                _log.info("%s: column %r is read as %s", path, name, field)
        for name, field in similar:
            _log.warning("%s: column %r looks like %s and is not used; if it is, rename it to %s", path, name, field, field)
        if "outlet" not in columns:
            _log.info("%s: has no column outlet: its posts are learned from words and times alone", path)
        common = common or counts
        if counts != common:
            raise DataError(
                f"{path}: counts {' and '.join(counts)}, but {files[0]} counts {' and '.join(common)};"
                " the files of a job must count the same"
            )
    assert common is not None
    return common


def _names(path: Path) -> Sequence[str]:
    with closing(_format(path).read(path, hashlib.sha256())) as rows, _naming(path):
        names: Sequence[str] = next(rows)[1]
    return names


def _match(path: Path, names: Sequence[str]) -> dict[str, str]:
    """The columns of FIELDS, each with its name in the file, which may differ in case and in spaces around it."""
    found = {}
    for field in FIELDS:
        alike = [name for name in names if name == field] or [name for name in names if name.strip().lower() == field]
        if len(alike) > 1:
            raise DataError(f"{path}: two columns have the same name, {field}")
        if alike:
            found[field] = alike[0]
    return found


def _similar_field(name: str) -> str | None:
    """The field that a column of this name may be, going by what other tools call theirs."""
    return _SIMILAR.get(_plain(name))


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()


_SIMILAR = {_plain(name): field for field, names in _LOOKALIKES.items() for name in names.split()}


def read_rows(path: Path, digest: Hash) -> Iterator[Row]:
    """Yield the rows of a file, and update `digest` with its bytes. Raises DataError if it cannot be read."""
    with closing(_format(path).read(path, digest)) as rows, _naming(path):
        next(rows)
        yield from rows


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say which file cannot be read."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise DataError(f"{path}: is damaged or incomplete, as a gzip file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or 'the file is damaged'}") from None


def _read_csv(path: Path, digest: Hash) -> _Rows:
    with _open(path, digest, newline="") as file:
        # strict: a quote that is not closed costs the lines up to the next quote, and not, unseen, whole columns.
        reader = csv.reader(_lines(file, path), strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
        except csv.Error:
            header = []
        yield 0, header
        columns = _match(path, header)
        places = [header.index(columns[name]) if name in columns else len(header) for name in FIELDS]
        absent = [_ABSENT.get(name) for name in FIELDS]
        width = len(header)
        line = reader.line_num
        while True:
            first, row = line + 1, None
            try:
                row = next(reader, None)
                problem = "" if row is None or len(row) == width else f"has {len(row)} cells, but the header has {width}"
            except csv.Error as error:
                problem = f"is not CSV: {error}"
            line = reader.line_num
            if problem and row != []:
                for number in range(first, line + 1):  # what a stray quote swallowed were rows too
                    yield number, problem
            elif row is None:
                return
            elif row:
                yield first, [row[place] if place < width else default for place, default in zip(places, absent, strict=True)]


def _read_json_lines(path: Path, digest: Hash) -> _Rows:
    columns: dict[str, str] | None = None
    with _open(path, digest, newline="\n") as file:
        for number, line in enumerate(_lines(file, path), 1):
            if line.isspace():
                continue
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError):
                fields = None
            if not isinstance(fields, dict):
                if columns is not None:
                    yield number, "is not a JSON object"
                    continue
                raise DataError(f"{path}:{number}: is not a JSON object; JSON Lines holds one a line")
            if columns is None:
                yield 0, list(fields)
                columns = _match(path, list(fields))
            if any(name in fields and name not in columns for name in COUNTS):
                # Counting it here alone would make the rows of one file incomparable.
                yield number, "has a count that the file's first row has not"
            else:
                cells = [fields.get(columns.get(name, name), None if name in columns else _ABSENT.get(name)) for name in FIELDS]
                yield number, cells
    if columns is None:
        yield 0, []


def _read_parquet(path: Path, digest: Hash) -> _Rows:
    # Imported here, since it takes 0.2 s and 50 MB, and most files are not Parquet.
    import pyarrow as pa
    import pyarrow.parquet as pq

    def cells(column: Any) -> list[Any]:  # noqa: ANN401
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            # A string in a Parquet file may be any bytes; a bad one must not take its neighbours along.
            binary = pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
            return [
                None if value is None else value.decode("utf-8", "surrogateescape") for value in column.cast(binary).to_pylist()
            ]
        if pa.types.is_timestamp(column.type):
            second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[column.type.unit]
            zone = column.type.tz is not None
            return [value if value is None else Moment(value / second, zone) for value in column.cast(pa.int64()).to_pylist()]
        values: list[Any] = column.to_pylist()
        return values

    try:
        with path.open("rb") as raw, pq.ParquetFile(raw) as file:
            yield 0, file.schema_arrow.names
            columns = _match(path, file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(batch_size=4096, columns=list(columns.values())):
                table = {field: cells(batch.column(name)) for field, name in columns.items()}
                absent = {name: [_ABSENT.get(name)] * batch.num_rows for name in FIELDS if name not in columns}
                for row in zip(*((table | absent)[name] for name in FIELDS), strict=True):
                    number += 1
                    yield number, row
            raw.seek(0)
            hashlib.file_digest(raw, lambda: digest)  # Arrow has read parts of it, in an order of its own
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {type(error).__name__}") from None


class _Hashing(io.RawIOBase):
    """A file whose bytes go into a digest as they are read."""

    def __init__(self, file: io.FileIO, digest: Hash) -> None:
        self._file = file
        self._digest = digest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401
        size = self._file.readinto(buffer) or 0
        self._digest.update(memoryview(buffer)[:size])
        return size


@contextmanager
def _open(path: Path, digest: Hash, newline: str) -> Iterator[IO[str]]:
    with path.open("rb", buffering=0) as file, io.BufferedReader(_Hashing(file, digest), _BUFFER) as data:
        plain: Any = gzip.GzipFile(fileobj=data) if path.name.endswith(".gz") else data
        # What is not UTF-8 becomes lone surrogates, which are found row by row; a BOM is dropped.
        with io.TextIOWrapper(plain, encoding="utf-8-sig", errors="surrogateescape", newline=newline) as text:
            yield text


def _lines(file: IO[str], path: Path) -> Iterator[str]:
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        if len(line) == _LONGEST_LINE:
            raise DataError(f"{path}:{number}: is longer than {_LONGEST_LINE} characters; a line is to hold one post")
        yield line


class _Format(NamedTuple):
    read: Callable[[Path, Hash], _Rows]
    hint: str = ""  # what may be wrong if a column is missing


_CSV = _Format(_read_csv, "; its first line must name the columns, separated by commas, in UTF-8")
_JSON_LINES = _Format(_read_json_lines, " in its first row")
_FORMATS = {".csv": _CSV, ".jsonl": _JSON_LINES, ".ndjson": _JSON_LINES, ".parquet": _Format(_read_parquet)}


def _format(path: Path) -> _Format:
    name = path.name.lower()
    form = _FORMATS.get(Path(name.removesuffix(".gz")).suffix)
    if form is None or (name.endswith(".gz") and form.read is _read_parquet):
        raise DataError(f"{path}: its name must end in .csv, .csv.gz, .jsonl, .jsonl.gz, .ndjson, .ndjson.gz or .parquet")
    return form
