"""The web port: predictions, explanations and the model's description as JSON, the page, and the live version's report.

An ASGI application (https://asgi.readthedocs.io) on the server's event loop. It shares admission, limits, drain and tokens with
gRPC.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, MutableMapping
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, NamedTuple, TypeAlias, TypeVar

from service import status
from service.credentials import Tokens
from service.description import ModelDescription
from service.drain import DrainGate
from service.errors import DeadlineExceeded, InvalidRequest, Unauthenticated
from service.hosts import Authority
from service.metrics import Metrics
from service.predictor import Predictor, check_number
from service.repository import Repository
from service.web import messages, openapi, page
from service.web.doors import Doors, is_json

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

SECONDS = 10.0  # to send a body, and to be answered unless Grpc-Timeout says otherwise
MAX_BODY_BYTES = 1 << 20
# Bodies that arrive take memory before anybody knows whether they are worth it. So much of each is free; what is beyond that
# takes from one share for all, so that large ones never keep small ones out.
_FREE_BODY_BYTES = 64 << 10
_BODY_MEMORY_BYTES = 16 << 20
_LINGER = 1.0  # seconds for a client to read a refusal while it still sends its body

_HTTP_CODES = {
    "INVALID_ARGUMENT": HTTPStatus.BAD_REQUEST,
    "UNAUTHENTICATED": HTTPStatus.UNAUTHORIZED,
    "PERMISSION_DENIED": HTTPStatus.FORBIDDEN,
    "NOT_FOUND": HTTPStatus.NOT_FOUND,
    "RESOURCE_EXHAUSTED": HTTPStatus.TOO_MANY_REQUESTS,
    "UNAVAILABLE": HTTPStatus.SERVICE_UNAVAILABLE,
    "DEADLINE_EXCEEDED": HTTPStatus.GATEWAY_TIMEOUT,
    "INTERNAL": HTTPStatus.INTERNAL_SERVER_ERROR,
}
_RETRYABLE = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
_CLIENT_GONE = 499  # as nginx counts it; nobody gets this answer
_TIMEOUT = re.compile(openapi.TIMEOUT)
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_LONGEST_TIMEOUT = 300.0

_JSON = ("Content-Type", "application/json")
_FIXED_HEADERS = (  # of every answer
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
_NO_CONTENT = ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")  # JSON is nothing to show
# The report is a page of its own, with images in it; it runs nothing and asks nobody, whatever wrote it.
_REPORT_POLICY = (
    "Content-Security-Policy",
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox",
)
_REPORT_TYPES = {".html": "text/html; charset=utf-8", ".json": "application/json", ".png": "image/png"}

_Answer = TypeVar("_Answer")


class Response(NamedTuple):
    """An answer."""

    code: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = (_JSON, _NO_CONTENT)


class _Route(NamedTuple):
    name: str  # in metrics
    method: str  # GET is HEAD as well
    answer: Callable[[_Request], Awaitable[Response]]
    needs_token: bool = True


class _Request:
    """A request whose body has not been read."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers = _fields(scope["headers"])  # by name in lower case
        self.unread = "transfer-encoding" in self.headers or self.headers.get("content-length", "0") != "0"
        self._receive = receive

    async def receive(self) -> bytes:
        """The next part of the body. Raises _ClientGone when the client has left."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise _ClientGone
        self.unread = message["more_body"]
        part: bytes = message["body"]
        return part

    async def wait_until_gone(self) -> None:
        """Wait until the client has left."""
        with suppress(_ClientGone):
            while True:
                await self.receive()


class _Refusal(Exception):
    """An answer that is given before the request is looked into."""

    def __init__(self, code: HTTPStatus, status: str, message: str, *headers: tuple[str, str]) -> None:
        super().__init__(message)
        self.response = _failed(code, status, message, *headers)


class _ClientGone(Exception):
    """Nobody waits for the answer."""


class App:
    """The application."""

    def __init__(
        self,
        predictor: Predictor,
        repository: Repository,
        description: ModelDescription,
        *,
        hosts: Collection[Authority],
        gate: DrainGate,
        metrics: Metrics,
        tokens: Tokens | None,
        version: str,
    ) -> None:
        """Set up the routes.

        `hosts` are the names that browsers reach this server by, `tokens` those that all but the page and the API's description
        require, and `version` is the program's.
        """
        self._predictor = predictor
        self._repository = repository
        self._description = description
        self._described = b"", b""  # GetModel's answer as gRPC gives it and as JSON
        self._doors = Doors(hosts)
        self._gate = gate
        self._metrics = metrics
        self._tokens = tokens
        self._openapi = openapi.document(version, predictor.limits, with_tokens=tokens is not None)
        self._body_memory = 0  # bytes of bodies beyond what is free
        self._routes = {
            "/": _Route("/", "GET", self._page, needs_token=False),
            "/openapi.json": _Route("/openapi.json", "GET", self._api, needs_token=False),
            "/v1/model": _Route("/v1/model", "GET", self._model),
            "/v1/predict": _Route("/v1/predict", "POST", self._predict),
            "/v1/explain": _Route("/v1/explain", "POST", self._explain),
        }
        self._report_route = _Route("/report/", "GET", self._report)
        metrics.http_routes([*(it.name for it in self._routes.values()), self._report_route.name])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request. Raises nothing."""
        request = _Request(scope, receive)
        route = self._report_route if request.path.startswith("/report/") else self._routes.get(request.path)
        try:
            response = await self._answer(request, route)
        except _ClientGone:
            self._metrics.http_answered(route.name if route else "unknown", _CLIENT_GONE)
            return
        self._metrics.http_answered(route.name if route else "unknown", response.code)
        await _send(request, response, send)

    async def _answer(self, request: _Request, route: _Route | None) -> Response:
        try:
            self._admit(request, route)
            assert route
            return await route.answer(request)
        except _Refusal as refusal:
            return refusal.response
        except _ClientGone:
            raise
        except Exception as error:
            return _error(status.of(error))

    def _admit(self, request: _Request, route: _Route | None) -> None:
        """Raise _Refusal, or Unauthenticated, unless this request may come in."""
        if reason := self._doors.refusal(request.method, request.headers):
            raise _Refusal(HTTPStatus.FORBIDDEN, "PERMISSION_DENIED", reason)
        if not route:
            paths = ", ".join([*self._routes, self._report_route.name])
            raise _Refusal(HTTPStatus.NOT_FOUND, "NOT_FOUND", f"there are {paths}")
        if request.method not in ({"GET", "HEAD"} if route.method == "GET" else {"POST"}):
            allowed = "GET, HEAD" if route.method == "GET" else "POST"
            raise _Refusal(
                HTTPStatus.METHOD_NOT_ALLOWED, "INVALID_ARGUMENT", f"the method must be {allowed}", ("Allow", allowed)
            )
        if route.method == "POST" and not is_json(request.headers):
            raise _Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "INVALID_ARGUMENT", "the Content-Type must be application/json")
        if route.method == "POST" and request.headers.get("content-encoding", "identity").lower() != "identity":
            raise _Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "INVALID_ARGUMENT", "the body must not be compressed")
        if route.needs_token and self._tokens:
            bearer = request.headers.get("authorization", "")
            if not self._tokens.admit([("authorization", bearer)]):
                raise Unauthenticated("a valid token is missing; send one in the header `Authorization: Bearer TOKEN`")

    async def _page(self, request: _Request) -> Response:  # noqa: ARG002
        return Response(HTTPStatus.OK, page.CONTENT, page.HEADERS)

    async def _api(self, request: _Request) -> Response:  # noqa: ARG002
        return Response(HTTPStatus.OK, self._openapi)

    async def _model(self, request: _Request) -> Response:  # noqa: ARG002
        with self._gate:
            serialized = self._description.serialized()
            if serialized is not self._described[0]:
                self._described = serialized, messages.described(serialized)
            return Response(HTTPStatus.OK, self._described[1])

    async def _report(self, request: _Request) -> Response:
        live = self._repository.live
        name = request.path.removeprefix("/report/") or "index.html"
        content = live.report.get(name) if live else None
        if content is None:
            raise _Refusal(HTTPStatus.NOT_FOUND, "NOT_FOUND", "the live version has no such page in its report")
        kind = _REPORT_TYPES.get(name[name.rfind(".") :], "application/octet-stream")
        return Response(HTTPStatus.OK, content, (("Content-Type", kind), _REPORT_POLICY))

    async def _predict(self, request: _Request) -> Response:
        async def predict(body: bytes, deadline: float) -> bytes:
            headlines = messages.headlines(body)
            check_number(len(headlines), messages.MAX_HEADLINES)
            with self._predictor.admit(len(headlines), deadline) as admission:
                return messages.predicted(await self._predictor.predict(headlines, admission))

        return await self._handle(request, predict)

    async def _explain(self, request: _Request) -> Response:
        async def explain(body: bytes, deadline: float) -> bytes:
            return messages.explained(await self._predictor.explain(messages.headlines(body), deadline))

        return await self._handle(request, explain)

    async def _handle(self, request: _Request, handler: Callable[[bytes, float], Coroutine[Any, Any, bytes]]) -> Response:
        """Read the body and have it answered in time, as long as the client waits for it."""
        with self._gate:
            seconds = _timeout(request.headers)
            body = await self._read(request)
            deadline = asyncio.get_running_loop().time() + seconds
            try:
                async with asyncio.timeout_at(deadline):
                    return Response(HTTPStatus.OK, await _unless_gone(handler(body, deadline), request))
            except TimeoutError:
                raise DeadlineExceeded("the deadline passed before the request was answered") from None

    async def _read(self, request: _Request) -> bytes:
        """The body. Raises _Refusal if it is too large, or not here in time."""
        length = request.headers.get("content-length", "")
        too_large = _Refusal(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "INVALID_ARGUMENT", f"the body may have {MAX_BODY_BYTES} bytes"
        )
        if length.isdecimal() and (len(length) > 10 or int(length) > MAX_BODY_BYTES):
            raise too_large
        body = bytearray()
        taken = 0  # of the memory for all
        try:
            async with asyncio.timeout(SECONDS):
                while True:
                    body += await request.receive()
                    if len(body) > MAX_BODY_BYTES:
                        raise too_large
                    more = max(0, len(body) - _FREE_BODY_BYTES) - taken
                    if self._body_memory + more > _BODY_MEMORY_BYTES:
                        raise _Refusal(
                            HTTPStatus.TOO_MANY_REQUESTS,
                            "RESOURCE_EXHAUSTED",
                            "too many large bodies arrive at once",
                            ("Retry-After", "1"),
                        )
                    self._body_memory += more
                    taken += more
                    if not request.unread:
                        return bytes(body)
        except TimeoutError:
            raise _Refusal(
                HTTPStatus.REQUEST_TIMEOUT, "DEADLINE_EXCEEDED", f"the body must be here within {SECONDS:g} s"
            ) from None
        finally:
            self._body_memory -= taken


