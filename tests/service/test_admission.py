"""What waits is not held: callers that stay silent or send much, beside callers that want an answer."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2
from in_process import HeldEngine, connect, running

from headlines.v1 import popularity_pb2 as pb
from headlines.v1 import popularity_pb2_grpc

SERVICE = "headlines.v1.PopularityService"
MEBIBYTE = 1 << 20
LARGE = pb.PredictRequest(headlines=[pb.Headline(text="x" * 4000)] * 128).SerializeToString()  # 512,640 bytes
SMALL = pb.PredictRequest(headlines=[pb.Headline(text="City votes on new park")]).SerializeToString()


@pytest.fixture
def narrow(make_settings):
    """Settings with memory for four messages."""
    return make_settings(max_message_bytes=MEBIBYTE, message_memory_bytes=4 * MEBIBYTE)


def reserved(server):
    return server.metrics.registry.get_sample_value("headlines_message_memory_bytes")


def waiting(server):
    return server.metrics.registry.get_sample_value("headlines_messages_waiting")


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def silent_calls(server, method, count):
    """Calls that have begun and send nothing, on a connection of their own; they end with the block."""
    options = [("grpc.use_local_subchannel_pool", 1)]  # else it shares the connection of the test's other channels
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options) as channel:
        calls = [channel.stream_unary(f"/{SERVICE}/{method}")() for _ in range(count)]
        try:
            yield calls
        finally:
            for call in calls:
                call.cancel()


@pytest.mark.parametrize("method", ["Predict", "PredictStream", "Explain", "GetModel"])
async def test_silent_callers_keep_nobody_out(narrow, method):
    async with running(narrow) as (server, stub), silent_calls(server, method, 30):
        await until(lambda: waiting(server))
        for _ in range(3):
            assert (await stub.Predict(pb.PredictRequest.FromString(SMALL))).model_version == 1
        stream = stub.PredictStream(iter([pb.PredictStreamRequest(id=7, headlines=[pb.Headline(text="a park")])]))
        assert [answer.id async for answer in stream] == [7]
        assert reserved(server) <= 4 * MEBIBYTE


async def test_a_silent_stream_ends_only_if_others_wait_and_may_try_again(narrow):
    async with running(narrow) as (server, stub):
        idle = stub.PredictStream()
        await idle.write(pb.PredictStreamRequest(id=1, headlines=[pb.Headline(text="a park")]))
        assert (await idle.read()).id == 1
        await asyncio.sleep(1.5)  # longer than anybody's patience; nobody waits
        await idle.write(pb.PredictStreamRequest(id=2, headlines=[pb.Headline(text="a park")]))
        assert (await idle.read()).id == 2
        async with silent_calls(server, "PredictStream", 8):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await idle.read()
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        again = stub.PredictStream(iter([pb.PredictStreamRequest(id=3, headlines=[pb.Headline(text="a park")])]))
        assert [answer.id async for answer in again] == [3]


async def test_large_messages_are_read_only_as_far_as_there_is_memory(narrow):
    engine = HeldEngine()
    async with running(narrow, engine) as (server, stub), connect(server) as channel:
        predict = channel.unary_unary(f"/{SERVICE}/Predict")
        first = asyncio.ensure_future(stub.Predict(pb.PredictRequest.FromString(SMALL)))
        await engine.hold()
        large = [asyncio.ensure_future(predict(LARGE).code()) for _ in range(30)]
        most = 0
        async with asyncio.timeout(60):
            while not any(call.done() for call in large):  # one that finds no room is refused
                most = max(most, reserved(server))
                await asyncio.sleep(0.005)
        assert 0 < most <= 4 * MEBIBYTE
        engine.go.set()
        codes = set(await asyncio.gather(*large))
        assert grpc.StatusCode.OK in codes
        assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert (await first).model_version == 1
        await until(lambda: not reserved(server))


async def test_streams_hold_at_most_half_of_the_memory(narrow):
    engine = HeldEngine()
    request = pb.PredictStreamRequest(id=1, headlines=[pb.Headline(text="x" * 4000)] * 128)
    async with running(narrow, engine) as (server, stub), connect(server) as channel:
        first = asyncio.ensure_future(stub.Predict(pb.PredictRequest.FromString(SMALL)))
        await engine.hold()
        bulk = popularity_pb2_grpc.PopularityServiceStub(channel)
        streams = [bulk.PredictStream(iter([request] * 3)) for _ in range(10)]
        await until(lambda: waiting(server))
        assert reserved(server) <= 2 * MEBIBYTE + 4096
        small = asyncio.ensure_future(stub.Predict(pb.PredictRequest.FromString(SMALL)))
        engine.go.set()
        assert (await first).model_version == (await small).model_version == 1
        for stream in streams:
            assert [answer.HasField("response") async for answer in stream] == [True] * 3


async def test_health_answers_whatever_the_others_hold(narrow):
    async with running(narrow) as (server, _), connect(server) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        async with silent_calls(server, "Predict", 30):
            await until(lambda: waiting(server))
            assert (await check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await check(health_pb2.HealthCheckRequest(service="x" * 2000))
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("path", [f"/{SERVICE}/Predict", f"/{SERVICE}/GetModel", "/grpc.health.v1.Health/Watch"])
async def test_a_call_that_ends_without_a_message_is_malformed(narrow, path):
    async with running(narrow) as (server, _), connect(server) as channel:
        call = channel.stream_stream(path)(iter(()))
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await call.details() == "the call ended without a message"
