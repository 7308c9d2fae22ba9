"""What tritonclient gets, synchronously and asynchronously, as its documentation says; run in a virtual environment of its own.

    python with_tritonclient.py HOST:PORT < HEADLINES, one a line

Prints JSON: each output of both models by both clients, and the descriptors that they bring.
"""

import asyncio
import base64
import json
import sys

import numpy as np
import tritonclient.grpc as client
import tritonclient.grpc.aio as aio
from tritonclient.grpc import model_config_pb2, service_pb2

NAME, ARRAYS = "headline-popularity", "headline-popularity-arrays"
OUTPUTS = ("main_output", "aux_output", "best", "word_count", "unknown_word_count", "outlet_known")
WHEN = 1_464_000_000


def inputs(module, texts):
    values = {
        "headline": np.array([text.encode() for text in texts], np.object_),
        "outlet": np.array([b"gazette"] * len(texts), np.object_),
        "posted_at": np.full(len(texts), WHEN, np.int64),
    }
    made = []
    for name, value in values.items():
        tensor = module.InferInput(name, list(value.shape), "INT64" if name == "posted_at" else "BYTES")
        tensor.set_data_from_numpy(value)
        made.append(tensor)
    return made


def arrays(module):
    ids = np.zeros((3, 100), np.int32)
    ids[:, 40:43] = [[2, 3, 1], [4, 0, 0], [1, 0, 5]]
    aux = np.full((3, 5), 0.5, np.float32)
    made = [module.InferInput("main_input", [3, 100], "INT32"), module.InferInput("aux_input", [3, 5], "FP32")]
    for tensor, value in zip(made, (ids, aux), strict=True):
        tensor.set_data_from_numpy(value)
    return made


def values(result, names):
    return {name: result.as_numpy(name).tolist() for name in names}


def blocking(target, texts):
    with client.InferenceServerClient(target) as server:
        assert server.is_server_live()
        assert server.is_server_ready()
        assert server.is_model_ready(NAME)
        assert not server.is_model_ready("nobody")
        metadata, config = server.get_model_metadata(NAME), server.get_model_config(ARRAYS).config
        outputs = [client.InferRequestedOutput(name) for name in OUTPUTS]
        try:
            server.infer(NAME, inputs(client, [" "]))
            refusal = ""
        except client.InferenceServerException as error:
            refusal = f"{error.status()}: {error.message()}"
        return {
            "inputs": [it.name for it in metadata.inputs],
            "max_batch_size": config.max_batch_size,
            "refusal": refusal,
            "text": values(server.infer(NAME, inputs(client, texts), outputs=outputs, request_id="7"), OUTPUTS),
            "arrays": values(server.infer(ARRAYS, arrays(client), model_version="1"), OUTPUTS[:2]),
        }


async def asynchronous(target, texts):
    async with aio.InferenceServerClient(target) as server:
        text, numbers = await asyncio.gather(server.infer(NAME, inputs(aio, texts)), server.infer(ARRAYS, arrays(aio)))
        return {"text": values(text, OUTPUTS), "arrays": values(numbers, OUTPUTS[:2])}


def main():
    target, texts = sys.argv[1], sys.stdin.read().splitlines()
    files = [base64.b64encode(it.DESCRIPTOR.serialized_pb).decode() for it in (service_pb2, model_config_pb2)]
    found = {"blocking": blocking(target, texts), "asynchronous": asyncio.run(asynchronous(target, texts)), "files": files}
    print(json.dumps(found))


main()
