"""What of past posts may mislead, in words: what passes and is wrong is worse than what fails."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headlines.commands.console import printable
from service.errors import HeadlinesError
from service.model import artifact
from service.model.labels import ABOVE_MEDIAN, ABOVE_STORY_MEAN
from service.posts.columns import OWN
from training import dataset, features, labels, texts
from training.dataset import Dataset
from training.features import Features
from training.rows import BAD_COUNT, NO_TEXT, REPLY, RETWEET

_DAY = 86_400.0
_DAMAGED = 0.001  # share of headlines from which on damage is told
_CUT = 0.05  # likewise, of headlines that end in an ellipsis: some are written so
_MANY = 0.01  # likewise, of headlines without a word or that begin with @
_MOST = 0.1  # share of rows left out for one reason that is told
_SHIFT = 0.15  # difference between a part's share of popular posts and the training part's
_ONE_SIDED = 0.05  # share of popular posts in an outlet below which, and above 1 - which, its posts are all alike
_JUDGED_POSTS = 50  # of an outlet, at least, for its share to be told
_SHORT_DAYS = 28  # of posts: less is not enough for weekdays to come round
_OLD_DAYS = 90  # since the newest post
_NAMED = 5  # that a sentence names
_EXCEL_ROWS = 1_048_575  # that a sheet holds below its header
_QUIET_HOURS = 5  # in a row, with the fewest posts
_QUIET = 0.65  # of what as many hours hold on average
_BY_DAY = range(6, 18)  # hours at which no newsroom's quiet ones begin


def cautions(
    posts: Dataset,
    built: Features | None,
    text: texts.Found,
    parts: Mapping[str, Any],
    outlets: Sequence[Mapping[str, Any]],
    models: Path | None,
    now: float,
) -> list[str]:
    """Sentences on what may mislead, the most harmful first.

    `built` is what a fit would learn from, if it can. `parts` and `outlets` are as training.inspect has them; `models` is the
    directory whose newest version is compared with the posts; `now` is in seconds since 1970-01-01 UTC.
    """
    return [
        *_of_texts(posts, text),
        *_of_labels(built, parts, outlets),
        *of_reading(posts, now),
        *_of_outlet_names(posts),
        *_of_sources(posts, models),
    ]


def of_reading(posts: Dataset, now: float) -> list[str]:
    """Those of them that are about how the files were read, also for an evaluation."""
    return [*_of_columns(posts), *_of_times(posts, now), *_of_rows(posts)]


def _of_texts(posts: Dataset, text: texts.Found) -> Iterator[str]:
    for name in sorted(texts.DAMAGE, key=lambda name: -text.counts[name]):
        if text.counts[name] > (_CUT if name == "cut" else _DAMAGED) * len(posts):
            yield f"{_share(text.counts[name], len(posts), 'headlines')} {texts.DAMAGE[name]}"
    without = int((np.diff(posts.offsets) == 0).sum())
    if without > _MANY * len(posts):
        yield f"{_share(without, len(posts), 'headlines')} hold no word, such as emoji alone: the model sees no difference"
    addressed = text.counts["mentions_first"]
    if addressed > _MANY * len(posts) and not any(file.plan.reply for file in posts.files):
        yield f"{_share(addressed, len(posts), 'headlines')} begin with @ as replies do, and no column says which are replies"


def _of_labels(built: Features | None, parts: Mapping[str, Any], outlets: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if built is None:
        return
    rule = built.label.rule
    for name in ("evaluation", "validation"):
        popular, trained = (parts[it]["popular_share"] for it in (name, "training"))
        if abs(popular - trained) > _SHIFT:
            yield (
                f"{popular:.0%} of the {name} part's posts are popular, but {trained:.0%} of the training part's: outlets that"
                " cover different spans, or counts that grew, make what is learned less true later"
            )
    alike = [it for it in outlets if it["posts"] >= _JUDGED_POSTS and not _ONE_SIDED <= it["popular_share"] <= 1 - _ONE_SIDED]
    if alike and len(outlets) > 1:
        named = ", ".join(f"{printable(it['outlet'])} {it['popular_share']:.0%}" for it in alike[:_NAMED])
        yield (
            f"the posts of {len(alike)} of {len(outlets)} outlets are nearly all popular or nearly none ({named}"
            f"{', ...' if len(alike) > _NAMED else ''})"
            + (": --popular-above outlet compares each post with its own outlet's" if rule == ABOVE_MEDIAN else "")
        )
    in_stories = int((built.posts.story >= 0).sum())
    if rule != ABOVE_STORY_MEAN and in_stories > len(built.posts) / 2:
        yield (
            f"{_share(in_stories, len(built.posts), 'posts')} name their story; if its headlines were tried against one"
            " another, --popular-above story learns which does better"
        )
    few = built.posts.dropped.get(dataset.FEW_BEFORE, 0)
    if few > _MOST * (few + len(built.posts)):
        yield (
            f"{_share(few, few + len(built.posts), 'posts')} have fewer than {labels.LEAST_POSTS} of the same outlet in the"
            f" {labels.WINDOW_DAYS:.0f} days before them, and are left out; --popular-above median compares with all outlets"
        )
    if rule == ABOVE_MEDIAN and not built.posts.outlets:
        yield (
            "the posts have no outlet, so each is compared with all; if they are one account's, --popular-above outlet compares"
            " it with the four weeks before it, which does not drift as the account grows"
        )


def _of_columns(posts: Dataset) -> Iterator[str]:
    for file in posts.files:
        for name, need in file.plan.unused:
            yield f"{file.name}: column {name!r} looks like {need} and is not used; if it is, add --column {need}={name!r}"
    without = [file.name for file in posts.files if not file.plan.outlet]
    if without:
        more = f" and {len(without) - 1} more" if len(without) > 1 else ""
        yield f"{without[0]}{more}: no column holds the outlet, the strongest input; right if all posts are one account's"
    exporters = sorted({file.plan.exporter for file in posts.files if file.plan.exporter != OWN.name})
    if len(exporters) > 1:
        yield f"the files come from {' and '.join(exporters)}, whose counts may mean different things; better train on one"


def _of_times(posts: Dataset, now: float) -> Iterator[str]:
    if not posts.hours:
        name = next(file.name for file in posts.files if file.times.days_only)
        yield (
            f"{name}: the times are days without hours, so hour and weekday are switched off: this"
            " version's scores do not depend on the posting time"
        )
    for reason, words in (
        (dataset.BEFORE_2004, "dated before 2004, as a missing time often is"),
        (dataset.AFTER_COLLECTION, "dated after the collection: either their times or --collected-at is wrong"),
    ):
        if rows := posts.dropped.get(reason, 0):
            yield f"{_share(rows, posts.read, 'rows')} are {words}; they are left out"
    for file in posts.files:
        if file.times.twice or file.times.never:
            yield f"{file.name}: {file.times.describe()}"
    yield from _of_hours(posts)
    if not len(posts):
        return
    first, last = float(posts.posted_at[0]), float(posts.posted_at[-1])
    if last - first < _SHORT_DAYS * _DAY:
        yield f"the posts cover {(last - first) / _DAY:.0f} days, and may teach those days' news alone; months are better"
    if now - last > _OLD_DAYS * _DAY and not posts.synthetic:
        day = datetime.fromtimestamp(last, UTC).date()
        yield f"the newest post is of {day}, {(now - last) / _DAY:,.0f} days ago: the model will not know the news since"


def _of_hours(posts: Dataset) -> Iterator[str]:
    """Newsrooms sleep at night: if the quiet hours are by day in the zone that was named, the zone is suspect."""
    zones = {(file.times.zone_name, file.times.zone) for file in posts.files if file.rows}
    name, zone = zones.pop() if len(zones) == 1 else ("", None)
    if zone is None or not posts.hours or len(posts) < features.MINIMUM_ROWS:
        return
    sample = posts.posted_at[:: max(1, len(posts) // 20_000)].tolist()
    hours = np.bincount([datetime.fromtimestamp(it, zone).hour for it in sample], minlength=24)
    in_a_row = _in_a_row(hours)
    quiet = int(np.argmin(in_a_row))
    if quiet in _BY_DAY and in_a_row[quiet] < _QUIET * len(sample) * _QUIET_HOURS / 24:
        yield f"by {name}'s clocks the fewest posts are of {quiet} to {quiet + _QUIET_HOURS} h, by day: is that the right zone?"


def _in_a_row(hours: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many posts are of the quiet hours that begin at each hour."""
    found: npt.NDArray[np.int64] = np.sum([np.roll(hours, -i) for i in range(_QUIET_HOURS)], axis=0)
    return found


