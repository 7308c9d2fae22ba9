"""Scores are probabilities of today: a slope from the whole validation part, an intercept from its latest posts."""

import numpy as np
import pytest
from scipy.special import expit

from training import calibration


def logits_and_labels(slope, intercept, rows=20_000, seed=0):
    random = np.random.default_rng(seed)
    logits = random.normal(scale=1.5, size=rows)
    return logits, (random.random(rows) < expit(slope * logits + intercept)).astype(np.float32)


@pytest.mark.parametrize(("slope", "intercept"), [(2.0, 0.5), (0.6, -1.0)])
def test_the_slope_and_intercept_of_least_loss_are_found(slope, intercept):
    found = calibration.fit(*logits_and_labels(slope, intercept), with_slope=True)
    assert found.slope == pytest.approx(slope, rel=0.06)
    assert found.intercept == pytest.approx(intercept, abs=0.12)  # of the latest 3,000


def test_the_intercept_follows_a_share_that_has_just_changed():
    logits, labels = logits_and_labels(1.0, 0.0)
    labels[-calibration.RECENT :] *= np.random.default_rng(1).random(calibration.RECENT) < 0.8
    found = calibration.fit(logits, labels, with_slope=False)
    assert found.slope == 1.0
    recent = slice(-calibration.RECENT, None)
    assert expit(logits[recent] + found.intercept).mean() == pytest.approx(labels[recent].mean(), abs=1e-6)
    assert labels.mean() - labels[recent].mean() > 0.05


@pytest.mark.parametrize("labels", [np.zeros(100), np.ones(100)])
def test_labels_that_are_all_alike_calibrate_nothing(labels):
    logits = np.random.default_rng(0).normal(size=100)
    assert calibration.fit(logits, labels.astype(np.float32), with_slope=True) == (1.0, 0.0)


def test_the_order_is_never_turned_round():
    logits, labels = logits_and_labels(-1.0, 0.0)
    assert calibration.fit(logits, labels, with_slope=True).slope == 1.0
