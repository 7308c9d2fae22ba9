"""A server in the test's own process."""

import pytest
from in_process import connect, serving

from headlines.v1 import popularity_pb2_grpc
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
