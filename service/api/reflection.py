"""Server reflection, grpc.reflection.v1 and v1alpha: which methods there are, for callers such as grpcurl and ghz."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeAlias

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection, reflection_pb2

from service.api import inference_messages
from service.api.messages import parse
from service.api.middleware import Received, raw_messages

_POOL = descriptor_pool.Default()
_V1_FILE = "grpc/reflection/v1/reflection.proto"

Handlers: TypeAlias = "dict[str, grpc.RpcMethodHandler[Any, Any]]"


class _Symbols:
    """The descriptor pools, which also resolve the names of methods."""

    def FindFileByName(self, name: str) -> FileDescriptor:  # noqa: N802
        return _first(lambda pool: pool.FindFileByName(name))

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802
        def find(pool: descriptor_pool.DescriptorPool) -> FileDescriptor:
            try:
                return pool.FindFileContainingSymbol(symbol)
            except KeyError:
                return pool.FindMethodByName(symbol).containing_service.file

        return _first(find)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (of extensions, which there are none of)
        return getattr(_POOL, name)


def _first(find: Callable[[descriptor_pool.DescriptorPool], FileDescriptor]) -> FileDescriptor:
    """What is found in the first pool that has it. Raises KeyError."""
    try:
        return find(_POOL)
    except KeyError:
        return find(inference_messages.POOL)


def handlers(services: Sequence[str]) -> dict[ServiceDescriptor, Handlers]:
    """Both versions' methods, by service and name. They describe `services` and themselves, and exchange raw bytes."""
    versions = [reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"], _service_v1()]
    names = [*services, *(version.full_name for version in versions)]
    servicer = reflection.aio.ReflectionServicer(names, pool=_Symbols())  # type: ignore[attr-defined]  # the stubs do not know aio
    return {version: _handlers(servicer, version) for version in versions}


def _handlers(servicer: Any, service: ServiceDescriptor) -> Handlers:  # noqa: ANN401
    method = service.methods_by_name["ServerReflectionInfo"]
    request_class: type[Message] = message_factory.GetMessageClass(method.input_type)

    async def info(requests: AsyncIterator[Received], context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[bytes]:
        # The servicer knows v1alpha's messages. Those of v1 are the same on the wire.
        async def parsed() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
            async for raw in raw_messages(requests):
                parse(request_class, raw)  # names the caller's own version if the bytes are malformed
                yield reflection_pb2.ServerReflectionRequest.FromString(raw)

        async for response in servicer.ServerReflectionInfo(parsed(), context):
            yield response.SerializeToString()

    return {method.name: grpc.stream_stream_rpc_method_handler(info)}


def _service_v1() -> ServiceDescriptor:
    """grpcio-reflection has v1alpha only; v1 is the same file with another package."""
    try:
        file = _POOL.FindFileByName(_V1_FILE)
    except KeyError:
        alpha = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
        text = text_format.MessageToString(alpha).replace("grpc.reflection.v1alpha", "grpc.reflection.v1")
        proto = text_format.Parse(text, descriptor_pb2.FileDescriptorProto())
        proto.name = _V1_FILE
        file = _POOL.AddSerializedFile(proto.SerializeToString())
    return file.services_by_name["ServerReflection"]
