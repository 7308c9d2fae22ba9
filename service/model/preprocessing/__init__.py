"""Headlines to arrays: the one implementation, used in training and in serving.

A set of rules says how a headline becomes words. Its number travels with each model as `"preprocessing": 2`. A change is a new
number beside the others, never a change of one of them, so that a rollback works. What is refused (`is_blank`, `expands`) does
not depend on the number.
"""

from __future__ import annotations

from codecs import utf_32_le_encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import repeat
from math import cos, sin, tau
from struct import Struct
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from service.model.preprocessing import rules_1, rules_2
from service.model.preprocessing.expanding import MAX_EXPANDING, expands

__all__ = [
    "AUX_FEATURES",
    "END_OF_TIME",
    "FIRST_SECOND",
    "FIRST_WORD",
    "MAX_EXPANDING",
    "NEWEST_RULES",
    "PADDING",
    "RULES",
    "SEQUENCE_LENGTH",
    "TIME_FEATURES",
    "UNKNOWN",
    "VOCABULARY_HEAD",
    "Fields",
    "Headline",
    "Preprocessor",
    "Rows",
    "Rules",
    "expands",
    "is_blank",
    "is_time",
    "outlet_key",
    "text_problem",
    "time_features",
]


class Rules(NamedTuple):
    """A set of rules: how a text as it was sent becomes words."""

    words: Callable[[str], list[str]]  # its words in order, after it is cleaned
    clean: Callable[[str], str]  # what of it is read: without links and the like, by rules number 2 and later
    plain: Callable[[Sequence[str]], Sequence[str]]  # texts of which `rules_1.split_plain` makes these words, or ""


RULES: Mapping[int, Rules] = {  # by number
    1: Rules(rules_1.words, str, rules_1.plain),
    2: Rules(rules_2.words, rules_2.clean, rules_2.plain),
}
NEWEST_RULES = max(RULES)  # of new versions
PADDING = 0
UNKNOWN = 1
FIRST_WORD = 2
VOCABULARY_HEAD = ("", "[UNK]")  # lines 0 and 1 of vocabulary.txt
SEQUENCE_LENGTH = 100
TIME_FEATURES = ("hour_sin", "hour_cos", "weekday_sin", "weekday_cos")
AUX_FEATURES = (*TIME_FEATURES, "outlet_level")

FIRST_SECOND, END_OF_TIME = -62_135_596_800.0, 253_402_300_800.0  # of the years 1 to 9999
_DAY = 86_400.0
_WEEK = 7 * _DAY
_UNKNOWN = chr(UNKNOWN)
_UNKNOWNS = repeat(_UNKNOWN)
_BETWEEN = chr(PADDING)  # stands between rows that are strings
_FLOAT, _TIME = Struct("<f"), Struct(f"<{len(TIME_FEATURES)}f")
_AUX = Struct(f"<{len(TIME_FEATURES)}f{_FLOAT.size}s")
_NO_LEVEL = _FLOAT.pack(0.0)
_INT32, _FLOAT32 = np.dtype(np.int32), np.dtype(np.float32)
_LENGTHS = np.arange(SEQUENCE_LENGTH + 1, dtype=_INT32)[:, None]  # of a single row, by its length
_MONDAY = 3 * _DAY  # 1970-01-01, where seconds count from, was a Thursday


class Headline(NamedTuple):
    """A headline as a newsroom would post it."""

    text: str
    posted_at: float  # seconds since 1970-01-01 UTC
    outlet: str = ""  # the account's name; empty: none


Fields: TypeAlias = tuple[str, float, str]  # of a Headline, or one


class Rows(NamedTuple):
    """Headlines as numbers, one row each; word ids stand one row after another, without padding."""

    ids: npt.NDArray[np.int32]  # [sum of lengths]
    lengths: npt.NDArray[np.int32]  # [rows], 1 to SEQUENCE_LENGTH
    aux: npt.NDArray[np.float32]  # [rows, 5], in the order of AUX_FEATURES
    word_counts: list[int]  # before the cut at SEQUENCE_LENGTH; 0: the headline has no word
    unknown_word_counts: list[int]  # likewise
    outlets_known: list[bool]