def _of_rows(posts: Dataset) -> Iterator[str]:
    if posts.bad:
        worst = posts.bad_rows[0]
        yield f"{_share(posts.bad, posts.read, 'rows')} are bad and left out; most often {worst.problem} (first {worst.first})"
    if rows := posts.dropped.get(BAD_COUNT, 0):
        yield f"{_share(rows, posts.read, 'rows')} have a count that cannot be read and are left out: often the popular ones"
    if posts.imprecise:
        yield f"{_share(posts.imprecise, posts.read, 'rows')} have rounded counts, such as 1.2K: similar posts look alike"
    if len(posts) and float(np.ptp(posts.engagement)) == 0:
        yield "all posts have the same engagement"
    for reason, words in (
        (dataset.DUPLICATE, "repeat an earlier post of the same outlet; was a file given twice, or is a row a comment?"),
        (NO_TEXT, "have no text and are left out"),
        (RETWEET, "are retweets and left out (--keep-retweets)"),
        (REPLY, "answer others and are left out (--keep-replies)"),
    ):
        if (rows := posts.dropped.get(reason, 0)) > _MOST * posts.read:
            yield f"{_share(rows, posts.read, 'rows')} {words}"
    for file in posts.files:
        if file.rows == _EXCEL_ROWS:
            yield f"{file.name}: has exactly as many rows as a sheet of Excel holds; was the rest cut off?"


def _of_outlet_names(posts: Dataset) -> Iterator[str]:
    names: dict[str, list[str]] = {}
    for name in posts.outlets:
        bare = re.sub(r"\s*\([^()]*\)$", "", name).removeprefix("@").removeprefix("r/")
        names.setdefault(re.sub(r"[\W_]+", "", bare), []).append(name)
    several = [group for group in names.values() if len(group) > 1]
    for group in several[:_NAMED]:
        yield f"{', '.join(map(repr, group))} look like one outlet under several names; each is learned apart"
    if len(several) > _NAMED:
        yield f"{len(several) - _NAMED} more outlets seem to have several names"


def _of_sources(posts: Dataset, models: Path | None) -> Iterator[str]:
    if posts.synthetic:
        yield "the data are made-up: a model of them knows nothing of real headlines"
    if models is None:
        return
    for number in artifact.versions(models)[:1]:
        with suppress(HeadlinesError):  # the fit makes a new one
            if artifact.read(models / str(number)).info.data_checksum == posts.checksum:
                yield f"version {number} was trained on the same files; are these the newest?"


def _share(rows: int, total: int, what: str) -> str:
    share = rows / max(total, 1)
    return f"{rows:,} of {total:,} {what} ({share:.0%})" if share >= 0.005 else f"{rows:,} of {total:,} {what}"
