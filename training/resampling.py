"""Figures with intervals: rows resampled by blocks of time (Efron and Tibshirani, An Introduction to the Bootstrap, 1993)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BLOCK = 12 * 3600.0  # seconds that are resampled together: what happens within half a day moves many headlines at once
RESAMPLES = 1000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; None if the data are too few to resample."""

    value: float
    low: float | None
    high: float | None


class Sample:
    """Rows, resampled by blocks of time.

    All resamples are one matrix of block weights, and every metric is a function of sums over blocks, so that a thousand
    resamples cost a matrix product. Row 0 of the weights is the sample itself.
    """

    def __init__(self, labels: npt.NDArray[np.floating], posted_at: Floats, rng: np.random.Generator) -> None:
        self.labels = labels.astype(np.float64)
        times, self.block = np.unique(posted_at // BLOCK, return_inverse=True)
        self.blocks = len(times)
        draws = rng.multinomial(self.blocks, np.full(self.blocks, 1 / self.blocks), RESAMPLES if self.blocks > 1 else 0)
        self.weights: Floats = np.vstack([np.ones(self.blocks), draws])  # [1 + resamples, blocks]

    def sum(self, values: npt.NDArray[np.generic]) -> Floats:
        """The sum over the rows of each resample."""
        return self.weights @ np.bincount(self.block, values, self.blocks)

    def auc(self, scores: npt.NDArray[np.floating], rows: slice | npt.NDArray[np.int64] = slice(None)) -> Floats:
        """The share of pairs of a popular and an unpopular row that stand in the right order; ties count half."""
        present, block = np.unique(self.block[rows], return_inverse=True)
        weights = self.weights[:, present]
        popular = self.labels[rows] > 0.5
        order = np.argsort(scores[rows][popular])
        high, of = scores[rows][popular][order], block[popular][order]
        low = scores[rows][~popular]
        won = np.zeros((len(present), len(present)))  # [block of the popular row, block of the unpopular row]
        for i in range(len(present)):
            others = np.sort(low[block[~popular] == i])
            ranks = (np.searchsorted(others, high, "left") + np.searchsorted(others, high, "right")) / 2
            won[:, i] = np.bincount(of, ranks, len(present))
        positives = weights @ np.bincount(block[popular], minlength=len(present))
        negatives = weights @ np.bincount(block[~popular], minlength=len(present))
        return divide((weights @ won * weights).sum(1), positives * negatives)


def estimates(metrics: Mapping[str, Floats]) -> dict[str, Estimate]:
    """Each metric that is defined on the sample itself, with its percentile interval."""
    found = {}
    for name, values in metrics.items():
        if np.isnan(values[0]):
            continue
        resampled = values[1:][~np.isnan(values[1:])]
        low, high = map(float, np.quantile(resampled, [0.025, 0.975])) if len(resampled) else (None, None)
        found[name] = Estimate(float(values[0]), low, high)
    return found


def divide(numerator: Floats, denominator: Floats) -> Floats:
    """The quotients; NaN where the denominator is not positive."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)