_rows: Callable[[Iterable[Any]], Rows] = partial(tuple.__new__, Rows)  # in a third of the time that Rows() takes
_NO_ROWS = Rows(np.empty(0, np.int32), np.empty(0, np.int32), np.empty((0, len(AUX_FEATURES)), np.float32), [], [], [])


def is_time(seconds: float) -> bool:
    """Whether this many seconds since 1970-01-01 UTC are a time between the years 1 and 9999; NaN is not."""
    return FIRST_SECOND <= seconds < END_OF_TIME


def is_blank(text: str) -> bool:
    """Whether there is nothing to score: no character but white space."""
    return not text or text.isspace()


def text_problem(text: str, most_bytes: int) -> str:
    """Why a headline cannot be scored, and what would be right; empty if it can. `most_bytes` is in UTF-8."""
    if is_blank(text):
        return "is blank; write at least one character"
    if len(text) * 4 > most_bytes and (size := len(text.encode("utf-8", "surrogatepass"))) > most_bytes:
        return f"has {size} bytes; write at most {most_bytes}"
    if expands(text):
        return f"has more than {MAX_EXPANDING} characters that NFKC replaces by several; write them out"
    return ""


def outlet_key(name: str) -> str:
    """The form in which outlet names are compared."""
    return name.strip().casefold()


def time_features(posted_at: float) -> tuple[float, float, float, float]:
    """Hour of day and day of week in UTC as points on two circles: sin 2πh, cos 2πh, sin 2πd, cos 2πd.

    `posted_at` is in seconds since 1970-01-01 UTC. h is the share of the day since midnight, d the share of the week
    since Monday 00:00, both without steps.
    """
    hour = tau * (posted_at % _DAY) / _DAY
    weekday = tau * ((posted_at + _MONDAY) % _WEEK) / _WEEK
    return sin(hour), cos(hour), sin(weekday), cos(weekday)


