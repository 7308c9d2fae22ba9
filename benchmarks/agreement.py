"""What is served must be what Keras itself computes.

    python -m benchmarks.agreement [--models models] [--rows 10000]

Rebuilds the network as a Keras model from the exported weights, lets `model.predict` score real headlines, and asks a server
for the same, one by one and in batches of 64, with either engine.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from harness import report
from harness.process import serving, versions
from harness.requests import Question, real_headlines
from headlines.client import AsyncClient, Headline
from service.model import artifact
from service.model import preprocessing as service_preprocessing
from service.model.preprocessing import SEQUENCE_LENGTH, Preprocessor

TOLERANCE = 1e-5
AT_ONCE = 16  # calls under way


def predict_with_keras(models: Path, questions: list[Question]) -> np.ndarray:
    """Main and aux output of each headline, [rows, 2]."""
    from training import export  # loads TensorFlow, which flags need not wait for

    read = artifact.read(versions(models)[0])
    rows = Preprocessor(read.vocabulary, read.info.outlet_levels).encode(
        service_preprocessing.Headline(text, posted_at.timestamp(), outlet) for text, posted_at, outlet in questions
    )
    main_input = np.zeros((len(questions), SEQUENCE_LENGTH), np.int32)
    main_input[np.arange(SEQUENCE_LENGTH) < rows.lengths[:, None]] = rows.ids
    outputs = export.restore(read.path, read.info.settings["merge"]).predict([main_input, rows.aux], batch_size=64, verbose=0)
    return np.hstack([outputs["main_output"], outputs["aux_output"]])


async def predict_with_server(target: str, questions: list[Question], size: int) -> np.ndarray:
    """The same over gRPC, `size` headlines a call."""
    headlines = [Headline(*question) for question in questions]
    gate = asyncio.Semaphore(AT_ONCE)
    async with AsyncClient(target) as client:

        async def ask(start: int) -> list[tuple[float, float]]:
            async with gate:
                predictions = await client.predict(headlines[start : start + size], timeout=60)
            return [prediction[:2] for prediction in predictions]

        parts = await asyncio.gather(*(ask(start) for start in range(0, len(headlines), size)))
    return np.array([row for part in parts for row in part])


def main() -> None:
    """Compare and print a table."""
    parser = report.models_parser(__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    args = parser.parse_args()
    questions = real_headlines(args.rows)
    expected = predict_with_keras(args.models, questions)
    print(f"{len(questions)} real headlines, largest difference from Keras' model.predict")
    table = report.Table("engine", {"headlines a call": "", "main_output": ".1e", "aux_output": ".1e"})
    worst = 0.0
    for engine in ("litert", "tensorflow"):
        with serving(args.models, "--engine", engine) as server:
            for size in (1, 64):
                served = asyncio.run(predict_with_server(server.target, questions, size))
                main_output, aux_output = np.abs(served - expected).max(axis=0)
                worst = max(worst, main_output, aux_output)
                table.row(engine, size, main_output, aux_output)
    if not worst <= TOLERANCE:
        raise report.BrokenError(f"answers differ by {worst:.1e}, more than {TOLERANCE}")


if __name__ == "__main__":
    report.run(main)
