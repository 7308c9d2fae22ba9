"""The operators' port, asked as a probe and a scraper ask."""

import errno
import gzip
import http.client
import logging
import resource
import socket
from contextlib import contextmanager

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from service.web.operators import HttpServer, bind, make_app

PATIENCE = 30  # seconds for what takes moments
SECRET = "Xyzzy-secret"


class State:
    alive = True
    ready = False


@pytest.fixture(scope="module")
def port():
    registry = CollectorRegistry()
    Counter("headlines_test", "A counter", registry=registry).inc(3)
    server = HttpServer("127.0.0.1", 0, make_app(registry, lambda: State.alive, lambda: State.ready, lambda: "v1 is no number"))
    server.start()
    yield server.port
    server.stop()


def ask(port, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request(method, path, headers=headers)
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
    assert ask(port, "/readyz")[:2] == (503, b"v1 is no number\n")
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


ACCEPT = {
    "application/openmetrics-text; version=abc": True,
    "application/openmetrics-text;version=": True,
    "application/openmetrics-text; version=99.0.0": True,
    "application/openmetrics-text;version=1.0.0;escaping=nonsense;q=x": True,
    "APPLICATION/OpenMetrics-Text": True,
    "text/html, application/openmetrics-text": True,
    "text/plain; version=abc": False,
    "text/plain;version=1.0.0.0.0.x;escaping=": False,
    "\xe9\xff;;;=,,,;version": False,
    "*/*": False,
    "": False,
}


@pytest.mark.parametrize("accept", ACCEPT)
def test_any_accept_header_gets_metrics_in_a_format_that_the_answer_names(port, capfd, accept):
    status, body, headers = ask(port, "/metrics", Accept=accept)
    assert status == 200
    if ACCEPT[accept]:
        assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        assert "headlines_test" in {family.name for family in openmetrics(body.decode())}
    else:
        assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "headlines_test" in {family.name for family in text_string_to_metric_families(body.decode())}
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("encodings", "packed"), [("gzip", True), ("br, GZIP;q=0.5", True), ("gzipped", False), ("\xe9;=", False)]
)
def test_metrics_are_packed_for_who_takes_gzip(port, encodings, packed):
    status, body, headers = ask(port, "/metrics", **{"Accept-Encoding": encodings})
    assert (status, headers["Content-Encoding"]) == (200, "gzip" if packed else None)
    assert b"headlines_test_total 3.0" in (gzip.decompress(body) if packed else body)


@pytest.mark.parametrize(
    "query",
    [
        "name[]=",
        "name[]=none",
        "name[]=" + "x" * 8000,
        "&".join(["name[]=x"] * 1000),
        "%",
        "name[]=%ff%00",
        "a=b;c",
        "name[]",
        "?",
    ],
)
def test_any_query_gets_metrics(port, query):
    assert ask(port, f"/metrics?{query}")[0] == 200


