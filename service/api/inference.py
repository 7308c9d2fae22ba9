"""inference.GRPCInferenceService: the Open Inference Protocol, version 2, for stock clients of Triton, KServe and others.

Two models, whose version is the live one: NAME takes headlines, NAME-arrays what its network takes. Where a status is not that
of Triton, tests/interop/test_triton.py says why.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc
import numpy as np

from service.api import inference_messages as messages
from service.api.messages import has_more_fields, parse
from service.api.middleware import Context, times
from service.batcher import Admission
from service.drain import DrainGate
from service.errors import FieldViolation, InvalidRequest, Unavailable, UnknownModel
from service.model.preprocessing import AUX_FEATURES, PADDING, SEQUENCE_LENGTH, Headline
from service.model.version import Row, Version
from service.predictor import Item, Predictor, Result
from service.repository import Repository

SERVICE = messages.SERVICE

_LARGE = 256 << 10  # bytes of a message that may hold so many empty fields that parsing it takes significant memory
_MOST_FIELDS = 1000  # of such a message, on its top level
_FINAL_RESPONSE = "triton_enable_empty_final_response"  # of streams, which there are none of; perf_analyzer sends it
_LONGEST_NAME = 100  # characters of a caller's name that an error repeats


class _Type(NamedTuple):
    """A datatype of tensors."""

    array: str  # little-endian, in raw contents
    contents: str  # the field of typed contents
    config: str  # its name in ModelConfig


_TYPES = {
    "BYTES": _Type("", "bytes_contents", "TYPE_STRING"),
    "BOOL": _Type("?", "bool_contents", "TYPE_BOOL"),
    "INT32": _Type("<i4", "int_contents", "TYPE_INT32"),
    "INT64": _Type("<i8", "int64_contents", "TYPE_INT64"),
    "FP32": _Type("<f4", "fp32_contents", "TYPE_FP32"),
}


@dataclass(frozen=True)
class _Tensor:
    """An input or output of a model."""

    name: str
    datatype: str
    row: Sequence[int] = ()  # the shape without its first dimension, the rows
    optional: bool = False


@dataclass(frozen=True)
class _Model:
    inputs: Sequence[_Tensor]
    outputs: Sequence[_Tensor]
    batched: bool  # as Triton takes it: whether the rows stand before the shape that the model has


_TEXT = _Model(
    (_Tensor("headline", "BYTES"), _Tensor("outlet", "BYTES", optional=True), _Tensor("posted_at", "INT64", optional=True)),
    (
        _Tensor("main_output", "FP32"),
        _Tensor("aux_output", "FP32"),
        _Tensor("best", "FP32"),
        _Tensor("word_count", "INT32"),
        _Tensor("unknown_word_count", "INT32"),
        _Tensor("outlet_known", "BOOL"),
    ),
    batched=False,
)
_ARRAYS = _Model(
    (_Tensor("main_input", "INT32", (SEQUENCE_LENGTH,)), _Tensor("aux_input", "FP32", (len(AUX_FEATURES),))),
    (_Tensor("main_output", "FP32", (1,)), _Tensor("aux_output", "FP32", (1,))),
    batched=True,
)


class Inference:
    """The servicer."""

    def __init__(
        self,
        predictor: Predictor,
        repository: Repository,
        *,
        model_name: str,
        server_version: str,
        ready: Callable[[], bool],
        gate: DrainGate,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`ready` says whether the server answers, `clock` gives the time of headlines without `posted_at`."""
        self._predictor = predictor
        self._repository = repository
        self._models = {model_name: _TEXT, f"{model_name}-arrays": _ARRAYS}
        self._server_version = server_version
        self._ready = ready
        self._gate = gate
        self._clock = clock

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """The methods by name; they accept and return raw bytes."""
        return {
            "ServerLive": grpc.unary_unary_rpc_method_handler(self._server_live),
            "ServerReady": grpc.unary_unary_rpc_method_handler(self._server_ready),
            "ModelReady": grpc.unary_unary_rpc_method_handler(self._model_ready),
            "ServerMetadata": grpc.unary_unary_rpc_method_handler(self._server_metadata),
            "ModelMetadata": grpc.unary_unary_rpc_method_handler(self._model_metadata),
            "ModelConfig": grpc.unary_unary_rpc_method_handler(self._model_config),
            "ModelInfer": grpc.unary_unary_rpc_method_handler(self._model_infer),
        }

    async def _server_live(self, raw: bytes, context: Context) -> bytes:  # noqa: ARG002
        parse(messages.ServerLiveRequest, raw)
        return _bytes(messages.ServerLiveResponse(live=True))

    async def _server_ready(self, raw: bytes, context: Context) -> bytes:  # noqa: ARG002
        parse(messages.ServerReadyRequest, raw)
        return _bytes(messages.ServerReadyResponse(ready=self._ready()))

    async def _model_ready(self, raw: bytes, context: Context) -> bytes:  # noqa: ARG002
        request = parse(messages.ModelReadyRequest, raw)
        try:
            self._find(request.name, request.version)
            ready = self._ready()
        except (UnknownModel, Unavailable):
            ready = False
        return _bytes(messages.ModelReadyResponse(ready=ready))

    async def _server_metadata(self, raw: bytes, context: Context) -> bytes:  # noqa: ARG002
        parse(messages.ServerMetadataRequest, raw)
        return _bytes(messages.ServerMetadataResponse(name="headline-popularity", version=self._server_version))

    async def _model_metadata(self, raw: bytes, context: Context) -> bytes:  # noqa: ARG002
        request = parse(messages.ModelMetadataRequest, raw)
        model, live = self._find(request.name, request.version)
        return _bytes(
            messages.ModelMetadataResponse(
                name=request.name,
                versions=[str(live.number)],
                platform=self._repository.engine.name,
                inputs=[{"name": it.name, "datatype": it.datatype, "shape": [-1, *it.row]} for it in model.inputs],
                outputs=[{"name": it.name, "datatype": it.datatype, "shape": [-1, *it.row]} for it in model.outputs],
            )
        )

    async def _model_config(self, raw: bytes, context: Context) -> bytes:  # noqa: ARG002
        request = parse(messages.ModelConfigRequest, raw)
        model, _ = self._find(request.name, request.version)

        def tensor(it: _Tensor) -> dict[str, Any]:
            return {"name": it.name, "data_type": _TYPES[it.datatype].config, "dims": it.row if model.batched else [-1]}

        return _bytes(
            messages.ModelConfigResponse(
                config={
                    "name": request.name,
                    "platform": self._repository.engine.name,
                    "max_batch_size": self._predictor.limits.max_headlines if model.batched else 0,
                    "input": [{**tensor(it), "optional": it.optional} for it in model.inputs],
                    "output": [tensor(it) for it in model.outputs],
                }
            )
        )

    async def _model_infer(self, raw: bytes, context: Context) -> bytes:  # noqa: ARG002
        with self._gate:
            if len(raw) > _LARGE and has_more_fields(raw, _MOST_FIELDS):
                raise InvalidRequest("the request holds too many fields")
            request = parse(messages.ModelInferRequest, raw)
            model, live = self._find(request.model_name, request.model_version)
            response = _Response(model, request)
            rows, inputs = _inputs(model, request)
            began, deadline = times()
            del raw, request  # they need not stay in memory until the batch is computed
            try:
                with self._predictor.admit(rows, deadline, began=began) as admission:
                    columns, version = await self._compute(model, live, inputs, admission)
            except InvalidRequest as error:
                raise InvalidRequest(str(error), [_renamed(it, model) for it in error.violations]) from None
            if response.wanted_version not in ("", str(version)):  # another has gone live since
                raise _unknown(response.model_name, response.wanted_version)
            return response.of(columns, version)

    async def _compute(
        self, model: _Model, live: Version, inputs: Mapping[str, Any], admission: Admission[Item, Result]
    ) -> tuple[Sequence[Sequence[Any]], int]:
        """The model's outputs in order, and the version that made them."""
        if model is _ARRAYS:
            outputs, version = await self._predictor.compute(_rows(inputs, live), admission)
            return list(zip(*outputs, strict=True)), version
        answer = await self._predictor.predict(self._headlines(inputs, admission.number), admission)
        main, aux, words, unknown, known = zip(*answer.rows, strict=True)
        return [main, aux, [it.best for it in answer.predictions], words, unknown, known], answer.version

    def _find(self, name: str, version: str) -> tuple[_Model, Version]:
        """A model and the version that is live. Raises InvalidRequest, UnknownModel and Unavailable."""
        if version and not (version.isascii() and version.isdecimal() and len(version) < 19):
            problem = "is not a whole number; leave it empty for the version that is served"
            raise InvalidRequest("a version that is no number", [FieldViolation("model_version", problem)])
        model = self._models.get(name)
        if model is None:
            raise _unknown(name)
        live = self._repository.live
        if live is None:
            raise Unavailable("no model version is loaded")
        if version and int(version) != live.number:
            raise _unknown(name, version)
        return model, live

    def _headlines(self, inputs: Mapping[str, Any], rows: int) -> list[Headline]:
        texts = _decoded("headline", inputs["headline"])
        outlets = _decoded("outlet", inputs["outlet"]) if "outlet" in inputs else [""] * rows
        times = map(float, inputs["posted_at"]) if "posted_at" in inputs else [self._clock()] * rows
        return list(map(Headline, texts, times, outlets))


