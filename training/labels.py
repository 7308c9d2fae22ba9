"""Applies the rules of `service.model.labels`: which posts are popular, and how far above or below the bar each is.

>>> labelled = apply(posts, Label(ABOVE_OUTLET_MEDIAN, posts.counts, window_days=28, least_posts=20))
>>> len(posts), len(labelled.posts), labelled.popular.mean()
(80774, 80194, 0.48)
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.errors import DataError
from service.model.labels import ABOVE_MEDIAN, ABOVE_OUTLET_MEDIAN, ABOVE_STORY_MEAN, Label
from training.dataset import FEW_BEFORE, NO_STORY, Dataset
from training.settings import PopularAbove

REASONS = {ABOVE_OUTLET_MEDIAN: FEW_BEFORE, ABOVE_STORY_MEAN: NO_STORY}  # why posts have no label by a rule
WINDOW_DAYS = 28.0
LEAST_POSTS = 20

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Labelled:
    """Posts that have a label, and their labels."""

    posts: Dataset
    popular: npt.NDArray[np.float32]  # [rows], 1 or 0
    # [rows]: how a post did among those that its label compares it with, or by itself if all are compared with one number.
    # Comparable between posts, and above the bar where the post is popular.
    success: Floats


def choose(asked: PopularAbove, posts: Dataset) -> str:
    """The rule that is asked for, or by default the one that these posts allow.

    Raises DataError if they do not allow it.
    """
    if asked == "story" and not (posts.story >= 0).any():
        raise DataError("no file has a column story, whose headlines --popular-above story compares; --column names one")
    if asked == "auto":
        asked = "outlet" if posts.outlets else "median"
    return {"outlet": ABOVE_OUTLET_MEDIAN, "median": ABOVE_MEDIAN, "story": ABOVE_STORY_MEAN}[asked]


def apply(posts: Dataset, label: Label) -> Labelled:
    """Label posts. Those that the rule has no label for are left out, and counted in `posts.dropped`."""
    if label.rule == ABOVE_OUTLET_MEDIAN:
        assert label.window_days
        assert label.least_posts
        bar, success = _among_outlet(posts, label.window_days * 86_400, label.least_posts)
        known = ~np.isnan(bar)
        return Labelled(posts.take(np.flatnonzero(known), FEW_BEFORE), _above(posts.engagement, bar)[known], success[known])
    if label.rule == ABOVE_STORY_MEAN:
        rate = success_rate(posts)
        bar = _mean_of_others(posts.story, rate)
        known = ~np.isnan(bar)
        rows = _by_story(posts, np.flatnonzero(known))
        return Labelled(posts.take(rows, NO_STORY), _above(rate, bar)[rows], (np.log(rate) - np.log(bar))[rows])
    bars = np.full(len(posts), label.threshold)
    return Labelled(posts, _above(posts.engagement, bars), np.log1p(posts.engagement))


def success_rate(posts: Dataset) -> Floats:
    """Engagement by impression, or engagement alone where a post's impressions are not known, [rows]."""
    seen = np.where(np.isnan(posts.impressions), 0, posts.impressions)
    rate: Floats = (posts.engagement + 0.5) / (seen + 1)  # so that none is 0
    return rate


def _above(values: Floats, bar: Floats) -> npt.NDArray[np.float32]:
    with np.errstate(invalid="ignore"):
        return (values > bar).astype(np.float32)


def _among_outlet(posts: Dataset, window: float, least: int) -> tuple[Floats, Floats]:
    """For each post the median engagement of its outlet's posts in the `window` seconds before it, and its rank among them.

    NaN for fewer than `least`. Posts without an outlet are one account's if no post has one, and nobody's otherwise. Ranks are
    from 0 to 1.
    """
    median, rank = np.full(len(posts), np.nan), np.full(len(posts), np.nan)
    for outlet in range(len(posts.outlets)) if posts.outlets else (-1,):
        rows = np.flatnonzero(posts.outlet == outlet)
        times, engagement = posts.posted_at[rows].tolist(), posts.engagement[rows].tolist()
        before: list[float] = []  # the engagement of rows first to last, sorted
        first = last = 0
        for row, moment, own in zip(rows.tolist(), times, engagement, strict=True):
            while times[last] < moment:
                insort(before, engagement[last])
                last += 1
            while times[first] < moment - window:
                del before[bisect_left(before, engagement[first])]
                first += 1
            if (count := len(before)) >= least:
                median[row] = (before[(count - 1) // 2] + before[count // 2]) / 2
                rank[row] = ((bisect_left(before, own) + bisect_right(before, own)) / 2 + 0.5) / (count + 1)
    return median, rank


def _mean_of_others(story: npt.NDArray[np.int32], rate: Floats) -> Floats:
    """The mean rate of the other posts of each post's story; NaN if there is none."""
    known = story >= 0
    stories = int(story.max(initial=-1)) + 1
    posts, total = np.bincount(story[known], minlength=stories), np.bincount(story[known], rate[known], stories)
    others = np.full(len(rate), np.nan)
    several = known & (posts[story] > 1)
    others[several] = (total[story[several]] - rate[several]) / (posts[story[several]] - 1)
    return others


def story_begins(posts: Dataset) -> Floats:
    """The time of the first post of each post's story, [rows]."""
    first = np.full(int(posts.story.max(initial=-1)) + 1, np.inf)
    np.minimum.at(first, posts.story, posts.posted_at)
    return first[posts.story]


def _by_story(posts: Dataset, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The rows in the order of their stories' first post, each story's together, so that parts can be cut between stories."""
    first = np.full(int(posts.story.max(initial=-1)) + 1, len(posts))
    np.minimum.at(first, posts.story[rows], rows)
    return rows[np.lexsort((rows, first[posts.story[rows]]))]
