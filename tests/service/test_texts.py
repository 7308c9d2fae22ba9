"""Legal texts that are as dear as they can be, beside callers with ordinary ones."""

import asyncio
import urllib.request
from unicodedata import combining

import grpc
import pytest

from headlines.v1 import popularity_pb2 as pb
from headlines.v1 import popularity_pb2_grpc

MARKS = sorted(filter(combining, map(chr, range(0x300, 0x370))), key=combining, reverse=True)
TEXTS = {
    "falling marks": ("".join(MARKS) * 40)[:2047],
    "marks that are none themselves": "\u0f81\u0f73\u0316" * 500,
    "letters, kana and a mark": "Q\u0307" + "がa" * 1000,
    "one-letter words": "é" + " a" * 2000,
}


@pytest.mark.parametrize(
    ("text", "headlines", "flags"),
    [
        *(pytest.param(text, 500, (), id=name) for name, text in TEXTS.items()),
        pytest.param("".join(MARKS) * 400, 40, ("--max-text-bytes", "100000"), id="longer than by default"),
    ],
)
async def test_a_lone_caller_goes_before_the_largest_request_of_dear_texts(serve, models, text, headlines, flags):
    with serve(models, "--engine", "litert", *flags) as server:
        server.wait_for("serving version")
        dear = pb.PredictRequest(headlines=[pb.Headline(text=text)] * headlines)
        async with grpc.aio.insecure_channel(server.target) as one, grpc.aio.insecure_channel(server.target) as other:
            stubs = [popularity_pb2_grpc.PopularityServiceStub(channel) for channel in (one, other)]
            cheap = pb.PredictRequest(headlines=[pb.Headline(text="City votes")])
            await asyncio.gather(*(stub.Predict(cheap, timeout=60, wait_for_ready=True) for stub in stubs))
            for _ in range(10):  # on a busy machine this process may not get to ask in time
                large = stubs[0].Predict(dear, timeout=60)
                health = asyncio.create_task(asyncio.to_thread(healthy, server))
                answered = 0
                while not large.done():
                    await stubs[1].Predict(cheap, timeout=60)
                    answered += not large.done()
                assert len((await large).predictions) == headlines
                assert await health
                if answered > 4:  # without a bound on bytes, 500 headlines are two batches, and it never is
                    break
            else:
                pytest.fail("the lone caller was never answered in between")


async def test_what_expands_is_refused_in_a_stream_and_alone(stub):
    request = pb.PredictRequest(headlines=[pb.Headline(text="City"), pb.Headline(text="\ufdfa" * 65)])
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.Predict(request)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "headlines[1].text" in error.value.details()
    assert "\ufdfa" not in error.value.details()

    stream = stub.PredictStream(iter([pb.PredictStreamRequest(id=7, headlines=request.headlines)]))
    (answer,) = [answer async for answer in stream]
    assert answer.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert answer.error.violations[0].field == "headlines[1].text"


def healthy(server):
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/healthz", timeout=30) as answer:
        return answer.status == 200
