"""Past posts on disk to rows in memory: read, checked, in order of time, each only once.

    >>> posts = read([Path("posts.csv.gz")])
    >>> len(posts), posts.counts, posts.dropped
    (82618, ('retweets', 'likes'), {'after_collection': 0, 'too_young': 1384, 'duplicate': 512})

Each file is read once, a row at a time, and hashed as it is read. Memory holds numbers, the distinct words, and the headlines
as one buffer of UTF-8.

A file is CSV (.csv, comma separated, with a header), JSON Lines (.jsonl or .ndjson), both also gzipped (.gz), or Parquet
(.parquet). Its columns are `headline`, `posted_at`, `retweets` or `likes` or both, and optionally `outlet`. A file that
`training synthesize` made has the column `synthetic` as well, which is true in every row: a column outlives being sorted,
joined with other files or converted to another format, and the model's metadata then says that the data were made up.

No message holds what stands in a cell, since in a damaged file any cell may be a headline.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.errors import DataError
from service.model.preprocessing import NEWEST_RULES, RULES, is_blank, is_time, outlet_key
from training.files import COUNTS, Cells, Moment, check_columns, read_rows
from training.settings import MAX_BAD_SHARE, MIN_AGE

_WHOLE_NUMBER = re.compile(r"([0-9]{1,15})(?:\.0*)?")
_MOST = 10**15  # a count's bound: far above any real one, and sums stay exact in a float64
_NAMED = 20  # bad rows that are named one by one

_log = logging.getLogger(__name__)


class _BadRowError(Exception):
    """What is wrong with a row, and what would be right."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Posts sorted by (posted_at, outlet, headline). Row i's words are `words[w]` for w in `ids[offsets[i]:offsets[i + 1]]`."""

    posted_at: npt.NDArray[np.float64]  # [rows], seconds since 1970-01-01 UTC
    outlet: npt.NDArray[np.int32]  # [rows], index into outlets; -1: none
    engagement: npt.NDArray[np.float64]  # [rows], sum of the columns `counts`
    ids: npt.NDArray[np.int32] = field(repr=False)  # index into words, all words of all rows, not cut at any length
    offsets: npt.NDArray[np.int64] = field(repr=False)  # [rows + 1]
    words: Sequence[str] = field(repr=False)  # all distinct words, sorted
    outlets: Sequence[str]  # outlet keys, sorted
    counts: tuple[str, ...]  # those of COUNTS that the files have; the others count nothing
    synthetic: bool  # a row says that it is made up
    checksum: str  # hex SHA-256 of the files' sorted SHA-256s: the same in whatever order the files are named
    collected_at: float  # seconds since 1970-01-01 UTC
    read: int  # rows in the files
    bad: int  # rows that could not be used
    bad_rows: tuple[str, ...]  # the first of them, as "file:line: what is wrong"
    dropped: Mapping[str, int]  # good rows left out, by reason: after_collection, too_young, duplicate
    records: npt.NDArray[np.int64] = field(repr=False)  # [rows], index of the row when all rows of all files are counted from 0
    text: bytes | bytearray = field(repr=False)  # UTF-8; row i's headline is text[text_starts[i]:text_ends[i]]
    text_starts: npt.NDArray[np.int64] = field(repr=False)  # [rows]
    text_ends: npt.NDArray[np.int64] = field(repr=False)  # [rows]

    def __len__(self) -> int:
        return len(self.posted_at)

    def texts(self, rows: npt.ArrayLike) -> list[str]:
        """The headlines of the chosen rows."""
        chosen = np.asarray(rows, np.int64)
        spans = zip(self.text_starts[chosen].tolist(), self.text_ends[chosen].tolist(), strict=True)
        return [self.text[start:end].decode() for start, end in spans]


