"""The operators' port: /metrics, /healthz and /readyz over plain HTTP.

One thread of its own serves all connections, so that it answers also when the event loop does not. Connections, the size of a
request and the time that either side may take are bounded: when the bound on connections is reached, the oldest one that has
not sent its whole request makes room for the new one, so that a probe always gets through.
"""

from __future__ import annotations

import asyncio
import errno
import gzip
import logging
import os
import re
import select
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from service import log

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 64  # a few probes and scrapers; each takes a descriptor
_MAX_REQUEST_BYTES = 16 << 10  # request line and headers
_BACKLOG = 1024  # connections that the kernel holds until they are accepted; a full backlog costs a probe a second
_ACCEPTS = 64  # connections accepted in a row before others are looked at
_LINGER = 1.0  # seconds for a client to take the end of an answer before its connection is closed
_POLL = 0.1  # seconds between two looks at deadlines, and at whether to stop

_SCRAPE = "/metrics"
_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+) (?:https?://[^/? ]*)?([^? ]*)(?:\?([^ ]*))? HTTP/([0-9])\.[0-9]")
_END = re.compile(rb"\n\r?\n")


class Request(NamedTuple):
    """A request's line and headers; a body is never read."""

    method: str
    path: str  # without percent-encoding
    query: str
    headers: Mapping[str, str]  # by name in lower case


class Response(NamedTuple):
    """An answer. Content-Length, and a body that HEAD must not get, are the server's concern."""

    status: HTTPStatus
    body: bytes
    headers: tuple[tuple[str, str], ...]


App = Callable[[Request], Response]


def make_app(
    registry: CollectorRegistry,
    alive: Callable[[], bool],
    ready: Callable[[], bool],
    problem: Callable[[], str] = lambda: "no",
) -> App:
    """The three paths: the registry's metrics, and two questions that are answered by 200 or 503.

    `problem` says why it is not ready, in one line.
    """
    checks = {"/healthz": alive, "/readyz": ready}

    def answer(request: Request) -> Response:
        if request.path != _SCRAPE and request.path not in checks:
            return _text(HTTPStatus.NOT_FOUND, "there are /metrics, /healthz and /readyz")
        if request.method not in {"GET", "HEAD"}:
            return _text(HTTPStatus.METHOD_NOT_ALLOWED, "GET or HEAD it", ("Allow", "GET, HEAD"))
        if request.path in checks:
            if checks[request.path]():
                return _text(HTTPStatus.OK, "ok")
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, problem() if request.path == "/readyz" else "no")
        return _scrape(registry, request)

    return answer


def _scrape(registry: CollectorRegistry, request: Request) -> Response:
    # prometheus-client's own choice of a format fails on a version that is not a number.
    as_openmetrics = "application/openmetrics-text" in _offers(request.headers.get("accept", ""))
    names = parse_qs(request.query).get("name[]")
    collector = registry.restricted_registry(names) if names else registry
    body = openmetrics.generate_latest(collector) if as_openmetrics else generate_latest(collector)  # type: ignore[no-untyped-call]
    content_type = openmetrics.CONTENT_TYPE_LATEST if as_openmetrics else "text/plain; version=0.0.4; charset=utf-8"
    if "gzip" in _offers(request.headers.get("accept-encoding", "")):
        return Response(HTTPStatus.OK, gzip.compress(body), (("Content-Type", content_type), ("Content-Encoding", "gzip")))
    return Response(HTTPStatus.OK, body, (("Content-Type", content_type),))


def _offers(header: str) -> set[str]:
    """What an Accept or Accept-Encoding header lists, without parameters."""
    return {offer.partition(";")[0].strip().lower() for offer in header.split(",")}


def _text(status: HTTPStatus, text: str, *headers: tuple[str, str]) -> Response:
    return Response(status, f"{text}\n".encode(), (("Content-Type", "text/plain; charset=utf-8"), *headers))


