"""Both clients, against a server of these tests."""

from concurrent import futures

import grpc
import pytest
from fake_server import Plainly, Raw, Servicer, serving

from headlines.client import Client


@pytest.fixture
def servicer():
    return Servicer()


@pytest.fixture
def target(servicer):
    with serving(servicer) as target:
        yield target


@pytest.fixture(params=[Client, Plainly])
def kind(request):
    return request.param


@pytest.fixture
def client(kind, target):
    with kind(target, token="secret") as client:
        yield client


@pytest.fixture
def raw(kind):
    """A client of a server that answers so."""
    server = grpc.server(futures.ThreadPoolExecutor(8))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()

    def start(**answers):
        server.add_generic_rpc_handlers([Raw(**answers)])
        return kind(f"127.0.0.1:{port}", timeout=5)

    yield start
    server.stop(None).wait()
