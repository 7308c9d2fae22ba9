"""Ask a headline popularity service, from plain or from asynchronous code.

    from headlines.client import Client, Headline

    with Client("127.0.0.1:50051") as client:
        for prediction in client.predict(["Storm closes every school", Headline("Cup final tonight", outlet="bbcnews")]):
            print(f"{prediction.best:.0%}")

`AsyncClient` is the same with `await`. What goes wrong is one of these:

ClientError
├── InvalidRequest      a headline is malformed; names each field by the caller's own index
├── Overloaded          the server's queue is full, and stayed so
├── DeadlineExceeded    the time was up
├── Unavailable         no server can be reached, or it has no model
├── Unauthenticated     the token is missing or wrong
└── ServerError         anything else
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import threading
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from functools import partial
from itertools import chain, islice
from queue import SimpleQueue
from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from google.rpc.error_details_pb2 import BadRequest
from grpc_status import rpc_status

from headlines.v1 import popularity_pb2
from headlines.v1.popularity_pb2 import (
    GetModelRequest,
    GetModelResponse,
    PredictRequest,
    PredictResponse,
    PredictStreamRequest,
    PredictStreamResponse,
)
from headlines.v1.popularity_pb2_grpc import PopularityServiceStub

# What every server accepts in one request, whatever its own limits are.
MAX_HEADLINES = 128
MAX_BYTES = 2**20 - 16  # of headlines; the rest is for the id of a stream's request

_FRAME = 4  # bytes that a message of at most MAX_BYTES takes inside another, besides its own
_PARALLEL = 4  # requests of one list that are under way at a time
_WINDOW = 4  # requests of one stream without an answer: two inside the server, two on their way to it
_ATTEMPTS = 5  # as many as gRPC's own retries allow
_RETRIED = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,  # a server that stops says so for calls that it never began
)
# Calls of Predict at once; more wait in the client. A server refuses what is beyond its limit of calls a connection, and counts
# those too that it has just answered: with a limit of 48 a third of 200 at once failed, whatever the retries.
_CALLS = 32
_SERVICE = "headlines.v1.PopularityService"
_NO_ROOM = "the time was up while earlier calls of this client were under way"
_OPTIONS = (
    (
        "grpc.service_config",
        json.dumps(
            {
                "loadBalancingConfig": [{"round_robin": {}}],
                "methodConfig": [
                    {
                        # Not PredictStream: gRPC would hold back what was sent, and what is left to do is known better here.
                        "name": [{"service": _SERVICE, "method": "Predict"}, {"service": _SERVICE, "method": "GetModel"}],
                        "retryPolicy": {
                            "maxAttempts": _ATTEMPTS,
                            "initialBackoff": "0.1s",
                            "maxBackoff": "1s",
                            "backoffMultiplier": 2,
                            "retryableStatusCodes": [code.name for code in _RETRIED],
                        },
                    }
                ],
                # One retry for ten answers in the long run: an overloaded server is not fed with retries.
                "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
            }
        ),
    ),
    ("grpc.use_local_subchannel_pool", 1),  # else all clients of a process share one connection, and its limit of calls
    ("grpc.keepalive_time_ms", 30_000),  # a connection that died without a word is noticed
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)


class Headline(NamedTuple):
    """A headline as a newsroom would post it."""

    text: str
    posted_at: datetime | None = None  # with its zone; None: now, by the server's clock
    outlet: str = ""  # the account, as the training data named it; empty: none


class Prediction(NamedTuple):
    """How popular one headline will be, as probabilities."""

    main_output: float  # judged by words, time and outlet
    aux_output: float  # judged by the words alone
    word_count: int
    unknown_word_count: int  # of these, how many the model does not know
    outlet_known: bool  # false also where none was named
    model_version: int

    @property
    def best(self) -> float:
        """The better number: `main_output`, or `aux_output` where the model does not know the outlet."""
        return self.main_output if self.outlet_known else self.aux_output


class FieldViolation(NamedTuple):
    """One field that is wrong."""

    field: str  # its path in what the caller passed, such as headlines[3].text
    description: str  # what is wrong and what would be right


class ClientError(Exception):
    """Root of all errors that a client raises on purpose."""


class InvalidRequest(ClientError):
    """What was asked is malformed."""

    def __init__(self, message: str, violations: Sequence[FieldViolation] = ()) -> None:
        super().__init__(message)
        self.violations = tuple(violations)

    def __str__(self) -> str:
        shown = [f"{violation.field}: {violation.description}" for violation in self.violations[:3]]
        rest = len(self.violations) - len(shown)
        return "; ".join([*shown, f"and {rest} more"] if rest else shown) or super().__str__()


class Overloaded(ClientError):
    """The server's queue is full, and stayed so while the client tried again."""


