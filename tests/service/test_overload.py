"""Callers who are refused or whose time is up while a server has more to do than it can."""

import asyncio
from concurrent.futures import ThreadPoolExecutor, wait

import grpc
import pytest
from in_process import HeldEngine, running, until

from headlines.client import AsyncClient, Client, DeadlineExceeded
from headlines.v1 import popularity_pb2 as pb
from service import status
from service.errors import Overloaded


def request(headlines):
    return pb.PredictRequest(headlines=[pb.Headline(text="city votes on new park")] * headlines).SerializeToString()


@pytest.mark.parametrize(("seconds", "least", "most"), [(1.0, 500, 1500), (0.0, 20, 20), (60.0, 2000, 2000)])
def test_who_is_refused_is_told_when_to_come_back_and_not_everybody_the_same(seconds, least, most):
    pushbacks = {status.of(Overloaded("the queue is full", seconds)).pushback for _ in range(1000)}
    assert least <= min(pushbacks) <= max(pushbacks) <= most
    assert len(pushbacks) > (most - least) / 4


async def test_many_callers_may_share_a_client(make_settings):
    async with running(make_settings()) as (server, _):
        target = f"127.0.0.1:{server.port}"
        async with AsyncClient(target, timeout=60) as client:
            answers = await asyncio.gather(*(client.predict(["a park"]) for _ in range(400)))
        with Client(target, timeout=60) as client, ThreadPoolExecutor(60) as threads:
            calls = [asyncio.wrap_future(threads.submit(client.predict, ["a park"] * 150)) for _ in range(100)]
            answers += await asyncio.gather(*calls)
        assert sum(map(len, answers)) == 400 + 100 * 150


async def test_a_call_waits_for_room_no_longer_than_its_timeout(make_settings):
    engine = HeldEngine()
    async with running(make_settings(), engine) as (server, _):
        target = f"127.0.0.1:{server.port}"
        async with AsyncClient(target, timeout=60) as client:
            first = [asyncio.ensure_future(client.predict(["a park"])) for _ in range(32)]
            await engine.hold()
            with pytest.raises(DeadlineExceeded, match="earlier calls"):
                await client.predict(["a park"], timeout=0.05)
            engine.go.set()
            assert len(await asyncio.gather(*first)) == 32


async def test_a_call_that_expires_in_grpcs_queue_costs_no_work(make_settings):
    async with running(make_settings()) as (server, _):

        def handled(code):
            labels = {"grpc_type": "unary", "grpc_service": "headlines.v1.PopularityService", "grpc_method": "Predict"}
            return server.metrics.registry.get_sample_value("grpc_server_handled_total", {**labels, "grpc_code": code})

        def call(_):
            with grpc.insecure_channel(f"127.0.0.1:{server.port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
                predict = channel.unary_unary("/headlines.v1.PopularityService/Predict")
                with pytest.raises(grpc.RpcError) as error:
                    predict(request(1), timeout=0.5, wait_for_ready=True)
                assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

        with ThreadPoolExecutor(20) as threads:
            calls = [threads.submit(call, i) for i in range(20)]
            wait(calls)  # the event loop stands still: nobody accepts a call
            for each in calls:
                each.result()
        await until(lambda: handled("DEADLINE_EXCEEDED"))
        await asyncio.sleep(0.2)
        # One that could not connect in time, since the loop stood still, never came.
        assert 0 < handled("DEADLINE_EXCEEDED") <= 20
        assert handled("INVALID_ARGUMENT") == handled("CANCELLED") == handled("OK") == 0
        assert (
            server.metrics.registry.get_sample_value(
                "grpc_server_msg_received_total",
                {"grpc_type": "unary", "grpc_service": "headlines.v1.PopularityService", "grpc_method": "Predict"},
            )
            == 0
        )


def test_a_subclass_of_an_error_has_its_status():
    class QueueTooOld(Overloaded):
        pass

    ending = status.of(QueueTooOld("the queue is too old", 0.5))
    assert ending.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ending.pushback
