"""The operators' port, asked as a probe and a scraper ask."""

import errno
import http.client
import socket

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from service.http import HttpServer, bind, make_app


class State:
    alive = True
    ready = False


@pytest.fixture(scope="module")
def port():
    registry = CollectorRegistry()
    Counter("headlines_test", "A counter", registry=registry).inc(3)
    server = HttpServer("127.0.0.1", 0, make_app(registry, lambda: State.alive, lambda: State.ready))
    server.start()
    yield server.port
    server.stop()


def ask(port, path, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path)
    response = connection.getresponse()
    answer = response.status, response.read(), response.headers
    connection.close()
    return answer


def test_metrics_are_prometheus_text(port):
    status, body, headers = ask(port, "/metrics?name[]=headlines_test_total")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert families["headlines_test"].samples[0].value == 3


def test_health_and_readiness_follow_the_server(port, monkeypatch):
    assert ask(port, "/healthz")[:2] == (200, b"ok\n")
    assert ask(port, "/readyz")[:2] == (503, b"no\n")
    monkeypatch.setattr(State, "alive", False)
    monkeypatch.setattr(State, "ready", True)
    assert ask(port, "/healthz")[:2] == (503, b"no\n")
    assert ask(port, "/readyz")[:2] == (200, b"ok\n")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metric", "/favicon.ico", "/v1/predict", "/..%2fmetrics"])
def test_other_paths_are_not_there(port, path):
    assert ask(port, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
def test_other_methods_are_refused(port, path, method):
    status, _, headers = ask(port, path, method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/none"])
def test_head_is_get_without_the_body(port, path):
    status, body, headers = ask(port, path)
    assert ask(port, path, "HEAD")[:2] == (status, b"")
    assert ask(port, path, "HEAD")[2]["Content-Length"] == headers["Content-Length"] == str(len(body))


def test_a_slow_client_keeps_nobody_waiting(port):
    with socket.create_connection(("127.0.0.1", port)) as silent, socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(b"GET /metr")
        assert ask(port, "/healthz")[0] == 200
        del silent


def test_what_is_no_http_is_no_matter(port):
    with socket.create_connection(("127.0.0.1", port)) as hostile:
        hostile.sendall(b"\x16\x03\x01\x00\xff\r\n\r\n")
        hostile.recv(1000)
    assert ask(port, "/healthz")[0] == 200


def test_a_taken_port_is_an_error(port):
    with pytest.raises(OSError, match="in use"):
        HttpServer("127.0.0.1", port, make_app(CollectorRegistry(), bool, bool))


def test_it_can_listen_at_an_ipv6_address():
    try:
        server = HttpServer("::1", 0, make_app(CollectorRegistry(), lambda: True, bool))
    except OSError:
        pytest.skip("this machine has no IPv6")
    server.start()
    with socket.create_connection(("::1", server.port)) as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.0 200 OK")
    server.stop()


def without_ipv6():
    try:
        bind("::1", 0).close()
    except OSError:
        return True
    return False


def answers(listener, address):
    with listener:
        listener.listen()
        try:
            socket.create_connection((address, listener.getsockname()[1]), timeout=30).close()
        except ConnectionRefusedError:
            return False
        return True


@pytest.mark.skipif(without_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::", "0.0.0.0"])
def test_all_addresses_are_those_of_both_families_as_they_are_to_grpc(host):
    assert answers(bind(host, 0), "127.0.0.1")
    assert answers(bind(host, 0), "::1")


@pytest.mark.skipif(without_ipv6(), reason="this machine has no IPv6")
def test_one_address_is_that_one_alone():
    assert answers(bind("::1", 0), "::1")
    assert not answers(bind("::1", 0), "127.0.0.1")


@pytest.mark.parametrize("missing", ["family", "address"])
def test_without_ipv6_all_addresses_are_those_of_ipv4(missing, monkeypatch):
    class Socket(socket.socket):
        def __init__(self, family=-1, *arguments, **keywords):
            if missing == "family" and family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "")
            super().__init__(family, *arguments, **keywords)

        def bind(self, address):
            if self.family == socket.AF_INET6:
                raise OSError(errno.EADDRNOTAVAIL, "")
            super().bind(address)

    monkeypatch.setattr(socket, "socket", Socket)
    listener = bind("::", 0)
    assert listener.getsockname()[0] == "0.0.0.0"
    assert answers(listener, "127.0.0.1")


def test_a_name_with_addresses_of_both_families_is_that_of_ipv4(monkeypatch):
    both = [(socket.AF_INET6, 1, 6, "", ("::1", 0, 0, 0)), (socket.AF_INET, 1, 6, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    listener = bind("localhost", 0)
    monkeypatch.undo()
    assert answers(listener, "127.0.0.1")


def test_a_taken_port_is_an_error_whatever_the_family():
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            bind("::", taken.getsockname()[1])


@pytest.mark.skipif(without_ipv6(), reason="this machine has no IPv6")
def test_a_port_that_is_taken_on_ipv6_alone_is_an_error_too():
    with socket.socket(socket.AF_INET6) as taken:
        taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        taken.bind(("::", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            bind("::", taken.getsockname()[1])
