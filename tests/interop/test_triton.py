"""The same requests to a real Triton and to this server: which status each gets, and in what shape an answer comes.

Triton serves two models of the same names and tensors (tests/interop/triton), whose scores are constants.
"""

import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format

from harness.process import ServerProcess, serve
from service.api import inference_messages as messages

ROOT = Path(__file__).parents[2]
MODELS = Path(__file__).parent / "triton"
VENV = ROOT / ".tools" / "triton"
PATIENCE = 120  # seconds
TEXT, ARRAYS = "headline-popularity", "headline-popularity-arrays"

pytestmark = pytest.mark.interop_all


def tensor(name="headline", datatype="BYTES", shape=(2,), parameters=(), **contents):
    made = {"name": name, "datatype": datatype, "shape": shape, "parameters": dict(parameters)}
    return {**made, "contents": contents} if contents else made


def texts(*values, shape=None, name="headline"):
    encoded = [value if isinstance(value, bytes) else value.encode() for value in values]
    return tensor(name, shape=[len(values)] if shape is None else shape, bytes_contents=encoded)


def times(*values, shape=None):
    return tensor("posted_at", "INT64", [len(values)] if shape is None else shape, int64_contents=values)


def ids(rows, width=100, value=1, shape=None):
    return tensor("main_input", "INT32", shape or [rows, width], int_contents=[value] * rows * width)


def aux(rows, width=5, value=0.5, shape=None):
    return tensor("aux_input", "FP32", shape or [rows, width], fp32_contents=[value] * rows * width)


def raw(*values):
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def output(name, **parameters):
    return {"name": name, "parameters": parameters}


TWO = texts("new park", "city votes")
BARE = tensor()  # no contents, which are raw
BARE_ARRAYS = [tensor("main_input", "INT32", [1, 100]), tensor("aux_input", "FP32", [1, 5])]
ONES, ZEROS, HALVES = struct.pack("<100i", *[1] * 100), bytes(400), struct.pack("<5f", *[0.5] * 5)