def read(
    files: Sequence[Path],
    *,
    min_age: float = MIN_AGE,
    collected_at: float | None = None,
    assume_utc: bool = False,
    max_bad_share: float = MAX_BAD_SHARE,
    rules: int = NEWEST_RULES,
    clock: Callable[[], float] = time.time,
) -> Dataset:
    """Read the files of a job.

    Posts younger than `min_age` seconds at `collected_at` have not yet earned what they will earn and are left out.
    `collected_at` is by default the time of the newest post that is not in the future. A post that claims to be later is left
    out too and counted apart: either its time or `collected_at` is wrong. Of posts with the same outlet and words the earliest
    stays; of one post that was read twice, the larger engagement, as counts only grow. `assume_utc` takes times without a zone
    as UTC. `rules` is the number of the preprocessing rules. The order of `files` changes nothing. Raises DataError, naming the
    file, if one cannot be read, lacks a column or has other engagement columns than the rest, and if more than `max_bad_share`
    of all rows are bad.
    """
    counts = check_columns(files)
    columns = _Columns(assume_utc, rules)
    digests = [columns.read(path) for path in files]
    columns.check(max_bad_share)

    posted_at, engagement = np.frombuffer(columns.posted_at, np.float64), np.frombuffer(columns.engagement, np.float64)
    outlets, outlet = columns.sort_outlets()
    if collected_at is None:
        collected_at = float(posted_at[posted_at <= clock()].max(initial=-np.inf))
    late = posted_at > collected_at
    young = ~late & (posted_at > collected_at - min_age)
    rows = columns.sort(np.flatnonzero(~late & ~young), posted_at, outlet, engagement)
    _, earliest = np.unique(np.frombuffer(columns.hashes, np.int64)[rows], return_index=True)
    dropped = {"after_collection": int(late.sum()), "too_young": int(young.sum()), "duplicate": len(rows) - len(earliest)}
    rows = rows[np.sort(earliest)]

    vocabulary, ids, offsets = columns.words_of(rows)
    dataset = Dataset(
        posted_at=posted_at[rows],
        outlet=outlet[rows],
        engagement=engagement[rows],
        ids=ids,
        offsets=offsets,
        words=vocabulary,
        outlets=outlets,
        counts=counts,
        synthetic=columns.synthetic,
        checksum=hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest(),
        collected_at=collected_at,
        read=columns.rows,
        bad=columns.bad,
        bad_rows=tuple(columns.bad_rows),
        dropped=dropped,
        records=np.frombuffer(columns.records, np.int64)[rows],
        text=columns.text,
        text_starts=np.frombuffer(columns.text_ends, np.int64)[rows],
        text_ends=np.frombuffer(columns.text_ends, np.int64)[rows + 1],
    )
    _report(dataset)
    return dataset


def _report(dataset: Dataset) -> None:
    for name in dataset.bad_rows:
        _log.warning("bad row skipped: %s", name)
    if dataset.bad > len(dataset.bad_rows):
        _log.warning("bad rows skipped: %d more", dataset.bad - len(dataset.bad_rows))
    if dataset.dropped["after_collection"]:
        _log.warning("%d posts claim to be later than the collection and are left out", dataset.dropped["after_collection"])
    missing = [name for name in COUNTS if name not in dataset.counts]
    _log.info(
        "%d rows read, %d used; left out: %d bad, %s; engagement = %s%s%s",
        dataset.read,
        len(dataset),
        dataset.bad,
        ", ".join(f"{number} {reason.replace('_', ' ')}" for reason, number in dataset.dropped.items()),
        " + ".join(dataset.counts),
        f" (no {missing[0]} in these data)" if missing else "",
        "; these data are made-up" if dataset.synthetic else "",
    )