class DeadlineExceeded(ClientError):
    """The time was up before all answers were there."""


class Unavailable(ClientError):
    """No server can be reached, or it serves no model."""


class Unauthenticated(ClientError):
    """The token is missing or wrong."""


class ServerError(ClientError):
    """The server failed, or is no headline popularity service."""


_ERRORS: dict[grpc.StatusCode, type[ClientError]] = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class _Caller:
    """What both clients share: the connection, and what goes with each call."""

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
        self._timeout = timeout
        self._room = self._semaphore(_CALLS)
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        options = (*_OPTIONS, ("grpc.ssl_target_name_override", tls_server_name)) if tls_server_name else _OPTIONS
        if tls:
            credentials = grpc.ssl_channel_credentials() if tls is True else tls
            self._channel = self._library.secure_channel(target, credentials, options)
        else:
            self._channel = self._library.insecure_channel(target, options)
        self._stub = PopularityServiceStub(self._channel)
        # The base install lacks the messages of grpc.health.v1; a string and a number have the same bytes.
        self._check = self._channel.unary_unary(
            "/grpc.health.v1.Health/Check", StringValue.SerializeToString, Int32Value.FromString
        )

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else timeout

    def _terms(self, timeout: float | None) -> dict[str, Any]:
        return {"timeout": self._seconds(timeout), "metadata": self._metadata}


