"""Counts: what has one meaning is read, and all else is told by its shape."""

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.posts.counts import MOST, Count, NegativeError, UnreadableError, parse, shape


@pytest.mark.parametrize(
    ("cell", "number", "exact"),
    [
        *(
            (cell, 12, True)
            for cell in ("12", " 12 ", "12.0", "12.", "0012", 12, 12.0, Decimal(12), Decimal("12.00"), np.float64(12))
        ),
        *((cell, 0, True) for cell in ("0", "0.0", 0, 0.0, -0.0, Decimal(0))),
        ("1,234", 1_234, True),
        ("1,234.0", 1_234, True),
        ("2,383,021.00", 2_383_021, True),
        ("1 234 567", 1_234_567, True),
        ("1\u00a0234", 1_234, True),
        ("1\u202f234", 1_234, True),
        ("1'234'567", 1_234_567, True),
        ("1.2K", 1_200, False),
        ("1.2k", 1_200, False),
        ("16.3K", 16_300, False),
        ("3M", 3_000_000, False),
        ("1.05 M", 1_050_000, False),
        ("2B", 2_000_000_000, False),
        ("1E+05", 100_000, False),
        ("1.23e5", 123_000, False),
        ("999999999999999", 999_999_999_999_999, True),
    ],
)
def test_a_count_is_read(cell, number, exact):
    assert parse(cell) == Count(number, exact)


@pytest.mark.parametrize(
    "cell", [None, "", "  ", "-", "\u2013", "nan", "NaN", "NA", "N/A", "null", "None", math.nan, np.float64("nan")]
)
def test_an_empty_cell_is_no_count(cell):
    assert parse(cell) is None


@pytest.mark.parametrize("cell", ["-1", "-9.0", "\u22127", "-1,234", -1, -0.5, Decimal(-3)])
def test_no_count_is_negative(cell):
    with pytest.raises(NegativeError):
        parse(cell)


@pytest.mark.parametrize(
    ("cell", "masked"),
    [
        ("1.234", "9.999"),  # German for 1,234, or 1.234?
        ("1,23", "9,99"),
        ("12,34", "99,99"),
        ("1,234,56", "9,999,99"),
        ("1.2Q", "9.9X"),
        ("1,2K", "9,9X"),
        ("1.5", "9.9"),
        ("1_000", "9_999"),
        ("12 likes", "99 XXXXX"),
        ("\u0663", "?"),
        ("inf", "XXX"),
        (math.inf, "XXX"),
        (1.5, "9.9"),
        (Decimal("1.5"), "9.9"),
        (float(MOST), "9999999999999999.9"),
        ("9" * 400, "9" * 24 + "... (400 characters)"),
        (True, "true or false"),
        ([1], "list"),
    ],
)
def test_what_is_no_count_is_told_by_its_shape(cell, masked):
    with pytest.raises(UnreadableError) as caught:
        parse(cell)
    assert str(caught.value) == masked


@given(st.integers(0, MOST - 1))
def test_thousands_separators_change_nothing(number):
    assert parse(f"{number:,}") == parse(str(number)) == parse(number) == Count(number)


@given(st.text())
def test_a_shape_holds_nothing_that_stands_in_the_cell(text):
    masked = shape(text)
    assert len(masked) < 60
    assert not any(it.isalpha() and it != "X" for it in masked.split("...")[0])
    try:
        found = parse(text)
    except (NegativeError, UnreadableError):
        return
    assert found is None or found.number >= 0
