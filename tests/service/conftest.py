"""A server in the test's own process."""

import socket
import threading

import pytest
from in_process import connect, serving

from harness.process import ServerProcess, serve
from headlines.v1 import popularity_pb2_grpc
from service.model import engines
from service.server import Server
from service.settings import Settings


@pytest.fixture
def make_settings(models):
    """Settings for a server on free ports; keywords change them."""

    def make(**changes):
        defaults = {"models": models, "port": 0, "http_port": 0, "web": False, "poll_seconds": 0.05, "grace_seconds": 30.0}
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


@pytest.fixture(scope="session")
def served(models):
    """A server that serves version 1, as a process, for all tests that do not change it."""
    with ServerProcess(serve(models, "--engine", "litert")) as server:
        server.set_ports(server.wait_for("listening"))
        server.wait_for("serving version")
        yield server


@pytest.fixture(scope="session")
def target(served):
    """The address of that server."""
    return served.target


class SilentTarget:
    """Takes connections, and says nothing."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.connected = threading.Event()
        self._connections = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self):
        while True:
            connection, _ = self._listener.accept()
            self._connections.append(connection)
            if self.connected.is_set():
                return
            self.connected.set()

    def close(self):
        self.connected.set()
        socket.create_connection(self._listener.getsockname()).close()
        self._thread.join()
        for connection in (*self._connections, self._listener):
            connection.close()


@pytest.fixture
def silent_target():
    target = SilentTarget()
    yield target
    target.close()
