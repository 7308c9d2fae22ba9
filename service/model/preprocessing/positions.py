"""Where the words of a headline stand in its text as it was sent.

>>> find(RULES[2], "Don\u2019t panic &amp; carry on", ["don't", "panic", "carry", "on"])
[(0, 5), (6, 11), (18, 23), (24, 26)]

A set of rules does not say where a word came from, and each changes the text before it cuts it into words. So each word is
looked for in the folded text, and a place counts if the text before it has the words before it, and the text to its end has
this word too: whatever the rules are, a position is right, or it is not given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import regex

from service.model.preprocessing import rules_1

NOWHERE = (-1, -1)  # of a word whose place cannot be told

_CLUSTERS = regex.compile(r"\X")
_TRIES = 8  # places that are looked at for one word; a letter may stand many times in a link before it stands alone
_LONGEST = 4096  # characters of a text in which words are looked for
_MOST_READ = 32_000  # characters that are cut into words for one headline: 100 English words take 30,000, a usual headline 500


class _Rules(Protocol):
    @property
    def words(self) -> Callable[[str], list[str]]: ...
    @property
    def clean(self) -> Callable[[str], str]: ...


class _Folded(NamedTuple):
    """A text as words are compared; `starts[i]` and `ends[i]` say where its place i is in the text as it was sent.

    They differ at what folds to nothing, and are -1 in the middle of what one character folds to.
    """

    text: str
    starts: Sequence[int]
    ends: Sequence[int]


def find(rules: _Rules, text: str, words: Sequence[str]) -> list[tuple[int, int]]:
    """Start and end, in code points, of each of the first words that a text has by these rules; NOWHERE: it cannot be told.

    It takes up to 5 ms, for texts without a letter of ASCII; for a usual headline 20 us.
    """
    words = list(words)
    folded = _fold(text[:_LONGEST], rules.clean)
    places: list[tuple[int, int]] = []
    behind = 0  # the last word that was found, in the folded text
    verified = 0  # where the text ends that is known to have the words so far and no other; -1: none is known
    left = _MOST_READ
    for i, word in enumerate(words):
        place = NOWHERE
        at = behind - 1
        for _ in range(_TRIES):
            at = folded.text.find(word, at + 1)
            if at < 0:
                break
            start, end = folded.starts[at], folded.ends[at + len(word)]
            if min(start, end) < 0:
                continue
            # White space behind a text adds no word, so where nothing else has been passed over there is nothing to look at.
            looks_before = verified < 0 or bool(text[verified:start].strip())
            left -= end + looks_before * start
            if left < 0:
                break
            if rules.words(text[:end]) == words[: i + 1] and not (looks_before and rules.words(text[:start]) != words[:i]):
                place = start, end
                behind = at + len(word)
                break
        verified = place[1]
        places.append(place)
    return places


def _fold(text: str, clean: Callable[[str], str]) -> _Folded:
    """Fold each character with its marks on its own."""
    if text.isascii():
        same = range(len(text) + 1)
        return _Folded(text.lower(), same, same)
    parts: list[str] = []
    starts, ends = [0], [0]
    place = 0
    for cluster in _CLUSTERS.findall(text):
        part = _fold_character(cluster, clean) if len(cluster) == 1 else _fold_cluster(cluster, clean)
        starts[-1] = place
        place += len(cluster)
        if part:
            parts.append(part)
            middle = [-1] * (len(part) - 1)
            starts += (*middle, place)
            ends += (*middle, place)
    return _Folded("".join(parts), starts, ends)


def _fold_cluster(cluster: str, clean: Callable[[str], str]) -> str:
    folded = rules_1.fold(rules_1.normalize(clean(cluster)))
    for apostrophe in rules_1.APOSTROPHES:
        folded = folded.replace(apostrophe, "'")
    return folded


_fold_character = lru_cache(4096)(_fold_cluster)
