"""What surrounds every call: authentication, room for its messages, errors as status codes, and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from contextvars import ContextVar
from time import monotonic
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn, Self, TypeAlias

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import ServiceDescriptor
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from service import status
from service.budget import Budget, Lease
from service.credentials import Tokens
from service.errors import InvalidRequest, Unauthenticated, Unavailable
from service.metrics import Calls, Metrics
from service.status import Status

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Unary: TypeAlias = Callable[[bytes, Context], Awaitable[bytes]]
Streaming: TypeAlias = Callable[..., AsyncGenerator[bytes, None]]

_OK, _CANCELLED, _DEADLINE_EXCEEDED, _UNIMPLEMENTED = 0, 1, 4, 12
_NO_MESSAGE = "the call ended without a message"
_TIMER_SLACK = 0.01  # seconds by which gRPC's clock may run before this one's
Times: TypeAlias = tuple[float | None, float | None]

# When the call began whose task this is, and its deadline. A context of gRPC's holds nothing of ours.
_times: ContextVar[Times] = ContextVar("times", default=(None, None))
times = _times.get  # of the unary call whose task asks, in the event loop's time; None: not known, or no deadline


class Received(NamedTuple):
    """A message of a stream, and the room that it takes. Whoever has answered it releases the lease."""

    raw: bytes
    lease: Lease


class Middleware(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """Wraps the methods of some services in authentication, the memory budget, error mapping and metrics; add it to a server.

    In place of grpc.aio's interceptors, which see the same and cost each call two coroutines. Methods that stream answers must
    be asynchronous generators. A method that takes one message gets its bytes; one that takes a stream gets `Received`s.

    All of them are registered as request-streaming: otherwise gRPC would read the message before it calls the handler.
    """

    def __init__(
        self,
        metrics: Metrics,
        services: Mapping[ServiceDescriptor, Mapping[str, Handler]],
        budget: Budget,
        tokens: Tokens | None = None,
        exempt: Mapping[ServiceDescriptor, Budget] = MappingProxyType({}),
    ) -> None:
        """Take each service's handlers by method; calls of other methods are counted as `unknown`.

        A message is read once `budget` has room for it. All but the `exempt` services require one of `tokens`. Exempt services
        have budgets of their own, so that they answer whatever the others do.
        """
        self._tokens = tokens
        self._handlers: dict[str, Handler] = {}
        self._refusals: dict[str, Handler] = {}
        self._unknown = metrics.calls("unknown", "unknown", "unknown")
        for service, handlers in services.items():
            for name, handler in handlers.items():
                path = f"/{service.full_name}/{name}"
                method = _Method(metrics.calls(_type(handler), service.full_name, name), exempt.get(service, budget))
                self._handlers[path] = method.wrap(handler)
                if tokens and service not in exempt:
                    self._refusals[path] = method.refusal()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of a call's method; None if there is no such method, which gRPC answers itself."""
        path = handler_call_details.method
        handler = self._handlers.get(path)
        if handler is None:
            self._unknown.started += 1
            self._unknown.handled[_UNIMPLEMENTED] += 1
        elif self._tokens and path in self._refusals and not self._tokens.admit(handler_call_details.invocation_metadata):
            return self._refusals[path]
        return handler


class _Method:
    """What surrounds the calls of one method."""

    def __init__(self, calls: Calls, budget: Budget) -> None:
        self._calls = calls
        self._budget = budget

    def wrap(self, handler: Any) -> Handler:  # noqa: ANN401  (the stubs know synchronous handlers only)
        if handler.request_streaming:
            return self._streaming(handler.stream_stream)
        if handler.response_streaming:
            return self._streaming(_after_one(handler.unary_stream))
        return self._unary(handler.unary_unary)

    def refusal(self) -> Handler:
        """A handler for callers without a valid token, which reads nothing of what they send."""
        return self._streaming(_refuse)

    async def read(self, context: Context, lease: Lease) -> bytes | None:
        """The next message, or None at the end. Raises Unavailable if none came while others waited for the room."""
        try:
            raw = await context.read()
        except asyncio.CancelledError:
            _raise_if_evicted(lease)
            raise
        if not isinstance(raw, bytes):  # grpc.aio.EOF
            return None
        self._calls.received += 1
        lease.shrink(len(raw))
        return raw

    def _unary(self, behaviour: Unary) -> Handler:
        calls, budget = self._calls, self._budget

        # All in one coroutine: nearly all calls go this way, and each further one takes 2,000 instructions.
        async def unary(_: object, context: Context) -> bytes:  # noqa: RET503
            # The clock is read first: if this thread is preempted in between, the deadline is early, never late.
            began = monotonic()
            left = context.time_remaining()
            if left is None:
                _times.set((began, None))
            elif left > 0:
                _times.set((began, began + left))
            else:
                self._drop()
            calls.started += 1
            code = _CANCELLED
            lease = None
            try:
                lease = budget.try_reserve(context.peer) or await budget.reserve(context.peer)
                try:
                    raw = await context.read()
                except asyncio.CancelledError:
                    _raise_if_evicted(lease)
                    raise
                if not isinstance(raw, bytes):  # grpc.aio.EOF
                    raise InvalidRequest(_NO_MESSAGE)
                calls.received += 1
                lease.shrink(len(raw))
                response = await behaviour(raw, context)
                code = _code_of(context) if context.code() else _OK
                calls.sent += 1
                return response
            except asyncio.CancelledError:
                code = _code_of_cancelled(context)
                raise
            except grpc.aio.BaseError:  # the caller has gone; gRPC sees to that itself
                raise
            except Exception as error:
                ending = status.of(error)
                code = ending.code.value[0]
            finally:
                if lease:
                    lease.shrink(0)
                calls.handled[code] += 1
                calls.seconds.observe((monotonic() - began,))
            # Outside the except block, so that a failing abort does not chain the handler's exception and its message.
            await _abort(context, ending)

        return grpc.stream_unary_rpc_method_handler(unary)

    def _streaming(self, behaviour: Streaming) -> Handler:
        async def streaming(_: object, context: Context) -> None:
            left = context.time_remaining()
            if left is not None and left <= 0:
                self._drop()
            requests = _Requests(self, self._budget, context)
            await self._observe(self._send(behaviour(requests, context), context), context)

        return grpc.stream_stream_rpc_method_handler(streaming)

    async def _send(self, responses: AsyncGenerator[bytes, None], context: Context) -> None:
        # Closed here, where a cancel arrives, and not whenever the garbage collector finds the generator.
        async with aclosing(responses):
            async for response in responses:
                await context.write(response)
                self._calls.sent += 1

    def _drop(self) -> NoReturn:
        """End a call whose deadline passed while it waited in gRPC's queue, before anything is spent on it.

        Its caller has its status already, so nothing is sent: a cancelled handler costs gRPC least. An overload is full of such
        calls, and each would cost nearly as much as an answer.
        """
        self._calls.started += 1
        self._calls.handled[_DEADLINE_EXCEEDED] += 1
        raise asyncio.CancelledError

    async def _observe(self, answer: Awaitable[None], context: Context) -> None:
        """As `_unary` does it, for an answer of many messages."""
        self._calls.started += 1
        began = monotonic()
        code = _CANCELLED
        try:
            await answer
            code = _code_of(context)
            return
        except asyncio.CancelledError:
            code = _code_of_cancelled(context)
            raise
        except grpc.aio.BaseError:
            raise
        except Exception as error:
            ending = status.of(error)
            code = ending.code.value[0]
        finally:
            self._calls.handled[code] += 1
            self._calls.seconds.observe((monotonic() - began,))
        # Outside the except block, so that a failing abort does not chain the handler's exception and its message.
        await _abort(context, ending)