class Client(_Caller):
    """A service's client for plain code; threads may share it.

        with Client("news.example:443", tls=True, token="...") as client:
            [prediction] = client.predict(["Storm closes every school"])

    `target` is host:port, or any gRPC name: `dns:///host:port` calls all addresses of the host in turn.

    `timeout` is in seconds and holds for a whole call of a method, all tries included, unless that call names its own.
    `tls` is true for the usual authorities, or `grpc.ssl_channel_credentials(...)` for others and for a certificate of the
    caller's own; `tls_server_name` is the name in the server's certificate, where that is not the target's host. `token`
    goes with every call as `authorization: Bearer`; without TLS, whoever is on the way can read it.
    """

    _library: ClassVar[Any] = grpc
    _semaphore: ClassVar[Any] = threading.Semaphore

    def predict(
        self, headlines: Iterable[str | Headline], *, timeout: float | None = None, one_version: bool = False
    ) -> list[Prediction]:
        """One prediction a headline, in the same order.

        More than MAX_HEADLINES headlines or MAX_BYTES are sent as several requests, some at a time; these may meet
        different model versions when the server changes to a new one. `one_version` refuses what needs several. A client has
        at most 32 requests under way; others wait for these, as long as the timeout allows.

        Raises ClientError; TypeError for what is no headline.
        """
        return _run(_predict(self._start, headlines, self._seconds(timeout), one_version))

    def predict_stream(
        self, headlines: Iterable[str | Headline], *, timeout: float | None = None
    ) -> Iterator[Prediction | InvalidRequest]:
        """One answer a headline, in the same order, for any number of headlines; they are taken as there is room for them.

            for answer in client.predict_stream(headlines):
                if isinstance(answer, Prediction): ...

        A malformed headline is answered by an InvalidRequest and harms no other. When the connection ends, what has no
        answer is sent again over a new one. `timeout` is for everything together; None: no limit.

        Raises ClientError where no further answer is to be had; TypeError for what is no headline.
        """
        bulk = _Bulk(timeout)
        source = iter(_iterable(headlines))
        stream = None
        try:
            while bulk.fill(source):
                if bulk.waits:
                    stream = stream or _Stream(self._stub.PredictStream, bulk.time_left(), self._metadata)
                    try:
                        for request in bulk.requests():
                            stream.write(request)
                        bulk.receive(stream.read())
                    except grpc.RpcError as error:
                        stream.cancel()
                        stream = None
                        time.sleep(bulk.interrupted(error))
                yield from bulk.answers()
            if stream:
                stream.finish()
        finally:
            if stream:
                stream.cancel()

    def model(self, *, timeout: float | None = None) -> GetModelResponse:
        """What is served, as popularity.proto describes it; `version` is 0 where no model is. Raises ClientError."""
        with _translated():
            response: GetModelResponse = self._stub.GetModel(GetModelRequest(), **self._terms(timeout))
            return response

    def health(self, *, timeout: float | None = None) -> bool:
        """Whether the server says that it can answer. Raises Unavailable where none is reached, and other ClientErrors."""
        with _translated():
            return _is_serving(self._check(StringValue(), **self._terms(timeout)))

    def close(self) -> None:
        """End the connection, and all calls."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, request: PredictRequest, timeout: float, alone: bool) -> _Call:
        if alone:
            return _Blocking(partial(self._call, request, timeout))
        call = self._stub.Predict.future(request, **self._terms(self._enter(timeout)))
        call.add_done_callback(lambda _: self._room.release())
        return cast(_Call, call)

    def _call(self, request: PredictRequest, timeout: float) -> PredictResponse:
        left = self._enter(timeout)
        try:
            response: PredictResponse = self._stub.Predict(request, **self._terms(left))
            return response
        finally:
            self._room.release()

    def _enter(self, timeout: float) -> float:
        """Wait until there is room for a call; the seconds that are left for it."""
        deadline = time.monotonic() + timeout
        if not self._room.acquire(timeout=timeout):
            raise DeadlineExceeded(_NO_ROOM)
        return max(0.0, deadline - time.monotonic())


class AsyncClient(_Caller):
    """`Client` for asynchronous code, for one event loop: the same parameters, methods and errors.

    async with AsyncClient("news.example:443", tls=True, token="...") as client:
        [prediction] = await client.predict(["Storm closes every school"])

    """

    _library: ClassVar[Any] = grpc.aio
    _semaphore: ClassVar[Any] = asyncio.Semaphore

    async def predict(
        self, headlines: Iterable[str | Headline], *, timeout: float | None = None, one_version: bool = False
    ) -> list[Prediction]:
        """As Client.predict."""
        return await _run_async(_predict(self._start, headlines, self._seconds(timeout), one_version))

    async def predict_stream(
        self, headlines: Iterable[str | Headline] | AsyncIterable[str | Headline], *, timeout: float | None = None
    ) -> AsyncIterator[Prediction | InvalidRequest]:
        """As Client.predict_stream, with `async for`; `headlines` may be asynchronous too."""
        bulk = _Bulk(timeout)
        source = aiter(headlines if isinstance(headlines, AsyncIterable) else _asynchronous(_iterable(headlines)))
        stream = None
        try:
            while await bulk.fill_async(source):
                if bulk.waits:
                    stream = stream or self._stub.PredictStream(timeout=bulk.time_left(), metadata=self._metadata)
                    try:
                        for request in bulk.requests():
                            if not stream.done():  # else read() tells why
                                await stream.write(request)
                        bulk.receive(await stream.read())
                    except grpc.RpcError as error:
                        stream.cancel()
                        stream = None
                        await asyncio.sleep(bulk.interrupted(error))
                for answer in bulk.answers():
                    yield answer
            if stream:
                await stream.done_writing()
                await stream.code()
        finally:
            if stream:
                stream.cancel()

    async def model(self, *, timeout: float | None = None) -> GetModelResponse:
        """As Client.model."""
        with _translated():
            response: GetModelResponse = await self._stub.GetModel(GetModelRequest(), **self._terms(timeout))
            return response

    async def health(self, *, timeout: float | None = None) -> bool:
        """As Client.health."""
        with _translated():
            return _is_serving(await self._check(StringValue(), **self._terms(timeout)))

    async def close(self) -> None:
        """As Client.close."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _start(self, request: PredictRequest, timeout: float, alone: bool) -> _AsyncCall:  # noqa: ARG002
        call = asyncio.ensure_future(self._call(request, timeout))
        call.add_done_callback(lambda call: call.cancelled() or call.exception())  # nobody waits for it where an earlier failed
        return call

    async def _call(self, request: PredictRequest, timeout: float) -> PredictResponse:
        deadline = time.monotonic() + timeout
        try:
            async with asyncio.timeout(timeout):
                await self._room.acquire()
        except TimeoutError:
            raise DeadlineExceeded(_NO_ROOM) from None
        try:
            response: PredictResponse = await self._stub.Predict(request, **self._terms(max(0.0, deadline - time.monotonic())))
            return response
        finally:
            self._room.release()


class _Cancellable(Protocol):
    def cancel(self) -> object: ...


class _Call(_Cancellable, Protocol):
    def result(self) -> PredictResponse: ...


