"""What KServe's client gets, as its documentation says; run in a virtual environment of its own.

    python with_kserve.py HOST:PORT < HEADLINES, one a line

Prints JSON: readiness, and each output of the model that takes headlines.
"""

import asyncio
import json
import sys

from kserve import InferenceGRPCClient, InferInput, InferRequest

NAME = "headline-popularity"


async def main():
    target, texts = sys.argv[1], sys.stdin.read().splitlines()
    server = InferenceGRPCClient(target)
    headline = InferInput("headline", [len(texts)], "BYTES", [text.encode() for text in texts])
    outlet = InferInput("outlet", [len(texts)], "BYTES", [b"gazette"] * len(texts))
    posted_at = InferInput("posted_at", [len(texts)], "INT64", [1_464_000_000] * len(texts))
    answer = await server.infer(InferRequest(model_name=NAME, infer_inputs=[headline, outlet, posted_at]))
    ready = [await server.is_server_live(), await server.is_server_ready(), await server.is_model_ready(NAME)]
    outputs = {output.name: output.as_numpy().tolist() for output in answer.outputs}
    print(json.dumps({"ready": ready, "outputs": outputs}))


asyncio.run(main())
