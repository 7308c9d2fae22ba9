"""grpc.health.v1: whether the server answers.

A servicer of our own, because the stock asyncio one starts as SERVING and forgets its other watchers when one leaves
(grpc/grpc#43403).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from service.api.messages import parse
from service.errors import InvalidRequest

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"]

_LONGEST_REQUEST = 1024  # bytes; a Watch retains its request for its lifetime

_Response = health_pb2.HealthCheckResponse


class Health:
    """The state of a server and of each of its services; NOT_SERVING until it is set."""

    def __init__(self, services: Iterable[str]) -> None:
        """Answer for these services and for the server as a whole, whose name is empty."""
        self._services = {"", *services}
        self._serving = False
        self._ended = False
        self._changed = asyncio.Event()  # replaced by a new one at each change

    @property
    def serving(self) -> bool:
        """Whether the server answers."""
        return self._serving

    def set_serving(self, serving: bool) -> None:
        """Change the state, and notify watchers."""
        self._serving = serving
        self._notify()

    def end(self) -> None:
        """End all watches, once they have sent the current state."""
        self._ended = True
        self._notify()

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """The methods by name; they accept and return raw bytes."""
        return {
            "Check": grpc.unary_unary_rpc_method_handler(self._check),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }

    async def _check(self, raw: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        service = _service(raw)
        if service not in self._services:
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details("no such service")
        return self._status(service)

    async def _watch(self, raw: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[bytes]:  # noqa: ARG002
        service = _service(raw)
        sent = None
        while True:
            changed = self._changed  # taken before the state, so that no change falls between
            status = self._status(service)
            if status != sent:
                sent = status
                yield status  # the state may change until the message is written
            elif self._ended:
                return
            else:
                await changed.wait()

    def _status(self, service: str) -> bytes:
        status = _Response.SERVING if self._serving else _Response.NOT_SERVING
        if service not in self._services:
            status = _Response.SERVICE_UNKNOWN
        raw: bytes = _Response(status=status).SerializeToString()
        return raw

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _service(raw: bytes) -> str:
    """The name of the service that is asked for; raises InvalidRequest if the request is malformed."""
    if len(raw) > _LONGEST_REQUEST:
        raise InvalidRequest(f"a service's name is too long: write at most {_LONGEST_REQUEST} bytes")
    service: str = parse(health_pb2.HealthCheckRequest, raw).service
    return service
