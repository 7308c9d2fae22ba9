"""The Open Inference Protocol, as bytes on the wire; tests/interop tries stock clients and compares with Triton."""

import asyncio
import shutil
import struct
import urllib.request

import grpc
import numpy as np
import pytest
from in_process import HeldEngine, connect, running, serving, until

from headlines.v1 import popularity_pb2 as pb
from service.api import inference_messages as messages
from service.model import artifact, engines
from service.model.preprocessing import AUX_FEATURES, Headline
from service.model.version import Version
from service.server import Server

NAME = "headline-popularity"
ARRAYS = f"{NAME}-arrays"
WHEN = 1_464_000_000
TEXTS = ["City votes on new park", "zebra", "東京 and Москва", "!!!", "word " * 120]


class Stub:
    """The methods, by name."""

    def __init__(self, channel):
        self._channel = channel

    def __getattr__(self, method):
        call = self._channel.unary_unary(
            f"/inference.GRPCInferenceService/{method}",
            request_serializer=lambda it: it if isinstance(it, bytes) else it.SerializeToString(),
            response_deserializer=getattr(messages, f"{method}Response").FromString,
        )
        request = getattr(messages, f"{method}Request")
        return lambda raw=None, timeout=60, **fields: call(request(**fields) if raw is None else raw, timeout=timeout)


@pytest.fixture
def inference(channel):
    return Stub(channel)


def typed(name, datatype, shape, values):
    field = {"BYTES": "bytes_contents", "INT32": "int_contents", "INT64": "int64_contents", "FP32": "fp32_contents"}[datatype]
    return {"name": name, "datatype": datatype, "shape": shape, "contents": {field: values}}


def texts(*values, **others):
    encoded = [value if isinstance(value, bytes) else value.encode() for value in values]
    inputs = [typed("headline", "BYTES", [len(values)], encoded)]
    for name, given in others.items():
        inputs.append(typed(name, "INT64" if name == "posted_at" else "BYTES", [len(given)], given))
    return inputs


def arrays(ids, aux):
    ids, aux = np.array(ids, np.int32), np.array(aux, np.float32)
    return [
        typed("main_input", "INT32", ids.shape, ids.ravel().tolist()),
        typed("aux_input", "FP32", aux.shape, aux.ravel().tolist()),
    ]


def padded(*rows):
    return [[*row, *[0] * (100 - len(row))] for row in rows]


