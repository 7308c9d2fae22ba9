"""Past posts on disk to rows in memory: read, checked, in order of time, each only once.

    >>> posts = read(["posts.csv.gz"])
    >>> len(posts), posts.counts, posts.dropped
    (82618, ('retweets', 'likes'), {'too_young': 1384, 'duplicate': 512})

Each file is read once, a row at a time, and hashed as it is read. Memory holds numbers, the distinct words, and the headlines
as one buffer of UTF-8. `service.posts.files` says which formats are read, `service.posts.columns` which columns,
`service.posts.times` and `service.posts.counts` how cells are written.

A file that `headlines synthesize` made has the column `synthetic`, which is true in every row: a column outlives being sorted,
joined with other files or converted to another format, and the model's metadata then says that the data were made up.

No message holds what stands in a cell, since in a damaged file any cell may be a headline.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, tzinfo
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import DataError
from service.model.preprocessing import NEWEST_RULES, RULES
from service.posts import columns, times
from service.posts.columns import Plan
from service.posts.files import NamesChangedError, open_table
from service.posts.headlines import BadRowError
from service.posts.sources import Source, expand
from training.rows import BAD_COUNT, NO_TEXT, REPLY, RETWEET, LeftOutError, Post, RowReader
from training.settings import AS_GIVEN, Reading

_SHAPES = 5  # kinds of counts that cannot be read, in a message
_REASONS = 10  # kinds of bad rows that are told
BEFORE_2004, BEFORE_SINCE, AFTER_COLLECTION, TOO_YOUNG, DUPLICATE, FEW_BEFORE, NO_STORY = (
    "before_2004",
    "before_since",
    "after_collection",
    "too_young",
    "duplicate",
    "few_before",
    "no_story",
)

# Why good rows are left out, in words.
LEFT_OUT = {
    NO_TEXT: "without text",
    RETWEET: "retweets of others' posts",
    REPLY: "replies to others",
    BAD_COUNT: "with a count that could not be read",
    BEFORE_2004: "dated before 2004",
    BEFORE_SINCE: "older than what was asked for",
    AFTER_COLLECTION: "dated later than the collection",
    TOO_YOUNG: "too young to have earned what they will earn",
    DUPLICATE: "repeats of an earlier post of the same outlet",
    FEW_BEFORE: "whose account had too few posts in the weeks before to compare with",
    NO_STORY: "that are their story's only headline",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class File:
    """A file, and how it was read."""

    name: str
    format: str  # for people, such as "CSV with semicolons, UTF-16, gzip"
    plan: Plan
    rows: int
    times: times.Times  # its spelling, and what was found of zones


@dataclass(frozen=True)
class BadRows:
    """Rows with the same problem."""

    problem: str
    rows: int
    first: str  # FILE:LINE

    def __str__(self) -> str:
        return f"{self.first}: {self.problem}" + (f" ({self.rows} rows alike)" if self.rows > 1 else "")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Posts sorted by (posted_at, outlet, headline). Row i's words are `words[w]` for w in `ids[offsets[i]:offsets[i + 1]]`."""

    posted_at: npt.NDArray[np.float64]  # [rows], seconds since 1970-01-01 UTC
    outlet: npt.NDArray[np.int32]  # [rows], index into outlets; -1: none
    engagement: npt.NDArray[np.float64]  # [rows], sum of the counts
    impressions: npt.NDArray[np.float64]  # [rows]; NaN: not known
    story: npt.NDArray[np.int32]  # [rows], equal for the headlines of one story; -1: none
    ids: npt.NDArray[np.int32] = field(repr=False)  # index into words, all words of all rows, not cut at any length
    offsets: npt.NDArray[np.int64] = field(repr=False)  # [rows + 1]
    words: Sequence[str] = field(repr=False)  # all distinct words, sorted
    outlets: Sequence[str]  # outlet keys, sorted
    counts: tuple[str, ...]  # those that make the engagement
    hours: bool  # the times have hours; else those of some file are days, and midnight stands for each
    synthetic: bool  # a row says that it is made up
    checksum: str  # hex SHA-256 of the files' sorted SHA-256s: the same in whatever order the files are named
    collected_at: float  # seconds since 1970-01-01 UTC
    files: tuple[File, ...]
    read: int  # rows in the files
    bad: int  # rows that could not be used
    bad_rows: tuple[BadRows, ...]  # the commonest first
    imprecise: int  # rows with a count such as 1.2K
    dropped: Mapping[str, int]  # good rows left out, by reason
    problems: tuple[str, ...]  # why nothing can be trained on these data; `read` raises the first unless told not to
    records: npt.NDArray[np.int64] = field(repr=False)  # [rows], index of the row when all rows of all files are counted from 0
    text: bytes | bytearray = field(repr=False)  # UTF-8; row i's headline is text[text_starts[i]:text_ends[i]]
    text_starts: npt.NDArray[np.int64] = field(repr=False)  # [rows]
    text_ends: npt.NDArray[np.int64] = field(repr=False)  # [rows]

    def __len__(self) -> int:
        return len(self.posted_at)

    @property
    def zone(self) -> tzinfo:
        """The zone in which the files' times were read, if that is one and was named; else UTC."""
        zones = {file.times.zone for file in self.files if file.rows}
        return (zones.pop() if len(zones) == 1 else None) or UTC

    def take(self, rows: npt.NDArray[np.int64], reason: str) -> Dataset:
        """These rows in this order. The others are counted as left out for `reason`, a key of LEFT_OUT."""
        at, offsets = _words_at(self.offsets, rows)
        columns = ("posted_at", "outlet", "engagement", "impressions", "story", "records", "text_starts", "text_ends")
        left_out = {reason: len(self) - len(rows)} if len(rows) < len(self) else {}
        return replace(
            self,
            ids=self.ids[at],
            offsets=offsets,
            dropped={**self.dropped, **left_out},
            **{name: getattr(self, name)[rows] for name in columns},
        )

    def texts(self, rows: npt.ArrayLike) -> list[str]:
        """The headlines of the chosen rows."""
        chosen = np.asarray(rows, np.int64)
        spans = zip(self.text_starts[chosen].tolist(), self.text_ends[chosen].tolist(), strict=True)
        return [self.text[start:end].decode() for start, end in spans]


