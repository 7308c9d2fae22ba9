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

from service.model.labels import ABOVE_STORY_MEAN, Label
from service.model.preprocessing import AUX_FEATURES, TIME_FEATURES
from training.baselines import OUTLET_LEVEL, baselines
from training.calibration import Calibration
from training.dataset import Dataset
from training.features import Examples
from training.pairs import PairBin, Pairs
from training.resampling import Estimate, Sample, divide, estimates

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
    "pair_accuracy": "Pairs ranked right",
    "log_loss": "Log loss",
    "accuracy": "Accuracy",
    "calibration_error": "Calibration error",
}
# What an evaluation of a version on other posts has in its figures, those that are undefined there left out.
FIGURES = (
    *(f"{name}_{metric}" for name in ("main", "aux") for metric in (*METRICS, "pair_gap")),
    "positive_share",
    "rows",
)
BINS = 10  # of a calibration curve, equal in rows
LEAST_OF_A_CLASS = 20  # for an outlet to have an AUC of its own
REPEATS = 5  # of each permutation
EXTREMES = 8  # headlines of each kind
_POINTS = 150  # of a ROC curve, enough for the eye
_TINY = 1e-7  # scores this near to 0 or 1 count as this near, as in Keras' own loss

_COLUMNS = {"outlet": [OUTLET_LEVEL], "hour": [0, 1], "day": [2, 3]}  # of aux
_TIME = [AUX_FEATURES.index(name) for name in TIME_FEATURES]


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
    before: Sequence[CalibrationBin]  # before it was calibrated; empty if that is not known
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
    pairs: int  # of posts of one outlet, or of one story, that did not do equally well
    of_stories: bool  # the pairs are of one story
    pairs_by_gap: Mapping[str, Sequence[PairBin]]  # of main and aux
    pair_gap: Mapping[str, float]  # of main and aux: nearer scores are about the same; absent if that is not known
    models: Mapping[str, Scores]  # by MODELS; baselines are there only if the training part was
    importance: Mapping[str, Estimate]  # fall of main's AUC when words, outlet, hour or day is permuted, mean of REPEATS
    parts: Mapping[str, Bin]
    weeks: Mapping[str, Mapping[str, Bin]]  # by part and ISO date of the Monday
    zone: str  # of the hours
    hours: Mapping[int, Bin]  # of the day in that zone, scored part
    outlets: Mapping[str, Bin]  # scored part, most rows first; "": none
    outlets_before: Mapping[str, Bin]  # the same of the first part; empty if that is the scored one
    extremes: Mapping[str, Sequence[ConfidentPrediction]]  # by `right_high`, `right_low`, `wrong_high` and `wrong_low` scores


