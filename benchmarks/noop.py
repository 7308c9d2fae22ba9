"""The floor for gRPC in Python: a server that parses the request and answers constants, on asyncio's own event loop.

benchmarks.serving starts it with the grpcio of REQUIREMENTS, in an environment of its own. By itself it serves with the grpcio
that is there:

    PYTHONPATH=protos python -m benchmarks.noop
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from functools import cache

import grpc

from headlines.v1.popularity_pb2 import DESCRIPTOR, Prediction, PredictRequest, PredictResponse

REQUIREMENTS = ("grpcio==1.81.1", "protobuf==6.33.6")


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


if __name__ == "__main__":
    asyncio.run(serve(predict))