class HttpServer:
    """Serves `app` from one thread.

    A client has `seconds` to send its whole request, and as long again to take the answer.
    """

    def __init__(self, host: str, port: int, app: App, seconds: float = 10.0, max_connections: int = MAX_CONNECTIONS) -> None:
        """Open the port; raises OSError if it is taken."""
        self._listener = _listen(host, port)
        self.port: int = self._listener.getsockname()[1]
        self._app = app
        self._seconds = seconds
        self._max_connections = max_connections
        self._connections: dict[int, _Connection] = {}  # by descriptor, the oldest first
        self._scrapes: dict[_Connection, Request] = {}  # not yet answered, the oldest first
        self._accept_after = 0.0
        self._spare = _open_spare()  # given up for a probe when there is no other descriptor
        self._stopping = False
        self._executor = ThreadPoolExecutor(1, "http")

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    def start(self) -> None:
        """Begin to answer."""
        self._served = self._executor.submit(self._serve)

    async def run(self) -> None:
        """Wait until what was started has ended; raises what ended it. Whoever starts a server must watch this."""
        await asyncio.wrap_future(self._served)

    def stop(self) -> None:
        """Stop what was started, without waiting for answers in flight."""
        self._stopping = True
        self._executor.shutdown()
        self.close()

    def close(self) -> None:
        """Close the port."""
        self._listener.close()
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def _serve(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        finally:
            for connection in list(self._connections.values()):
                self._drop(connection)

    def _turn(self) -> None:
        poll = select.poll()  # not epoll, for which each of a flood's connections would cost two more system calls
        if time.monotonic() >= self._accept_after:
            poll.register(self._listener, select.POLLIN)
        for descriptor, it in self._connections.items():
            poll.register(descriptor, _EVENTS[it.state])
        for descriptor, _ in poll.poll(0 if self._scrapes else 1000 * _POLL):
            if connection := self._connections.get(descriptor):
                self._advance(connection)
            elif descriptor == self._listener.fileno():
                self._accept()
        if self._scrapes:  # one a turn, since each takes milliseconds, for which a probe would wait
            scraper, request = next(iter(self._scrapes.items()))
            del self._scrapes[scraper]
            self._answer(scraper, request)
        now = time.monotonic()
        for late in [it for it in self._connections.values() if it.deadline <= now]:
            self._drop(late)
        if self._spare is None:
            self._spare = _open_spare()

    def _accept(self) -> None:
        for attempt in range(_ACCEPTS):
            try:
                accepted, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if attempt > 0:  # without descriptors Linux says so even when no client waits: the next poll knows
                    return
                if error.errno in {errno.EMFILE, errno.ENFILE} and self._free_descriptor():
                    continue
                self._accept_after = time.monotonic() + _POLL  # the listener stays readable: do not spin
                return
            if len(self._connections) >= self._max_connections:
                self._drop_oldest()
            connection = _Connection(accepted, time.monotonic() + self._seconds)
            self._connections[accepted.fileno()] = connection
            self._advance(connection)  # an honest client's request is often there already; then no flood can displace it

    def _free_descriptor(self) -> bool:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
            return True
        if self._connections:
            self._drop_oldest()
            return True
        return False

    def _drop_oldest(self) -> None:
        connections = self._connections.values()
        self._drop(next((it for it in connections if it.state is _State.READING), next(iter(connections))))

    def _drop(self, connection: _Connection) -> None:
        self._scrapes.pop(connection, None)
        del self._connections[connection.socket.fileno()]
        connection.socket.close()

    def _advance(self, connection: _Connection) -> None:
        """Do for a connection what can be done without waiting."""
        try:
            request = connection.advance()
        except _BadRequest as error:
            self._respond(connection, error.response)
        except BlockingIOError:
            pass
        except OSError:  # the client has gone, or has taken its answer
            self._drop(connection)
        except Exception as error:  # else one client would end the port for all
            logger.error("a connection to the HTTP port failed", extra={"traceback": log.redacted_traceback(error)})
            self._drop(connection)
        else:
            if request and request.path == _SCRAPE:
                self._scrapes[connection] = request
            elif request:
                self._answer(connection, request)

    def _answer(self, connection: _Connection, request: Request) -> None:
        try:
            response = self._app(request)
        except Exception as error:
            logger.error("a request to the HTTP port failed", extra={"traceback": log.redacted_traceback(error)})
            response = _text(HTTPStatus.INTERNAL_SERVER_ERROR, "this failed; the server's log says where")
        self._respond(connection, response, with_body=request.method != "HEAD")

    def _respond(self, connection: _Connection, response: Response, with_body: bool = True) -> None:
        connection.respond(response, with_body, time.monotonic() + self._seconds)
        self._advance(connection)


class _State(Enum):
    READING = auto()  # its request
    WAITING = auto()  # for its answer
    SENDING = auto()
    CLOSING = auto()  # all sent; waits for the client to close


_EVENTS = {_State.READING: select.POLLIN, _State.WAITING: 0, _State.SENDING: select.POLLOUT, _State.CLOSING: select.POLLIN}


class _Connection:
    """A client, which is served one request."""

    def __init__(self, accepted: socket.socket, deadline: float) -> None:
        self.socket = accepted
        self.deadline = deadline  # by time.monotonic(); it is closed then
        self.state = _State.READING
        self._received = bytearray()
        self._line: _RequestLine | None = None
        self._unsent = memoryview(b"")

    def advance(self) -> Request | None:
        """Read or send as much as goes at once; the request, when it is whole.

        Raises BlockingIOError when nothing goes, another OSError when the connection has ended, and _BadRequest.
        """
        if self.state is _State.READING:
            return self._read()
        if self.state is _State.SENDING:
            self._unsent = self._unsent[self.socket.send(self._unsent, socket.MSG_DONTWAIT) :]
            if not self._unsent:
                # To close now would reset the connection, and with it the answer, if the client has sent more than was read.
                self.socket.shutdown(socket.SHUT_WR)
                self.state = _State.CLOSING
                self.deadline = min(self.deadline, time.monotonic() + _LINGER)
        elif not self.socket.recv(_MAX_REQUEST_BYTES, socket.MSG_DONTWAIT):
            raise ConnectionAbortedError
        return None

    def respond(self, response: Response, with_body: bool, deadline: float) -> None:
        """Have this to send by then."""
        headers = (*response.headers, ("Content-Length", str(len(response.body))), ("Connection", "close"))
        lines = [f"HTTP/1.0 {response.status.value} {response.status.phrase}", *(": ".join(it) for it in headers), "", ""]
        self._unsent = memoryview("\r\n".join(lines).encode("latin-1") + (response.body if with_body else b""))
        self.state = _State.SENDING
        self.deadline = deadline

    def _read(self) -> Request | None:
        received = self.socket.recv(_MAX_REQUEST_BYTES, socket.MSG_DONTWAIT)
        if not received:
            raise ConnectionAbortedError
        searched = len(self._received)
        self._received += received if searched else received.lstrip(b"\r\n")
        if self._received and not self._received[:1].isalpha():  # such as TLS, which may never send the end of a line
            raise _BadRequest(HTTPStatus.BAD_REQUEST, "the port speaks plain HTTP/1.1")
        if not self._line and (end := self._received.find(b"\n", searched)) >= 0:
            self._line = _parse_line(bytes(self._received[:end]))
        if self._line and (ended := _END.search(self._received, max(0, searched - 3))):
            self.state = _State.WAITING
            return Request(*self._line, _parse_fields(bytes(self._received[: ended.start()])))
        if len(self._received) > _MAX_REQUEST_BYTES:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if self._line else HTTPStatus.REQUEST_URI_TOO_LONG
            raise _BadRequest(status, f"a request's line and headers may take {_MAX_REQUEST_BYTES} bytes")
        return None


class _BadRequest(Exception):
    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.response = _text(status, text)


class _RequestLine(NamedTuple):
    method: str
    path: str
    query: str


def _parse_line(line: bytes) -> _RequestLine:
    matched = _LINE.fullmatch(line.decode("latin-1").rstrip("\r"))
    if not matched:
        raise _BadRequest(HTTPStatus.BAD_REQUEST, "the first line must be such as GET /metrics HTTP/1.1")
    method, path, query, version = matched.groups()
    if version != "1":
        raise _BadRequest(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "the port speaks HTTP/1.0 and HTTP/1.1")
    return _RequestLine(method, unquote(path, "latin-1"), query or "")


def _parse_fields(head: bytes) -> dict[str, str]:
    """The header fields below the request line, by name in lower case."""
    fields = (line.partition(":") for line in head.decode("latin-1").split("\n")[1:])
    return {name.strip().lower(): value.strip() for name, _, value in fields}


def _listen(host: str, port: int) -> socket.socket:
    listener = bind(host, port)
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def bind(host: str, port: int) -> socket.socket:
    """A socket at this address; `::` and `0.0.0.0` are all addresses of IPv4 and IPv6, as they are to gRPC.

    A name that has addresses of both stands for that of IPv4. Raises OSError if the port is taken or the host unknown.
    """
    if host in {"::", "0.0.0.0"}:
        try:
            return _bind(socket.AF_INET6, ("::", port))
        except OSError as error:
            if error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
                raise
        host = "0.0.0.0"  # this machine has no IPv6
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, _, _, _, address = min(found, key=lambda it: it[0] != socket.AF_INET)
    return _bind(family, address)


def _bind(family: int, address: Any) -> socket.socket:  # noqa: ANN401  (of two or four parts)
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _open_spare() -> int | None:
    with suppress(OSError):
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    return None
