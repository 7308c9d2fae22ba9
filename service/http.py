"""The operators' port: /metrics, /healthz and /readyz over plain HTTP.

It runs in threads of its own, so that it answers also when the event loop does not.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger(__name__)

_POLL = 0.1  # seconds within which it notices that it shall stop


def make_app(registry: CollectorRegistry, alive: Callable[[], bool], ready: Callable[[], bool]) -> WSGIApplication:
    """The three paths as a WSGI application: the registry's metrics, and two questions that are answered by 200 or 503."""
    metrics = make_wsgi_app(registry)
    checks = {"/healthz": alive, "/readyz": ready}

    def answer(environ: WSGIEnvironment) -> tuple[str, list[tuple[str, str]], bytes]:
        path = environ["PATH_INFO"]
        if path != "/metrics" and path not in checks:
            return _text(HTTPStatus.NOT_FOUND, "there are /metrics, /healthz and /readyz")
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            status, headers, body = _text(HTTPStatus.METHOD_NOT_ALLOWED, "GET or HEAD it")
            return status, [*headers, ("Allow", "GET, HEAD")], body
        if path in checks:
            return _text(HTTPStatus.OK, "ok") if checks[path]() else _text(HTTPStatus.SERVICE_UNAVAILABLE, "no")
        started: list[Any] = []
        body = b"".join(metrics({**environ, "REQUEST_METHOD": "GET"}, lambda *arguments: started.extend(arguments)))
        return started[0], started[1], body

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        status, headers, body = answer(environ)
        start_response(status, [*headers, ("Content-Length", str(len(body)))])
        return [body] if environ["REQUEST_METHOD"] != "HEAD" else []

    return app


def _text(status: HTTPStatus, text: str) -> tuple[str, list[tuple[str, str]], bytes]:
    return f"{status.value} {status.phrase}", [("Content-Type", "text/plain; charset=utf-8")], f"{text}\n".encode()


class HttpServer:
    """Serves a WSGI application from a thread, each connection in one of its own. Raises OSError where the port is taken."""

    def __init__(self, host: str, port: int, app: WSGIApplication) -> None:
        self._server = _Server(bind(host, port))
        self._server.set_app(app)
        self.port: int = self._server.server_address[1]
        self._executor = ThreadPoolExecutor(1, "http")

    def start(self) -> None:
        """Begin to answer."""
        self._served = self._executor.submit(self._server.serve_forever, _POLL)

    async def run(self) -> None:
        """Wait until what was started has ended; raises what ended it. Whoever starts a server must watch this."""
        await asyncio.wrap_future(self._served)

    def stop(self) -> None:
        """Stop what was started, without waiting for answers that are on their way."""
        self._server.shutdown()
        self._executor.shutdown()
        self.close()

    def close(self) -> None:
        """Close the port."""
        self._server.server_close()


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


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, bound: socket.socket) -> None:
        super().__init__(bound.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = bound
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()
        self.server_activate()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002
        logger.debug("a connection to the HTTP port broke", exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = 10  # seconds that a client may take to say what it wants

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401
        logger.debug(format, *args)