class _Columns:
    """All good rows in the order in which they were read, column by column."""

    def __init__(self, assume_utc: bool, rules: int) -> None:
        self._assume_utc = assume_utc
        self._find_words = RULES[rules]
        self.posted_at = array("d")
        self.engagement = array("d")
        self.outlet = array("i")  # into outlets; -1: none
        self.outlets: dict[str, int] = {}
        # Python's own hash has another key in each process, so nobody can prepare collisions; it decides nothing but equality.
        self.hashes = array("q")  # of the outlet and the words
        self.prefixes = array("Q")  # the headline's first 8 bytes, which order nearly all posts of one outlet and moment
        self.records = array("q")
        self.text = bytearray()  # the headlines, one after another
        self.text_ends = array("q", [0])
        self.words: dict[str, int] = {}  # numbered as they were first seen
        self.word_ids = array("i")  # of all rows' words
        self.word_ends = array("q", [0])
        self.rows = 0
        self.bad = 0
        self.bad_rows: list[str] = []
        self.synthetic = False

    def read(self, path: Path) -> str:
        """Read a file, and return its SHA-256 in hex."""
        digest = hashlib.sha256()
        for line, cells in read_rows(path, digest):
            try:
                if isinstance(cells, str):
                    raise _BadRowError(cells)
                self._add(cells)
            except _BadRowError as error:
                self.bad += 1
                if len(self.bad_rows) < _NAMED:
                    self.bad_rows.append(f"{path}:{line}: {error}")
            self.rows += 1
        return digest.hexdigest()

    def check(self, max_bad_share: float) -> None:
        """Raise DataError if too many rows are bad, or if there is none at all."""
        if self.bad > max_bad_share * self.rows:
            raise DataError(
                f"{self.bad} of {self.rows} rows are bad, more than the share of {max_bad_share:g} that may be skipped:\n"
                + "\n".join(self.bad_rows)
                + ("\n..." if self.bad > len(self.bad_rows) else "")
            )
        if not self.rows:
            raise DataError("the files hold no rows")

    def sort_outlets(self) -> tuple[list[str], npt.NDArray[np.int32]]:
        """The outlets' names, sorted, and each row's index into them; -1: none."""
        by_index = sorted(self.outlets, key=self.outlets.__getitem__)
        names = sorted(by_index)
        ranks = {name: i for i, name in enumerate(names)}
        rank = np.array([*(ranks[name] for name in by_index), -1], np.int32)  # its last entry is for index -1: no outlet
        return names, rank[np.frombuffer(self.outlet, np.int32)]

    def sort(
        self,
        rows: npt.NDArray[np.int64],
        posted_at: npt.NDArray[np.float64],
        outlet: npt.NDArray[np.int32],
        engagement: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.int64]:
        """Sort rows by time, outlet and headline; of equal ones the largest engagement comes first."""
        prefix = np.frombuffer(self.prefixes, np.uint64)
        rows = rows[np.lexsort((-engagement[rows], prefix[rows], outlet[rows], posted_at[rows]))]
        same = np.ones(max(len(rows) - 1, 0), bool)  # rows i and i + 1 are tied as far as the headline's prefix
        for column in (posted_at, outlet, prefix):
            same &= column[rows[1:]] == column[rows[:-1]]
        tied = np.zeros(len(rows), bool)
        tied[1:] |= same
        tied[:-1] |= same
        places = np.flatnonzero(tied)
        if len(places):
            members = rows[places]
            group = np.cumsum(np.concatenate(([True], ~same))[places])
            texts = [bytes(self.text[self.text_ends[row] : self.text_ends[row + 1]]) for row in members.tolist()]
            order = sorted(range(len(members)), key=lambda i: (group[i], texts[i], -engagement[members[i]]))
            rows[places] = members[order]
        return rows

    def words_of(self, rows: npt.NDArray[np.int64]) -> tuple[list[str], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """The distinct words of these rows, sorted, and the rows' words as indices into them with each row's offsets."""
        ends = np.frombuffer(self.word_ends, np.int64)
        lengths = np.diff(ends)[rows]
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        gather = np.arange(offsets[-1]) + np.repeat(ends[rows] - offsets[:-1], lengths)
        seen = np.frombuffer(self.word_ids, np.int32)[gather] if len(gather) else np.empty(0, np.int32)
        used = np.bincount(seen, minlength=len(self.words)) > 0
        vocabulary = sorted(word for word, index in self.words.items() if used[index])
        rank = np.zeros(len(self.words), np.int32)
        rank[[self.words[word] for word in vocabulary]] = np.arange(len(vocabulary), dtype=np.int32)
        return vocabulary, rank[seen], offsets

    def _add(self, cells: Cells) -> None:
        text, posted_at, outlet, retweets, likes, synthetic = cells
        headline = _text("headline", text)
        if is_blank(headline):
            raise _BadRowError("headline is blank")
        seconds = _seconds(posted_at, self._assume_utc)
        name = outlet_key(_text("outlet", outlet))
        engagement = _number("retweets", retweets) + _number("likes", likes)
        try:
            data = headline.encode()
            name.encode()
        except UnicodeEncodeError:
            raise _BadRowError("headline or outlet is not UTF-8") from None
        self.posted_at.append(seconds)
        self.engagement.append(engagement)
        self.outlet.append(self.outlets.setdefault(name, len(self.outlets)) if name else -1)
        found = self._find_words(headline)
        self.hashes.append(hash(" ".join(found) + "\n" + name))
        self.word_ids.extend([self.words.setdefault(word, len(self.words)) for word in found])
        self.word_ends.append(len(self.word_ids))
        self.prefixes.append(int.from_bytes(data[:8].ljust(8, b"\0"), "big"))
        self.text += data
        self.text_ends.append(len(self.text))
        self.records.append(self.rows)
        if synthetic is not None and str(synthetic).strip().lower() in ("true", "1"):
            self.synthetic = True


def _text(name: str, cell: object) -> str:
    if cell is None:
        return ""
    if not isinstance(cell, str):
        raise _BadRowError(f"{name} is not text")
    return cell


def _seconds(cell: object, assume_utc: bool) -> float:
    """A time as seconds since 1970-01-01 UTC."""
    if isinstance(cell, Moment):
        seconds, has_zone = cell
    else:
        try:
            moment = datetime.fromisoformat(cell.strip() if isinstance(cell, str) else "")
            has_zone = moment.tzinfo is not None
            seconds = (moment if has_zone else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            raise _BadRowError("posted_at is not a time as ISO 8601 writes it, such as 2016-02-24T05:00:00Z") from None
    if not is_time(seconds):
        raise _BadRowError("posted_at is outside the years 1 to 9999")
    if not has_zone and not assume_utc:
        raise _BadRowError("posted_at has no zone; add one, such as Z, or give --assume-utc")
    return seconds


def _number(name: str, cell: object) -> int:
    """A count; 12.0 is 12."""
    if isinstance(cell, str):
        match = _WHOLE_NUMBER.fullmatch(cell.strip())
        if match:
            return int(match[1])
    elif isinstance(cell, int | float) and not isinstance(cell, bool) and 0 <= cell < _MOST and cell == int(cell):
        return int(cell)
    raise _BadRowError(f"{name} must be a whole number, 0 or greater")
