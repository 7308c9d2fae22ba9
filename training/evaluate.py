"""How good a model is, and how sure that is: figures with intervals, beside what much simpler models reach.

Knows no TensorFlow: the model is a function from rows to scores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score, roc_curve

from training.baselines import OUTLET_LEVEL, baselines
from training.dataset import Dataset
from training.features import Examples

Floats = npt.NDArray[np.float64]
Predict = Callable[[Examples], npt.NDArray[np.floating]]  # to [rows, 2]: main_output, aux_output

MODELS = {  # in the order of the table
    "main": "main_output",
    "aux": "aux_output",
    "baseline": "Logistic",
    "outlet": "Outlet alone",
    "words": "Words alone",
    "main_without_outlet": "main_output, outlet not told",
}
METRICS = {
    "auc": "ROC-AUC",
    "auc_within_outlets": "ROC-AUC within outlets",
    "log_loss": "Log loss",
    "accuracy": "Accuracy",
    "calibration_error": "Calibration error",
}
# What an evaluation of a version on other posts has in its figures, those that are undefined there left out.
FIGURES = (*(f"{name}_{metric}" for name in ("main", "aux") for metric in METRICS), "positive_share", "rows")
BINS = 10  # of a calibration curve, equal in rows
BLOCK = 12 * 3600.0  # seconds that are resampled together: what happens within half a day moves many headlines at once
RESAMPLES = 1000
LEAST_OF_A_CLASS = 20  # for an outlet to have an AUC of its own
REPEATS = 5  # of each permutation
EXTREMES = 8  # headlines of each kind
_POINTS = 150  # of a ROC curve, enough for the eye
_TINY = 1e-7  # scores this near to 0 or 1 count as this near, as in Keras' own loss

_COLUMNS = {"outlet": [OUTLET_LEVEL], "hour": [0, 1], "day": [2, 3]}  # of aux


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; None if the data are too few to resample."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Bin:
    """Rows that are looked at together: what was predicted for them, and what came true."""

    rows: int
    positive_share: float
    main: float  # mean main_output
    aux: float  # mean aux_output
    main_auc: float | None = None  # of an outlet with enough of each class


@dataclass(frozen=True)
class CalibrationBin:
    """A tenth of the rows, by score."""

    score: float  # mean
    positive_share: float
    rows: int


@dataclass(frozen=True)
class Scores:
    """One model's figures on the scored part; what is undefined there is absent."""

    estimates: Mapping[str, Estimate]  # by METRICS
    less_baseline: Mapping[str, Estimate]  # the same less the baseline's, resampled in pairs
    roc: Sequence[tuple[float, float]]  # false positive rate, true positive rate; empty with one class alone
    calibration: Sequence[CalibrationBin]
    before: Sequence[CalibrationBin]  # without the intercept; empty if that is not known
    calibration_error_before: float | None


@dataclass(frozen=True)
class ConfidentPrediction:
    """A row that the model was sure of."""

    row: int  # of the data set
    score: float  # main_output
    popular: bool
    posted_at: float  # seconds since 1970-01-01 UTC
    outlet: str  # empty: none


@dataclass(frozen=True)
class Evaluation:
    """All that is known of a model on one part, the scored one."""

    figures: Mapping[str, float]  # as in model.json; what is undefined is absent
    part: str  # the scored one
    period: tuple[float, float]  # its first and last time, seconds since 1970-01-01 UTC
    rows: int
    positive_share: float
    blocks: int  # half-days that were resampled
    outlets_with_auc: int
    models: Mapping[str, Scores]  # by MODELS; baselines are there only if the training part was
    importance: Mapping[str, Estimate]  # fall of main's AUC when words, outlet, hour or day is permuted, mean of REPEATS
    parts: Mapping[str, Bin]
    weeks: Mapping[str, Mapping[str, Bin]]  # by part and ISO date of the Monday
    hours: Mapping[int, Bin]  # of the day in UTC, scored part
    outlets: Mapping[str, Bin]  # scored part, most rows first; "": none
    extremes: Mapping[str, Sequence[ConfidentPrediction]]  # by `right_high`, `right_low`, `wrong_high` and `wrong_low` scores