async def _unless_gone(answer: Coroutine[Any, Any, _Answer], request: _Request) -> _Answer:
    """Wait for an answer. Raises _ClientGone, and cancels it, if the client leaves before."""
    answering = asyncio.ensure_future(answer)
    leaving = asyncio.ensure_future(request.wait_until_gone())
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise _ClientGone
        return answering.result()
    finally:
        answering.cancel()
        leaving.cancel()


async def _send(request: _Request, response: Response, send: Send) -> None:
    """Send an answer; a client that still sends a body which nobody reads gets a moment to see it."""
    unread = request.unread
    length = ("Content-Length", str(len(response.body)))
    headers = [*_FIXED_HEADERS, *response.headers, ("Date", formatdate(usegmt=True)), length]
    if unread:
        headers.append(("Connection", "close"))
    encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": int(response.code), "headers": encoded})
    await send({"type": "http.response.body", "body": response.body, "more_body": unread})
    if unread:
        # To close now would reset the connection, and with it the answer, if more has come than was read.
        with suppress(TimeoutError, _ClientGone):
            async with asyncio.timeout(_LINGER):
                while request.unread:
                    await request.receive()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _fields(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Header fields by name in lower case; of one that is there twice, both with a comma, which no rule lets pass."""
    fields: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        fields[key] = f"{fields[key]}, {text}" if key in fields else text
    return fields


def _timeout(headers: Mapping[str, str]) -> float:
    """Seconds to answer in, as Grpc-Timeout says. Raises InvalidRequest if it says nothing of the kind."""
    given = headers.get("grpc-timeout")
    if given is None:
        return SECONDS
    if not (matched := _TIMEOUT.fullmatch(given)):
        raise InvalidRequest("Grpc-Timeout must be at most eight digits and a unit of H, M, S, m, u and n, such as 500m")
    return min(int(matched[1]) * _UNITS[matched[2]], _LONGEST_TIMEOUT)


def _failed(code: HTTPStatus, status: str, message: str, *headers: tuple[str, str]) -> Response:
    return Response(code, messages.failed(code, status, message), (_JSON, _NO_CONTENT, *headers))


def _error(ending: status.Status) -> Response:
    code = _HTTP_CODES[ending.code.name]
    headers = [_JSON, _NO_CONTENT]
    if code in _RETRYABLE:
        seconds = ending.pushback / 1000 if ending.pushback is not None else 1.0
        headers.append(("Retry-After", str(max(1, math.ceil(seconds)))))
    if code == HTTPStatus.UNAUTHORIZED:
        headers.append(("WWW-Authenticate", "Bearer"))
    body = messages.failed(code, ending.code.name, ending.message, ending.violations)
    return Response(code, body, tuple(headers))
