"""Which settings generalise: the network beside the linear baseline on rolling folds of the data.

    python -m benchmarks.folds
    python -m benchmarks.folds --data posts.csv.gz --seeds 1 --variant averaging=0 --variant embedding_decay=0.01

A fold trains on the first 50, 60 or 70 % of the rows and scores the tenth that follows. The last ninth of its training
rows is its validation part, as in a fit on all data: it ends the training and is not trained on, by the baseline neither.
The latest tenth of the data is never read. Without --variant the table has the guide's own settings, the defaults, and the
defaults less one regularisation at a time; each figure is the mean over folds and seeds.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from harness import report
from harness.requests import REAL_DATA
from service.errors import UsageError
from training.settings import Settings

FOLDS = (0.5, 0.6, 0.7)
SCORED = 0.1
GUIDE: Mapping[str, Any] = {"embedding_dropout": 0.0, "state_dropout": 0.0, "embedding_decay": 0.0, "averaging": 0.0}
METRICS = ("auc", "auc_within_outlets", "log_loss")
COLUMNS = [f"{output}_{metric}" for output in ("main", "aux") for metric in METRICS]


def main() -> None:
    """Measure and print a table."""
    parser = report.parser(__doc__)
    parser.add_argument("--data", type=Path, nargs="+", action="extend", metavar="FILE", help="the real data by default")
    parser.add_argument("--seeds", type=int, default=3, help="fits of each variant on each fold")
    parser.add_argument("--variant", action="append", metavar="NAME=VALUE,...", help="settings to compare; repeatable")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    variants: dict[str, Mapping[str, Any]] = {text: parse(text) for text in args.variant or ()} or {
        "the guide's": GUIDE,
        "defaults": {},
        **{f"{name}={value}": {name: value} for name, value in GUIDE.items()},
    }
    rows = measure(args.data or [REAL_DATA], variants, args.seeds)
    heads = [column.replace("auc_within_outlets", "within").replace("_", " ") for column in COLUMNS]
    columns = {**dict.fromkeys(heads, ".4f"), "epochs": ".1f", "s a fit": ".1f"}
    table = report.Table("", columns, width=max(map(len, rows)))
    for name, figures in rows.items():
        table.row(name, *(figures.get(key) for key in (*COLUMNS, "epochs", "seconds")))


def parse(text: str) -> dict[str, Any]:
    """NAME=VALUE,... as settings."""
    kinds: dict[str, Any] = {field.name: type(field.default) for field in fields(Settings)}
    chosen = dict(pair.partition("=")[::2] for pair in text.split(","))
    if unknown := chosen.keys() - kinds.keys():
        raise UsageError(f"there is no setting {', '.join(sorted(unknown))}; there are {', '.join(kinds)}")
    return {name: kinds[name](value) for name, value in chosen.items()}


def measure(files: list[Path], variants: Mapping[str, Mapping[str, Any]], seeds: int) -> dict[str, dict[str, float]]:
    """The mean figures of the baseline and of each variant."""
    from training import dataset, features  # they and TensorFlow take seconds to load, which flags need not wait for
    from training.evaluate import evaluate
    from training.fit import fit
    from training.network import Network

    posts = dataset.read(files)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ("logistic regression", *variants)}
    for share in FOLDS:
        for seed in range(seeds):
            made = features.build(posts, shares=(share * 8 / 9, share, share + SCORED), seed=seed)
            parts = {"training": made.training, "validation": made.validation, "evaluation": made.evaluation}
            for name, changed in variants.items():
                began = time.monotonic()
                fitted = fit(made, Settings(**{"seed": seed, **changed}))
                seconds = time.monotonic() - began
                predict = Network(fitted.model).predict
                if len(found["logistic regression"]) <= FOLDS.index(share):
                    figures = dict(evaluate(parts, predict, posts).figures)
                    of_baseline = {
                        key.replace("baseline", "main"): figures[key] for key in figures if key.startswith("baseline")
                    }
                    found["logistic regression"].append(of_baseline)
                else:
                    scored = {"evaluation": made.evaluation}
                    figures = dict(evaluate(scored, predict, posts, first_row=made.ends[1]).figures)
                kept = {column: figures.get(column, float("nan")) for column in COLUMNS}
                found[name].append({**kept, "epochs": fitted.best_epoch + 1.0, "seconds": seconds})
                auc, within = kept["main_auc"], kept["main_auc_within_outlets"]
                print(f"{share:.0%} seed {seed} {name}: {auc:.4f}, within outlets {within:.4f}", file=sys.stderr, flush=True)
    return {name: {key: float(np.mean([run[key] for run in runs])) for key in runs[0]} for name, runs in found.items()}


if __name__ == "__main__":
    report.run(main)