def columns(response):
    """The outputs by name, from raw contents."""
    types = {"FP32": "<f4", "INT32": "<i4", "BOOL": "?"}
    assert len(response.outputs) == len(response.raw_output_contents)
    return {
        output.name: np.frombuffer(raw, types[output.datatype]).reshape(output.shape)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


async def refused(call):
    """The status and the fields that its details name."""
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await call
    return refusal.value.code(), refusal.value.details()


async def test_what_is_served(inference):
    assert (await inference.ServerLive()).live
    assert (await inference.ServerReady()).ready
    server = await inference.ServerMetadata()
    assert (server.name, list(server.extensions)) == (NAME, [])
    assert server.version
    text, numbers = [await inference.ModelMetadata(name=name) for name in (NAME, ARRAYS)]
    assert (text.name, list(text.versions), text.platform) == (NAME, ["1"], "litert")
    assert [(it.name, it.datatype, list(it.shape)) for it in text.inputs] == [
        ("headline", "BYTES", [-1]),
        ("outlet", "BYTES", [-1]),
        ("posted_at", "INT64", [-1]),
    ]
    assert [(it.name, list(it.shape)) for it in numbers.inputs] == [("main_input", [-1, 100]), ("aux_input", [-1, 5])]
    config = (await inference.ModelConfig(name=NAME)).config
    assert config.max_batch_size == 0
    assert [(it.name, it.data_type, list(it.dims), it.optional) for it in config.input] == [
        ("headline", messages.DATA_TYPES["TYPE_STRING"], [-1], False),
        ("outlet", messages.DATA_TYPES["TYPE_STRING"], [-1], True),
        ("posted_at", messages.DATA_TYPES["TYPE_INT64"], [-1], True),
    ]
    config = (await inference.ModelConfig(name=ARRAYS, version="1")).config
    assert config.max_batch_size == 1024
    assert [list(it.dims) for it in (*config.input, *config.output)] == [[100], [5], [1], [1]]


@pytest.mark.parametrize(
    ("name", "version", "ready", "code"),
    [
        (NAME, "", True, None),
        (ARRAYS, "1", True, None),
        (NAME, "2", False, "NOT_FOUND"),
        ("nobody", "", False, "NOT_FOUND"),
        ("", "", False, "NOT_FOUND"),
        (NAME, "x", None, "INVALID_ARGUMENT"),
        (NAME, "0", False, "NOT_FOUND"),
        (NAME, "-1", None, "INVALID_ARGUMENT"),
        (NAME, "9" * 400, None, "INVALID_ARGUMENT"),
        ("n" * (1 << 20), "", False, "NOT_FOUND"),
    ],
)
async def test_a_model_and_version_that_are_or_are_not_there(inference, name, version, ready, code):
    if ready is None:
        assert (await refused(inference.ModelReady(name=name, version=version)))[0].name == "INVALID_ARGUMENT"
    else:
        assert (await inference.ModelReady(name=name, version=version)).ready is ready
    inputs = arrays(padded([1]), [[0] * 5]) if name == ARRAYS else texts("park")
    calls = [
        inference.ModelMetadata(name=name, version=version),
        inference.ModelConfig(name=name, version=version),
        inference.ModelInfer(model_name=name, model_version=version, inputs=inputs),
    ]
    for call in calls:
        if code is None:
            await call
        else:
            status, said = await refused(call)
            assert status.name == code
            assert len(said) < 300


@pytest.mark.parametrize("text", TEXTS)
async def test_a_score_is_the_same_by_each_face_to_the_last_bit(inference, stub, models, text):
    version = Version.load(artifact.read(models / "1"), engines.choose("litert"))
    headline = Headline(text, float(WHEN), "gazette")
    rows = version.preprocessor.encode([headline])
    request = pb.PredictRequest(headlines=[pb.Headline(text=text, outlet="gazette")])
    request.headlines[0].posted_at.FromSeconds(WHEN)
    [predicted] = (await stub.Predict(request)).predictions
    inputs = texts(text, outlet=[b"gazette"], posted_at=[WHEN])
    by_text = columns(await inference.ModelInfer(model_name=NAME, inputs=inputs))
    by_arrays = columns(await inference.ModelInfer(model_name=ARRAYS, inputs=arrays(padded(rows.ids), rows.aux)))
    for name in ("main_output", "aux_output", "best", "word_count", "unknown_word_count", "outlet_known"):
        assert by_text[name].tolist() == [getattr(predicted, name)]
    assert by_arrays["main_output"].tolist() == [[predicted.main_output]]
    assert by_arrays["aux_output"].tolist() == [[predicted.aux_output]]


async def test_raw_and_typed_contents_are_the_same(inference):
    encoded = [text.encode() for text in TEXTS]
    raw = b"".join(struct.pack("<I", len(it)) + it for it in encoded)
    times = np.full(len(TEXTS), WHEN, "<i8").tobytes()
    inputs = [
        {"name": "posted_at", "datatype": "INT64", "shape": [len(TEXTS)]},
        {"name": "headline", "datatype": "BYTES", "shape": [len(TEXTS)]},
    ]
    by_raw = await inference.ModelInfer(model_name=NAME, id="7", inputs=inputs, raw_input_contents=[times, raw])
    by_type = await inference.ModelInfer(model_name=NAME, id="7", inputs=texts(*TEXTS, posted_at=[WHEN] * len(TEXTS)))
    assert by_raw == by_type
    assert (by_raw.id, by_raw.model_name, by_raw.model_version) == ("7", NAME, "1")
    ids, aux = np.zeros((2, 100), "<i4"), np.ones((2, 5), "<f4")
    ids[:, [3, 70]] = 2
    inputs = [
        {"name": "aux_input", "datatype": "FP32", "shape": [2, 5]},
        {"name": "main_input", "datatype": "INT32", "shape": [2, 100]},
    ]
    contents = [aux.tobytes(), ids.tobytes()]
    by_raw = await inference.ModelInfer(model_name=ARRAYS, inputs=inputs, raw_input_contents=contents)
    assert by_raw == await inference.ModelInfer(model_name=ARRAYS, inputs=arrays(ids, aux))
    assert by_raw == await inference.ModelInfer(model_name=ARRAYS, inputs=arrays(padded([2, 2], [2, 2]), aux))


async def test_typed_answers_and_the_outputs_that_are_asked_for(inference):
    whole = await inference.ModelInfer(model_name=NAME, inputs=texts(*TEXTS, posted_at=[WHEN] * len(TEXTS)))
    asked = {
        "by request": {"parameters": {"binary_data_output": {"bool_param": False}}},
        "by each output": {
            "outputs": [{"name": it.name, "parameters": {"binary_data": {"bool_param": False}}} for it in whole.outputs]
        },
    }
    for more in asked.values():
        request = messages.ModelInferRequest(model_name=NAME, inputs=texts(*TEXTS, posted_at=[WHEN] * len(TEXTS)), **more)
        answer = await inference.ModelInfer(request.SerializeToString())
        assert not answer.raw_output_contents
        values = {it.name: [list(value) for _, value in it.contents.ListFields()] for it in answer.outputs}
        assert values == {name: [column.tolist()] for name, column in columns(whole).items()}
    # One output by value and another in binary: in binary, as all can be read so.
    outputs = [{"name": "best"}, {"name": "main_output", "parameters": {"binary_data": {"bool_param": False}}}]
    some = await inference.ModelInfer(model_name=NAME, inputs=texts("park"), outputs=outputs)
    assert list(columns(some)) == ["main_output", "best"]


def tensor(**changes):
    return [{**texts("park", "city")[0], **changes}]


RAW = [{"name": "headline", "datatype": "BYTES", "shape": [2]}]
ONE = struct.pack("<I", 4) + b"park"
MALFORMED = {
    "no inputs": ({"inputs": []}, "inputs lacks headline"),
    "unknown input": ({"inputs": [*tensor(), *tensor(name="zzz")]}, "inputs[1].name is not an input"),
    "input twice": ({"inputs": tensor() * 2}, "inputs[1].name is given twice"),
    "datatype": ({"inputs": tensor(datatype="INT32")}, "inputs[0].datatype must be BYTES"),
    "no datatype": ({"inputs": tensor(datatype="")}, "inputs[0].datatype must be BYTES"),
    "another field": ({"inputs": tensor(contents={"int_contents": [1, 2]})}, "inputs[0].contents.int_contents"),
    "too few values": ({"inputs": tensor(shape=[3])}, "has 2 values, but the shape has 3"),
    "too many values": ({"inputs": tensor(shape=[1])}, "has 2 values, but the shape has 1"),
    "two dimensions": ({"inputs": tensor(shape=[2, 1])}, "inputs[0].shape must be [n]"),
    "no shape": ({"inputs": tensor(shape=[])}, "inputs[0].shape must be [n]"),
    "negative": ({"inputs": tensor(shape=[-1])}, "inputs[0].shape must be [n]"),
    "no rows": ({"inputs": texts()}, "headline is empty; send 1 to 1024 rows"),
    "too many rows": ({"inputs": texts(*["a"] * 1025)}, "headline holds more than 1024"),
    "lengths": ({"inputs": texts("a", "b", posted_at=[1])}, "inputs[1].shape begins with 1"),
    "raw and typed": ({"inputs": tensor(), "raw_input_contents": [ONE * 2]}, "inputs[0].contents stands beside"),
    "too much raw": ({"inputs": RAW, "raw_input_contents": [ONE * 2, b""]}, "raw_input_contents has 2 entries"),
    "raw too short": ({"inputs": RAW, "raw_input_contents": [ONE]}, "raw_input_contents[0] has 1 elements"),
    "raw too long": ({"inputs": RAW, "raw_input_contents": [ONE * 3]}, "raw_input_contents[0] has more elements"),
    "raw cut off": ({"inputs": RAW, "raw_input_contents": [(ONE * 2)[:-1]]}, "raw_input_contents[0] ends in the middle"),
    "raw size": ({"inputs": RAW, "raw_input_contents": [b"\xff" * 8]}, "raw_input_contents[0] ends in the middle"),
    "blank": ({"inputs": texts("park", " ")}, "headline[1] is blank"),
    "long": ({"inputs": texts("park", "x" * 4097)}, "headline[1] has 4097 bytes"),
    "not UTF-8": ({"inputs": texts("park", b"\xff")}, "headline[1] is not UTF-8"),
    "outlet": ({"inputs": texts("park", outlet=[b"\xff"])}, "outlet[0] is not UTF-8"),
    "time": ({"inputs": texts("park", posted_at=[1 << 62])}, "posted_at[0] is not a valid time"),
    "unknown output": ({"outputs": [{"name": "zz"}]}, "outputs[0].name is not an output"),
    "output twice": ({"outputs": [{"name": "best"}] * 2}, "outputs[1].name is asked for twice"),
    "classes": ({"outputs": [{"name": "best", "parameters": {"classification": {"int64_param": 1}}}]}, "classification"),
    "reserved": ({"parameters": {"triton_foo": {"int64_param": 1}}}, "parameters holds one that begins with triton_"),
    "memory": ({"inputs": tensor(parameters={"shared_memory_region": {"string_param": "r"}})}, "shared memory"),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_what_does_not_fit_the_model_is_named(inference, name):
    fields, words = MALFORMED[name]
    request = messages.ModelInferRequest(**{"model_name": NAME, "inputs": texts("park"), **fields})
    status, said = await refused(inference.ModelInfer(request.SerializeToString()))
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert words in said


async def test_parameters_that_change_nothing_are_passed_over(inference):
    parameters = {"timeout": {"int64_param": 1}, "priority": {"uint64_param": 1}, "sequence_id": {"string_param": "x"}}
    request = messages.ModelInferRequest(model_name=NAME, inputs=texts("park"), parameters=parameters)
    assert (await inference.ModelInfer(request.SerializeToString())).outputs


NUMBERS = {
    "negative id": (padded([1], [-1]), [[0] * 5] * 2, "main_input[1] holds what is no word's id; ids are 0 to"),
    "id too large": (padded([1], [10_000]), [[0] * 5] * 2, "main_input[1] holds what is no word's id"),
    "no word": (padded([1], [0]), [[0] * 5] * 2, "main_input[1] holds no word"),
    "nan": (padded([1], [1]), [[0] * 5, [0, float("nan"), 0, 0, 0]], "aux_input[1] holds what is no finite number"),
    "infinity": (padded([1], [1]), [[0] * 5, [0, 0, 0, 0, float("-inf")]], "aux_input[1] holds what is no finite number"),
    "too many": (padded(*[[1]] * 1025), [[0] * 5] * 1025, "main_input holds more than 1024"),
    "rows": (padded([1], [1]), [[0] * 5], "inputs[1].shape begins with 1"),
    "width": ([[1] * 99], [[0] * 5], "inputs[0].shape must be [n, 100]"),
}


@pytest.mark.parametrize("name", NUMBERS)
async def test_numbers_that_no_headline_has_are_refused_and_harm_nobody(inference, name):
    ids, aux, words = NUMBERS[name]
    good = arrays(padded([2, 3]), [[0.5] * 5])
    alone = await inference.ModelInfer(model_name=ARRAYS, inputs=good)
    bad, *others = await asyncio.gather(
        refused(inference.ModelInfer(model_name=ARRAYS, inputs=arrays(ids, aux))),
        *(inference.ModelInfer(model_name=ARRAYS, inputs=good) for _ in range(4)),
    )
    assert bad[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert words in bad[1]
    for other in others:
        for name_, column in columns(other).items():
            assert column == pytest.approx(columns(alone)[name_], abs=1e-6)


async def test_bytes_that_are_no_request_and_ones_with_very_many_fields(inference):
    for raw in (b"\xff\xff", b"\x0a\x05ab"):
        assert (await refused(inference.ModelInfer(raw)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    status, said = await refused(inference.ModelInfer(b"\x3a\x00" * 200_000))
    assert (status, "too many fields" in said) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    many = messages.ModelInferRequest(model_name=NAME, inputs=[typed("headline", "BYTES", [1_000_000], [b""] * 1_000_000)])
    assert "holds more than 1024" in (await refused(inference.ModelInfer(many.SerializeToString())))[1]
    status, _ = await refused(inference.ModelInfer(model_name=NAME, inputs=RAW, raw_input_contents=[bytes(100 << 20)]))
    assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await inference.ModelInfer(model_name=NAME, inputs=texts("park"))).outputs


async def test_rows_count_in_batches_and_not_among_words(server, inference):
    def metrics():
        with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/metrics", timeout=30) as answer:
            lines = [line.rpartition(" ") for line in answer.read().decode().splitlines() if line.startswith("headlines_")]
        return {name: float(value) for name, _, value in lines}

    drift = ("headlines_predictions_total", "headlines_words_total", "headlines_main_output", "headlines_outlets_total")
    before = await asyncio.to_thread(metrics)
    await inference.ModelInfer(model_name=ARRAYS, inputs=arrays(padded([2, 3], [1]), [[0.5] * 5] * 2))
    between = await asyncio.to_thread(metrics)
    assert between["headlines_batch_size_sum"] == before["headlines_batch_size_sum"] + 2
    assert {name: value for name, value in between.items() if name.startswith(drift)} == {
        name: value for name, value in before.items() if name.startswith(drift)
    }
    await inference.ModelInfer(model_name=NAME, inputs=texts("park", "city"))
    after = await asyncio.to_thread(metrics)
    assert after['headlines_predictions_total{version="1"}'] == between.get('headlines_predictions_total{version="1"}', 0) + 2


async def test_frozen_features_are_applied(make_settings):
    async with running(make_settings()) as (server, _), connect(server) as channel:
        inference = Stub(channel)
        moved = [await scores(inference, hour) for hour in (0.0, 1.0)]
        frozen = dict.fromkeys(AUX_FEATURES[:4], 0.25)
        object.__setattr__(server._repository.live.info, "frozen", frozen)
        still = [await scores(inference, hour) for hour in (0.0, 1.0)]
    assert moved[0] != moved[1]
    assert still[0] == still[1]


async def scores(inference, hour):
    inputs = arrays(padded([2, 3]), [[hour, 0.25, 0.25, 0.25, 0.5]])
    return columns(await inference.ModelInfer(model_name=ARRAYS, inputs=inputs))["main_output"].tolist()


async def test_without_a_model_it_is_not_ready(make_settings, tmp_path):
    async with Server(make_settings(models=tmp_path), engines.choose("litert")) as server, connect(server) as channel:
        inference = Stub(channel)
        assert (await inference.ServerLive()).live
        assert not (await inference.ServerReady()).ready
        assert not (await inference.ModelReady(name=NAME)).ready
        for call in (inference.ModelMetadata(name=NAME), inference.ModelInfer(model_name=NAME, inputs=texts("park"))):
            assert (await refused(call))[0] is grpc.StatusCode.UNAVAILABLE
        assert (await refused(inference.ModelMetadata(name="nobody")))[0] is grpc.StatusCode.NOT_FOUND


async def test_deadline_drain_and_token(make_settings, tmp_path):
    engine = HeldEngine()
    tokens = tmp_path / "tokens"
    tokens.write_text("secret\n")
    tokens.chmod(0o600)
    async with Server(make_settings(), engine) as server:
        await serving(server)
        async with connect(server) as channel:
            inference = Stub(channel)
            engine.go.clear()
            engine.called.clear()
            held = asyncio.ensure_future(inference.ModelInfer(model_name=NAME, inputs=texts("park")))
            await until(engine.called.is_set)
            late = inference.ModelInfer(model_name=ARRAYS, inputs=arrays(padded([1]), [[0] * 5]), timeout=0.3)
            assert (await refused(late))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
            server._gate.close()
            assert (await refused(inference.ModelInfer(model_name=NAME, inputs=texts("park"))))[
                0
            ] is grpc.StatusCode.UNAVAILABLE
            engine.go.set()
            assert (await held).outputs
    async with Server(make_settings(tokens=tokens), engines.choose("litert")) as server, connect(server) as channel:
        assert (await refused(Stub(channel).ServerLive()))[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_a_version_that_is_asked_for_is_the_one_that_answers(make_settings, models, tmp_path):
    shutil.copytree(models, tmp_path / "models")
    engine = HeldEngine()
    async with Server(make_settings(models=tmp_path / "models"), engine) as server:
        await serving(server)
        async with connect(server) as channel:
            inference = Stub(channel)
            shutil.copytree(models / "1", tmp_path / "models" / "2")
            async with asyncio.timeout(60):
                while not (await inference.ModelReady(name=NAME, version="2")).ready:
                    await asyncio.sleep(0.01)
            assert not (await inference.ModelReady(name=NAME, version="1")).ready
            answer = await inference.ModelInfer(model_name=NAME, model_version="2", inputs=texts("park"))
            assert answer.model_version == "2"
