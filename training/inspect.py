"""What would be trained on, and what of it may mislead: facts, warnings in the order of harm, and why a fit would end.

    >>> found = inspect(dataset.read(["posts.csv"], checked=False))
    >>> found.warnings
    ('312 of 1,000 headlines (31 %) hold mojibake, ...',)

Needs no TensorFlow, and writes nothing. Facts and warnings hold no headline.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from headlines.commands import console
from service.errors import DataError
from service.model.preprocessing import NEWEST_RULES, RULES
from service.posts.columns import OWN
from training import dataset, features, texts
from training.cautions import cautions
from training.dataset import Dataset
from training.features import Features
from training.settings import PopularAbove

_DAY = 86_400.0
_OUTLETS = 12  # that are listed
_LONGEST_NAME = 40  # columns of a terminal

_FLAGS = {
    "too_young": "--min-age, --collected-at",
    "after_collection": "--collected-at",
    "before_since": "--since",
    "retweet": "--keep-retweets",
    "reply": "--keep-replies",
    "unreadable_count": "--bad-counts",
}


@dataclass(frozen=True)
class Inspection:
    """What was found."""

    features: Features | None  # what a fit would learn from; None: it would end
    facts: Mapping[str, Any]  # as JSON holds it
    warnings: tuple[str, ...]  # what may mislead, the most harmful first
    problems: tuple[str, ...]  # why a fit would end; none: it would begin


def inspect(
    posts: Dataset,
    *,
    popular_above: PopularAbove = "auto",
    seed: int = 0,
    models: Path | None = None,
    clock: Callable[[], float] = time.time,
) -> Inspection:
    """Look at what was read.

    `models` is the directory whose newest version is compared with it; `popular_above` and `seed` are the fit's.
    """
    problems = list(posts.problems)
    built = None
    try:
        built = features.build(posts, popular_above=popular_above, seed=seed)
    except DataError as error:
        problems.append(str(error))
    outlets, parts = _outlets(posts, built), _parts(built) if built else {}
    text = texts.look(_texts(posts))
    warnings = cautions(posts, built, text, parts, outlets, models, clock())
    reasons = [{"problem": it.problem, "rows": it.rows, "first": it.first} for it in posts.bad_rows]
    facts = {
        "files": [_file(file) for file in posts.files],
        "rows": posts.read,
        "used": len(built.posts if built else posts),
        "bad": {"rows": posts.bad, "reasons": reasons},
        "left_out": dict((built.posts if built else posts).dropped),
        "period": _period(posts),
        "engagement": _engagement(posts),
        "popular": built.label.describe() if built else "",
        "outlets": outlets,
        "parts": parts,
        "text": {**text.counts, "without_words": int((np.diff(posts.offsets) == 0).sum()), "scripts": dict(text.scripts)},
        "synthetic": posts.synthetic,
        "warnings": warnings,
        "problems": problems,
    }
    return Inspection(built, facts, tuple(warnings), tuple(problems))


def _file(file: dataset.File) -> dict[str, Any]:
    return {
        "name": file.name,
        "format": file.format,
        "exporter": file.plan.exporter,
        "rows": file.rows,
        "columns": file.plan.describe(),
        "looks_like": dict(file.plan.unused),
        "times": {
            "spelling": file.times.spelling,
            "zone": file.times.zone_name,
            "precision": file.times.precision,
            "exist_twice": file.times.twice,
            "never_were": file.times.never,
        },
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _period(posts: Dataset) -> dict[str, Any]:
    if not len(posts):
        return {}
    first, last = float(posts.posted_at[0]), float(posts.posted_at[-1])
    return {
        "first": _iso(first),
        "last": _iso(last),
        "days": round((last - first) / _DAY, 1),
        "collected_at": _iso(posts.collected_at),
        "hours": posts.hours,
    }


def _engagement(posts: Dataset) -> dict[str, Any]:
    found: dict[str, Any] = {"counts": list(posts.counts), "imprecise": posts.imprecise}
    if len(posts):
        low, middle, high = (float(it) for it in np.quantile(posts.engagement, (0.05, 0.5, 0.95)))
        found |= {"at_5_percent": low, "median": middle, "at_95_percent": high, "zero": int((posts.engagement == 0).sum())}
        found["impressions_known"] = int(np.isfinite(posts.impressions).sum())
    return found


def _outlets(posts: Dataset, built: Features | None) -> list[dict[str, Any]]:
    """All outlets, the one with most posts first; without a share of popular ones if nothing can be built."""
    used = built.posts if built else posts
    labels = np.concatenate([built.training.labels, built.validation.labels, built.evaluation.labels]) if built else None
    found = []
    for i, name in enumerate(used.outlets):
        rows = np.flatnonzero(used.outlet == i)
        if len(rows):
            found.append(
                {
                    "outlet": name,
                    "posts": len(rows),
                    "median_engagement": float(np.median(used.engagement[rows])),
                    "popular_share": None if labels is None else float(labels[rows].mean(dtype=float)),
                }
            )
    return sorted(found, key=lambda it: -it["posts"])


def _parts(built: Features) -> dict[str, Any]:
    parts = {"training": built.training, "validation": built.validation, "evaluation": built.evaluation}
    return {
        name: {
            "posts": len(part),
            "popular_share": float(part.labels.mean(dtype=float)),
            "first": _iso(float(part.posted_at.min())),
            "last": _iso(float(part.posted_at.max())),
        }
        for name, part in parts.items()
    }


def _texts(posts: Dataset) -> Iterator[str]:
    for start in range(0, len(posts), 4096):
        yield from posts.texts(range(start, min(start + 4096, len(posts))))


def describe(found: Inspection) -> Iterator[str]:
    """The inspection as lines for people."""
    facts = found.facts
    for file in facts["files"]:
        exporter = f", as {file['exporter']} writes it" if file["exporter"] not in ("", OWN.name) else ""
        yield f"{file['name']}: {file['format']}{exporter}, {file['rows']:,} rows"
        for need, column in file["columns"].items():
            yield f"  {need:<11} {column}"
        zone = f", in {file['times']['zone']}" if file["times"]["zone"] else ""
        yield f"  {'times':<11} {file['times']['spelling'] or 'none that can be read'}{zone}, to {file['times']['precision']}"
    yield ""
    yield f"{facts['rows']:,} rows, {facts['used']:,} posts to train on and to judge by"
    if facts["bad"]["rows"]:
        yield f"  {facts['bad']['rows']:>9,}  bad"
        for reason in facts["bad"]["reasons"]:
            yield f"  {reason['rows']:>9,}    {reason['problem']} (first {reason['first']})"
    for reason, rows in facts["left_out"].items():
        flag = f" ({_FLAGS[reason]})" if reason in _FLAGS else ""
        yield f"  {rows:>9,}  left out: {dataset.LEFT_OUT[reason]}{flag}"
    if facts["period"]:
        period = facts["period"]
        yield f"from {period['first']} to {period['last']}, {period['days']:.0f} days; collected {period['collected_at']}"
        yield _describe_engagement(facts["engagement"])
    if facts["popular"]:
        yield f"popular: {facts['popular']}"
    yield from _describe_tables(facts)
    text = facts["text"]
    content = {
        "links": "links",
        "entities": "HTML entities",
        "mentions_first": "begin with @",
        "retweets": "RT @",
        "without_words": "no word",
    }
    said = ", ".join(f"{words} {text[name]:,}" for name, words in content.items() if text[name])
    scripts = ", ".join(f"{name} {rows:,}" for name, rows in text["scripts"].items())
    yield f"headlines: {scripts}{'; ' + said if said else ''}"
    yield ""
    for title, sentences in (("Warnings, the most harmful first:", found.warnings), ("A fit would end:", found.problems)):
        if sentences:
            yield title
            yield from (f"  {i}. {sentence}" for i, sentence in enumerate(sentences, 1))
    if not found.problems:
        yield "A fit would begin."


def _describe_engagement(found: Mapping[str, Any]) -> str:
    rounded = f", {found['imprecise']:,} rounded" if found["imprecise"] else ""
    seen = f"; impressions of {found['impressions_known']:,}" if found["impressions_known"] else ""
    return (
        f"engagement = {' + '.join(found['counts'])}: {found['at_5_percent']:,.0f} / {found['median']:,.0f} /"
        f" {found['at_95_percent']:,.0f} at 5 / 50 / 95 %{rounded}{seen}"
    )


def _describe_tables(facts: Mapping[str, Any]) -> Iterator[str]:
    if facts["parts"]:
        yield ""
        yield f"{'part':<12}{'posts':>9}  {'popular':>7}  from        to"
        for name, part in facts["parts"].items():
            yield f"{name:<12}{part['posts']:>9,}  {part['popular_share']:>7.0%}  {part['first'][:10]}  {part['last'][:10]}"
    if facts["outlets"]:
        yield ""
        listed = [(console.cut(console.printable(it["outlet"]), _LONGEST_NAME), it) for it in facts["outlets"][:_OUTLETS]]
        wide = max(len(name) for name, _ in listed)
        yield f"{'outlet':<{wide}}  {'posts':>8}  {'median':>9}  popular"
        for name, it in listed:
            share = "" if it["popular_share"] is None else f"{it['popular_share']:.0%}"
            yield f"{name:<{wide}}  {it['posts']:>8,}  {it['median_engagement']:>9,.0f}  {share:>7}"
        if len(facts["outlets"]) > _OUTLETS:
            yield f"and {len(facts['outlets']) - _OUTLETS:,} more"
    yield ""


def show(posts: Dataset, rows: int = 3) -> Iterator[str]:
    """A few posts as they were understood. This shows headlines."""
    if not len(posts):
        return
    chosen = np.unique(np.linspace(0, len(posts) - 1, rows).astype(int)).tolist()
    for row, text in zip(chosen, posts.texts(chosen), strict=True):
        words = RULES[NEWEST_RULES].words(text)
        outlet = posts.outlets[posts.outlet[row]] if posts.outlet[row] >= 0 else "(none)"
        moment = _iso(float(posts.posted_at[row]))
        day = moment if posts.hours else moment[:10]
        yield f"{day}  {console.printable(outlet)}  engagement {posts.engagement[row]:,.0f}"
        yield f"  headline  {console.printable(text)}"
        yield f"  words     {console.printable(' '.join(words)) or '(none)'}"
