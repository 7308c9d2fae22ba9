"""More than a server can do: overload.py, cancels.py and bulk.py in short, with what they promise but for times."""

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager

import grpc
import pytest
from in_process import HeldEngine, running, until

from harness.load import OK, open_loop
from headlines.client import AsyncClient, Client, DeadlineExceeded
from headlines.v1 import popularity_pb2 as pb
from service.api import status
from service.errors import Overloaded
from tests.resilience import bulk, cancels, overload


def request(headlines):
    return pb.PredictRequest(headlines=[pb.Headline(text="city votes on new park")] * headlines).SerializeToString()


@pytest.fixture
def serving(models, serve):
    """A server with a live version, which logs no error."""

    @contextmanager
    def start(*flags):
        with serve(models, "--engine", "litert", *flags) as server:
            server.wait_for("serving version")
            yield server
        assert '"level": "error"' not in server.output

    return start


@pytest.mark.parametrize(("headlines", "rate"), [(1, 20_000), (1024, 500)])
def test_an_overload_is_refused_as_documented_and_health_is_answered(serving, headlines, rate):
    with serving("--max-streams", 16) as server, overload.feeling_pulse(server, timeout=60) as pulse:
        load = open_loop(server.target, [request(headlines)], headlines, rate, 4, 0.5, deadline=3)
    assert load.statuses[OK]
    assert set(load.statuses) - {OK} <= overload.REFUSALS
    assert load.statuses.total() == rate / 2
    assert pulse.health
    assert pulse.metrics
    assert not pulse.problems


def test_callers_that_give_up_leave_nothing_in_the_queue(serving):
    with serving() as server:
        statuses = cancels.give_up_at_random(server.target, [request(1)], [request(300)], 3000, random.Random(0))
        assert cancels.wait_until_empty(server)
    assert statuses.total() == 3000
    assert set(statuses) == {"OK", "CANCELLED"}


def test_bulk_streams_refuse_no_interactive_call(serving):
    requests = [bulk.to_stream(request(128))]
    with serving() as server:
        outcome = bulk.ask_beside(server.target, [request(1)], requests, streams=5, seconds=0.5)
    assert outcome.latencies
    assert outcome.streamed
    assert not outcome.problems


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
