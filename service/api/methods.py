"""What surrounds every call: tokens are looked at, errors become status codes, and calls are counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from time import perf_counter
from typing import Any, TypeAlias

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from service.api import status
from service.credentials import Tokens
from service.errors import Unauthenticated
from service.metrics import Calls, Metrics

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_OK, _CANCELLED, _DEADLINE_EXCEEDED, _UNIMPLEMENTED = 0, 1, 4, 12
_TIMER_SLACK = 0.01  # seconds by which gRPC's clock may run before this one's


class Methods(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """The methods of some services, to be added to a server.

    In place of grpc.aio's interceptors, which see the same and cost each call two coroutines. Methods that stream answers must
    be asynchronous generators.
    """

    def __init__(
        self,
        metrics: Metrics,
        services: Mapping[ServiceDescriptor, Mapping[str, Handler]],
        tokens: Tokens | None = None,
        exempt: Sequence[ServiceDescriptor] = (),
    ) -> None:
        """Take each service's handlers by method; any other is `unknown`. Services not `exempt` want one of `tokens`."""
        self._tokens = tokens
        self._handlers: dict[str, Handler] = {}
        self._refusals: dict[str, Handler] = {}
        self._unknown = metrics.calls("unknown", "unknown", "unknown")
        for service, handlers in services.items():
            for name, handler in handlers.items():
                path = f"/{service.full_name}/{name}"
                method = _Method(metrics.calls(_type(handler), service.full_name, name))
                self._handlers[path] = method.wrap(handler)
                if tokens and service not in exempt:
                    self._refusals[path] = method.refusal()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of a call's method; None where there is no such method, which gRPC answers itself."""
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

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def wrap(self, handler: Any) -> Handler:  # noqa: ANN401  (the stubs know synchronous handlers alone)
        codecs = {"request_deserializer": handler.request_deserializer, "response_serializer": handler.response_serializer}
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(self._streaming(handler.stream_stream, self._count), **codecs)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(self._streaming(handler.unary_stream, self._count_one), **codecs)
        return grpc.unary_unary_rpc_method_handler(self._unary(handler.unary_unary), **codecs)

    def refusal(self) -> Handler:
        """A handler for who bears no token: as of a stream, whatever the method is, for which gRPC reads no message first."""
        return grpc.stream_stream_rpc_method_handler(self._streaming(_refuse, self._count))

    def _unary(self, behaviour: Callable[..., Any]) -> Any:  # noqa: ANN401
        async def unary(request: Any, context: Context) -> Any:  # noqa: ANN401
            self._calls.received += 1
            response = await self._observe(behaviour(request, context), context)
            self._calls.sent += 1
            return response

        return unary

    def _streaming(self, behaviour: Callable[..., Any], count: Callable[[Any], Any]) -> Any:  # noqa: ANN401
        async def streaming(request: Any, context: Context) -> None:  # noqa: ANN401
            await self._observe(self._send(behaviour(count(request), context), context), context)

        return streaming

    async def _send(self, responses: AsyncGenerator[Any, None], context: Context) -> None:
        # Closed here, where a cancel arrives, and not whenever the garbage collector finds the generator.
        async with aclosing(responses):
            async for response in responses:
                await context.write(response)
                self._calls.sent += 1

    async def _observe(self, answer: Awaitable[Any], context: Context) -> Any:  # noqa: ANN401, RET503
        self._calls.started += 1
        began = perf_counter()
        code = _CANCELLED
        try:
            result = await answer
            set_code = context.code()  # None unless the handler set one
            code = int(set_code.value[0]) if set_code else _OK
            return result
        except asyncio.CancelledError:
            left = context.time_remaining()
            if left is not None and left <= _TIMER_SLACK:
                code = _DEADLINE_EXCEEDED
            raise
        except grpc.aio.BaseError:  # the caller has gone; gRPC sees to that itself
            raise
        except Exception as error:
            ending = status.of(error)
            code = ending.code.value[0]
        finally:
            self._calls.handled[code] += 1
            self._calls.seconds.observe((perf_counter() - began,))
        # Out here, lest an error while aborting have the handler's own, and its words, as its context.
        await status.abort(context, ending)

    async def _count(self, requests: AsyncIterable[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            self._calls.received += 1
            yield request

    def _count_one(self, request: Any) -> Any:  # noqa: ANN401
        self._calls.received += 1
        return request


async def _refuse(requests: Any, context: Context) -> AsyncIterator[Any]:  # noqa: ANN401, ARG001
    raise Unauthenticated("a valid token is missing; send one as the metadata `authorization: Bearer TOKEN`")
    yield


def _type(handler: Any) -> str:  # noqa: ANN401
    if handler.request_streaming:
        return "bidi_stream" if handler.response_streaming else "client_stream"
    return "server_stream" if handler.response_streaming else "unary"
