"""The messages of the Open Inference Protocol, version 2, and those fields of Triton's ModelConfig that clients read.

Built here from names and numbers, in a descriptor pool of their own: a generated module registers in the default pool, where it
clashes with the one that tritonclient or kserve brings, in any process that has both. Names and numbers are those of the public
specification (https://github.com/kserve/open-inference-protocol), and of Triton for ModelConfig.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

_PACKAGE = "inference"
_Field = descriptor_pb2.FieldDescriptorProto

_PARAMETERS = "map InferParameter"
# Message: fields with their numbers and types. A message with a dot in its name stands inside of another.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": (1, "bool")},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": (1, "bool")},
    "ModelReadyRequest": {"name": (1, "string"), "version": (2, "string")},
    "ModelReadyResponse": {"ready": (1, "bool")},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {"name": (1, "string"), "version": (2, "string"), "extensions": (3, "repeated string")},
    "ModelMetadataRequest": {"name": (1, "string"), "version": (2, "string")},
    "ModelMetadataResponse": {
        "name": (1, "string"),
        "versions": (2, "repeated string"),
        "platform": (3, "string"),
        "inputs": (4, "repeated ModelMetadataResponse.TensorMetadata"),
        "outputs": (5, "repeated ModelMetadataResponse.TensorMetadata"),
    },
    "ModelMetadataResponse.TensorMetadata": {"name": (1, "string"), "datatype": (2, "string"), "shape": (3, "repeated int64")},
    "InferParameter": {  # all of one oneof
        "bool_param": (1, "bool"),
        "int64_param": (2, "int64"),
        "string_param": (3, "string"),
        "double_param": (4, "double"),
        "uint64_param": (5, "uint64"),
    },
    "InferTensorContents": {
        "bool_contents": (1, "repeated bool"),
        "int_contents": (2, "repeated int32"),
        "int64_contents": (3, "repeated int64"),
        "uint_contents": (4, "repeated uint32"),
        "uint64_contents": (5, "repeated uint64"),
        "fp32_contents": (6, "repeated float"),
        "fp64_contents": (7, "repeated double"),
        "bytes_contents": (8, "repeated bytes"),
    },
    "ModelInferRequest": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, _PARAMETERS),
        "inputs": (5, "repeated ModelInferRequest.InferInputTensor"),
        "outputs": (6, "repeated ModelInferRequest.InferRequestedOutputTensor"),
        "raw_input_contents": (7, "repeated bytes"),
    },
    "ModelInferRequest.InferInputTensor": {
        "name": (1, "string"),
        "datatype": (2, "string"),
        "shape": (3, "repeated int64"),
        "parameters": (4, _PARAMETERS),
        "contents": (5, "InferTensorContents"),
    },
    "ModelInferRequest.InferRequestedOutputTensor": {"name": (1, "string"), "parameters": (2, _PARAMETERS)},
    "ModelInferResponse": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, _PARAMETERS),
        "outputs": (5, "repeated ModelInferResponse.InferOutputTensor"),
        "raw_output_contents": (6, "repeated bytes"),
    },
    "ModelInferResponse.InferOutputTensor": {
        "name": (1, "string"),
        "datatype": (2, "string"),
        "shape": (3, "repeated int64"),
        "parameters": (4, _PARAMETERS),
        "contents": (5, "InferTensorContents"),
    },
    "ModelConfigRequest": {"name": (1, "string"), "version": (2, "string")},
    "ModelConfigResponse": {"config": (1, "ModelConfig")},
    "ModelConfig": {
        "name": (1, "string"),
        "platform": (2, "string"),
        "max_batch_size": (4, "int32"),
        "input": (5, "repeated ModelInput"),
        "output": (6, "repeated ModelOutput"),
    },
    "ModelInput": {
        "name": (1, "string"),
        "data_type": (2, "enum DataType"),
        "dims": (4, "repeated int64"),
        "optional": (8, "bool"),
    },
    "ModelOutput": {"name": (1, "string"), "data_type": (2, "enum DataType"), "dims": (3, "repeated int64")},
}
_ONEOFS = {"InferParameter": "parameter_choice"}
DATA_TYPES = {"TYPE_INVALID": 0, "TYPE_BOOL": 1, "TYPE_INT32": 8, "TYPE_INT64": 9, "TYPE_FP32": 11, "TYPE_STRING": 13}
_METHODS = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "ModelConfig")


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="open_inference_grpc.proto", package=_PACKAGE, syntax="proto3")
    made: dict[str, Any] = {}
    for name, fields in _MESSAGES.items():
        outer, _, inner = name.rpartition(".")
        made[name] = made[outer].nested_type.add(name=inner) if outer else file.message_type.add(name=name)
        if name in _ONEOFS:
            made[name].oneof_decl.add(name=_ONEOFS[name])
        for field, (number, type_) in fields.items():
            _add(made[name], name, field, number, type_)
    values = [descriptor_pb2.EnumValueDescriptorProto(name=name, number=number) for name, number in DATA_TYPES.items()]
    file.enum_type.add(name="DataType", value=values)
    service = file.service.add(name="GRPCInferenceService")
    for method in _METHODS:
        service.method.add(name=method, input_type=f".{_PACKAGE}.{method}Request", output_type=f".{_PACKAGE}.{method}Response")
    return file


def _add(message: Any, of: str, name: str, number: int, type_: str) -> None:  # noqa: ANN401
    kind, _, one = type_.rpartition(" ")
    field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    if of in _ONEOFS:
        field.oneof_index = 0
    if kind in ("repeated", "map"):
        field.label = _Field.LABEL_REPEATED
    if kind == "map":  # which is a repeated message of pairs
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        _add(entry, "", "key", 1, "string")
        _add(entry, "", "value", 2, one)
        one = f"{of}.{entry.name}"
    if kind == "enum":
        field.type, field.type_name = _Field.TYPE_ENUM, f".{_PACKAGE}.{one}"
    elif one[0].isupper():
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{_PACKAGE}.{one}"
    else:
        field.type = getattr(_Field, f"TYPE_{one.upper()}")


POOL = descriptor_pool.DescriptorPool()
_FILE = POOL.AddSerializedFile(_file().SerializeToString())
SERVICE: ServiceDescriptor = _FILE.services_by_name["GRPCInferenceService"]


def _class(name: str) -> type[Message]:
    return message_factory.GetMessageClass(_FILE.message_types_by_name[name])


# Their fields are known at run time only.
ServerLiveRequest: Any = _class("ServerLiveRequest")
ServerLiveResponse: Any = _class("ServerLiveResponse")
ServerReadyRequest: Any = _class("ServerReadyRequest")
ServerReadyResponse: Any = _class("ServerReadyResponse")
ModelReadyRequest: Any = _class("ModelReadyRequest")
ModelReadyResponse: Any = _class("ModelReadyResponse")
ServerMetadataRequest: Any = _class("ServerMetadataRequest")
ServerMetadataResponse: Any = _class("ServerMetadataResponse")
ModelMetadataRequest: Any = _class("ModelMetadataRequest")
ModelMetadataResponse: Any = _class("ModelMetadataResponse")
ModelInferRequest: Any = _class("ModelInferRequest")
ModelInferResponse: Any = _class("ModelInferResponse")
ModelConfigRequest: Any = _class("ModelConfigRequest")
ModelConfigResponse: Any = _class("ModelConfigResponse")
