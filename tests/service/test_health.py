"""Health tells the truth: to a probe, to watchers, before, during and after."""

import asyncio
import shutil

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from in_process import connect, generous, serving

from headlines.v1 import popularity_pb2_grpc
from service.api.health import Health
from service.model import engines
from service.server import Server

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
SERVICES = ["", "headlines.v1.PopularityService"]


def request(service=""):
    return health_pb2.HealthCheckRequest(service=service)


@pytest.fixture
def health(channel):
    return health_pb2_grpc.HealthStub(channel)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_server_with_a_live_version_serves(health, service):
    assert (await health.Check(request(service))).status == SERVING
    watch = health.Watch(request(service))
    assert (await watch.read()).status == SERVING
    watch.cancel()


async def test_an_unknown_service_is_not_found_but_can_be_watched(health):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await health.Check(request("headlines.v2.PopularityService"))
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    watch = health.Watch(request("headlines.v2.PopularityService"))
    assert (await watch.read()).status == SERVICE_UNKNOWN
    watch.cancel()


async def test_bytes_that_are_no_request_are_refused(channel):
    for method in (channel.unary_unary("/grpc.health.v1.Health/Check"), channel.unary_stream("/grpc.health.v1.Health/Watch")):
        call = method(b"\xff\xff")
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await call.details() == "not a valid grpc.health.v1.HealthCheckRequest"


async def test_it_follows_the_versions_on_disk(make_settings, models, tmp_path):
    settings = make_settings(models=tmp_path / "models")
    async with Server(settings, engines.choose("litert")) as server, connect(server) as channel, asyncio.timeout(60):
        health = health_pb2_grpc.HealthStub(channel)
        assert (await health.Check(request())).status == NOT_SERVING  # there is no such directory yet
        watch = health.Watch(request(SERVICES[1]))
        assert (await watch.read()).status == NOT_SERVING
        shutil.copytree(models, settings.models)
        assert (await watch.read()).status == SERVING
        (settings.models / "1.withdrawn").touch()
        assert (await watch.read()).status == NOT_SERVING
        shutil.copytree(models / "1", settings.models / "2")
        assert (await watch.read()).status == SERVING
        assert (await health.Check(request())).status == SERVING


async def test_one_watcher_that_leaves_does_not_silence_the_others(make_settings):
    server = Server(make_settings(), engines.choose("litert"))
    await server.start()
    await serving(server)
    async with connect(server) as channel, asyncio.timeout(60):
        health = health_pb2_grpc.HealthStub(channel)
        watches = [health.Watch(request(service)) for service in SERVICES * 2]
        for watch in watches:
            assert (await watch.read()).status == SERVING
        for watch in watches[:2]:
            watch.cancel()
            assert await watch.code() is grpc.StatusCode.CANCELLED
        stopping = asyncio.create_task(server.stop())
        for watch in watches[2:]:
            assert (await watch.read()).status == NOT_SERVING
            assert await watch.read() is grpc.aio.EOF
            assert await watch.code() is grpc.StatusCode.OK
        await stopping


async def test_it_is_not_serving_from_the_first_moment_of_a_stop_on(make_settings):
    server = Server(make_settings(), engines.choose("litert"))
    await server.start()
    await serving(server)
    async with connect(server) as channel, asyncio.timeout(60):
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(request())
        assert (await watch.read()).status == SERVING
        drain_seconds = await generous(popularity_pb2_grpc.PopularityServiceStub(channel))
        stopping = asyncio.create_task(server.stop(drain_seconds=drain_seconds))
        assert (await watch.read()).status == NOT_SERVING
        assert (await health.Check(request())).status == NOT_SERVING  # the port is still open
        await stopping


async def test_a_watcher_is_told_of_a_stop_that_comes_while_a_message_is_written():
    health = Health([])
    health.set_serving(True)
    messages = health.handlers()["Watch"].unary_stream(b"", None)
    assert (await anext(messages)) == health_pb2.HealthCheckResponse(status=SERVING).SerializeToString()
    health.set_serving(False)
    health.end()
    assert (await anext(messages)) == health_pb2.HealthCheckResponse(status=NOT_SERVING).SerializeToString()
    assert [message async for message in messages] == []
