"""How fast training is: `training.fit` beside the guide's own `model.fit`, on the real data (HEADLINES_REAL_DATA).

    python -m benchmarks.training [--runs 1] [--quick]

Both train the same network with its mask, the same first weights, batches of 32 and no regularisation, for five epochs; the
guide's headlines are padded to 100 words. A whole fit counts tracing and the validation after each epoch; a step is the mean of
an epoch that comes after all tracing. Each fit has a process of its own. --quick trains on 6,400 headlines, which shows the
step's ratio in a minute; the fit is then mostly tracing, and its losses mean nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from harness import report
from harness.requests import REAL_DATA
from service.model.preprocessing import SEQUENCE_LENGTH
from training import dataset, features
from training.batches import batches
from training.features import Examples, Features
from training.settings import Settings

# What loads TensorFlow, which flags need not wait for, is imported by the functions that train.
OUTPUTS = ("main_output", "aux_output")

QUICK_ROWS = 6_400
STEPS = 200  # of the guide's that are timed
SETTINGS = Settings(epochs=5, patience=5, embedding_dropout=0, state_dropout=0, embedding_decay=0, averaging=0)
TARGETS = {"step": "at least 10", "fit": "at least 7", "main_loss": "within 0.003", "aux_loss": "within 0.003"}


class Figures(NamedTuple):
    """What a fit took and came to."""

    step: float  # milliseconds
    fit: float  # seconds
    main_loss: float  # the best validation loss
    aux_loss: float


def main() -> None:
    """Measure and print a table."""
    parser = report.parser(__doc__)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    ways = (measure_guide, measure_ours)
    runs: dict[Callable[[bool], Figures], list[Figures]] = {way: [] for way in ways}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        for _ in range(args.runs):
            for way in ways:
                runs[way].append(processes.submit(way, args.quick).result())
    guide, ours = (report.medians([run._asdict() for run in runs[way]]) for way in ways)
    table = report.Table("", {"model.fit": ".4g", "training.fit": ".4g", "compared": "", "target": "<"}, width=28)
    for name, unit in (("step", "one step, ms"), ("fit", "a fit of 5 epochs, s")):
        table.row(unit, guide[name], ours[name], f"{guide[name] / ours[name]:.1f} x", TARGETS[name])
    for name in ("main_loss", "aux_loss"):
        table.row(f"best validation {name}", guide[name], ours[name], f"{ours[name] - guide[name]:+.4f}", TARGETS[name])


def measure_guide(quick: bool) -> Figures:
    """Keras' model.fit, as the guide calls it."""
    import keras

    from training.model import build

    made = make_features(quick)
    training, validation = (pad(part) for part in (made.training, made.validation))
    began = time.perf_counter()
    model = build(seed=SETTINGS.seed)
    model.compile(
        optimizer=keras.optimizers.RMSprop(SETTINGS.learning_rate),
        loss=dict.fromkeys(OUTPUTS, "binary_crossentropy"),
        loss_weights={"main_output": 1.0, "aux_output": SETTINGS.aux_loss_weight},
    )
    size = SETTINGS.batch_size
    history = model.fit(*training, validation_data=validation, epochs=SETTINGS.epochs, batch_size=size, verbose=0).history
    seconds = time.perf_counter() - began
    some = tuple({name: array[: STEPS * size] for name, array in part.items()} for part in training)
    began = time.perf_counter()
    model.fit(*some, batch_size=size, verbose=0)
    step = (time.perf_counter() - began) / STEPS * 1e3
    return Figures(step, seconds, *(min(history[f"val_{output}_loss"]) for output in OUTPUTS))


def measure_ours(quick: bool) -> Figures:
    """training.fit."""
    from training.fit import Trainer, fit
    from training.model import build

    made = make_features(quick)
    began = time.perf_counter()
    fitted = fit(made, SETTINGS)
    seconds = time.perf_counter() - began
    laid_out = list(batches(made.training, SETTINGS.batch_size))
    trainer = Trainer(build(seed=SETTINGS.seed), SETTINGS, len(laid_out))
    for batch in laid_out:  # traces every width
        trainer.step(batch)
    began = time.perf_counter()
    for batch in batches(made.training, SETTINGS.batch_size):
        trainer.step(batch)
    trainer.is_finite()  # reads the weights, so waits for the last step
    step = (time.perf_counter() - began) / len(laid_out) * 1e3
    losses = [epoch.validation for epoch in fitted.history]
    return Figures(step, seconds, min(loss.main for loss in losses), min(loss.aux for loss in losses))


def make_features(quick: bool) -> Features:
    """Features of the real data."""
    made = features.build(dataset.read([REAL_DATA]), seed=SETTINGS.seed)
    if not quick:
        return made
    return replace(made, training=head(made.training, QUICK_ROWS), validation=head(made.validation, QUICK_ROWS // 8))


def head(examples: Examples, rows: int) -> Examples:
    """The first rows."""
    columns = {name: getattr(examples, name)[:rows] for name in ("aux", "labels", "posted_at", "outlet")}
    return Examples(ids=examples.ids[: examples.offsets[rows]], offsets=examples.offsets[: rows + 1], **columns)


def pad(examples: Examples) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What model.fit takes: inputs and labels, by name."""
    main_input = np.zeros((len(examples), SEQUENCE_LENGTH), np.int32)
    main_input[np.arange(SEQUENCE_LENGTH) < np.diff(examples.offsets)[:, None]] = examples.ids
    return {"main_input": main_input, "aux_input": examples.aux}, dict.fromkeys(OUTPUTS, examples.labels[:, None])


if __name__ == "__main__":
    report.run(main)
