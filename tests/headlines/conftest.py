"""Both clients, against a server of these tests."""

import pytest
from fake_server import Plainly, Servicer, serving

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
