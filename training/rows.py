"""A file's cells to a post, or to what is wrong with them.

No message holds what stands in a cell, since in a damaged file any cell may be a headline.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from service.model.preprocessing import is_blank, outlet_key
from service.model.preprocessing.rules_2 import INVISIBLE, RETWEETED
from service.posts import counts
from service.posts.columns import Plan
from service.posts.headlines import BadRowError, HeadlineReader, check_text, name_of
from service.posts.times import Times
from training.settings import Reading

NO_TEXT, RETWEET, REPLY, BAD_COUNT = "no_text", "retweet", "reply", "unreadable_count"

_NO = {"", "0", "0.0", "false", "f", "no", "n", "none", "null", "nan", "na", "[]", "{}", "<na>"}


class Post(NamedTuple):
    """A post as it was read."""

    headline: str
    posted_at: float  # seconds since 1970-01-01 UTC
    outlet: str  # outlet key; empty: none
    engagement: int
    impressions: float  # NaN: not known
    story: str  # as the file has it; empty: none
    synthetic: bool


class LeftOutError(Exception):
    """A good row that is no post to learn from, with the reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RowReader(HeadlineReader):
    """Turns the cells of one file, in the order of `plan.columns`, into posts."""

    def __init__(self, plan: Plan, times: Times, reading: Reading) -> None:
        super().__init__(plan, times)
        self.imprecise = 0  # rows with a count such as 1.2K
        self.shapes: Counter[str] = Counter()  # of counts that cannot be read
        self._empty_is_zero = reading.empty_counts == "zero"
        place = {name: i for i, name in enumerate(plan.columns)}
        self._counts = [(name, place[name], i > 0) for names in plan.counts.values() for i, name in enumerate(names)]
        self._impressions = [place[name] for name in plan.impressions]
        self._story = place[plan.story] if plan.story else None
        self._synthetic = place[plan.synthetic] if plan.synthetic else None
        self._is_retweet = None if reading.keep_retweets else _mark(plan.retweet, place)
        self._is_reply = None if reading.keep_replies else _mark(plan.reply, place)
        self._threads = [(place[one], place[other]) for one, other in plan.thread]
        self._retweets_by_text = not reading.keep_retweets

    def read(self, cells: Sequence[Any]) -> Post:
        """A post. Raises LeftOutError, BadRowError, and ZoneNeededError if its time cannot be read without being told how."""
        headline = self.text(cells)
        if is_blank(headline):
            raise LeftOutError(NO_TEXT)
        if self._retweets_by_text and ((self._is_retweet and self._is_retweet(cells)) or _is_marked(headline)):
            raise LeftOutError(RETWEET)
        if self._is_reply is not None and self._is_reply(cells) and not self._continues_thread(cells):
            raise LeftOutError(REPLY)
        posted_at = self.posted_at(cells)
        outlet = outlet_key(self.outlet(cells))
        check_text(headline, outlet)
        story = name_of(cells[self._story], "story") if self._story is not None else ""
        return Post(headline, posted_at, outlet, self._engagement(cells), self._seen(cells), story, self._made_up(cells))

    def _engagement(self, cells: Sequence[Any]) -> int:
        total, exact = 0, True
        for name, place, optional in self._counts:
            try:
                count = counts.parse(cells[place])
            except counts.NegativeError:
                raise BadRowError(f"{name} is negative") from None
            except counts.UnreadableError as error:
                self.shapes[f"{name} like {error}"] += 1
                raise LeftOutError(BAD_COUNT) from None
            if count is not None:
                total += count.number
                exact = exact and count.exact
            elif not (optional or self._empty_is_zero):
                raise BadRowError(f"{name} is empty; if that means 0, add --empty-counts zero")
        self.imprecise += not exact
        return total

    def _seen(self, cells: Sequence[Any]) -> float:
        try:
            found = counts.parse(cells[self._impressions[0]]) if self._impressions else None
        except (counts.NegativeError, counts.UnreadableError):
            found = None
        return math.nan if found is None else float(found.number)

    def _made_up(self, cells: Sequence[Any]) -> bool:
        cell = None if self._synthetic is None else cells[self._synthetic]
        return cell is not None and str(cell).strip().lower() in ("true", "1")

    def _continues_thread(self, cells: Sequence[Any]) -> bool:
        return any(cells[one] not in (None, "") and str(cells[one]) == str(cells[other]) for one, other in self._threads)


def _mark(names: Sequence[str], place: Mapping[str, int]) -> Callable[[Sequence[Any]], bool] | None:
    """Whether one of these columns is set in a row; None if there is none."""
    if not names:
        return None
    places = [(place[name.partition(":")[0]], name.partition(":")[2]) for name in names]

    def is_set(cells: Sequence[Any]) -> bool:
        for at, word in places:
            cell = cells[at]
            if cell and (word in str(cell) if word else _says_yes(cell)):
                return True
        return False

    return is_set


def _is_marked(headline: str) -> bool:
    """Whether a text begins with `RT @name:`, as the rules read it."""
    return "RT @" in headline and RETWEETED.match(INVISIBLE.sub("", headline)) is not None


def _says_yes(cell: object) -> bool:
    if isinstance(cell, dict):
        return any(value is not None for value in cell.values())  # a struct of Parquet is there also where it is empty
    return cell == cell and str(cell).strip().lower() not in _NO  # not NaN