class _AsyncCall(_Cancellable, Protocol):
    def __await__(self) -> Generator[Any, None, PredictResponse]: ...


AnyCall = TypeVar("AnyCall", bound=_Cancellable)
H = TypeVar("H")


class _Blocking(NamedTuple):
    """A call that is made when it is waited for, in the waiting thread: that takes 0.13 ms less than gRPC's futures."""

    result: Callable[[], PredictResponse]

    def cancel(self) -> None:
        pass


class _Stream:
    """One call of PredictStream in plain code, with the methods that grpc.aio's have."""

    def __init__(self, method: Callable[..., Any], timeout: float | None, metadata: tuple[tuple[str, str], ...]) -> None:
        self._requests: SimpleQueue[PredictStreamRequest | None] = SimpleQueue()
        self._call = method(iter(self._requests.get, None), timeout=timeout, metadata=metadata)
        self.write = self._requests.put

    def read(self) -> PredictStreamResponse | None:
        """The next answer; None at the end. Raises grpc.RpcError."""
        return next(self._call, None)

    def finish(self) -> None:
        """Let the server end the stream: one that is cancelled counts as a failure there."""
        self._requests.put(None)
        self._call.code()

    def cancel(self) -> None:
        """End the stream, and the thread in which gRPC waits for requests."""
        self._requests.put(None)
        self._call.cancel()


class _Part(NamedTuple):
    """What goes into one request."""

    indexes: Sequence[int]  # where its headlines stand in what the caller passed
    messages: Sequence[popularity_pb2.Headline]

    def predictions(self, response: PredictResponse) -> list[Prediction]:
        if len(response.predictions) != len(self.messages):
            raise ServerError(
                f"the server answered {len(self.messages)} headlines with {len(response.predictions)} predictions"
            )
        return [
            Prediction(p.main_output, p.aux_output, p.word_count, p.unknown_word_count, p.outlet_known, response.model_version)
            for p in response.predictions
        ]

    def locate(self, violation: popularity_pb2.FieldViolation) -> tuple[int | None, FieldViolation]:
        """Which headline of this part is wrong, and how, by its place in what the caller passed."""
        field, description = violation.field, violation.description
        found = re.match(r"headlines\[(\d+)\]", field)
        if not found or (i := int(found[1])) >= len(self.indexes):
            return None, FieldViolation(field, description)
        return i, FieldViolation(f"headlines[{self.indexes[i]}]{field[found.end() :]}", description)


def _message(headline: str | Headline, index: int) -> popularity_pb2.Headline:
    """Raises InvalidRequest for what no server could be sent."""
    text, posted_at, outlet = Headline(headline) if isinstance(headline, str) else headline
    path = f"headlines[{index}]"
    try:
        message = popularity_pb2.Headline(text=text, outlet=outlet)
    except UnicodeEncodeError:
        raise _invalid(path, "holds half of a surrogate pair, which is no character") from None
    if posted_at is not None:
        if not isinstance(posted_at, datetime):
            raise TypeError(f"{path}.posted_at is a {type(posted_at).__name__}; it should be a datetime with its zone")
        if posted_at.utcoffset() is None:
            raise _invalid(f"{path}.posted_at", "has no zone, such as datetime.UTC")
        try:
            message.posted_at.FromDatetime(posted_at)
        except (ValueError, OverflowError):
            raise _invalid(f"{path}.posted_at", "is outside the years 1 to 9999 in UTC") from None
    if (size := message.ByteSize() + _FRAME) > MAX_BYTES:
        raise _invalid(path, f"takes {size:,} bytes; one request holds {MAX_BYTES:,}")
    return message


def _invalid(field: str, description: str) -> InvalidRequest:
    return InvalidRequest("a headline cannot be sent", [FieldViolation(field, description)])


def _messages(
    headlines: Iterable[str | Headline], start: int = 0
) -> tuple[list[int], list[popularity_pb2.Headline], dict[int, InvalidRequest]]:
    """What can be sent, with the headlines' indexes counted from `start`, and what cannot, by index."""
    indexes, messages, invalid = [], [], {}
    for i, headline in enumerate(headlines, start):
        try:
            messages.append(_message(headline, i))
        except InvalidRequest as error:
            invalid[i] = error
        else:
            indexes.append(i)
    return indexes, messages, invalid


def _iterable(headlines: H) -> H:
    if isinstance(headlines, str):  # it is iterable, by its characters
        raise TypeError("headlines is one string; it should be a list of them")
    return headlines