# Infer requests for the model that takes headlines.
OF_TEXT = {
    "typed": {"inputs": [TWO]},
    "typed with id": {"inputs": [TWO], "id": "abc"},
    "one row": {"inputs": [texts("park")]},
    "64 rows": {"inputs": [texts(*["park"] * 64)]},
    "1,024 rows": {"inputs": [texts(*["park"] * 1024)]},
    "unicode": {"inputs": [texts("東京 наука", "épée 🎉")]},
    "interior zero byte": {"inputs": [texts("a\0b", "c")]},
    "no word": {"inputs": [texts("!!!", "🎉")]},
    "4 kB": {"inputs": [texts("x" * 4096)]},
    "raw": {"inputs": [BARE], "raw_input_contents": [raw(b"a b", b"c")]},
    "raw, unicode": {"inputs": [BARE], "raw_input_contents": [raw("東京".encode(), b"c")]},
    "version 1": {"inputs": [TWO], "model_version": "1"},
    "version 9": {"inputs": [TWO], "model_version": "9"},
    "version 0": {"inputs": [TWO], "model_version": "0"},
    "version -1": {"inputs": [TWO], "model_version": "-1"},
    "version abc": {"inputs": [TWO], "model_version": "abc"},
    "another model": {"inputs": [TWO], "model_name": "nobody"},
    "no model": {"inputs": [TWO], "model_name": ""},
    "a long name": {"inputs": [TWO], "model_name": "n" * 2000},
    "no inputs": {"inputs": []},
    "only an optional one": {"inputs": [times(1, 2)]},
    "unknown input": {"inputs": [TWO, texts("a", "b", name="zzz")]},
    "only an unknown input": {"inputs": [texts("a", "b", name="zzz")]},
    "input twice": {"inputs": [TWO, TWO]},
    "typed, too few": {"inputs": [texts("a", "b", shape=[3])]},
    "typed, too many": {"inputs": [texts("a", "b", shape=[1])]},
    "raw, too few": {"inputs": [tensor(shape=[3])], "raw_input_contents": [raw(b"a", b"b")]},
    "raw, too many": {"inputs": [tensor(shape=[1])], "raw_input_contents": [raw(b"a", b"b")]},
    "raw, cut off": {"inputs": [BARE], "raw_input_contents": [raw(b"a", b"b")[:-1]]},
    "raw, cut off in a length": {"inputs": [BARE], "raw_input_contents": [raw(b"a", b"b")[:-3]]},
    "raw, no length": {"inputs": [BARE], "raw_input_contents": [b"\xff\xff\xff\xffabc"]},
    "raw, empty": {"inputs": [BARE], "raw_input_contents": [b""]},
    "raw, one too many": {"inputs": [BARE], "raw_input_contents": [raw(b"a", b"b"), b"x"]},
    "raw, one too few": {"inputs": [BARE, tensor("outlet")], "raw_input_contents": [raw(b"a", b"b")]},
    "raw and typed": {"inputs": [TWO], "raw_input_contents": [raw(b"a", b"b")]},
    "neither raw nor typed": {"inputs": [BARE]},
    "datatype of another": {"inputs": [tensor(datatype="INT32", int_contents=[1, 2])]},
    "datatype STRING": {"inputs": [tensor(datatype="STRING", bytes_contents=[b"a", b"b"])]},
    "datatype in small letters": {"inputs": [tensor(datatype="bytes", bytes_contents=[b"a", b"b"])]},
    "no datatype": {"inputs": [tensor(datatype="", bytes_contents=[b"a", b"b"])]},
    "field of another": {"inputs": [tensor(int_contents=[1, 2])]},
    "two fields": {"inputs": [tensor(bytes_contents=[b"a", b"b"], int_contents=[1, 2])]},
    "two dimensions": {"inputs": [texts("a", "b", shape=[2, 1])]},
    "no dimension": {"inputs": [texts("a", shape=[])]},
    "negative dimension": {"inputs": [tensor(shape=[-1], bytes_contents=[b"a"])]},
    "huge dimension": {"inputs": [tensor(shape=[1 << 40], bytes_contents=[b"a"])]},
    "no rows": {"inputs": [tensor(shape=[0])], "raw_input_contents": [b""]},
    "one output": {"inputs": [TWO], "outputs": [output("aux_output")]},
    "outputs in another order": {"inputs": [TWO], "outputs": [output("best"), output("main_output")]},
    "all outputs": {
        "inputs": [TWO],
        "outputs": [
            output(name) for name in ("main_output", "aux_output", "best", "word_count", "unknown_word_count", "outlet_known")
        ],
    },
    "output twice": {"inputs": [TWO], "outputs": [output("best"), output("best")]},
    "unknown output": {"inputs": [TWO], "outputs": [output("zz")]},
    "nameless output": {"inputs": [TWO], "outputs": [output("")]},
    "an input as output": {"inputs": [TWO], "outputs": [output("headline")]},
    "binary output": {"inputs": [TWO], "outputs": [output("best", binary_data={"bool_param": True})]},
    "classification": {"inputs": [TWO], "outputs": [output("best", classification={"int64_param": 1})]},
    "unknown parameter": {"inputs": [TWO], "parameters": {"x": {"string_param": "y"}}},
    "priority": {"inputs": [TWO], "parameters": {"priority": {"uint64_param": 1}}},
    "timeout": {"inputs": [TWO], "parameters": {"timeout": {"int64_param": 60_000_000}}},
    "sequence": {"inputs": [TWO], "parameters": {"sequence_id": {"int64_param": 5}, "sequence_start": {"bool_param": True}}},
    "reserved parameter": {"inputs": [TWO], "parameters": {"triton_foo": {"int64_param": 1}}},
    "parameter of an input": {"inputs": [{**TWO, "parameters": {"x": {"string_param": "y"}}}]},
    "shared memory": {
        "inputs": [
            tensor(parameters={"shared_memory_region": {"string_param": "r"}, "shared_memory_byte_size": {"int64_param": 3}})
        ]
    },
    "outlet": {"inputs": [TWO, texts("gazette", "", name="outlet")]},
    "outlet before the headline": {"inputs": [texts("gazette", "", name="outlet"), TWO]},
    "outlet and time": {"inputs": [TWO, texts("gazette", "", name="outlet"), times(1, 2)]},
    "time": {"inputs": [TWO, times(1_464_000_000, 1_464_000_001)]},
    "raw time": {"inputs": [BARE, tensor("posted_at", "INT64")], "raw_input_contents": [raw(b"a", b"b"), bytes(16)]},
    "raw time, short": {"inputs": [BARE, tensor("posted_at", "INT64")], "raw_input_contents": [raw(b"a", b"b"), bytes(15)]},
    "raw time, long": {"inputs": [BARE, tensor("posted_at", "INT64")], "raw_input_contents": [raw(b"a", b"b"), bytes(24)]},
    "time as INT32": {"inputs": [TWO, tensor("posted_at", "INT32", int_contents=[1, 2])]},
    "time as FP64": {"inputs": [TWO, tensor("posted_at", "FP64", fp64_contents=[1, 2])]},
    "fewer times": {"inputs": [TWO, times(1)]},
}
# Infer requests for the model that takes what the network takes.
OF_ARRAYS = {
    "typed": {"inputs": [ids(2), aux(2)]},
    "inputs in another order": {"inputs": [aux(2), ids(2)]},
    "1,024 rows": {"inputs": [ids(1024), aux(1024)]},
    "1,025 rows": {"inputs": [ids(1025), aux(1025)]},
    "raw": {"inputs": BARE_ARRAYS, "raw_input_contents": [ONES, HALVES]},
    "raw, another order": {"inputs": BARE_ARRAYS[::-1], "raw_input_contents": [HALVES, ONES]},
    "raw, short": {"inputs": BARE_ARRAYS, "raw_input_contents": [ONES[:-4], HALVES]},
    "raw, long": {"inputs": BARE_ARRAYS, "raw_input_contents": [ONES + bytes(4), HALVES]},
    "raw, not a whole number": {"inputs": BARE_ARRAYS, "raw_input_contents": [ONES, HALVES[:-1]]},
    "raw, swapped": {"inputs": BARE_ARRAYS, "raw_input_contents": [HALVES, ONES]},
    "a row without a word": {"inputs": BARE_ARRAYS, "raw_input_contents": [ZEROS, HALVES]},
    "99 words": {"inputs": [ids(2, 99), aux(2)]},
    "101 words": {"inputs": [ids(2, 101), aux(2)]},
    "4 features": {"inputs": [ids(2), aux(2, 4)]},
    "other rows": {"inputs": [ids(2), aux(1)]},
    "no rows": {"inputs": [ids(0), aux(0)]},
    "words alone": {"inputs": [ids(2)]},
    "features alone": {"inputs": [aux(2)]},
    "no batch": {"inputs": [ids(1, shape=[100]), aux(1, shape=[5])]},
    "three dimensions": {"inputs": [ids(1, shape=[1, 100, 1]), aux(1)]},
    "INT64": {"inputs": [tensor("main_input", "INT64", [1, 100], int64_contents=[1] * 100), aux(1)]},
    "FP64": {"inputs": [ids(1), tensor("aux_input", "FP64", [1, 5], fp64_contents=[0.5] * 5)]},
    "huge shape": {"inputs": [ids(1, shape=[1 << 40, 100]), aux(1)]},
    "typed, too few": {"inputs": [ids(1, shape=[2, 100]), aux(2)]},
    "one output": {"inputs": [ids(2), aux(2)], "outputs": [output("aux_output")]},
    "output of the other model": {"inputs": [ids(2), aux(2)], "outputs": [output("best")]},
    "version 2": {"inputs": [ids(2), aux(2)], "model_version": "2"},
}
NAMES = [(name, version) for name in (TEXT, ARRAYS, "nobody", "") for version in ("", "1", "2", "x", "0")]
REQUESTS = {
    **{name: (name, {}) for name in ("ServerLive", "ServerReady", "ServerMetadata")},
    **{
        f"{method} of {name!r} {version!r}": (method, {"name": name, "version": version})
        for method in ("ModelReady", "ModelMetadata", "ModelConfig")
        for name, version in NAMES
    },
    **{f"text: {name}": ("ModelInfer", {"model_name": TEXT, **fields}) for name, fields in OF_TEXT.items()},
    **{f"arrays: {name}": ("ModelInfer", {"model_name": ARRAYS, **fields}) for name, fields in OF_ARRAYS.items()},
}
# Where this server's status is another than Triton's, and why.
EXCEPTIONS = {
    "text: only an optional one": "Triton runs the model without its headlines, which then fails",
    "text: raw, one too many": "Triton passes over what belongs to no input; it is a mistake of the caller's",
    "text: no rows": "Predict refuses a request without a headline too",
    "text: output twice": "what is asked for twice is a mistake of the caller's",
    "text: classification": "there are no classes; Triton sorts the rows' scores as if they were",
    "text: shared memory": "Triton looks for the region; there is none here, so the request itself is wrong",
    "text: fewer times": "which headline has which time? Triton leaves it to the model",
    "arrays: a row without a word": "the network's mask leaves it nothing to read",
}
# What Triton has beyond the Open Inference Protocol and ModelConfig; the ninth exception.
OF_TRITON_ALONE = [
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "SystemSharedMemoryStatus",
    "CudaSharedMemoryStatus",
    "TraceSetting",
    "LogSettings",
]


