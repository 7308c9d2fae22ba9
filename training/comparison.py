"""Is a new version better than the one that is live? Both score the same later posts, each in its own way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.errors import HeadlinesError
from service.model import artifact
from service.model.artifact import Artifact
from service.model.engines.litert import Engine
from service.model.preprocessing import Headline
from service.model.version import Version
from training.features import Examples, Features
from training.resampling import Estimate, Sample, estimates

LEAST_ROWS = 500
MARGIN = 0.005  # of AUC: a new version that may be worse by more than this is not better

_log = logging.getLogger(__name__)

Scores = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Comparison:
    """A new version beside the one before it, on posts that are later than both versions' validation parts."""

    version: int  # the one before
    rows: int
    new_auc: float | None  # None: there are too few posts
    old_auc: float | None
    difference: Estimate | None  # of the AUCs, the new version's less the old one's, resampled in pairs
    same_label: bool  # both call the same posts popular
    old_label: str  # in words

    @property
    def is_better(self) -> bool:
        """Whether the new version is at least as good, within MARGIN, beyond the doubt of the sample."""
        low = self.difference.low if self.difference else None
        return self.same_label and low is not None and low > -MARGIN

    def describe(self) -> str:
        """A sentence for people."""
        if self.difference is None or self.new_auc is None or self.old_auc is None:
            return (
                f"Version {self.version} cannot be compared with: {self.rows} posts are later than what both versions were"
                f" made from, and {LEAST_ROWS} are needed, of both kinds."
            )
        low, high = self.difference.low, self.difference.high
        interval = "" if low is None or high is None else f" [{low:+.4f}, {high:+.4f}]"
        found = (
            f"On {self.rows:,} posts later than what both were made from, ROC-AUC {self.new_auc:.4f}; version {self.version}:"
            f" {self.old_auc:.4f}; difference {self.difference.value:+.4f}{interval}."
        )
        if not self.same_label:
            return f"{found} Version {self.version} means something else by popular ({self.old_label}): this decides nothing."
        return found


def compare(features: Features, predict: Callable[[Examples], Scores], models: Path) -> Comparison | None:
    """Compare a fitted model with the highest version in `models` that can be loaded; None if there is none.

    The posts are those of the evaluation part that are later than both versions' validation parts, and the label is the new
    version's.
    """
    loaded = _highest(models)
    if loaded is None:
        return None
    old, version = loaded
    validation = old.info.parts.get("validation")
    after = max(float(features.validation.posted_at.max()), validation.last if validation else -np.inf)
    part = features.evaluation
    rows = np.flatnonzero(part.posted_at > after)
    same_label = features.label.means_the_same(old.info.label)
    nothing = Comparison(old.number, len(rows), None, None, None, same_label, old.info.label.describe())
    popular = int(part.labels[rows].sum())
    if len(rows) < LEAST_ROWS or popular in (0, len(rows)):
        return nothing
    sample = Sample(part.labels[rows], part.posted_at[rows], np.random.default_rng(0))
    new = sample.auc(predict(part)[rows, 0].astype(np.float64))
    before = sample.auc(_score(version, features, rows + features.ends[1]))
    difference = estimates({"": new - before})[""]
    return replace(nothing, new_auc=float(new[0]), old_auc=float(before[0]), difference=difference)


def _highest(models: Path) -> tuple[Artifact, Version] | None:
    for number in artifact.versions(models):
        if (models / f"{number}.withdrawn").exists():
            continue
        try:
            read = artifact.read(models / str(number))
            return read, Version.load(read, Engine())
        except HeadlinesError as error:
            _log.warning("version %d cannot be compared with: %s", number, error)
    return None


def _score(version: Version, features: Features, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    posts = features.posts
    outlets = [*posts.outlets, ""]  # the last is for index -1: none
    texts, moments = posts.texts(rows), posts.posted_at[rows].tolist()
    names = [outlets[outlet] for outlet in posts.outlet[rows].tolist()]
    headlines = [Headline(*fields) for fields in zip(texts, moments, names, strict=True)]
    scores: list[float] = []
    for start in range(0, len(headlines), 1024):
        scores += version.predict(headlines[start : start + 1024]).main_output
    return np.array(scores)
