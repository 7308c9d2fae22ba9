"""Which settings generalise: the network beside linear models on rolling folds of the data.

    python -m benchmarks.folds
    python -m benchmarks.folds --data posts.csv.gz --label median --variant teacher=none --variant embedding_decay=0.001

A fold trains on the first 50, 60 or 70 % of the rows and scores the tenth that follows. The last ninth of its training
rows is its validation part, as in a fit on all data: it ends the training and is not trained on, by the linear models neither.
The latest tenth of the data is never read. Without --variant the defaults are fitted, and the network without a teacher. Each
figure is the mean over folds and seeds; --folds and --seeds make fewer. Then each fit has a line of its own: how far a score
moves over the hours of a week, and whether the posting time was found to be worth anything.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness import report
from harness.requests import REAL_DATA
from service.errors import UsageError
from training.settings import POPULAR_ABOVE, Settings

if TYPE_CHECKING:
    from training.features import Examples, Features
    from training.job import Learned

FOLDS = (0.5, 0.6, 0.7)
SCORED = 0.1
RIDGE_PENALTY = 3.0
METRICS = ("auc", "auc_within_outlets", "pair_accuracy", "calibration_error")
COLUMNS = [*(f"main_{metric}" for metric in METRICS), "aux_auc", "main_pair_gap"]
HEADS = ["main", "within", "pairs", "calibration", "aux", "gap"]
HOURS = 168  # of a week
MOVED = 400  # posts whose score is followed over the week


def main() -> None:
    """Measure and print a table for each label."""
    parser = report.parser(__doc__)
    parser.add_argument("--data", type=Path, nargs="+", action="extend", metavar="FILE", help="the real data by default")
    parser.add_argument("--label", choices=POPULAR_ABOVE[1:], action="append", help="repeatable; outlet and median by default")
    parser.add_argument("--seeds", type=int, default=3, help="fits of each variant on each fold")
    parser.add_argument("--folds", type=float, nargs="+", default=FOLDS, metavar="SHARE", help="where the training ends")
    parser.add_argument("--variant", action="append", metavar="NAME=VALUE,...", help="settings to compare; repeatable")
    parser.add_argument("--cache", type=Path, default=Path("data"), help="keeps the embeddings of headlines")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    variants: dict[str, Mapping[str, Any]] = {text: parse(text) for text in args.variant or ()} or {
        "defaults": {},
        "teacher=none": {"teacher": "none"},
    }
    for label in args.label or ("outlet", "median"):
        fits = measure(args.data or [REAL_DATA], label, variants, args.folds, args.seeds, args.cache)
        names = [*dict.fromkeys(fit["name"] for fit in fits)]
        width = max(map(len, names))
        table = report.Table(f"label {label}", {**dict.fromkeys(HEADS, ".4f"), "epochs": ".1f", "s a fit": ".0f"}, width=width)
        for name in names:
            own = [fit for fit in fits if fit["name"] == name]
            keys = (*COLUMNS, "epochs", "seconds")
            table.row(name, *(float(np.mean([it[key] for it in own])) if key in own[0] else None for key in keys))
        for fit in fits:
            print(f"  {fit['share']:.0%} {fit['name']} seed {fit['seed']}: {describe(fit)}")


def describe(fit: Mapping[str, Any]) -> str:
    """One fit's figures."""
    line = f"main {fit['main_auc']:.4f}, within {fit['main_auc_within_outlets']:.4f}, pairs {fit['main_pair_accuracy']:.4f}"
    if "worth" not in fit:
        return line
    worth = fit["worth"]
    return (
        f"{line}, aux {fit['aux_auc']:.4f}; calibration {fit['main_calibration_error']:.4f}; the posting time is worth"
        f" {worth['auc']:.4f} (at most {worth['high']:.4f}) and is {'frozen' if fit['frozen'] else 'kept'}; over a week a score"
        f" moves by {fit['moved']:.3f}"
    )


def parse(text: str) -> dict[str, Any]:
    """NAME=VALUE,... as settings."""
    kinds: dict[str, Any] = {field.name: type(field.default) for field in fields(Settings)}
    chosen = dict(pair.partition("=")[::2] for pair in text.split(","))
    if unknown := chosen.keys() - kinds.keys():
        raise UsageError(f"there is no setting {', '.join(sorted(unknown))}; there are {', '.join(kinds)}")
    return {name: kinds[name](value) for name, value in chosen.items()}


