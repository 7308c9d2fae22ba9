"""What one writes first: a grpc.aio server that calls the plain `serving_default`, padded to 100 words, for each request.

    python -m benchmarks.plain [--models models]

No batching across requests, one call at a time in a thread, so that the event loop goes on.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from benchmarks import noop
from harness import report
from harness.process import versions
from headlines.v1.popularity_pb2 import PredictRequest, PredictResponse
from service.model import artifact
from service.model.preprocessing import SEQUENCE_LENGTH, Headline, Preprocessor


async def serve(models: Path) -> None:
    """Load the plain model and serve it."""
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

    await noop.serve(predict, version.number)


if __name__ == "__main__":
    report.run(lambda: noop.run(serve(report.models_parser(__doc__).parse_args().models)))