def _words_at(
    offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where these rows' words stand, one row after another, and the rows' offsets there."""
    lengths = np.diff(offsets)[rows]
    taken = np.concatenate(([0], np.cumsum(lengths)))
    return np.arange(taken[-1]) + np.repeat(offsets[rows] - taken[:-1], lengths), taken


def read(
    files: Sequence[Path | str],
    reading: Reading = AS_GIVEN,
    *,
    rules: int = NEWEST_RULES,
    checked: bool = True,
    clock: Callable[[], float] = time.time,
) -> Dataset:
    """Read the files of a job; see service.posts.sources for what names one.

    Posts younger than `reading.min_age` at `reading.collected_at` have not yet earned what they will earn and are left out. The
    latter is by default the time of the newest post that is not in the future. A post that claims to be later is left out too
    and counted apart: either its time or `collected_at` is wrong. Of posts with the same outlet and words the earliest stays;
    of one post that was read twice, the larger engagement, as counts only grow. `rules` is the number of the preprocessing
    rules. The order of `files` changes nothing.

    Raises DataError, naming the file, if one cannot be read, lacks a column or has other counts than the rest. If too many rows
    are bad or a count cannot be read, raises DataError too, unless `checked` is false; see Dataset.problems.
    """
    sources = expand(files)
    choose = partial(columns.choose, named=reading.columns, engagement=reading.engagement)
    _check_counts(sources, choose, reading)
    rows = _Rows(reading, rules, choose)
    digests = [rows.read(source) for source in sources]
    problems = rows.problems()
    if problems and checked:
        raise DataError(problems[0])
    dataset = replace(
        rows.dataset(clock()),
        checksum=hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest(),
        problems=tuple(problems),
    )
    _report(dataset)
    return dataset


def _check_counts(sources: Sequence[Source], choose: Callable[[Sequence[str]], Plan], reading: Reading) -> None:
    """Look at all files before the first is read whole. Raises DataError if one cannot be read or counts something else."""
    first: Plan | None = None
    for source in sources:
        with open_table(source, hashlib.sha256(), reading.encoding) as table:
            plan = _choose(source, choose, table.names)
        first = first or plan
        if [*plan.counts] != [*first.counts]:
            raise DataError(
                f"{source.name}: counts {' and '.join(plan.counts)}, but {sources[0].name} counts {' and '.join(first.counts)};"
                " the files of a job must count the same; --engagement names what to count"
            )


def _choose(source: Source, choose: Callable[[Sequence[str]], Plan], names: Sequence[str]) -> Plan:
    try:
        return choose(names)
    except DataError as error:
        raise DataError(f"{source.name}: {error}") from None


def _report(dataset: Dataset) -> None:
    for file in dataset.files:
        exporter = f", as {file.plan.exporter} writes it" if file.plan.exporter not in ("", columns.OWN.name) else ""
        taken_from = file.plan.describe().items()
        taken = ", ".join(need if need == column else f"{need} = {column}" for need, column in taken_from)
        _log.info("%s: %s%s; %s; times: %s", file.name, file.format, exporter, taken, file.times.describe())
    left_out = ", ".join(f"{number:,} {reason.replace('_', ' ')}" for reason, number in dataset.dropped.items())
    _log.info(
        "%d rows read, %d used%s; left out: %d bad%s; engagement = %s%s",
        dataset.read,
        len(dataset),
        f", from {_day(dataset.posted_at[0])} to {_day(dataset.posted_at[-1])}" if len(dataset) else "",
        dataset.bad,
        f", {left_out}" if left_out else "",
        " + ".join(dataset.counts),
        "; these data are made-up" if dataset.synthetic else "",
    )


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


class _Rows:
    """All posts in the order in which they were read, column by column."""

    def __init__(self, reading: Reading, rules: int, choose: Callable[[Sequence[str]], Plan]) -> None:
        self._reading = reading
        self._rules = RULES[rules]
        self._choose = choose
        self.posted_at = array("d")
        self.engagement = array("d")
        self.impressions = array("d")
        self.story = array("i")  # into stories; -1: none
        self.stories: dict[str, int] = {}
        self.outlet = array("i")  # into outlets; -1: none
        self.outlets: dict[str, int] = {}
        # Python's own hash has another key in each process, so nobody can prepare collisions; it decides nothing but equality.
        self.hashes = array("q")  # of the outlet, the story and the words
        self.prefixes = array("Q")  # the headline's first 8 bytes, which order nearly all posts of one outlet and moment
        self.records = array("q")
        self.text = bytearray()  # the headlines, one after another
        self.text_ends = array("q", [0])
        self.words: dict[str, int] = {}  # numbered as they were first seen
        self.word_ids = array("i")  # of all rows' words
        self.word_ends = array("q", [0])
        self.files: list[File] = []
        self.rows = 0
        self.dropped: Counter[str] = Counter()
        self.bad: dict[str, BadRows] = {}
        self.shapes: Counter[str] = Counter()  # of counts that cannot be read
        self.first_shape = ""  # FILE:LINE of the first
        self.imprecise = 0
        self.synthetic = False

    def read(self, source: Source) -> str:
        """Read a file, and return its SHA-256 in hex."""
        names: Sequence[str] | None = None
        while True:
            before = self._state()
            try:
                return self._read(source, names)
            except NamesChangedError as error:
                names = error.names
                self._restore(before)

    def _read(self, source: Source, names: Sequence[str] | None) -> str:
        """Read a file as its columns ask for, or as these do."""
        digest = hashlib.sha256()
        with open_table(source, digest, self._reading.encoding) as table:
            plan = _choose(source, self._choose, names or table.names)
            reader = RowReader(plan, times.Times(self._reading.time_zone, self._reading.time_format), self._reading)
            before = self.rows
            for line, cells in table.rows(plan.columns, lambda later: _choose(source, self._choose, later) != plan):
                try:
                    if isinstance(cells, str):
                        raise BadRowError(cells)
                    self._add(reader.read(cells))
                except BadRowError as error:
                    self._add_bad(str(error), f"{source.name}:{line}")
                except LeftOutError as error:
                    self.dropped[error.reason] += 1
                    if error.reason == BAD_COUNT and not self.first_shape:
                        self.first_shape = f"{source.name}:{line}"
                except times.ZoneNeededError as error:
                    if not reader.times.spelling:
                        raise DataError(f"{source.name}:{line}: {error}") from None
                    self._add_bad(
                        f"posted_at is written otherwise than the file's first time ({reader.times.spelling})",
                        f"{source.name}:{line}",
                    )
                self.rows += 1
        self.shapes += reader.shapes
        self.imprecise += reader.imprecise
        self.files.append(File(source.name, table.format, plan, self.rows - before, reader.times))
        return digest.hexdigest()

    def problems(self) -> list[str]:
        """Why nothing can be trained on what was read."""
        found = []
        bad = sum(rows.rows for rows in self.bad.values())
        if self.shapes and self._reading.bad_counts == "end":
            shapes = ", ".join(f"{shape} ({rows} times)" for shape, rows in self.shapes.most_common(_SHAPES))
            more = f" and {len(self.shapes) - _SHAPES} more kinds" if len(self.shapes) > _SHAPES else ""
            dotted = any(re.search(r" 9{1,3}(\.999)+$", shape) for shape in self.shapes)
            hint = "; if dots separate thousands, remove them" if dotted else ""
            found.append(
                f"{self.first_shape}: has a count that cannot be read; such counts are {shapes}{more}, where 9 is a digit and X"
                f" a letter{hint}. They are often the most popular posts': --bad-counts skip leaves them out"
            )
        if bad > self._reading.max_bad_share * self.rows:
            found.append(
                f"{bad} of {self.rows} rows are bad, more than the share of {self._reading.max_bad_share:g} that may be skipped"
                " (--max-bad-share):\n" + "\n".join(map(str, self._bad_rows()[:_REASONS]))
            )
        if not self.rows:
            found.append("the files hold no rows")
        return found

    def _bad_rows(self) -> list[BadRows]:
        return sorted(self.bad.values(), key=lambda it: -it.rows)

    def dataset(self, now: float) -> Dataset:
        """The posts that can be used, sorted; `checksum` and `problems` are left to the caller."""
        reading = self._reading
        posted_at, engagement = np.frombuffer(self.posted_at, np.float64), np.frombuffer(self.engagement, np.float64)
        collected_at = reading.collected_at
        if collected_at is None:
            collected_at = float(posted_at[posted_at <= now].max(initial=-np.inf))
        good = np.ones(len(posted_at), bool)
        for reason, out in (
            (BEFORE_2004, posted_at < times.EARLIEST),
            (AFTER_COLLECTION, posted_at > collected_at),
            (BEFORE_SINCE, posted_at < (-np.inf if reading.since is None else reading.since)),
            (TOO_YOUNG, posted_at > collected_at - reading.min_age),
        ):
            self.dropped[reason] += int((good & out).sum())
            good &= ~out
        outlets, outlet = self._sort_outlets(good)
        rows = self._sort(np.flatnonzero(good), posted_at, outlet, engagement)
        _, earliest = np.unique(np.frombuffer(self.hashes, np.int64)[rows], return_index=True)
        self.dropped[DUPLICATE] += len(rows) - len(earliest)
        rows = rows[np.sort(earliest)]
        vocabulary, ids, offsets = self._words_of(rows)
        return Dataset(
            posted_at=posted_at[rows],
            outlet=outlet[rows],
            engagement=engagement[rows],
            impressions=np.frombuffer(self.impressions, np.float64)[rows],
            story=np.frombuffer(self.story, np.int32)[rows],
            ids=ids,
            offsets=offsets,
            words=vocabulary,
            outlets=outlets,
            counts=tuple(self.files[0].plan.counts),
            hours=not any(file.times.days_only for file in self.files),
            synthetic=self.synthetic,
            checksum="",
            collected_at=collected_at,
            files=tuple(self.files),
            read=self.rows,
            bad=sum(bad.rows for bad in self.bad.values()),
            bad_rows=tuple(self._bad_rows()),
            imprecise=self.imprecise,
            dropped={reason: number for reason, number in self.dropped.items() if number},
            problems=(),
            records=np.frombuffer(self.records, np.int64)[rows],
            text=self.text,
            text_starts=np.frombuffer(self.text_ends, np.int64)[rows],
            text_ends=np.frombuffer(self.text_ends, np.int64)[rows + 1],
        )

    def _sort_outlets(self, good: npt.NDArray[np.bool_]) -> tuple[list[str], npt.NDArray[np.int32]]:
        """The names of the good rows' outlets, sorted, and each row's index into them; -1: none."""
        index = np.frombuffer(self.outlet, np.int32)
        used = np.unique(index[good & (index >= 0)]).tolist()
        by_index = list(self.outlets)
        names = sorted(by_index[i] for i in used)
        rank = np.full(len(by_index) + 1, -1, np.int32)  # its last entry is for index -1: no outlet
        rank[[self.outlets[name] for name in names]] = np.arange(len(names), dtype=np.int32)
        return names, rank[index]

    def _sort(
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

    def _words_of(self, rows: npt.NDArray[np.int64]) -> tuple[list[str], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """The distinct words of these rows, sorted, and the rows' words as indices into them with each row's offsets."""
        ends = np.frombuffer(self.word_ends, np.int64)
        at, offsets = _words_at(ends, rows)
        seen = np.frombuffer(self.word_ids, np.int32)[at] if len(at) else np.empty(0, np.int32)
        used = np.bincount(seen, minlength=len(self.words)) > 0
        vocabulary = sorted(word for word, index in self.words.items() if used[index])
        rank = np.zeros(len(self.words), np.int32)
        rank[[self.words[word] for word in vocabulary]] = np.arange(len(vocabulary), dtype=np.int32)
        return vocabulary, rank[seen], offsets

    def _add(self, post: Post) -> None:
        data = post.headline.encode()
        self.posted_at.append(post.posted_at)
        self.engagement.append(post.engagement)
        self.impressions.append(post.impressions)
        self.story.append(self.stories.setdefault(post.story, len(self.stories)) if post.story else -1)
        self.outlet.append(self.outlets.setdefault(post.outlet, len(self.outlets)) if post.outlet else -1)
        found = self._rules.words(post.headline)
        same = " ".join(found) or "\n" + self._rules.clean(post.headline).strip()  # without a word, the text itself decides
        self.hashes.append(hash((same, post.outlet, post.story)))
        self.word_ids.extend([self.words.setdefault(word, len(self.words)) for word in found])
        self.word_ends.append(len(self.word_ids))
        self.prefixes.append(int.from_bytes(data[:8].ljust(8, b"\0"), "big"))
        self.text += data
        self.text_ends.append(len(self.text))
        self.records.append(self.rows)
        self.synthetic = self.synthetic or post.synthetic

    def _add_bad(self, problem: str, place: str) -> None:
        known = self.bad.get(problem)
        self.bad[problem] = replace(known, rows=known.rows + 1) if known else BadRows(problem, 1, place)

    def _state(self) -> tuple[Any, ...]:
        """What `_restore` needs to forget what is read after it."""
        marks = len(self.posted_at), len(self.text), len(self.word_ids), self.rows, self.first_shape, self.synthetic
        return *marks, Counter(self.dropped), dict(self.bad)

    def _restore(self, state: tuple[Any, ...]) -> None:
        posts, text, words, self.rows, self.first_shape, self.synthetic, self.dropped, self.bad = state
        for column in (
            self.posted_at,
            self.engagement,
            self.impressions,
            self.story,
            self.outlet,
            self.hashes,
            self.prefixes,
            self.records,
        ):
            del column[posts:]
        del self.text_ends[posts + 1 :], self.word_ends[posts + 1 :], self.text[text:], self.word_ids[words:]