class Preprocessor:
    """Headlines to the rows that one model version expects."""

    def __init__(
        self,
        vocabulary: Sequence[str],
        outlet_levels: Mapping[str, float],
        rules: int = NEWEST_RULES,
        frozen: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """`vocabulary[i]` is the word with id i, from VOCABULARY_HEAD on; `outlet_levels` are standardised, by outlet key.

        `rules` is a key of RULES. `frozen` is empty, or gives each of TIME_FEATURES the value that it has whatever the time.
        Raises ValueError if the vocabulary does not begin as it should or names a word twice, KeyError if `rules` is not known
        or `frozen` lacks a feature.
        """
        if tuple(vocabulary[:FIRST_WORD]) != VOCABULARY_HEAD:
            raise ValueError("the vocabulary begins otherwise than with an empty line and [UNK]")
        # A row is a string whose code points are the ids: so it is counted, cut and joined in native code.
        self._ids = {word: chr(i) for i, word in enumerate(vocabulary) if i >= FIRST_WORD}
        if len(self._ids) != len(vocabulary) - FIRST_WORD:
            raise ValueError("the vocabulary names a word twice")
        self._ids[rules_1.BETWEEN] = _BETWEEN  # which is no word
        # Levels and time features are kept as the bytes of float32 for the same reason.
        self._levels = {name: _FLOAT.pack(level) for name, level in outlet_levels.items()}
        # By the names that callers use if they know how outlets are compared.
        self._levels_as_sent = {name: level for name, level in self._levels.items() if name and outlet_key(name) == name}
        self._words, _, self._plain = RULES[rules]
        self._always = _TIME.pack(*(frozen[name] for name in TIME_FEATURES)) if frozen else b""

    def encode(self, headlines: Iterable[Fields]) -> Rows:
        """Word ids, auxiliary features and what was not known, for any number of headlines, or tuples of their fields.

        A headline without a word is the one id UNKNOWN; an unknown or absent outlet has level 0.
        """
        headlines = list(headlines)
        if len(headlines) == 1:
            return self._encode_one(*headlines[0])
        columns = tuple(zip(*headlines))  # noqa: B905  (a third of the time of strict=True)
        if not columns:
            return _NO_ROWS
        texts, times, outlets = columns
        rows = self._rows(texts)
        lengths = word_counts = list(map(len, rows))
        unknown_word_counts = list(map(str.count, rows, _UNKNOWNS))
        if max(lengths) > SEQUENCE_LENGTH or not all(lengths):
            rows = [row[:SEQUENCE_LENGTH] or _UNKNOWN for row in rows]
            lengths = list(map(len, rows))
        levels: list[Any] = list(map(self._levels_as_sent.get, outlets))
        known = [True] * len(levels)
        if None in levels:
            levels = [level or self._level(outlet) for level, outlet in zip(levels, outlets, strict=True)]
            known = list(map(bool, levels))
            levels = [level or _NO_LEVEL for level in levels]
        return _rows(
            (
                np.frombuffer(utf_32_le_encode("".join(rows), "surrogatepass")[0], _INT32),
                np.array(lengths, _INT32),
                np.ndarray((len(rows), len(AUX_FEATURES)), _FLOAT32, self._aux(times, levels)),
                word_counts,
                unknown_word_counts,
                known,
            )
        )

    def _encode_one(self, text: str, posted_at: float, outlet: str) -> Rows:
        """The same for a single headline, in two thirds of the time: there is nothing to put side by side."""
        [plain] = self._plain((text,))
        words = rules_1.split_plain((plain,)) if plain else self._words(text)
        row = "".join(map(self._ids.get, words, _UNKNOWNS))
        length = word_count = len(row)
        unknown_word_count = row.count(_UNKNOWN)
        if not 0 < length <= SEQUENCE_LENGTH:
            row = row[:SEQUENCE_LENGTH] or _UNKNOWN
            length = len(row)
        level = self._levels_as_sent.get(outlet) or self._level(outlet)
        features = self._always or _TIME.pack(*time_features(posted_at))
        return _rows(
            (
                np.frombuffer(utf_32_le_encode(row, "surrogatepass")[0], _INT32),
                _LENGTHS[length],
                np.ndarray((1, len(AUX_FEATURES)), _FLOAT32, features + (level or _NO_LEVEL)),
                [word_count],
                [unknown_word_count],
                [bool(level)],
            )
        )

    def _rows(self, texts: Sequence[str]) -> list[str]:
        """The ids of each text, as a string."""
        plain = self._plain(texts)
        words = rules_1.split_plain(plain)
        rows = "".join(map(self._ids.get, words, _UNKNOWNS)).split(_BETWEEN)
        if "" in plain:
            for i, text in enumerate(texts):
                if not plain[i]:
                    rows[i] = "".join(map(self._ids.get, self._words(text), _UNKNOWNS))
        return rows

    def _level(self, outlet: str) -> bytes:
        """The bytes of an outlet's level; empty if it is not known."""
        return self._levels.get(outlet_key(outlet), b"") if outlet else b""

    def _aux(self, times: Sequence[float], levels: Sequence[bytes]) -> bytes:
        always = self._always
        if not always and len(times) > 1 and times.count(times[0]) == len(times):  # often a request's headlines have no times
            always = _TIME.pack(*time_features(times[0]))
        if always:
            return b"".join([always + level for level in levels])
        rows = []
        for posted_at, level in zip(times, levels):  # noqa: B905  (in a tenth less time)
            # As time_features does, without a call for each.
            hour = tau * (posted_at % _DAY) / _DAY
            weekday = tau * ((posted_at + _MONDAY) % _WEEK) / _WEEK
            rows.append(_AUX.pack(sin(hour), cos(hour), sin(weekday), cos(weekday), level))
        return b"".join(rows)
