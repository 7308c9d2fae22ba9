"""How fast the engines compute, by batch and length, beside the plain `serving_default` padded to 100 words.

    python -m benchmarks.engine [--runs 5]

The network has random weights and rows have random words, which changes no time; real lengths are those of the real data
(HEADLINES_REAL_DATA). Every run measures each engine once, in turn; the table shows medians.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from harness import report
from harness.requests import real_headlines
from service.model.artifact import Artifact
from service.model.engines import Model, choose
from service.model.preprocessing import SEQUENCE_LENGTH
from service.model.preprocessing.rules_2 import words

BATCHES = (1, 8, 64, 256, 1024)
WORDS = 10_000  # rows of the network's embedding
LENGTHS = (5, 10, 17, 43, SEQUENCE_LENGTH)
SECONDS = 0.2  # of calls that make one measurement


class Batch:
    """Rows of given lengths, as the engines and as serving_default take them."""

    def __init__(self, lengths: np.ndarray, random: np.random.Generator) -> None:
        self.lengths = lengths.astype(np.int32)
        self.ids = random.integers(1, WORDS, self.lengths.sum(), dtype=np.int32)
        self.aux = random.normal(size=(len(lengths), 5)).astype(np.float32)
        self.padded = np.zeros((len(lengths), SEQUENCE_LENGTH), np.int32)
        self.padded[np.arange(SEQUENCE_LENGTH) < self.lengths[:, None]] = self.ids


def measure(call: Callable[[Batch], object], batches: list[Batch]) -> float:
    """Seconds a batch: all of them in turn, as often as fits."""
    calls = 0
    start = time.perf_counter()
    while calls == 0 or time.perf_counter() - start < SECONDS:
        for batch in batches:
            call(batch)
        calls += len(batches)
    return (time.perf_counter() - start) / calls


def cases(random: np.random.Generator) -> Iterator[tuple[str, int, list[Batch]]]:
    """Name of the lengths, rows a batch, and batches."""
    real = np.array([min(len(words(text)) or 1, SEQUENCE_LENGTH) for text, _, _ in real_headlines()])
    for rows in BATCHES:
        yield "real", rows, [Batch(random.choice(real, rows), random) for _ in range(max(1, 256 // rows))]
    for rows in (1, 64):
        for length in LENGTHS:
            yield f"{length} words", rows, [Batch(np.full(rows, length), random)]
    yield "10 words, one of 100", 64, [Batch(np.array([10] * 63 + [100]), random)]


def compute(model: Model, batch: Any) -> object:  # noqa: ANN401
    """A batch by an engine."""
    return model.predict(batch.ids, batch.lengths, batch.aux)


def main() -> None:
    """Print the table."""
    parser = report.parser(__doc__)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    from training import export  # loads TensorFlow, which flags need not wait for
    from training.model import build

    measured = list(cases(np.random.default_rng(0)))
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        export.export(directory, build())
        files = {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
        serving_default = export.serve(directory)
    version = Artifact(directory, 1, "", files, info=cast(Any, None), vocabulary=["word"] * WORDS, examples=())
    engines: dict[str, Callable[[Any], object]] = {"serving_default": lambda batch: serving_default(batch.padded, batch.aux)}
    for name in ("litert", "tensorflow"):
        model = choose(name).load(version)
        model.warm()
        engines[name] = partial(compute, model)

    columns = {f"{name} {unit}": spec for name in engines for unit, spec in (("ms", ".3f"), ("/s", ",.0f"), ("ratio", ".1f"))}
    table = report.Table("lengths", {"batch": "", **columns}, width=22)
    for lengths, rows, batches in measured:
        runs = [{name: measure(call, batches) for name, call in engines.items()} for _ in range(args.runs)]
        seconds = report.medians(runs)
        plain = seconds["serving_default"]
        table.row(lengths, rows, *(it for took in seconds.values() for it in (took * 1e3, rows / took, plain / took)))


if __name__ == "__main__":
    report.run(main)
