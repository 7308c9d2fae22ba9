"""What both clients share: their settings, their connections, and how a list becomes calls."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable
from itertools import chain
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

import grpc

from headlines.client import settings
from headlines.client.connection import Connection
from headlines.client.errors import (
    ClientError,
    DeadlineExceeded,
    InvalidRequest,
    InvalidSetting,
    Locate,
    ServerError,
    Unavailable,
    refused_from,
    translated,
)
from headlines.client.parts import MAX_BYTES, MAX_EXPLAINED, MAX_HEADLINES, Part, iterable, messages_of, parts_of
from headlines.client.retries import Peer, Retries
from headlines.client.settings import Deadline
from headlines.client.values import Explanation, Headline, Prediction
from headlines.v1.popularity_pb2 import ExplainRequest, ExplainResponse, PredictRequest, PredictResponse

_PARALLEL = 4  # requests of one list that are in flight at a time
NO_ROOM = "the time was up while earlier calls of this client were in flight"
OVERLOAD_TRIES = 5  # of a stream, as many as gRPC makes of another call
INBOX = 16  # responses that wait for the caller, more than a stream has requests without an answer
FINISH_TIMEOUT = 5.0  # seconds for a server to end a stream that it has answered


class Caller:
    """A client's settings and its connections."""

    _library: ClassVar[Any]  # grpc or grpc.aio
    _semaphore: ClassVar[Any]  # threading's or asyncio's

    def __init__(
        self,
        target: str,
        *,
        timeout: float = 5.0,
        tls: bool | grpc.ChannelCredentials = False,
        tls_server_name: str | None = None,
        token: str | None = None,
    ) -> None:
        self._target = settings.target(target)
        self._timeout = settings.seconds(timeout)
        if not self._timeout:
            raise InvalidSetting("timeout: must be above 0 (math.inf: no limit); with 0 every call would be too late")
        self._metadata = settings.metadata(token)
        self._credentials, self._options = settings.credentials(tls, tls_server_name)
        self._peer = Peer()
        self._connections: dict[Any, Connection] = {}
        self._closed = False

    def _connection_of(self, key: Hashable) -> Connection:
        """A connection of gRPC's belongs to what made it: a process, and an event loop."""
        if self._closed:
            raise closed()
        connection = self._connections.get(key)
        if connection and connection.is_stale():
            self._connections.pop(key, None)  # not closed: a call that is in flight may yet be answered
            connection = None
        if connection is None:
            # A proxy between this machine and itself is never meant: those who set http_proxy seldom think of no_proxy.
            options = (*self._options, ("grpc.enable_http_proxy", int(not self._target.is_loopback)))
            made = Connection(self._library, self._semaphore, self._target.name, self._credentials, options)
            connection = self._connections.setdefault(key, made)
        return connection

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self._timeout if timeout is None else settings.seconds(timeout))

    def _stream_deadline(self, timeout: float | None) -> Deadline:
        return Deadline(math.inf if timeout is None else settings.seconds(timeout))

    def _retries(self, deadline: Deadline, overload_tries: int = 1) -> Retries:
        return Retries(deadline, self._peer, self._error, overload_tries)

    def _error(self, error: grpc.RpcError, locate: Locate | None = None) -> ClientError:
        result = translated(error, locate)
        # A proxy that swallows calls looks like a server that does.
        unreached = isinstance(result, Unavailable) or (isinstance(result, DeadlineExceeded) and not self._peer.reached)
        if unreached and (name := self._target.proxy_variable()):
            hint = f"through the proxy that the environment variable {name} names, unless no_proxy excepts the host"
            return type(result)(f"{result} ({hint})")
        return result


def closed() -> ClientError:
    """The error of a call after close()."""
    return ClientError("this client is closed; make a new one")


class _Cancellable(Protocol):
    def cancel(self) -> object: ...


class Call(_Cancellable, Protocol):
    """A call of Predict or Explain in plain code."""

    def result(self) -> Any:  # noqa: ANN401
        """Wait for the response. Raises grpc.RpcError."""


class AsyncCall(_Cancellable, Protocol):
    """A call of Predict or Explain in asynchronous code."""

    def __await__(self) -> Generator[Any, None, Any]: ...


AnyCall = TypeVar("AnyCall", bound=_Cancellable)
Answer = TypeVar("Answer", Prediction, Explanation)
# Gets a request, the seconds to wait before it is sent, and whether it is awaited at once, alone.
Start: TypeAlias = Callable[[Any, float, bool], AnyCall]


def predict(
    start: Start[AnyCall], headlines: Iterable[str | Headline], retries: Retries, one_version: bool
) -> Generator[AnyCall, PredictResponse, list[Prediction]]:
    """The steps of a client's predict: yields each call to wait for, and is sent its response."""
    parts = _parts(headlines, MAX_HEADLINES)
    if one_version and len(parts) > 1:
        raise InvalidRequest(
            f"one_version: these headlines take {len(parts)} requests; "
            f"one holds {MAX_HEADLINES} headlines and {MAX_BYTES:,} bytes"
        )
    return (yield from _ask(start, parts, PredictRequest, Part.predictions, retries))


def explain(
    start: Start[AnyCall], headlines: Iterable[str | Headline], retries: Retries
) -> Generator[AnyCall, ExplainResponse, list[Explanation]]:
    """The steps of a client's explain, as those of predict."""
    return (yield from _ask(start, _parts(headlines, MAX_EXPLAINED), ExplainRequest, Part.explanations, retries))


def _parts(headlines: Iterable[str | Headline], most: int) -> list[Part]:
    indexes, messages, invalid = messages_of(iterable(headlines))
    if invalid:
        violations = [*chain.from_iterable(error.violations for error in invalid.values())]
        raise InvalidRequest("some headlines cannot be sent", violations, min(invalid))
    return list(parts_of(indexes, messages, most))


def _ask(
    start: Start[AnyCall],
    parts: list[Part],
    request: Callable[..., Any],
    answers_of: Callable[[Part, Any], list[Answer]],
    retries: Retries,
) -> Generator[AnyCall, Any, list[Answer]]:
    waiting = deque(parts)
    alone = len(waiting) == 1

    def begun(part: Part, pause: float = 0.0) -> tuple[Part, AnyCall]:
        return part, start(request(headlines=part.messages), pause, alone)

    in_flight: deque[tuple[Part, AnyCall]] = deque()
    answers: list[Answer] = []
    try:
        while waiting or in_flight:
            while waiting and len(in_flight) < _PARALLEL:
                in_flight.append(begun(waiting.popleft()))
            part, call = in_flight[0]
            try:
                response = yield call
            except grpc.RpcError as error:
                at = refused_from(error) if request is ExplainRequest else None
                if at and at < len(part.messages):
                    # How much of the server's limit a headline takes, the server alone knows.
                    first, rest = part.cut(at)
                    in_flight[0] = begun(first)
                    in_flight.insert(1, begun(rest))
                    continue
                if error.code() is grpc.StatusCode.UNIMPLEMENTED and request is ExplainRequest:
                    raise ServerError("this server cannot explain: it is older than this client; update the server") from error
                in_flight[0] = begun(part, retries.pause(error, part.locate))
            else:
                retries.answered()
                answers += answers_of(part, response)
                in_flight.popleft()
    finally:
        for _, call in in_flight:
            call.cancel()
    return answers