class _Response:
    """What has to be known of a request to answer it; raises InvalidRequest if it asks for what there is not."""

    def __init__(self, model: _Model, request: Any) -> None:  # noqa: ANN401
        self.model_name = request.model_name
        self.wanted_version = request.model_version
        self._id = request.id
        self._model = model
        names = {output.name for output in model.outputs}
        self._wanted = set[str]()
        as_values = []
        for key in request.parameters:
            if key.startswith("triton_") and key != _FINAL_RESPONSE:
                raise _invalid("parameters", "holds one that begins with triton_, which this server does not know")
        for i, output in enumerate(request.outputs):
            if output.name not in names:
                raise _invalid(f"outputs[{i}].name", f"is not an output of this model, which has {', '.join(sorted(names))}")
            if output.name in self._wanted:
                raise _invalid(f"outputs[{i}].name", "is asked for twice")
            _refuse(f"outputs[{i}].parameters", output.parameters)
            self._wanted.add(output.name)
            as_values.append(_is_false(output.parameters, "binary_data"))
        self._typed = _is_false(request.parameters, "binary_data_output") or (bool(as_values) and all(as_values))

    def of(self, columns: Sequence[Sequence[Any]], version: int) -> bytes:
        """The answer, serialized; `columns` are the model's outputs in order, which is the answer's too."""
        response = messages.ModelInferResponse(model_name=self.model_name, model_version=str(version), id=self._id)
        for tensor, column in zip(self._model.outputs, columns, strict=True):
            if self._wanted and tensor.name not in self._wanted:
                continue
            output = response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=[len(column), *tensor.row])
            type_ = _TYPES[tensor.datatype]
            if self._typed:
                getattr(output.contents, type_.contents).extend(column)
            else:
                response.raw_output_contents.append(np.array(column, type_.array).tobytes())
        return _bytes(response)


