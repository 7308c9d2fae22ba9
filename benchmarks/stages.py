"""Where a request's time goes inside the service: each stage alone, in this process, without gRPC.

    python -m benchmarks.stages [--models models]

Microseconds a headline, the least of several passes over 200 requests with real headlines. `whole handler` is Predict's handler
with all of its stages, the queue, the event loop's turns and the metrics around it; what a server costs beyond it is gRPC's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import uvloop

from harness import report
from harness.process import versions
from harness.requests import make_requests
from service.api import middleware, popularity, wire
from service.batcher import Batcher
from service.budget import Budget
from service.description import ModelDescription
from service.drain import DrainGate
from service.metrics import Metrics
from service.model import artifact, engines
from service.model.preprocessing.rules_1 import split_plain
from service.model.preprocessing.rules_2 import plain
from service.model.version import Version
from service.predictor import Item, Predictor, Result

PASSES = 7
REQUESTS = 200
SIZES = (1, 64)  # headlines a request


def main() -> None:
    """Measure and print a table."""
    parser = report.models_parser(__doc__)
    args = parser.parse_args()
    version = Version.load(artifact.read(versions(args.models)[0]), engines.choose("litert"))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        tables = [runner.run(measure(version, size)) for size in SIZES]
    shown = report.Table("us a headline; headlines a request:", {str(size): ".2f" for size in SIZES}, width=40)
    for name in tables[0]:
        shown.row(name, *(table[name] / size for table, size in zip(tables, SIZES, strict=True)))


async def measure(version: Version, size: int) -> dict[str, float]:
    """Microseconds a request, by stage."""
    metrics = Metrics(4096)
    metrics.went_live(version.number, version.digest, "litert", 0.0)
    batcher: Batcher[Item, Result] = Batcher(capacity=4096, largest_batch=256, executor=None, observer=metrics)

    repository: Any = SimpleNamespace(live=version)
    predictor = Predictor(repository, batcher, observer=metrics.predicted)
    description = ModelDescription(repository, "", predictor.limits, 4 << 20)
    service = popularity.Popularity(predictor, description, stream_age=1.0, gate=DrainGate())
    handlers = middleware.Middleware(metrics, {popularity.SERVICE: service.handlers()}, Budget(64 << 20, 4 << 20))
    details: Any = SimpleNamespace(method=f"/{popularity.SERVICE.full_name}/Predict")
    predict: Any = cast(Any, handlers.service(details)).stream_unary

    raw = make_requests(size)[:REQUESTS]
    messages = [to_messages(it) for it in raw]
    headlines = [wire.headlines(it, time.time()) for it in messages]
    rows = [version.preprocessor.encode(it) for it in headlines]
    columns = [version.predict(it) for it in headlines]
    answers = [it.rows() for it in columns]

    async def call(request: bytes) -> None:
        async def read() -> bytes:
            return request

        context = SimpleNamespace(read=read, peer=str, time_remaining=lambda: 5.0, code=lambda: None)
        await predict(None, context)

    stages = {
        "cut the message into headlines": time_stage(to_messages, raw),
        "decode headlines": time_stage(lambda it: wire.headlines(it, 0.0), messages),
        "words": time_stage(lambda some: split_plain(plain([text for text, _, _ in some])), headlines),
        "ids, time, outlet, arrays": time_stage(version.preprocessor.encode, headlines),
        "engine": time_stage(lambda it: version.model.predict(it.ids, it.lengths, it.aux), rows),
        "predictions from its arrays": time_stage(lambda it: version.predict(it).rows(), headlines),
        "metrics of the predictions": time_stage(
            lambda it: metrics.predicted(version.number, *it), list(zip(headlines, columns, strict=True))
        ),
        "encode the answer": time_stage(lambda it: wire.response(it, 1), answers),
        "whole handler": await time_calls(call, raw),
    }
    # What holds another stage was timed with it.
    stages["predictions from its arrays"] -= stages["ids, time, outlet, arrays"] + stages["engine"]
    stages["ids, time, outlet, arrays"] -= stages["words"]
    rest = stages["whole handler"] - sum(value for name, value in stages.items() if name != "whole handler")
    return {**stages, "of it queue, turns, tasks, counting calls": rest}


def to_messages(raw: bytes) -> Sequence[bytes]:
    """The headlines of a request, each as bytes."""
    return wire.alone(raw) or cast("Sequence[bytes]", wire.PredictRequest.FromString(raw).headlines)


def time_stage(stage: Callable[[Any], object], inputs: Sequence[Any]) -> float:
    """Microseconds a call."""
    passes = []
    for _ in range(PASSES):
        began = time.perf_counter()
        for it in inputs:
            stage(it)
        passes.append(time.perf_counter() - began)
    return min(passes) / len(inputs) * 1e6


async def time_calls(call: Callable[[bytes], Awaitable[None]], inputs: list[bytes]) -> float:
    """Microseconds a call, one after another."""
    passes = []
    for _ in range(PASSES):
        began = time.perf_counter()
        for it in inputs:
            await call(it)
        passes.append(time.perf_counter() - began)
    return min(passes) / len(inputs) * 1e6


if __name__ == "__main__":
    report.run(main)
