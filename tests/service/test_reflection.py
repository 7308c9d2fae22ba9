"""What callers that have no .proto ask: grpc.reflection.v1, and v1alpha for older ones."""

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2
from in_process import connect

from headlines.v1 import popularity_pb2 as pb
from service.model import engines
from service.server import Server

VERSIONS = ("v1", "v1alpha")
SERVICE = "headlines.v1.PopularityService"
NOT_FOUND = grpc.StatusCode.NOT_FOUND.value[0]


@pytest.fixture(params=VERSIONS)
def name(request):
    return f"grpc.reflection.{request.param}.ServerReflection"


@pytest.fixture
def ask(channel, name):
    """One question, and its answer."""
    info = channel.stream_stream(
        f"/{name}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )

    async def ask(**question):
        return await anext(aiter(info(iter([reflection_pb2.ServerReflectionRequest(**question)]))))

    return ask


async def test_it_lists_the_services(ask):
    answer = await ask(list_services="")
    assert [service.name for service in answer.list_services_response.service] == [
        "grpc.health.v1.Health",
        *(f"grpc.reflection.{version}.ServerReflection" for version in VERSIONS),
        SERVICE,
        "inference.GRPCInferenceService",
    ]


@pytest.mark.parametrize(
    "symbol", ["GRPCInferenceService", "GRPCInferenceService.ModelInfer", "ModelInferRequest.InferInputTensor"]
)
async def test_it_finds_the_open_inference_protocol(ask, symbol):
    answer = await ask(file_containing_symbol=f"inference.{symbol}")
    [file] = map(descriptor_pb2.FileDescriptorProto.FromString, answer.file_descriptor_response.file_descriptor_proto)
    assert file.service[0].method[5].input_type == ".inference.ModelInferRequest"
    by_name = await ask(file_by_filename=file.name)
    assert by_name.file_descriptor_response == answer.file_descriptor_response


@pytest.mark.parametrize(
    "symbol",
    [
        SERVICE,
        f"{SERVICE}.Predict",
        f"{SERVICE}.PredictStream",
        f"{SERVICE}.Explain",
        f"{SERVICE}.GetModel",
        "headlines.v1.Headline",
        "headlines.v1.Headline.text",
        "headlines.v1.PredictStreamResponse.result",
        "headlines.v1.ModelVersion.State",
        "headlines.v1.ModelVersion.STATE_LIVE",
    ],
)
async def test_it_finds_the_file_of_whatever_the_file_defines(ask, symbol):
    answer = await ask(file_containing_symbol=symbol)
    files = map(descriptor_pb2.FileDescriptorProto.FromString, answer.file_descriptor_response.file_descriptor_proto)
    assert next(files).name == pb.DESCRIPTOR.name
    assert "google/protobuf/timestamp.proto" in {file.name for file in files}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("symbol", ["ServerReflection", "ServerReflection.ServerReflectionInfo", "ServerReflectionRequest"])
async def test_it_describes_itself(ask, version, symbol):
    answer = await ask(file_containing_symbol=f"grpc.reflection.{version}.{symbol}")
    [raw] = answer.file_descriptor_response.file_descriptor_proto
    file = descriptor_pb2.FileDescriptorProto.FromString(raw)
    assert file.package == f"grpc.reflection.{version}"
    assert file.service[0].method[0].input_type == f".grpc.reflection.{version}.ServerReflectionRequest"
    assert (await ask(file_by_filename=file.name)).file_descriptor_response.file_descriptor_proto == [raw]


@pytest.mark.parametrize("symbol", ["", ".", "Predict", f"{SERVICE}.Guess", f"{SERVICE}.Predict.", f".{SERVICE}", "é\u0000"])
async def test_an_unknown_symbol_is_not_found(ask, symbol):
    answer = await ask(file_containing_symbol=symbol)
    assert answer.error_response.error_code == NOT_FOUND
    assert answer.original_request.file_containing_symbol == symbol


async def test_bytes_that_are_no_request_are_the_callers_error(channel, name):
    call = channel.stream_stream(f"/{name}/ServerReflectionInfo")(iter([b"\xff\xff"]))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await anext(aiter(call))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.value.details() == f"not a valid {name}Request"


async def test_its_calls_are_counted(server, ask, name):
    await ask(list_services="")
    labels = {"grpc_type": "bidi_stream", "grpc_service": name, "grpc_method": "ServerReflectionInfo"}
    assert server.metrics.registry.get_sample_value("grpc_server_started_total", labels) == 1


async def test_it_can_be_turned_off(make_settings, name):
    async with Server(make_settings(reflection=False), engines.choose("litert")) as closed, connect(closed) as channel:
        call = channel.stream_stream(f"/{name}/ServerReflectionInfo")()  # writing after the end would be gRPC's own error
        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
