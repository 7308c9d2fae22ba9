"""What is served must be what Keras itself computes.

    python -m benchmarks.agreement [--models models] [--rows 10000] [--other CHECKOUT]

Rebuilds the network as a Keras model from the exported weights, lets `model.predict` score real headlines, and asks a server
for the same, one by one and in batches of 64, with either engine.

With --other, a checkout of another commit (`git worktree add`), its server is asked instead: all real headlines in requests of
64, and the first rows one by one. Answers must be the same bytes. Requests come one after another, so that both servers make
the same batches: an output's last bit may depend on what is computed beside it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np

from harness import report
from harness.process import serving, versions
from harness.requests import Question, make_request, real_headlines
from harness.wire import PREDICT
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


async def answers(target: str, requests: list[bytes]) -> list[bytes]:
    """What a server answers to requests, one after another."""
    async with grpc.aio.insecure_channel(target) as channel:
        predict = cast(Any, channel).unary_unary(PREDICT.decode())
        return [await predict(request) for request in requests]


def compare_with(checkout: Path, models: Path, rows: int) -> None:
    """Ask this server and that of another checkout; raises BrokenError if an answer differs."""
    questions = real_headlines()
    requests = {
        size: [make_request(some[start : start + size]).SerializeToString() for start in range(0, len(some), size)]
        for size, some in ((1, questions[:rows]), (64, questions))
    }
    table = report.Table("engine", {"headlines a call": "", "headlines": ",", "other answers": ""})
    different = 0
    for engine in ("litert", "tensorflow"):
        with serving(models, "--engine", engine) as here, serving(models, "--engine", engine, checkout=checkout) as there:
            for size, some in requests.items():
                answered = [asyncio.run(answers(server.target, some)) for server in (here, there)]
                other = sum(one != another for one, another in zip(*answered, strict=True))
                table.row(engine, size, min(len(some) * size, len(questions)), other)
                different += other
    if different:
        raise report.BrokenError(f"{different} answers are other bytes than those of {checkout}")


def main() -> None:
    """Compare and print a table."""
    parser = report.models_parser(__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--other", type=Path, help="a checkout of another commit, whose answers must be the same bytes")
    args = parser.parse_args()
    if args.other:
        compare_with(args.other, args.models, args.rows)
        return
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
