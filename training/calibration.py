"""Scores that mean probabilities: one intercept, added to all logits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import expit

Floats = npt.NDArray[np.float64]


def intercept(logits: Floats, share: float) -> float:
    """What to add to all logits so that the mean score is `share`: the intercept of least log loss.

    0 if `share` is 0 or 1, which no finite one reaches.
    """
    if not 0 < share < 1:
        return 0.0
    reach = float(np.abs(logits).max()) + 50
    return float(brentq(lambda shift: expit(logits + shift).mean() - share, -reach, reach))
