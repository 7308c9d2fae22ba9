"""The cells of a row to its headline, time and outlet, or to what is wrong with them.

No message holds what stands in a cell, since in a damaged file any cell may be a headline.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from service.posts.columns import Plan
from service.posts.times import BadTimeError, Times

_PERMALINK = re.compile(r"https?://(?:www\.|mobile\.)?(?:twitter|x)\.com/(\w+)(?:/web)?/status/.*", re.ASCII | re.IGNORECASE)
_TAGS = re.compile(r"</?[a-z][^<>]*>", re.IGNORECASE)


class BadRowError(Exception):
    """What is wrong with a row, and what would be right."""


class HeadlineReader:
    """Reads rows of one file, whose cells are in the order of `names`, by default of `plan.columns`."""

    def __init__(self, plan: Plan, times: Times, names: Sequence[str] | None = None) -> None:
        self.times = times
        place = {name: i for i, name in enumerate(plan.columns if names is None else names)}
        self._headline = [place[name] for name in plan.headline]
        self._posted_at = [place[name] for name in plan.posted_at]
        self._outlet = place[plan.outlet] if plan.outlet else None
        self._html = plan.html

    def text(self, cells: Sequence[Any]) -> str:
        """The headline; empty if there is none. Raises BadRowError."""
        for place in self._headline:
            cell = cells[place]
            if cell is None or cell == "" or cell != cell:  # NaN, as data frames write what is missing
                continue
            if not isinstance(cell, str):
                raise BadRowError("headline is not text")
            return _TAGS.sub(" ", cell).strip() if self._html else cell
        return ""

    def time(self, cells: Sequence[Any]) -> object:
        """The cell that holds the posting time; text if it takes several."""
        if not self._posted_at:
            return None
        if len(self._posted_at) == 1:
            return cells[self._posted_at[0]]
        parts = [cells[place] for place in self._posted_at]
        return " ".join(
            part.isoformat() if hasattr(part, "isoformat") else str(part).strip() for part in parts if part is not None
        )

    def posted_at(self, cells: Sequence[Any]) -> float:
        """Seconds since 1970-01-01 UTC. Raises BadRowError, and ZoneNeededError if it cannot be read without being told how."""
        try:
            return self.times.parse(self.time(cells))
        except BadTimeError as error:
            raise BadRowError(str(error)) from None

    def outlet(self, cells: Sequence[Any]) -> str:
        """The account's name; a permalink to a post on X holds it. Empty if there is none. Raises BadRowError."""
        if self._outlet is None:
            return ""
        return outlet_of(cells[self._outlet])


def outlet_of(cell: object) -> str:
    """The account's name that a cell holds. Raises BadRowError."""
    found = name_of(cell, "outlet")
    match = _PERMALINK.fullmatch(found.strip())
    return found if match is None else "" if match[1] == "i" else match[1]  # x.com/i/web/status/... names nobody


def check_text(*texts: str) -> None:
    """Raise BadRowError if one of these was not UTF-8 in the file."""
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError:
        raise BadRowError("headline or outlet is not UTF-8; if the file is in another encoding, see --encoding") from None


def name_of(cell: object, need: str) -> str:
    """A name, or a number that stands for one. Raises BadRowError if it is neither."""
    if cell is None or cell != cell:
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int | float | Decimal) and not isinstance(cell, bool):
        return str(int(cell)) if math.isfinite(cell) and cell == int(cell) else str(cell)
    raise BadRowError(f"{need} is not text")