def _parts(indexes: Sequence[int], messages: Sequence[popularity_pb2.Headline]) -> Iterator[_Part]:
    """The messages in as few requests as every server takes."""
    start = size = 0
    for end, message in enumerate(messages):
        more = message.ByteSize() + _FRAME
        if end - start == MAX_HEADLINES or size + more > MAX_BYTES:
            yield _Part(indexes[start:end], messages[start:end])
            start, size = end, 0
        size += more
    if messages:
        yield _Part(indexes[start:], messages[start:])


def _predict(
    start: Callable[[PredictRequest, float, bool], AnyCall],
    headlines: Iterable[str | Headline],
    timeout: float,
    one_version: bool,
) -> Generator[AnyCall, PredictResponse, list[Prediction]]:
    """The steps of a client's predict: yields each call to wait for, and is sent its response."""
    deadline = time.monotonic() + timeout
    indexes, messages, invalid = _messages(_iterable(headlines))
    if invalid:
        raise InvalidRequest("some headlines cannot be sent", [*chain.from_iterable(e.violations for e in invalid.values())])
    waiting = deque(_parts(indexes, messages))
    alone = len(waiting) == 1
    if one_version and len(waiting) > 1:
        raise InvalidRequest(
            f"one_version: these headlines take {len(waiting)} requests; "
            f"one holds {MAX_HEADLINES} headlines and {MAX_BYTES:,} bytes"
        )
    under_way: deque[tuple[_Part, AnyCall]] = deque()
    predictions: list[Prediction] = []
    try:
        while waiting or under_way:
            while waiting and len(under_way) < _PARALLEL:
                part = waiting.popleft()
                request = PredictRequest(headlines=part.messages)
                under_way.append((part, start(request, max(0.0, deadline - time.monotonic()), alone)))
            part, call = under_way[0]
            with _translated(part):
                response = yield call
            predictions += part.predictions(response)
            under_way.popleft()
    finally:
        for _, call in under_way:
            call.cancel()
    return predictions


def _is_serving(check: Int32Value) -> bool:
    return check.value == 1


def _run(steps: Generator[_Call, PredictResponse, list[Prediction]]) -> list[Prediction]:
    with closing(steps):
        try:
            call = next(steps)
            while True:
                try:
                    response = call.result()
                except grpc.RpcError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(response)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


async def _run_async(steps: Generator[_AsyncCall, PredictResponse, list[Prediction]]) -> list[Prediction]:
    with closing(steps):
        try:
            call = next(steps)
            while True:
                try:
                    response = await call
                except grpc.RpcError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(response)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


async def _asynchronous(headlines: Iterable[str | Headline]) -> AsyncIterator[str | Headline]:
    for headline in headlines:
        yield headline