class Server:
    """Where requests go, and what comes back."""

    def __init__(self, target):
        self._channel = grpc.insecure_channel(target)

    def implements(self, method):
        """Whether it has a method."""
        try:
            self._channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(b"", timeout=PATIENCE)
        except grpc.RpcError as error:
            return error.code() is not grpc.StatusCode.UNIMPLEMENTED
        return True

    def __call__(self, method, fields):
        call = self._channel.unary_unary(
            f"/inference.GRPCInferenceService/{method}",
            request_serializer=lambda it: it.SerializeToString(),
            response_deserializer=getattr(messages, f"{method}Response").FromString,
        )
        try:
            answer = call(getattr(messages, f"{method}Request")(**fields), timeout=PATIENCE)
        except grpc.RpcError as error:
            return error.code().name, None
        return "OK", answer

    def close(self):
        self._channel.close()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def triton(tmp_path_factory):
    """A real Triton, on the CPU."""
    packages = VENV / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    installed = packages / "pytriton" / "tritonserver"
    stubs = installed / "python_backend_stubs" / f"{sys.version_info[0]}.{sys.version_info[1]}"
    if not stubs.is_dir():
        pytest.skip("Triton is not there: make interop-all")
    directory = tmp_path_factory.mktemp("triton")
    shutil.copytree(installed / "backends", directory / "backends")
    shutil.copy(stubs / "triton_python_backend_stub", directory / "backends" / "python")
    port, log = free_port(), directory / "log"
    libraries = [str(packages / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                installed / "bin" / "tritonserver",
                f"--model-repository={MODELS}",
                f"--backend-directory={directory / 'backends'}",
                *("--grpc-address=127.0.0.1", f"--grpc-port={port}"),
                *("--allow-http=false", "--allow-metrics=false"),
                *("--model-control-mode=none", "--exit-on-error=false"),
            ],
            env={
                **os.environ,
                "LD_LIBRARY_PATH": ":".join(libraries),
                "PYTHONPATH": str(packages),
                "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",
            },
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    server = Server(f"127.0.0.1:{port}")
    try:
        until = time.monotonic() + PATIENCE
        while not ready(server):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.5)
        yield server
    finally:
        server.close()
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()


