"""What one writes first: a grpc.aio server that calls the plain `serving_default`, padded to 100 words, for each request.

    python -m benchmarks.plain [--models models]

No batching across requests, one call at a time in a thread, so that the event loop goes on.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import grpc
import numpy as np

from harness import report
from harness.process import versions
from headlines.v1.popularity_pb2 import DESCRIPTOR, PredictRequest, PredictResponse
from service.model import artifact
from service.model.preprocessing import SEQUENCE_LENGTH, Headline, Preprocessor


async def serve(models: Path) -> None:
    """Serve on a free port, which is told as the product tells it, until the process is ended."""
    import tensorflow as tf  # takes seconds, which flags need not wait for

    version = artifact.read(versions(models)[0])
    preprocessor = Preprocessor(version.vocabulary, version.info.outlet_levels)
    serving_default = tf.saved_model.load(str(version.path)).signatures["serving_default"]
    thread = ThreadPoolExecutor(1)

    def compute(request: PredictRequest) -> PredictResponse:
        rows = preprocessor.encode(Headline(it.text, it.posted_at.ToSeconds(), it.outlet) for it in request.headlines)
        main_input = np.zeros((len(rows.lengths), SEQUENCE_LENGTH), np.int32)
        main_input[np.arange(SEQUENCE_LENGTH) < rows.lengths[:, None]] = rows.ids
        outputs = serving_default(main_input=tf.constant(main_input), aux_input=tf.constant(rows.aux))
        response = PredictResponse(model_version=version.number)
        for main_output, aux_output in zip(outputs["main_output"].numpy(), outputs["aux_output"].numpy(), strict=True):
            response.predictions.add(main_output=main_output[0], aux_output=aux_output[0])
        return response

    async def predict(request: PredictRequest, context: object) -> PredictResponse:  # noqa: ARG001
        return await asyncio.get_running_loop().run_in_executor(thread, compute, request)

    server = grpc.aio.server()
    service = DESCRIPTOR.services_by_name["PopularityService"].full_name
    handler = grpc.unary_unary_rpc_method_handler(predict, PredictRequest.FromString, PredictResponse.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Predict": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"level": "info", "version": version.number, "port": port, "http_port": 0}), file=sys.stderr, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    report.run(lambda: asyncio.run(serve(report.models_parser(__doc__).parse_args().models)))