def evaluate(
    parts: Mapping[str, Examples],
    predict: Predict,
    dataset: Dataset,
    label: Label,
    *,
    first_row: int = 0,
    calibration: tuple[Calibration, Calibration] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Evaluate a model on the last of `parts`, which follow one another in `dataset` from `first_row` on.

    `predict` gives the final scores; `calibration` is what the logits of main_output and aux_output went through in the end.
    If "training" is among the parts, the baselines are fitted on it. If "validation" is, and another part is scored, they get
    an intercept there too.

    Intervals: percentile bootstrap over half-days, the same resamples for all models (Efron and Tibshirani, An Introduction
    to the Bootstrap, 1993, chapters 8 and 13). Calibration error: the mean distance of score and positive share over bins of
    equal mass, weighted by rows. Its interval keeps the bins of the sample, and noise can only add to it. Pairs: each post with
    the NEIGHBOURS next ones of its outlet, or of its story if that is what the label compares. The gap between two scores from
    which on they differ is where the share of pairs in the right order, made monotone in the gap, reaches TELLING (Zadrozny and
    Elkan, Transforming Classifier Scores into Accurate Multiclass Probability Estimates, 2002).

    Raises ValueError if the scored part has no rows.
    """
    part, scored = list(parts.items())[-1]
    if not len(scored):
        raise ValueError("the scored part has no rows")
    rng = np.random.default_rng(seed)
    predictions = {name: predict(examples).astype(np.float64) for name, examples in parts.items()}
    ends = (first_row + np.cumsum([len(examples) for examples in parts.values()])).tolist()
    rows_of = dict(zip(parts, map(slice, [first_row, *ends[:-1]], ends), strict=True))
    final, before = _all_scores(parts, predictions[part], predict, dataset, rows_of, calibration)
    sample = Sample(scored.labels, scored.posted_at, rng)
    outlets = [rows for outlet, rows in _groups(scored.outlet) if outlet >= 0 and _enough_of_each(scored.labels[rows])]
    found_pairs = Pairs.of(dataset, rows_of[part], label)
    metrics = {name: _metrics(sample, scores, outlets, found_pairs) for name, scores in final.items()}
    models = {name: _scores(name, scored, final, before, metrics) for name in MODELS if name in final}
    positive_share = _share(scored.labels)
    gaps = {name: gap for name in ("main", "aux") if (gap := found_pairs.telling_gap(final[name])) is not None}
    zone = dataset.zone
    moments = [datetime.fromtimestamp(moment, zone) for moment in scored.posted_at.tolist()]
    hour = np.array([moment.hour for moment in moments], np.int64)
    return Evaluation(
        figures={
            **_figures(models),
            **{f"{name}_pair_gap": gap for name, gap in gaps.items()},
            "positive_share": positive_share,
            "rows": float(len(scored)),
        },
        part=part,
        period=(float(scored.posted_at.min()), float(scored.posted_at.max())),
        rows=len(scored),
        positive_share=positive_share,
        blocks=sample.blocks,
        outlets_with_auc=len(outlets),
        pairs=len(found_pairs),
        of_stories=label.rule == ABOVE_STORY_MEAN,
        pairs_by_gap={name: found_pairs.by_gap(sample, final[name]) for name in ("main", "aux")},
        pair_gap=gaps,
        models=models,
        importance=_importance(scored, predict, metrics["main"]["auc"], sample, rng),
        parts={name: _bin(examples.labels, predictions[name]) for name, examples in parts.items()},
        weeks={name: _by_week(examples, predictions[name]) for name, examples in parts.items()},
        zone=str(zone),
        hours={int(h): _bin(scored.labels[rows], predictions[part][rows]) for h, rows in _groups(hour)},
        outlets=_by_outlet(scored, predictions[part], dataset.outlets),
        outlets_before=_by_outlet(parts[first], predictions[first], dataset.outlets)
        if (first := next(iter(parts))) != part
        else {},
        extremes=_extremes(scored, final["main"], dataset.outlets, rows_of[part].start),
    )


def _all_scores(
    parts: Mapping[str, Examples],
    predictions: Floats,
    predict: Predict,
    dataset: Dataset,
    rows_of: Mapping[str, slice],
    calibration: tuple[Calibration, Calibration] | None,
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """The scores of the last part by the model and the baselines: final ones, and those before they were calibrated."""
    part, scored = list(parts.items())[-1]
    main, aux = predictions.T
    final = {"main": main, "aux": aux}
    before: dict[str, Floats] = {}
    if calibration is not None:
        for name, scores, found in zip(final, (main, aux), calibration, strict=True):
            before[name] = expit((logit(_inside(scores)) - found.intercept) / found.slope)
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
        less_baseline = estimates({metric: values - metrics["baseline"][metric] for metric, values in metrics[name].items()})
    return Scores(
        estimates=estimates(metrics[name]),
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
    lines.append(f"{'  uncalibrated':<{width}}" + "".join(f"{'-' if e is None else f'{e:.4f}':>16}" for e in before))
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


def time_worth(examples: Examples, predict: Predict, *, seed: int = 0) -> dict[str, float]:
    """What the posting time is worth to main_output on these rows: how much its AUC falls if the time features are permuted.

    "auc", the "high" end of its one-sided 95 % interval, and the "rows"; empty if they are of one class.
    """
    if not _both_classes(examples.labels):
        return {}
    rng = np.random.default_rng(seed)
    sample = Sample(examples.labels, examples.posted_at, rng)
    fall = sample.auc(predict(examples)[:, 0].astype(np.float64)) - _permuted(examples, predict, _TIME, sample, rng)
    resampled = fall[1:][~np.isnan(fall[1:])]
    if not len(resampled):
        return {}
    return {"auc": float(fall[0]), "high": float(np.quantile(resampled, 0.95)), "rows": float(len(examples))}


def _metrics(sample: Sample, scores: Floats, outlets: Sequence[npt.NDArray[np.int64]], pairs: Pairs) -> dict[str, Floats]:
    """Each of METRICS for every resample; NaN if it is undefined. `outlets` are the rows of each that has an AUC."""
    labels, inside = sample.labels, _inside(scores)
    losses = -(labels * np.log(inside) + (1 - labels) * np.log1p(-inside))
    tenth = _tenths(scores)
    gaps = np.stack([sample.sum((scores - labels) * (tenth == i)) for i in range(BINS)])
    rows = sample.sum(np.ones_like(labels))
    return {
        "auc": sample.auc(scores),
        "auc_within_outlets": _auc_within(sample, scores, outlets),
        "pair_accuracy": pairs.accuracy(sample, scores),
        "log_loss": sample.sum(losses) / rows,
        "accuracy": sample.sum((scores > 0.5) == (labels > 0.5)) / rows,
        "calibration_error": np.abs(gaps).sum(0) / rows,
    }


def _auc_within(sample: Sample, scores: Floats, outlets: Sequence[npt.NDArray[np.int64]]) -> Floats:
    total, rows = np.zeros(len(sample.weights)), np.zeros(len(sample.weights))
    for outlet in outlets:
        auc = sample.auc(scores, outlet)
        counted = np.zeros(len(scores))
        counted[outlet] = 1
        size = np.where(np.isnan(auc), 0, sample.sum(counted))
        total += size * np.nan_to_num(auc)
        rows += size
    return divide(total, rows)


def _importance(
    scored: Examples, predict: Predict, whole: Floats, sample: Sample, rng: np.random.Generator
) -> dict[str, Estimate]:
    """How much main's AUC, `whole`, falls when one input is dealt out at random (Breiman, Random Forests, 2001, section 10)."""
    falls = {}
    for name in ("words", *_COLUMNS):
        columns = _COLUMNS.get(name)
        if columns is None or np.ptp(scored.aux[:, columns], axis=0).any():  # a frozen input has nothing to lose
            falls[name] = whole - _permuted(scored, predict, columns, sample, rng)
    return estimates(falls)


def _permuted(
    scored: Examples, predict: Predict, columns: Sequence[int] | None, sample: Sample, rng: np.random.Generator
) -> Floats:
    """The mean AUC of main_output if these columns of aux, or the words, are dealt out at random."""
    found = []
    for _ in range(REPEATS):
        order = rng.permutation(len(scored))
        if columns is None:
            examples = _with_words_of(scored, order)
        else:
            aux = scored.aux.copy()
            aux[:, columns] = aux[order][:, columns]
            examples = dataclasses.replace(scored, aux=aux)
        found.append(sample.auc(predict(examples)[:, 0]))
    mean: Floats = np.mean(found, axis=0)
    return mean


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


def _enough_of_each(labels: npt.NDArray[np.floating]) -> bool:
    return bool(min(labels.sum(), (1 - labels).sum()) >= LEAST_OF_A_CLASS)


def _both_classes(labels: npt.NDArray[np.float32]) -> bool:
    return bool(0 < labels.mean() < 1)