def _inputs(model: _Model, request: Any) -> tuple[int, dict[str, Any]]:  # noqa: ANN401
    """How many rows there are, and each input's values: of numbers an array with a row's shape. Raises InvalidRequest."""
    tensors = {tensor.name: tensor for tensor in model.inputs}
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise _invalid("raw_input_contents", f"has {len(raw)} entries for {len(request.inputs)} inputs; send one for each")
    found: dict[str, Any] = {}
    rows = -1
    for i, given in enumerate(request.inputs):
        where = f"inputs[{i}]"
        tensor = tensors.get(given.name)
        if tensor is None:
            raise _invalid(f"{where}.name", f"is not an input of this model, which has {', '.join(tensors)}")
        if given.name in found:
            raise _invalid(f"{where}.name", "is given twice")
        if given.datatype != tensor.datatype:
            raise _invalid(f"{where}.datatype", f"must be {tensor.datatype}")
        shape = list(given.shape)
        if len(shape) != 1 + len(tensor.row) or shape[0] < 0 or shape[1:] != list(tensor.row):
            raise _invalid(f"{where}.shape", f"must be [n{''.join(f', {size}' for size in tensor.row)}], n being the rows")
        if rows >= 0 and shape[0] != rows:
            raise _invalid(f"{where}.shape", f"begins with {shape[0]}, but that of inputs[0] with {rows}")
        rows = shape[0]
        _refuse(f"{where}.parameters", given.parameters)
        if raw and given.HasField("contents"):
            raise _invalid(f"{where}.contents", "stands beside raw_input_contents; send one of them")
        found[given.name] = (
            _from_raw(tensor, rows, raw[i], f"raw_input_contents[{i}]")
            if raw
            else _from_contents(tensor, rows, given.contents, f"{where}.contents")
        )
    for tensor in model.inputs:
        if not tensor.optional and tensor.name not in found:
            raise _invalid("inputs", f"lacks {tensor.name}")
    return rows, found


