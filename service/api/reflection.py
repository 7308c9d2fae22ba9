"""grpc.reflection.v1alpha: which services and messages there are, for tools that have no .proto file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection, reflection_pb2

from service.errors import InvalidRequest

SERVICE = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]


class Reflection:
    """Tells what is known of some services."""

    def __init__(self, services: Iterable[str]) -> None:
        """Name these services; the messages of any other are told too where somebody asks for them by name."""
        self._servicer = reflection.aio.ReflectionServicer(services)  # type: ignore[attr-defined]

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """The methods by name; they take and give raw bytes."""
        return {"ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(self._info)}

    async def _info(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[bytes]:
        async for response in self._servicer.ServerReflectionInfo(_parse(requests), context):
            yield response.SerializeToString()


async def _parse(requests: AsyncIterator[bytes]) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
    async for raw in requests:
        try:
            yield reflection_pb2.ServerReflectionRequest.FromString(raw)
        except DecodeError:
            raise InvalidRequest("these bytes are no grpc.reflection.v1alpha.ServerReflectionRequest") from None