def say(port, said):
    """The first line and the body of the answer to these bytes, on a connection of their own."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(said)
        received = connection.makefile("rb").read()
    head, _, body = received.partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0].decode(), body


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.1\n\n", 200),
        (b"\r\n\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"GET /healthz?x=\xe9 HTTP/1.1\r\nX-\xe9: \xff\x85\x00\r\nno colon\r\n folded\r\n: \r\n\r\n", 200),
        (b"GET http://elsewhere.test:80/healthz HTTP/1.1\r\n\r\n", 200),
        (b"GET /%68ealthz HTTP/1.1\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.1\r\n\r\nGET /readyz HTTP/1.1\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 1000 + b"\r\n", 200),
        (b"GET //healthz HTTP/1.1\r\n\r\n", 404),
        (b"GET /%ff%00%zz HTTP/1.1\r\n\r\n", 404),
        (b"GET http://[ HTTP/1.1\r\n\r\n", 404),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 405),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000, 405),
        (b"get /metrics HTTP/1.1\r\n\r\n", 405),
        (b"GET /healthz\r\n", 400),  # HTTP/0.9
        (b"GET  /healthz HTTP/1.1\r\n\r\n", 400),
        (b"GET /health z HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz HTTP/x\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", 400),  # TLS
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),  # gRPC
        (b"GET /" + b"x" * 20_000, 414),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 20_000, 431),
    ],
)
def test_whatever_is_said_gets_one_answer_and_no_traceback(port, capfd, caplog, said, status):
    line, body = say(port, said)
    assert line.startswith(f"HTTP/1.0 {status} ")
    assert body == b"ok\n" if status == 200 else b"\r\n" not in body
    assert capfd.readouterr().err == ""
    assert not caplog.records


def test_what_fails_is_logged_without_its_words_and_answered_in_a_sentence(capfd, caplog):
    def fail():
        raise RuntimeError(SECRET)

    registry = CollectorRegistry()
    Gauge("headlines_fault", "Fails", registry=registry).set_function(fail)
    with serving(registry=registry, alive=fail) as port:
        for path in ("/metrics", "/healthz"):
            assert ask(port, path)[:2] == (500, b"this failed; the server's log says where\n")
        assert ask(port, "/none")[0] == 404
    assert capfd.readouterr().err == ""
    assert [it.levelno for it in caplog.records] == [logging.ERROR] * 2
    for record in caplog.records:
        assert "RuntimeError" in record.traceback
        assert SECRET not in str(vars(record))


# Who says nothing, or takes nothing


@contextmanager
def serving(registry=None, alive=lambda: True, **bounds):
    server = HttpServer("127.0.0.1", 0, make_app(registry or CollectorRegistry(), alive, bool), **bounds)
    server.start()
    try:
        yield server.port
    finally:
        server.stop()


def is_open(connection):
    connection.setblocking(False)
    try:
        return bool(connection.recv(1))
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def test_the_oldest_silent_connection_makes_room_for_a_probe():
    with serving(max_connections=4, seconds=1000) as port:
        silent = [socket.create_connection(("127.0.0.1", port), PATIENCE) for _ in range(10)]
        for _ in range(3):
            assert ask(port, "/healthz")[0] == 200
        for it in silent[:7]:
            assert it.recv(1) == b""
        assert is_open(silent[9])
        silent[9].setblocking(True)
        silent[9].sendall(b"GET /healthz HTTP/1.0\r\n\r\n")  # it may still speak
        assert silent[9].recv(12) == b"HTTP/1.0 200"
        for it in silent:
            it.close()


@pytest.mark.parametrize("dribble", [b"", b"G", b"GET /healthz HTTP/1.0\r\nX: "])
def test_a_connection_that_does_not_end_its_request_is_closed(dribble):
    with serving(seconds=0.2) as port, socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(dribble)
        assert connection.recv(1) == b""
        assert ask(port, "/healthz")[0] == 200


def test_a_connection_that_does_not_take_its_answer_is_closed():
    registry = CollectorRegistry()
    gauge = Gauge("headlines_large", "More than buffers hold", ["x"], registry=registry)
    for n in range(3000):
        gauge.labels(f"{n:04}" + 2000 * "x")
    with serving(registry=registry, seconds=0.5, max_connections=2) as port, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(PATIENCE)
        slow.connect(("127.0.0.1", port))
        slow.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert slow.recv(12) == b"HTTP/1.0 200"
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as silent:
            assert silent.recv(1) == b""  # it came after `slow` was answered, so that one is closed too
        received = 12
        while True:
            try:
                chunk = slow.recv(1 << 20)
            except ConnectionResetError:
                break
            if not chunk:
                break
            received += len(chunk)
        assert received < len(ask(port, "/metrics")[1])


def test_a_probe_gets_through_when_there_is_no_descriptor_left():
    with serving() as port, socket.socket() as silent, socket.socket() as probe, socket.socket() as last:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        filled = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                while True:
                    filled.append(socket.socket())
            for connection in (silent, probe, last):
                connection.settimeout(PATIENCE)
                connection.connect(("127.0.0.1", port))
                if connection is not silent:
                    connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                    assert connection.recv(12) == b"HTTP/1.0 200"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for it in filled:
                it.close()


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