def evaluate(
    parts: Mapping[str, Examples],
    predict: Predict,
    dataset: Dataset,
    *,
    first_row: int = 0,
    intercepts: tuple[float, float] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Evaluate a model on the last of `parts`, which follow one another in `dataset` from `first_row` on.

    `predict` gives the final scores; `intercepts` are what was added to the logits of main_output and aux_output in the end.
    If "training" is among the parts, the baselines are fitted on it. If "validation" is, and another part is scored, they get
    an intercept there too.

    Intervals: percentile bootstrap over half-days, the same resamples for all models (Efron and Tibshirani, An Introduction
    to the Bootstrap, 1993, chapters 8 and 13). Calibration error: the mean distance of score and positive share over bins of
    equal mass, weighted by rows. Its interval keeps the bins of the sample, and noise can only add to it.

    Raises ValueError if the scored part has no rows.
    """
    part, scored = list(parts.items())[-1]
    if not len(scored):
        raise ValueError("the scored part has no rows")
    rng = np.random.default_rng(seed)
    predictions = {name: predict(examples).astype(np.float64) for name, examples in parts.items()}
    ends = (first_row + np.cumsum([len(examples) for examples in parts.values()])).tolist()
    rows_of = dict(zip(parts, map(slice, [first_row, *ends[:-1]], ends), strict=True))
    final, before = _all_scores(parts, predictions[part], predict, dataset, rows_of, intercepts)
    sample = _Sample(scored, rng)
    metrics = {name: sample.metrics(scores) for name, scores in final.items()}
    models = {name: _scores(name, scored, final, before, metrics) for name in MODELS if name in final}
    positive_share = _share(scored.labels)
    hour = (scored.posted_at % 86_400 // 3600).astype(np.int64)
    return Evaluation(
        figures={**_figures(models), "positive_share": positive_share, "rows": float(len(scored))},
        part=part,
        period=(float(scored.posted_at.min()), float(scored.posted_at.max())),
        rows=len(scored),
        positive_share=positive_share,
        blocks=sample.blocks,
        outlets_with_auc=len(sample.outlets),
        models=models,
        importance=_importance(scored, predict, metrics["main"]["auc"], sample, rng),
        parts={name: _bin(examples.labels, predictions[name]) for name, examples in parts.items()},
        weeks={name: _by_week(examples, predictions[name]) for name, examples in parts.items()},
        hours={int(h): _bin(scored.labels[rows], predictions[part][rows]) for h, rows in _groups(hour)},
        outlets=_by_outlet(scored, predictions[part], dataset.outlets),
        extremes=_extremes(scored, final["main"], dataset.outlets, rows_of[part].start),
    )


def _all_scores(
    parts: Mapping[str, Examples],
    predictions: Floats,
    predict: Predict,
    dataset: Dataset,
    rows_of: Mapping[str, slice],
    intercepts: tuple[float, float] | None,
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """The scores of the last part by the model and the baselines: final ones, and those before the intercept was added."""
    part, scored = list(parts.items())[-1]
    main, aux = predictions.T
    final = {"main": main, "aux": aux}
    before: dict[str, Floats] = {}
    if intercepts is not None:
        for name, scores, added in zip(final, (main, aux), intercepts, strict=True):
            before[name] = expit(logit(_inside(scores)) - added)
    if part != "training" and "training" in parts and _both_classes(parts["training"].labels):
        for name, (raw, calibrated) in baselines(parts, rows_of, dataset).items():
            before[name], final[name] = raw, calibrated
    aux_without = scored.aux.copy()
    aux_without[:, OUTLET_LEVEL] = 0
    final["main_without_outlet"] = predict(dataclasses.replace(scored, aux=aux_without))[:, 0].astype(np.float64)
    return final, before


def _scores(
    name: str,
    scored: Examples,
    final: Mapping[str, Floats],
    before: Mapping[str, Floats],
    metrics: Mapping[str, Mapping[str, Floats]],
) -> Scores:
    less_baseline: dict[str, Estimate] = {}
    if "baseline" in metrics and name != "baseline":
        less_baseline = _estimates({metric: values - metrics["baseline"][metric] for metric, values in metrics[name].items()})
    return Scores(
        estimates=_estimates(metrics[name]),
        less_baseline=less_baseline,
        roc=_roc(final[name], scored.labels),
        calibration=_calibration(final[name], scored.labels),
        before=_calibration(before[name], scored.labels) if name in before else [],
        calibration_error_before=_calibration_error(before[name], scored.labels) if name in before else None,
    )


def _figures(models: Mapping[str, Scores]) -> dict[str, float]:
    return {
        f"{name}_{metric}": estimate.value
        for name in ("main", "aux", "baseline")
        if name in models
        for metric, estimate in models[name].estimates.items()
    }


def _by_week(examples: Examples, predictions: Floats) -> dict[str, Bin]:
    return {
        datetime.fromtimestamp(monday, UTC).date().isoformat(): _bin(examples.labels[rows], predictions[rows])
        for monday, rows in _groups(_mondays(examples.posted_at))
    }


def table(evaluation: Evaluation) -> str:
    """The figures as plain text, models side by side, each with its interval below."""
    names = [name for name in evaluation.models if name != "main_without_outlet"]
    width = max(map(len, METRICS.values())) + 1
    lines = [
        f"{evaluation.rows:,} rows, {evaluation.positive_share:.1%} popular; 95% intervals over {evaluation.blocks} half-days",
        "",
        " " * width + "".join(f"{MODELS[name]:>16}" for name in names),
    ]
    for metric, title in METRICS.items():
        estimates = [evaluation.models[name].estimates.get(metric) for name in names]
        lines.append(f"{title:<{width}}" + "".join(f"{f'{e.value:.4f}' if e else '-':>16}" for e in estimates))
        lines.append(" " * width + "".join(f"{_interval(e, '.3f'):>16}" for e in estimates))
    before = [evaluation.models[name].calibration_error_before for name in names]
    lines.append(f"{'  before intercept':<{width}}" + "".join(f"{'-' if e is None else f'{e:.4f}':>16}" for e in before))
    lines.append("")
    lines.append(f"Within outlets: {evaluation.outlets_with_auc} with at least {LEAST_OF_A_CLASS} headlines of each class")
    without = evaluation.models["main_without_outlet"].estimates.get("auc")
    if without:
        lines.append(f"main_output, outlet not told: ROC-AUC {without.value:.4f} {_interval(without, '.3f')}")
    for metric, estimate in evaluation.models["main"].less_baseline.items():
        lines.append(f"main_output less Logistic, {METRICS[metric]}: {estimate.value:+.4f} {_interval(estimate, '+.4f')}")
    for name, estimate in evaluation.importance.items():
        lines.append(f"ROC-AUC falls by {estimate.value:.4f} {_interval(estimate, '.4f')} when {name} is permuted")
    return "\n".join(lines) + "\n"


def _interval(estimate: Estimate | None, form: str) -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f"[{estimate.low:{form}}, {estimate.high:{form}}]"


class _Sample:
    """The scored rows, resampled by blocks of time.

    All resamples are one matrix of block weights, and every metric is a function of sums over blocks, so that a thousand
    resamples cost a matrix product. Row 0 of the weights is the sample itself.
    """

    def __init__(self, examples: Examples, rng: np.random.Generator) -> None:
        self.labels = examples.labels.astype(np.float64)
        times, self.block = np.unique(examples.posted_at // BLOCK, return_inverse=True)
        self.blocks = len(times)
        draws = rng.multinomial(self.blocks, np.full(self.blocks, 1 / self.blocks), RESAMPLES if self.blocks > 1 else 0)
        self.weights: Floats = np.vstack([np.ones(self.blocks), draws])  # [1 + resamples, blocks]
        self.outlets = [rows for outlet, rows in _groups(examples.outlet) if outlet >= 0 and _enough_of_each(self.labels[rows])]

    def metrics(self, scores: Floats) -> dict[str, Floats]:
        """Each of METRICS for every row of the weights; NaN if it is undefined."""
        labels, inside = self.labels, _inside(scores)
        losses = -(labels * np.log(inside) + (1 - labels) * np.log1p(-inside))
        tenth = _tenths(scores)
        gaps = np.stack([self._sum((scores - labels) * (tenth == i)) for i in range(BINS)])
        rows = self._sum(np.ones_like(labels))
        return {
            "auc": self.auc(scores),
            "auc_within_outlets": self._auc_within_outlets(scores),
            "log_loss": self._sum(losses) / rows,
            "accuracy": self._sum((scores > 0.5) == (labels > 0.5)) / rows,
            "calibration_error": np.abs(gaps).sum(0) / rows,
        }

    def _sum(self, values: npt.NDArray[np.generic]) -> Floats:
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
        return _divide((weights @ won * weights).sum(1), positives * negatives)

    def _auc_within_outlets(self, scores: Floats) -> Floats:
        total, rows = np.zeros(len(self.weights)), np.zeros(len(self.weights))
        for outlet in self.outlets:
            auc = self.auc(scores, outlet)
            size = np.where(np.isnan(auc), 0, self.weights @ np.bincount(self.block[outlet], minlength=self.blocks))
            total += size * np.nan_to_num(auc)
            rows += size
        return _divide(total, rows)


def _estimates(metrics: Mapping[str, Floats]) -> dict[str, Estimate]:
    estimates = {}
    for name, values in metrics.items():
        if np.isnan(values[0]):
            continue
        resampled = values[1:][~np.isnan(values[1:])]
        low, high = map(float, np.quantile(resampled, [0.025, 0.975])) if len(resampled) else (None, None)
        estimates[name] = Estimate(float(values[0]), low, high)
    return estimates


def _importance(
    scored: Examples, predict: Predict, whole: Floats, sample: _Sample, rng: np.random.Generator
) -> dict[str, Estimate]:
    """How much main's AUC, `whole`, falls when one input is dealt out at random (Breiman, Random Forests, 2001, section 10)."""
    falls = {}
    for name in ("words", *_COLUMNS):
        permuted = []
        for _ in range(REPEATS):
            order = rng.permutation(len(scored))
            if name == "words":
                examples = _with_words_of(scored, order)
            else:
                aux = scored.aux.copy()
                aux[:, _COLUMNS[name]] = aux[order][:, _COLUMNS[name]]
                examples = dataclasses.replace(scored, aux=aux)
            permuted.append(sample.auc(predict(examples)[:, 0]))
        falls[name] = whole - np.mean(permuted, axis=0)
    return _estimates(falls)


def _with_words_of(examples: Examples, order: npt.NDArray[np.int64]) -> Examples:
    """The rows with the words of others: row i gets those of row order[i]."""
    lengths = np.diff(examples.offsets)[order]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    index = np.arange(offsets[-1]) + np.repeat(examples.offsets[order] - offsets[:-1], lengths)
    return dataclasses.replace(examples, ids=examples.ids[index], offsets=offsets)


def _roc(scores: Floats, labels: npt.NDArray[np.float32]) -> list[tuple[float, float]]:
    if not _both_classes(labels):
        return []
    false_positives, true_positives, _ = roc_curve(labels, scores)
    at = np.unique(np.linspace(0, len(false_positives) - 1, _POINTS).astype(np.int64))
    return list(zip(false_positives[at].tolist(), true_positives[at].tolist(), strict=True))


def _tenths(scores: Floats) -> npt.NDArray[np.int64]:
    """The bin of each score, 0 to BINS - 1: equal in rows, but equal scores share one."""
    return np.searchsorted(np.quantile(scores, np.arange(1, BINS) / BINS), scores, "right")


def _calibration(scores: Floats, labels: npt.NDArray[np.float32]) -> list[CalibrationBin]:
    return [CalibrationBin(float(scores[rows].mean()), _share(labels[rows]), len(rows)) for _, rows in _groups(_tenths(scores))]


def _calibration_error(scores: Floats, labels: npt.NDArray[np.float32]) -> float:
    return sum(abs(b.score - b.positive_share) * b.rows for b in _calibration(scores, labels)) / len(scores)


def _bin(labels: npt.NDArray[np.float32], predictions: Floats) -> Bin:
    main, aux = predictions.mean(0).tolist()
    return Bin(len(labels), _share(labels), main, aux)


def _by_outlet(scored: Examples, predictions: Floats, outlets: Sequence[str]) -> dict[str, Bin]:
    found = {}
    for outlet, rows in sorted(_groups(scored.outlet), key=lambda group: -len(group[1])):
        labels = scored.labels[rows]
        auc = float(roc_auc_score(labels, predictions[rows, 0])) if _enough_of_each(labels) else None
        name = outlets[outlet] if outlet >= 0 else ""
        found[name] = dataclasses.replace(_bin(labels, predictions[rows]), main_auc=auc)
    return found


def _extremes(scored: Examples, main: Floats, outlets: Sequence[str], first_row: int) -> dict[str, list[ConfidentPrediction]]:
    ascending = np.argsort(main, kind="stable")
    high, low = ascending[main[ascending] > 0.5][::-1], ascending[main[ascending] <= 0.5]
    popular = scored.labels > 0.5
    kinds = {
        "right_high": high[popular[high]],
        "right_low": low[~popular[low]],
        "wrong_high": high[~popular[high]],
        "wrong_low": low[popular[low]],
    }
    return {
        kind: [
            ConfidentPrediction(
                first_row + row,
                float(main[row]),
                bool(popular[row]),
                float(scored.posted_at[row]),
                outlets[scored.outlet[row]] if scored.outlet[row] >= 0 else "",
            )
            for row in rows[:EXTREMES].tolist()
        ]
        for kind, rows in kinds.items()
    }


def _groups(keys: npt.NDArray[np.generic]) -> list[tuple[Any, npt.NDArray[np.int64]]]:
    """The distinct keys in order, each with its rows."""
    values, starts = np.unique(np.sort(keys, kind="stable"), return_index=True)
    return list(zip(values.tolist(), np.split(np.argsort(keys, kind="stable"), starts[1:]), strict=True))


def _mondays(seconds: Floats) -> Floats:
    first = 4 * 86_400.0  # 1970-01-05
    return (seconds - first) // (7 * 86_400) * (7 * 86_400) + first


def _share(labels: npt.NDArray[np.float32]) -> float:
    return float(labels.mean(dtype=np.float64))


def _inside(scores: Floats) -> Floats:
    return np.clip(scores, _TINY, 1 - _TINY)


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)


def _enough_of_each(labels: npt.NDArray[np.floating]) -> bool:
    return bool(min(labels.sum(), (1 - labels).sum()) >= LEAST_OF_A_CLASS)


def _both_classes(labels: npt.NDArray[np.float32]) -> bool:
    return bool(0 < labels.mean() < 1)