class _Broken(grpc.RpcError):
    """A stream that is of no more use, though gRPC has not said so."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


class _Bulk:
    """What a client's predict_stream has taken in, sent and got back.

    Every headline is in one place: in a part that is unsent or unanswered, or among the answers, which are handed out in
    order. Their number is bounded: none is taken in while _WINDOW parts, or as many answers, are here.
    """

    def __init__(self, timeout: float | None) -> None:
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._unsent: deque[_Part] = deque()
        self._unanswered: dict[int, _Part] = {}  # by the id of its request, in the order of sending
        self._answers: dict[int, Prediction | InvalidRequest] = {}  # by the index of the headline
        self._taken_in = 0
        self._handed_out = 0
        self._last_id = 0
        self._failures = 0  # since the last answer
        self._told: grpc.RpcError | None = None  # the latest of these
        self._ended = False  # the caller has no more headlines

    def fill(self, source: Iterator[str | Headline]) -> bool:
        """Take in what there is room for; false when all is done."""
        while self._has_room():
            self._take_in(list(islice(source, MAX_HEADLINES)))
        return bool(self.waits or self._answers)

    async def fill_async(self, source: AsyncIterator[str | Headline]) -> bool:
        """As fill."""
        while self._has_room():
            headlines: list[str | Headline] = []
            async for headline in source:
                headlines.append(headline)
                if len(headlines) == MAX_HEADLINES:
                    break
            self._take_in(headlines)
        return bool(self.waits or self._answers)

    def _has_room(self) -> bool:
        parts = len(self._unsent) + len(self._unanswered)
        return not self._ended and parts < _WINDOW and len(self._answers) < _WINDOW * MAX_HEADLINES

    def _take_in(self, headlines: Sequence[str | Headline]) -> None:
        indexes, messages, invalid = _messages(headlines, self._taken_in)
        self._unsent.extend(_parts(indexes, messages))
        self._answers.update(invalid)
        self._taken_in += len(headlines)
        self._ended = len(headlines) < MAX_HEADLINES

    @property
    def waits(self) -> bool:
        """Whether an answer of the server's is to come."""
        return bool(self._unsent or self._unanswered)

    def time_left(self) -> float | None:
        """Seconds; None: no limit."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def requests(self) -> Iterator[PredictStreamRequest]:
        """What is to be sent now."""
        while self._unsent:
            self._last_id += 1
            part = self._unanswered[self._last_id] = self._unsent.popleft()
            yield PredictStreamRequest(id=self._last_id, headlines=part.messages)

    def receive(self, response: object) -> None:
        """Raises grpc.RpcError where the stream is of no more use; ClientError where no stream would be."""
        if not isinstance(response, PredictStreamResponse):
            raise _Broken(grpc.StatusCode.UNAVAILABLE, "the server ended the stream before it had answered all")
        part = self._unanswered.get(response.id)
        if part is None:
            raise ServerError(f"the server answered what it was not asked: {response.error.message or response.id}")
        if response.HasField("error"):
            error = response.error
            code = _CODES.get(error.code, grpc.StatusCode.UNKNOWN)
            if code in _RETRIED:
                raise _Broken(code, error.message)
            if code is not grpc.StatusCode.INVALID_ARGUMENT:
                raise _error(code, error.message)
            self._refuse(part, error)
        else:
            self._answers.update(zip(part.indexes, part.predictions(response.response), strict=True))
        del self._unanswered[response.id]
        self._failures, self._told = 0, None

    def _refuse(self, part: _Part, error: popularity_pb2.Error) -> None:
        """Take what the server finds wrong out of the part, and send the rest again."""
        located = [part.locate(violation) for violation in error.violations]
        wrong = {i for i, _ in located if i is not None}
        if not wrong:
            raise InvalidRequest(error.message, [violation for _, violation in located])
        for i in wrong:
            self._answers[part.indexes[i]] = InvalidRequest(error.message, [violation for j, violation in located if j == i])
        if rest := [i for i in range(len(part.indexes)) if i not in wrong]:
            self._unsent.appendleft(_Part([part.indexes[i] for i in rest], [part.messages[i] for i in rest]))

    def answers(self) -> Iterator[Prediction | InvalidRequest]:
        """Those whose turn it is."""
        while self._handed_out in self._answers:
            yield self._answers.pop(self._handed_out)
            self._handed_out += 1

    def interrupted(self, error: grpc.RpcError) -> float:
        """How many seconds to wait before what has no answer is sent over a new stream. Raises ClientError: no use."""
        self._failures += 1
        if error.details() == "Internal error from Core":
            # What grpc.aio says of a write after the server's end; it hides why (grpc/grpc#36066). A further try may tell.
            error = self._told or _Broken(grpc.StatusCode.UNAVAILABLE, "the server ended the stream")
        self._told = error
        if self.time_left() == 0.0:
            raise DeadlineExceeded("the time was up before all was answered") from error
        if error.code() not in _RETRIED or self._failures == _ATTEMPTS:
            with _translated():
                raise error
        self._unsent.extendleft(reversed(self._unanswered.values()))
        self._unanswered.clear()
        # A connection that has grown old, or one server of several that stops, is no reason to wait.
        return 0.0 if self._failures == 1 else 0.1 * 2 ** (self._failures - 2) * random.uniform(0.5, 1.5)


@contextmanager
def _translated(part: _Part | None = None) -> Iterator[None]:
    """Errors of gRPC become ClientErrors, in the caller's terms."""
    try:
        yield
    except grpc.RpcError as error:
        violations: list[FieldViolation] = []
        if error.code() is grpc.StatusCode.INVALID_ARGUMENT and (status := rpc_status.from_call(cast(grpc.Call, error))):
            bad = BadRequest()
            for detail in status.details:
                if detail.Unpack(bad):
                    violations += [
                        part.locate(v)[1] if part else FieldViolation(v.field, v.description) for v in bad.field_violations
                    ]
        raise _error(error.code(), error.details() or error.code().name, violations) from error


def _error(code: grpc.StatusCode, message: str, violations: Sequence[FieldViolation] = ()) -> ClientError:
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidRequest(message, violations)
    return _ERRORS.get(code, ServerError)(message)
