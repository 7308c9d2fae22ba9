"""Of two posts of one account, which did better? How often scores say so, and how far apart they must be for it.

An editor who chooses between two headlines asks just this; a figure over all accounts is mostly about which account is larger.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.isotonic import IsotonicRegression

from service.model.labels import ABOVE_STORY_MEAN, Label
from training.dataset import Dataset
from training.labels import success_rate
from training.resampling import Estimate, Floats, Sample, divide, estimates

NEIGHBOURS = 25  # posts after each, of the same outlet or story, with which it is compared
GAPS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)  # between the scores of a pair: edges of the bins
LEAST_PAIRS = 1000  # for the telling gap to be known
TELLING = 0.6  # share of pairs in the right order from which on two scores are called different


@dataclass(frozen=True)
class PairBin:
    """Pairs whose scores are about as far apart."""

    low: float  # between the scores
    high: float
    pairs: int
    accuracy: Estimate  # share of pairs in which the better post has the higher score


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of rows of one outlet, or of one story if the label compares those, that did not do equally well.

    Each post stands with the NEIGHBOURS next ones. The rows are counted from the first of those that were given.
    """

    better: npt.NDArray[np.int64]
    worse: npt.NDArray[np.int64]

    @classmethod
    def of(cls, posts: Dataset, rows: slice, label: Label) -> Pairs:
        """The pairs of these rows."""
        if label.rule == ABOVE_STORY_MEAN:
            group, outcome = posts.story[rows], success_rate(posts)[rows]
        else:
            group, outcome = posts.outlet[rows], posts.engagement[rows]
            if not posts.outlets:
                group = np.zeros_like(group)  # all are one account's
        order = np.argsort(group, kind="stable")
        order = order[group[order] >= 0]
        ones, others = [], []
        for step in range(1, NEIGHBOURS + 1):
            one, other = order[:-step], order[step:]
            kept = (group[one] == group[other]) & (outcome[one] != outcome[other])
            ones.append(one[kept])
            others.append(other[kept])
        one, other = np.concatenate(ones), np.concatenate(others)
        is_better = outcome[one] > outcome[other]
        return cls(np.where(is_better, one, other), np.where(is_better, other, one))

    def __len__(self) -> int:
        return len(self.better)

    def accuracy(self, sample: Sample, scores: Floats) -> Floats:
        """The share of pairs in which the better post has the higher score, for each resample; equal scores count half."""
        return self._accuracy(sample, self._right(scores), slice(None))

    def by_gap(self, sample: Sample, scores: Floats) -> list[PairBin]:
        """The same by how far apart the scores are; bins without a pair are left out."""
        right, place = self._right(scores), np.digitize(self._gap(scores), GAPS[1:-1])
        found = []
        for i, (low, high) in enumerate(pairwise(GAPS)):
            if (inside := place == i).any():
                accuracy = estimates({"": self._accuracy(sample, right, inside)})[""]
                found.append(PairBin(low, high, int(inside.sum()), accuracy))
        return found

    def telling_gap(self, scores: Floats) -> float | None:
        """The gap between two scores below which fewer than TELLING of pairs are in the right order.

        The share in the right order is made monotone in the gap first (Zadrozny and Elkan, Transforming Classifier Scores into
        Accurate Multiclass Probability Estimates, 2002). None if there are too few pairs to know it, 1 if no gap tells.
        """
        if len(self) < LEAST_PAIRS:
            return None
        gap = self._gap(scores)
        telling = gap[IsotonicRegression().fit_transform(gap, self._right(scores)) >= TELLING]
        return float(telling.min(initial=1.0))

    def _right(self, scores: Floats) -> Floats:
        found: Floats = (np.sign(scores[self.better] - scores[self.worse]) + 1) / 2
        return found

    def _gap(self, scores: Floats) -> Floats:
        return np.abs(scores[self.better] - scores[self.worse])

    def _accuracy(self, sample: Sample, right: Floats, chosen: npt.NDArray[np.bool_] | slice) -> Floats:
        blocks = sample.block[self.better[chosen]], sample.block[self.worse[chosen]]
        won, all_ = (
            sparse.csr_array((values, blocks), (sample.blocks, sample.blocks))  # few blocks have a pair in common
            for values in (right[chosen], np.ones(len(blocks[0])))
        )
        return divide((sample.weights @ won * sample.weights).sum(1), (sample.weights @ all_ * sample.weights).sum(1))