class _Requests:
    """The messages of a stream, each read when it is asked for."""

    def __init__(self, method: _Method, budget: Budget, context: Context) -> None:
        self._method = method
        self._budget = budget
        self._context = context

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Received:
        peer = self._context.peer
        lease = self._budget.try_reserve(peer, bulk=True) or await self._budget.reserve(peer, bulk=True)
        raw = None
        try:
            raw = await self._method.read(self._context, lease)
        finally:
            if raw is None:
                lease.release()
        if raw is None:
            raise StopAsyncIteration
        return Received(raw, lease)


def _code_of(context: Context) -> int:
    """The status that a handler has set, or OK."""
    code = context.code()
    return int(code.value[0]) if code else _OK


def _code_of_cancelled(context: Context) -> int:
    left = context.time_remaining()
    return _CANCELLED if left is None or left > _TIMER_SLACK else _DEADLINE_EXCEEDED


def _raise_if_evicted(lease: Lease) -> None:
    """Raise Unavailable if it was the budget that has cancelled the task that reads."""
    task = asyncio.current_task()
    if lease.evicted and task and not task.uncancel():
        raise Unavailable("no message came while others waited to send one; try again") from None


def deadline_of(context: Context) -> float | None:
    """The call's deadline in the event loop's time, or None."""
    # The clock is read first: if this thread is preempted in between, the result is early, never late.
    now = asyncio.get_running_loop().time()
    left = context.time_remaining()
    return None if left is None else now + left


async def raw_messages(requests: AsyncIterator[Received]) -> AsyncGenerator[bytes, None]:
    """The bytes of a stream's messages; each lease is released when the next message is requested."""
    async for raw, lease in requests:
        try:
            yield raw
        finally:
            lease.release()


def _after_one(behaviour: Streaming) -> Streaming:
    """A method that takes one message, as one that takes a stream."""

    async def after_one(requests: AsyncIterator[Received], context: Context) -> AsyncGenerator[bytes, None]:
        request = await anext(requests, None)
        if request is None:
            raise InvalidRequest(_NO_MESSAGE)
        try:
            async with aclosing(behaviour(request.raw, context)) as responses:
                async for response in responses:
                    yield response
        finally:
            request.lease.release()

    return after_one


async def _refuse(requests: object, context: Context) -> AsyncGenerator[bytes, None]:  # noqa: ARG001
    raise Unauthenticated("a valid token is missing; send one as the metadata `authorization: Bearer TOKEN`")
    yield


def _type(handler: Any) -> str:  # noqa: ANN401
    if handler.request_streaming:
        return "bidi_stream" if handler.response_streaming else "client_stream"
    return "server_stream" if handler.response_streaming else "unary"


async def _abort(context: Context, status: Status) -> NoReturn:
    """End a call with this status."""
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    if status.violations:
        details = AnyMessage()
        details.Pack(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=it.field, description=it.description)
                    for it in status.violations
                ]
            )
        )
        rich = status_pb2.Status(code=status.code.value[0], message=status.message, details=[details])
        metadata = tuple(rpc_status.to_status(rich).trailing_metadata)
    if status.pushback is not None:
        metadata = (*metadata, ("grpc-retry-pushback-ms", str(status.pushback)))
    await context.abort(status.code, status.message, metadata)
    raise AssertionError  # abort always raises