def measure(
    files: Sequence[Path],
    label: Any,  # noqa: ANN401
    variants: Mapping[str, Mapping[str, Any]],
    shares: Sequence[float],
    seeds: int,
    cache: Path,
) -> list[dict[str, Any]]:
    """The figures of each fit, and of the linear models on the same rows."""
    from training import dataset, features, job, libraries  # they and TensorFlow take seconds, which flags need not wait for

    libraries.prepare()
    from training.evaluate import evaluate
    from training.network import Network

    posts = dataset.read([*files])
    found: list[dict[str, Any]] = []
    for share in shares:
        for seed in range(seeds):
            built = features.build(posts, popular_above=label, shares=(share * 8 / 9, share, share + SCORED), seed=seed)
            for name, changed in variants.items():
                settings = Settings(seed=seed, **changed)
                began = time.monotonic()
                learned = job.learn(built, settings, job.Lesson.prepare(built, settings, cache))
                seconds = time.monotonic() - began
                predict = Network(learned.fit.model).predict
                if not any(it["share"] == share and it["seed"] == seed for it in found):
                    figures = evaluate(_parts(built), predict, built.posts, built.label).figures
                    logistic = {key.replace("baseline", "main"): it for key, it in figures.items() if "baseline" in key}
                    found.append({"name": "logistic regression", "share": share, "seed": seed, **logistic})
                    found.append({"name": "ridge on the rank", "share": share, "seed": seed, **_ridge(built)})
                scored = {"evaluation": learned.features.evaluation}
                figures = evaluate(scored, predict, built.posts, built.label, first_row=built.ends[1]).figures
                fit = {"name": name, "share": share, "seed": seed, **figures, "worth": learned.time_worth}
                fit |= {"frozen": bool(learned.features.frozen), "moved": _moved(learned)}
                fit |= {"epochs": learned.fit.best_epoch + 1.0, "seconds": seconds}
                print(f"{label}, {share:.0%}, seed {seed}, {name}: {describe(fit)}", file=sys.stderr, flush=True)
                found.append(fit)
    return found


def _ridge(built: Features) -> dict[str, float]:
    """A ridge regression of how well posts did, on the same inputs as the logistic regression."""
    from scipy import sparse
    from scipy.special import expit
    from sklearn.linear_model import Ridge

    from training import teacher
    from training.evaluate import evaluate
    from training.terms import tfidf

    parts = _parts(built)
    rows_of = dict(zip(parts, map(slice, (0, *built.ends), built.ends), strict=False))
    terms = tfidf(built.posts, rows_of)
    assert terms
    inputs = {name: sparse.hstack([terms[name], part.aux], format="csr") for name, part in parts.items()}
    model = Ridge(RIDGE_PENALTY, solver="sparse_cg", tol=1e-4).fit(inputs["training"], teacher.ranks(built)["training"])
    scores = expit(model.predict(inputs["evaluation"]) - 0.5)[:, None].repeat(2, axis=1)
    figures = evaluate(
        {"evaluation": built.evaluation}, lambda _: scores, built.posts, built.label, first_row=built.ends[1]
    ).figures
    return {key: figures[key] for key in ("main_auc", "main_auc_within_outlets", "main_pair_accuracy") if key in figures}


def _parts(built: Features) -> dict[str, Examples]:
    return {"training": built.training, "validation": built.validation, "evaluation": built.evaluation}


def _moved(learned: Learned) -> float:
    """The mean distance between a post's highest and lowest score over the hours of a week."""
    from service.model.preprocessing import TIME_FEATURES, time_features
    from training.network import Network

    if learned.features.frozen:
        return 0.0
    part = learned.features.evaluation
    rows = np.unique(np.linspace(0, len(part) - 1, MOVED).astype(np.int64))
    network = Network(learned.fit.model)
    scores = []
    for hour in range(HOURS):
        aux = part.aux.copy()
        aux[:, : len(TIME_FEATURES)] = time_features(hour * 3600.0)
        scores.append(network.predict(dataclasses.replace(part, aux=aux))[rows, 0])
    return float(np.ptp(scores, axis=0).mean())


if __name__ == "__main__":
    report.run(main)
