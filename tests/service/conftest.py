"""A server in the test's own process, for what a process cannot show."""

import asyncio

import grpc
import pytest

from headlines.v1 import popularity_pb2, popularity_pb2_grpc
from service import engines
from service.config import Settings
from service.server import Server


@pytest.fixture
def make_settings(models):
    """Settings for a server on free ports; keywords change them."""

    def make(**changes):
        defaults = {"models": models, "port": 0, "http_port": 0, "poll_seconds": 0.05, "grace_seconds": 30.0}
        return Settings(**{**defaults, **changes})

    return make


@pytest.fixture
async def server(make_settings):
    async with Server(make_settings(), engines.choose("litert")) as server:
        await serving(server)
        yield server


@pytest.fixture
async def channel(server):
    async with connect(server) as channel:
        yield channel


@pytest.fixture
def stub(channel):
    return popularity_pb2_grpc.PopularityServiceStub(channel)


def connect(server):
    return grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=[("grpc.enable_retries", 0)])


async def serving(server):
    """Wait until a version is live."""
    async with connect(server) as channel, asyncio.timeout(60):
        model = popularity_pb2_grpc.PopularityServiceStub(channel)
        while not (await model.GetModel(popularity_pb2.GetModelRequest())).version:
            await asyncio.sleep(0.01)
