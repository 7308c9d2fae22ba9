"""grpc.reflection.v1alpha: which methods there are, for callers such as grpcurl."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from service.api.messages import parse
from service.api.methods import Received, raw_messages

SERVICE = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]


def handlers(services: Sequence[str]) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    """The methods by name, which tell of these services; they take and give raw bytes."""
    servicer = reflection.aio.ReflectionServicer(services)  # type: ignore[attr-defined]  # the stubs do not know aio

    async def tell(requests: AsyncIterator[Received], context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[bytes]:
        parsed = (parse(reflection_pb2.ServerReflectionRequest, raw) async for raw in raw_messages(requests))
        async for response in servicer.ServerReflectionInfo(parsed, context):
            yield response.SerializeToString()

    return {"ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(tell)}
