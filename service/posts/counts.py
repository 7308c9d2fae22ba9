"""Counts as exports write them.

    >>> parse("2,383,021.00"), parse("1.2K"), parse(None)
    (Count(number=2383021, exact=True), Count(number=1200, exact=False), None)

Decimal points and thousands separators are those of English, as exporters write them whatever the reader's language: 1.234 may
be a thousand or one, and is not read.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import NamedTuple

MOST = 10**15  # far above any real count, and sums stay exact in a float64

_PLAIN = re.compile(r"([0-9]{1,15})(?:\.0*)?")
_GROUPED = re.compile(r"[0-9]{1,3}(?:([,'\u2019 \u00a0\u202f])[0-9]{3})(?:\1[0-9]{3})*(?:\.0*)?")
_SCALED = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?([KMB])", re.IGNORECASE)
_EXPONENT = re.compile(r"[0-9](?:\.[0-9]{1,15})?E\+?[0-9]{1,2}", re.IGNORECASE)
_SCALES = {"K": 10**3, "M": 10**6, "B": 10**9}
_NEGATIVE = re.compile(r"[-\u2212][0-9][0-9,.]*")
_EMPTY = {"", "-", "\u2013", "\u2014", "nan", "na", "n/a", "#n/a", "null", "none", "<na>"}
_LONGEST_SHAPE = 24


class Count(NamedTuple):
    """A count, and whether it was written to the last digit."""

    number: int
    exact: bool = True


class NegativeError(Exception):
    """No count is below 0."""


class UnreadableError(Exception):
    """A cell that is not a count, as its shape: 9 for a digit, X for a letter."""


def parse(cell: object) -> Count | None:
    """The count in a cell; None: it is empty. Raises NegativeError and UnreadableError."""
    if isinstance(cell, str):
        return _of_text(cell.strip())
    if cell is None:
        return None
    if isinstance(cell, bool):
        raise UnreadableError("true or false")
    if isinstance(cell, int | float | Decimal):
        if math.isnan(cell):
            return None
        if cell < 0:
            raise NegativeError
        if cell < MOST and cell == int(cell):
            return Count(int(cell))
        raise UnreadableError(shape(str(cell)))
    raise UnreadableError(type(cell).__name__)


def _of_text(text: str) -> Count | None:
    if match := _PLAIN.fullmatch(text):
        return Count(int(match[1]))
    if text.lower() in _EMPTY:
        return None
    if _GROUPED.fullmatch(text):
        return Count(int(re.sub(r"\D", "", text.partition(".")[0])))
    if match := _SCALED.fullmatch(text):
        return Count(round(Decimal(match[1]) * _SCALES[match[2].upper()]), exact=False)
    if _NEGATIVE.fullmatch(text):
        raise NegativeError
    if _EXPONENT.fullmatch(text):
        number = Decimal(text)
        if number < MOST and number == int(number):
            return Count(int(number), exact=False)  # as spreadsheets and R write large numbers
    raise UnreadableError(shape(text))


def shape(text: str) -> str:
    """What a cell looks like without what stands in it: 9 for a digit, X for a letter."""
    masked = "".join(
        "9" if it.isascii() and it.isdigit() else "X" if it.isalpha() else " " if it.isspace() else it if it.isascii() else "?"
        for it in text[:200]
    )
    return masked if len(masked) <= _LONGEST_SHAPE else f"{masked[:_LONGEST_SHAPE]}... ({len(text)} characters)"
