"""What is refused for its cost, whatever version is live: texts that NFKC makes many times as long."""

from __future__ import annotations

from functools import cache
from unicodedata import normalize as _normalize

import regex

from service.model.preprocessing.rules_1 import ALONE_CHARACTER

MAX_EXPANDING = 64  # characters of a text that may expand
_REPLACED = regex.compile(r"\p{NFKC_QC=N}")  # what NFKC never leaves as it is


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
    return len(replacement) > 1 and (replacement[0] == " " or ALONE_CHARACTER.search(replacement) is not None)