def _from_contents(tensor: _Tensor, rows: int, contents: Any, where: str) -> Any:  # noqa: ANN401
    type_ = _TYPES[tensor.datatype]
    for field, _ in contents.ListFields():
        if field.name != type_.contents:
            raise _invalid(f"{where}.{field.name}", f"is not where {tensor.datatype} belongs; send {type_.contents}")
    values = getattr(contents, type_.contents)
    size = rows * math.prod(tensor.row)
    if len(values) != size:
        raise _invalid(f"{where}.{type_.contents}", f"has {len(values)} values, but the shape has {size}")
    return np.array(values, type_.array).reshape(rows, *tensor.row) if type_.array else values


def _from_raw(tensor: _Tensor, rows: int, raw: bytes, where: str) -> Any:  # noqa: ANN401
    type_ = _TYPES[tensor.datatype]
    if type_.array:
        array = np.dtype(type_.array)
        size = rows * math.prod(tensor.row) * array.itemsize
        if len(raw) != size:
            raise _invalid(where, f"has {len(raw)} bytes, but the shape takes {size}")
        return np.frombuffer(raw, array).reshape(rows, *tensor.row)
    values: list[bytes] = []
    at = 0
    while at < len(raw) and len(values) <= rows:
        if at + 4 > len(raw) or at + 4 + (size := struct.unpack_from("<I", raw, at)[0]) > len(raw):
            raise _invalid(
                where, "ends in the middle of an element; each is its length as 4 bytes, little-endian, and its bytes"
            )
        values.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    if len(values) != rows:
        has = f"has {len(values)}" if len(values) < rows else "has more"
        raise _invalid(where, f"{has} elements, but the shape has {rows}")
    return values


def _rows(inputs: Mapping[str, Any], version: Version) -> list[Row]:
    """Rows for the network. Zeros are padding wherever they stand, as the network's mask has it. Raises InvalidRequest."""
    ids, aux = inputs["main_input"], inputs["aux_input"]
    most = version.info.vocabulary_size - 1
    if len(wrong := np.flatnonzero(((ids < 0) | (ids > most)).any(axis=1))):
        raise _invalid(f"main_input[{wrong[0]}]", f"holds what is no word's id; ids are 0 to {most}")
    if len(wrong := np.flatnonzero((ids == PADDING).all(axis=1))):
        raise _invalid(f"main_input[{wrong[0]}]", "holds no word; a headline without a word is the id 1")
    if len(wrong := np.flatnonzero(~np.isfinite(aux).all(axis=1))):
        raise _invalid(f"aux_input[{wrong[0]}]", "holds what is no finite number")
    aux = aux.copy()
    for name, value in version.info.frozen.items():
        aux[:, AUX_FEATURES.index(name)] = value
    return [Row(row[row != PADDING].tolist(), values) for row, values in zip(ids, aux.tolist(), strict=True)]


def _decoded(name: str, values: Sequence[bytes]) -> list[str]:
    decoded = []
    for i, value in enumerate(values):
        try:
            decoded.append(value.decode())
        except UnicodeDecodeError:
            raise _invalid(f"{name}[{i}]", "is not UTF-8") from None
    return decoded


def _refuse(where: str, parameters: Any) -> None:  # noqa: ANN401
    """Raise InvalidRequest for what would change the answer and is not there; other parameters are passed over."""
    for name in parameters:
        if name.startswith("shared_memory"):
            raise _invalid(where, "asks for shared memory, which this server does not have; send the values")
        if name == "classification":
            raise _invalid(where, "asks for classification, which this server does not have")


def _is_false(parameters: Any, name: str) -> bool:  # noqa: ANN401
    return (
        name in parameters
        and parameters[name].WhichOneof("parameter_choice") == "bool_param"
        and not parameters[name].bool_param
    )


def _renamed(violation: FieldViolation, model: _Model) -> FieldViolation:
    """What is wrong with a headline, by the name of the input that holds it: `headlines[3].posted_at` is `posted_at[3]`."""
    if not violation.field.startswith("headlines"):
        return violation
    place, _, field = violation.field.removeprefix("headlines").partition(".")
    name = model.inputs[0].name if field in ("", "text") else field
    return FieldViolation(f"{name}{place}", violation.description.replace("headlines", "rows"))


def _invalid(field: str, description: str) -> InvalidRequest:
    return InvalidRequest("a request that does not fit the model", [FieldViolation(field, description)])


def _unknown(name: str, version: str = "") -> UnknownModel:
    shown = repr(name[:_LONGEST_NAME])
    return UnknownModel(f"Request for unknown model: {shown}{f' version {version}' if version else ''} is not found")


def _bytes(message: Any) -> bytes:  # noqa: ANN401
    raw: bytes = message.SerializeToString()
    return raw
