"""What makes a post popular: the rules, in words.

    >>> Label("above_outlet_median", ("retweets", "likes"), window_days=28, least_posts=20).describe()
    'more retweets and likes together than half of the same account's posts of the 28 days before it'

`training.labels` applies them. A version whose rule is not here is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

ABOVE_MEDIAN, ABOVE_OUTLET_MEDIAN, ABOVE_STORY_MEAN = "above_median", "above_outlet_median", "above_story_mean"

_IN_WORDS: Mapping[str, str] = {
    ABOVE_MEDIAN: "more than {threshold:,g} {counts}, as half of the posts that the model learned from had"
    " (of all its outlets)",
    ABOVE_OUTLET_MEDIAN: "more {counts} than half of the same account's posts of the {window_days:g} days before it",
    ABOVE_STORY_MEAN: "{more} than the mean of the other headlines of the same story",
}
RULES = (*_IN_WORDS,)


@dataclass(frozen=True)
class Label:
    """What makes a post popular. Raises ValueError if a parameter of the rule is missing."""

    rule: str  # one of RULES
    counts: tuple[str, ...]  # the columns whose sum is the engagement
    threshold: float | None = None  # of above_median: the engagement above which a post is popular
    window_days: float | None = None  # of above_outlet_median: how far back the account's posts count
    least_posts: int | None = None  # of above_outlet_median: with fewer in the window, a post has no label
    per_impression: bool = False  # of above_story_mean: engagement is divided by impressions

    def __post_init__(self) -> None:
        if self.rule == ABOVE_MEDIAN and (self.threshold is None or not math.isfinite(self.threshold)):
            raise ValueError(f"threshold is {self.threshold!r}; the rule {self.rule} needs a number")
        if self.rule == ABOVE_OUTLET_MEDIAN and not (self.window_days and self.window_days > 0 and self.least_posts):
            raise ValueError(f"window_days and least_posts are missing or 0; the rule {self.rule} needs both")

    def means_the_same(self, other: Label) -> bool:
        """Whether both compare a post in the same way; a threshold follows the data."""
        return replace(self, threshold=0.0) == replace(other, threshold=0.0)

    def describe(self) -> str:
        """The rule in words, to follow "popular:"."""
        *others, last = self.counts or ("counts",)
        counts = f"{', '.join(others)} and {last} together" if others else last
        more = f"more {counts} per impression" if self.per_impression else f"more {counts}"
        return _IN_WORDS[self.rule].format(counts=counts, more=more, threshold=self.threshold, window_days=self.window_days)
