"""The floor for gRPC in Python: a server that parses the request and answers constants, on the service's own grpcio and loop.

PYTHONPATH=protos python -m benchmarks.noop
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Coroutine
from functools import cache
from typing import Any

import grpc
import uvloop

from headlines.v1.popularity_pb2 import DESCRIPTOR, Prediction, PredictRequest, PredictResponse


@cache
def response(headlines: int) -> PredictResponse:
    """The answer to so many headlines."""
    prediction = Prediction(main_output=0.5, aux_output=0.5, word_count=10, unknown_word_count=1, outlet_known=True)
    return PredictResponse(predictions=[prediction] * headlines, model_version=1)


async def predict(request: PredictRequest, context: object) -> PredictResponse:  # noqa: ARG001
    """Answer."""
    return response(len(request.headlines))


async def serve(predict: Callable[[PredictRequest, object], Awaitable[PredictResponse]], version: int = 1) -> None:
    """Serve on a free port, which is told as the product tells it, until the process is ended."""
    server = grpc.aio.server()
    service = DESCRIPTOR.services_by_name["PopularityService"].full_name
    handler = grpc.unary_unary_rpc_method_handler(predict, PredictRequest.FromString, PredictResponse.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Predict": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"level": "info", "version": version, "port": port, "http_port": 0}), file=sys.stderr, flush=True)
    await server.wait_for_termination()


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a server on the loop that the service has."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


if __name__ == "__main__":
    run(serve(predict))
