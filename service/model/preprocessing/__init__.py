"""Headlines to arrays: the one implementation, used in training and in serving.

    >>> words("Don\u2019t panic: 東京 is fine!")
    ["don't", 'panic', '東', '京', 'is', 'fine']

These are the rules number 1. They travel with each model as `"preprocessing": 1`; a change to how a headline becomes
numbers is a new number beside this one, never a change of it, so that a rollback works.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import chain, groupby, islice, repeat
from typing import NamedTuple
from unicodedata import combining as _combining
from unicodedata import normalize as _normalize

import numpy as np
import numpy.typing as npt
import regex

RULES = 1
PADDING = 0
UNKNOWN = 1
FIRST_WORD = 2
VOCABULARY_HEAD = ("", "[UNK]")  # lines 0 and 1 of vocabulary.txt
SEQUENCE_LENGTH = 100
AUX_FEATURES = ("hour_sin", "hour_cos", "weekday_sin", "weekday_cos", "outlet_level")

_DAY = 86_400.0
_WEEK = 7 * _DAY
_MONDAY = 3 * _DAY  # 1970-01-01, where seconds count from, was a Thursday

_APOSTROPHES = ("\u2018", "\u2019", "\u02bc")
_ALONE = r"\p{Han}\p{Hiragana}\p{Katakana}"
_START = rf"[[\p{{L}}\p{{N}}]--[{_ALONE}]]"
_REST = rf"[[\p{{L}}\p{{M}}\p{{N}}]--[{_ALONE}]]"
# But for U+16FF0 and U+16FF1, which are marks too: after another of them they belong to its word.
_ALONE_LETTER = rf"[[{_ALONE}]--[\p{{M}}]]"
_ALONE_CHARACTER = regex.compile(_ALONE_LETTER, regex.V1)
_FIRST_ALONE = "\u2e80"  # none of them is below
# A word, or a run that _IN_RUN takes apart: characters that are words of their own, and words without marks between them. It is
# the simpler pattern, twice as fast, and such a text may have a word in every two bytes.
_WORDS = regex.compile(
    rf"[{_ALONE}](?:\p{{M}}+|[[{_ALONE}\p{{L}}\p{{N}}]--[\p{{M}}]]*{_ALONE_LETTER}(?!\p{{M}})|)"
    rf"|[\p{{L}}\p{{N}}]{_REST}*(?:'{_START}{_REST}*)*",
    regex.V1,
)
_IN_RUN = regex.compile(rf"[{_ALONE}]|[^{_ALONE}]+", regex.V1)
# What _WORDS is on ASCII text, where NFKC changes nothing, as of 97 % of English headlines: a third of the time. And where no
# apostrophe stands at a word's edge, words are what stands between other characters: a third of that.
_ASCII_WORDS = re.compile("[a-z0-9]+(?:'[a-z0-9]+)*")
_SPACED = bytes(ord(it.lower()) if it.isalnum() or it == "'" else ord(" ") for it in map(chr, range(128))).ljust(256)

# NFKC puts marks in order by an insertion sort, in quadratic time. Runs of this length and more are sorted before it.
_LONG_RUN = 64
# What has no combining class of its own but decomposes to marks alone.
_DECOMPOSED = {mark: _normalize("NFKD", mark) for mark in "\u0f73\u0f75\u0f81\uff9e\uff9f"}
_MARK = rf"[\P{{ccc=0}}{''.join(_DECOMPOSED)}]"
_LONG_RUNS = regex.compile(rf"(?<!{_MARK}){_MARK}{{{_LONG_RUN},}}")

# Where the case folding of a text in NFKC may not be in NFKC: these letters, whose case folding is decomposed, and what may
# compose with a letter in lower case alone (J and a caron).
_DECOMPOSED_BY_CASE = (
    "\u01f0\u0390\u03b0\u1e96-\u1e99\u1f50\u1f52\u1f54\u1f56\u1fb6\u1fb7\u1fc6\u1fc7"
    "\u1fd2\u1fd6\u1fd7\u1fe2\u1fe4\u1fe6\u1fe7\u1ff6\u1ff7"
)
_FOLLOWING = r"[\p{NFKC_QC=M}\P{ccc=0}]"
_REFOLDED = regex.compile(rf"[{_DECOMPOSED_BY_CASE}]{_FOLLOWING}*|\p{{Changes_When_Casefolded}}{_FOLLOWING}+")

MAX_EXPANDING = 64  # characters of a text that may expand
_REPLACED = regex.compile(r"\p{NFKC_QC=N}")  # what NFKC never leaves as it is


class Headline(NamedTuple):
    """A headline as a newsroom would post it."""

    text: str
    posted_at: float  # seconds since 1970-01-01 UTC
    outlet: str = ""  # the account's name; empty: none


class Rows(NamedTuple):
    """Headlines as numbers, one row each; word ids stand one row after another, without padding."""

    ids: npt.NDArray[np.int32]  # [sum of lengths]
    lengths: npt.NDArray[np.int32]  # [rows], 1 to SEQUENCE_LENGTH
    aux: npt.NDArray[np.float32]  # [rows, 5], in the order of AUX_FEATURES
    word_counts: list[int]  # before the cut at SEQUENCE_LENGTH; 0: the headline has no word
    unknown_word_counts: list[int]  # likewise
    outlets_known: list[bool]


def is_blank(text: str) -> bool:
    """Whether there is nothing to score: no character but white space."""
    return not text or text.isspace()


def expands(text: str) -> bool:
    """Whether more than MAX_EXPANDING characters of a text expand, which costs far more than other text of the same bytes.

    A character expands if NFKC replaces it and its compatibility decomposition is longer than two (U+FDFA, U+33A8, U+2026),
    holds several words (U+337B, two ideographs; U+33E0, a digit and an ideograph) or is a space with a mark (U+00B4, U+037A).
    Vietnamese, Hangul and Greek letters do not: NFKC leaves them as they are. No model version influences the answer, so a
    rollback never changes what is refused.
    """
    if len(text) <= MAX_EXPANDING or text.isascii() or not _REPLACED.search(text):
        return False
    distinct = _REPLACED.findall("".join(set(text)))
    return sum(text.count(character) for character in distinct if _expands(character)) > MAX_EXPANDING


@cache
def _expands(character: str) -> bool:
    if len(_normalize("NFKD", character)) > 2:
        return True
    replacement = _normalize("NFKC", character)
    return len(replacement) > 1 and (replacement[0] == " " or _ALONE_CHARACTER.search(replacement) is not None)


def words(text: str) -> list[str]:
    """The words of a headline, in order.

    NFKC, casefold, NFKC again; curly apostrophes become straight. A word is a letter or digit and the letters, marks
    and digits after it, parts joined by single apostrophes. Each Han, Hiragana and Katakana character (with its marks)
    is a word, as these scripts write no spaces; a run of Hangul stays whole.
    """
    if text.isascii():
        spaced = f" {text.encode().translate(_SPACED).decode()} "
        if "'" in spaced and (" '" in spaced or "' " in spaced or "''" in spaced):
            return _ASCII_WORDS.findall(spaced)
        return spaced.split()
    if len(text) >= _LONG_RUN:
        text = _LONG_RUNS.sub(_put_in_order, text)
    text = _fold(_normalize("NFKC", text))
    for apostrophe in _APOSTROPHES:
        text = text.replace(apostrophe, "'")
    found: list[str] = _WORDS.findall(text)
    if max(found, default="") < _FIRST_ALONE:
        return found
    separate = []
    for word in found:
        if len(word) > 1 and word[0] >= _FIRST_ALONE and word[-1] >= _FIRST_ALONE and _ALONE_CHARACTER.match(word[-1]):
            separate += _IN_RUN.findall(word)
        else:
            separate.append(word)
    return separate


def _fold(text: str) -> str:
    """NFKC of the case folding of a text that is NFKC: only what case folding may have made otherwise is normalised again."""
    places = list(islice(_REFOLDED.finditer(text), len(text) // 8 + 2))
    if len(places) > len(text) // 8 + 1:  # so many that normalising everything costs less
        return _normalize("NFKC", text.casefold())
    folded: list[str] = []
    end = 0
    for changed in places:
        folded += (text[end : changed.start()].casefold(), _normalize("NFKC", changed[0].casefold()))
        end = changed.end()
    return "".join((*folded, text[end:].casefold()))


def _put_in_order(run: regex.Match[str]) -> str:
    """Marks in canonical order: what NFKC makes of them stays the same."""
    marks = run[0]
    for mark, decomposed in _DECOMPOSED.items():
        marks = marks.replace(mark, decomposed)
    if all(map(_combining, marks)):
        return "".join(sorted(marks, key=_combining))
    # `regex` knows newer marks than Python does. To NFKC they are no marks: none is moved across them.
    parts = groupby(marks, lambda mark: _combining(mark) > 0)
    return "".join(chain.from_iterable(sorted(part, key=_combining) if ordered else part for ordered, part in parts))


def outlet_key(name: str) -> str:
    """The form in which outlet names are compared."""
    return name.strip().casefold()


def time_features(posted_at: float) -> tuple[float, float, float, float]:
    """Hour of day and day of week in UTC as points on two circles: sin 2πh, cos 2πh, sin 2πd, cos 2πd.

    `posted_at` is in seconds since 1970-01-01 UTC. h is the share of the day since midnight, d the share of the week
    since Monday 00:00, both without steps.
    """
    hour = math.tau * (posted_at % _DAY) / _DAY
    weekday = math.tau * ((posted_at + _MONDAY) % _WEEK) / _WEEK
    return math.sin(hour), math.cos(hour), math.sin(weekday), math.cos(weekday)


class Preprocessor:
    """Headlines to the rows that one model version expects."""

    def __init__(self, vocabulary: Sequence[str], outlet_levels: Mapping[str, float]) -> None:
        """`vocabulary[i]` is the word with id i, from VOCABULARY_HEAD on; `outlet_levels` are standardised, by outlet key.

        Raises ValueError where the vocabulary does not begin as it should or names a word twice.
        """
        if tuple(vocabulary[:FIRST_WORD]) != VOCABULARY_HEAD:
            raise ValueError("the vocabulary begins otherwise than with an empty line and [UNK]")
        self._ids = {word: i for i, word in enumerate(vocabulary) if i >= FIRST_WORD}
        if len(self._ids) != len(vocabulary) - FIRST_WORD:
            raise ValueError("the vocabulary names a word twice")
        self._levels = dict(outlet_levels)

    def encode(self, headlines: Iterable[Headline]) -> Rows:
        """Word ids, auxiliary features and what was not known, for any number of headlines.

        A headline without a word is the one id UNKNOWN; an unknown or absent outlet has level 0.
        """
        word_id = self._ids.get
        level_of = self._levels.get
        ids: list[int] = []
        lengths: list[int] = []
        aux: list[float] = []
        word_counts: list[int] = []
        unknown_word_counts: list[int] = []
        outlets_known: list[bool] = []
        for text, posted_at, outlet in headlines:
            row = list(map(word_id, words(text), repeat(UNKNOWN)))
            word_counts.append(len(row))
            unknown_word_counts.append(row.count(UNKNOWN))
            row = row[:SEQUENCE_LENGTH] or [UNKNOWN]
            ids += row
            lengths.append(len(row))
            level = level_of(outlet_key(outlet)) if outlet else None
            outlets_known.append(level is not None)
            aux += time_features(posted_at)
            aux.append(level or 0.0)
        return Rows(
            np.array(ids, np.int32),
            np.array(lengths, np.int32),
            np.array(aux, np.float32).reshape(-1, len(AUX_FEATURES)),
            word_counts,
            unknown_word_counts,
            outlets_known,
        )