def ready(server):
    answers = [server("ModelReady", {"name": name}) for name in (TEXT, ARRAYS)]
    return all(status == "OK" and answer.ready for status, answer in answers)


@pytest.fixture(scope="module")
def ours(models):
    with ServerProcess(serve(models, "--engine", "litert")) as process:
        process.port = process.wait_for("listening")["port"]
        process.wait_for("serving version")
        server = Server(process.target)
        yield server
        server.close()


def form(method, answer):
    """What of an answer must be alike: all but the values of scores and what names a server."""
    if method == "ServerMetadata" or answer is None:
        return None
    told = json.loads(json_format.MessageToJson(answer, descriptor_pool=messages.POOL))
    told.pop("platform", None)
    if "config" in told:
        told["config"].pop("platform", None)
        told["config"]["input"].sort(key=lambda it: it["name"])
    if "inputs" in told:
        told["inputs"].sort(key=lambda it: it["name"])
    if "rawOutputContents" in told:
        told["rawOutputContents"] = [len(it) for it in told["rawOutputContents"]]
    return told


def test_it_answers_as_triton_does(triton, ours):
    assert len(REQUESTS) > 150
    assert len(EXCEPTIONS) < 10
    others, alike = {}, 0
    for name, (method, fields) in REQUESTS.items():
        (theirs, their_answer), (status, answer) = triton(method, fields), ours(method, fields)
        if theirs != status:
            others[name] = f"{theirs}, here {status}"
        else:
            assert form(method, answer) == form(method, their_answer), name
            alike += 1
    print(f"{len(REQUESTS)} requests, {alike} alike; others: {json.dumps(others, indent=1)}")
    assert others.keys() == EXCEPTIONS.keys(), others


def test_it_has_none_of_what_is_triton_alone(triton, ours):
    assert [method for method in OF_TRITON_ALONE if not triton.implements(method)] == []
    assert [method for method in OF_TRITON_ALONE if ours.implements(method)] == []
