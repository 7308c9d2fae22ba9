"""Rules number 1: how a headline becomes words.

>>> words("Don\u2019t panic: 東京 is fine!")
["don't", 'panic', '東', '京', 'is', 'fine']
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain, groupby, islice
from unicodedata import combining as _combining
from unicodedata import normalize as _normalize

import regex

APOSTROPHES = ("\u2018", "\u2019", "\u02bc")
ALONE = r"\p{Han}\p{Hiragana}\p{Katakana}"
START = rf"[[\p{{L}}\p{{N}}]--[{ALONE}]]"
REST = rf"[[\p{{L}}\p{{M}}\p{{N}}]--[{ALONE}]]"
# But for U+16FF0 and U+16FF1, which are marks too: after another of them they belong to its word.
_ALONE_LETTER = rf"[[{ALONE}]--[\p{{M}}]]"
ALONE_CHARACTER = regex.compile(_ALONE_LETTER, regex.V1)
_FIRST_ALONE = "\u2e80"  # none of them is below
# A word, or a run that _IN_RUN takes apart: characters that are words of their own, and words without marks between them. It is
# the simpler pattern, twice as fast, and such a text may have a word in every two bytes.
_WORDS = regex.compile(
    rf"[{ALONE}](?:\p{{M}}+|[[{ALONE}\p{{L}}\p{{N}}]--[\p{{M}}]]*{_ALONE_LETTER}(?!\p{{M}})|)"
    rf"|[\p{{L}}\p{{N}}]{REST}*(?:'{START}{REST}*)*",
    regex.V1,
)
_IN_RUN = regex.compile(rf"[{ALONE}]|[^{ALONE}]+", regex.V1)
# Plain text is Latin-1 (ISO 8859-1) without the characters that NFKC or case folding makes others of, but for capitals and the
# no-break space, and without soft hyphens. One of these stands between two texts that are cut into words together.
_NOT_PLAIN = re.compile("[^\0-\xff]|[\xa8\xaa\xad\xaf\xb2-\xb5\xb8-\xba\xbc-\xbe\xdf]")
BETWEEN = "\xad"
_GAP = f" {BETWEEN} "
# Its letters in lower case, digits and apostrophes; a space for what separates words.
_SPACED = bytes(ord(it.lower() if it.isalnum() or it in ("'", BETWEEN) else " ") for it in map(chr, range(256)))
# What editors write beside plain text, and the plain character that has the same effect. NFKC makes three of one of them.
_TYPOGRAPHIC = (("\u2019", "'"), ("\u2018", "'"), *((it, " ") for it in "\u2014\u2013\u201c\u201d\u2022\u2026\u20ac"))

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


def words(text: str) -> list[str]:
    """The words of a headline, in order.

    NFKC, casefold, NFKC again; curly apostrophes become straight. A word is a letter or digit and the letters, marks
    and digits after it, parts joined by single apostrophes. Each Han, Hiragana and Katakana character (with its marks)
    is a word, as these scripts write no spaces; a run of Hangul stays whole.
    """
    if text.isascii():
        return split_plain((text,))
    return split(fold(normalize(text)))


def plain(texts: Sequence[str]) -> Sequence[str]:
    """Texts with the same words that are plain; an empty one where there is no simple way to it."""
    return [text if text.isascii() else to_plain(text) for text in texts]


def to_plain(text: str) -> str:
    """A plain text of the same length and with the same words; empty if there is no simple way to it."""
    for character, same in _TYPOGRAPHIC:
        text = text.replace(character, same)
    return "" if _NOT_PLAIN.search(text) else text


def split_plain(texts: Sequence[str]) -> list[str]:
    """The words of texts that are plain, one text after another with BETWEEN between two.

    Where no apostrophe stands at a word's edge, words are what stands between other characters. So those that do are taken
    away: first two that stand together, of which at most one is left, then those behind and before a space.
    """
    spaced = f" {_GAP.join(texts).encode('latin-1').translate(_SPACED).decode('latin-1')} "
    if "'" in spaced:
        spaced = spaced.replace("''", "  ").replace(" '", "  ").replace("' ", "  ")
    return spaced.split()


def normalize(text: str) -> str:
    """NFKC, in time that is in proportion to the text."""
    if len(text) >= _LONG_RUN:
        text = _LONG_RUNS.sub(_put_in_order, text)
    return _normalize("NFKC", text)


def split(text: str) -> list[str]:
    """The words of a text that is normalised and case-folded."""
    for apostrophe in APOSTROPHES:
        text = text.replace(apostrophe, "'")
    found: list[str] = _WORDS.findall(text)
    if max(found, default="") < _FIRST_ALONE:
        return found
    separate = []
    for word in found:
        if len(word) > 1 and word[0] >= _FIRST_ALONE and word[-1] >= _FIRST_ALONE and ALONE_CHARACTER.match(word[-1]):
            separate += _IN_RUN.findall(word)
        else:
            separate.append(word)
    return separate


def fold(text: str) -> str:
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
