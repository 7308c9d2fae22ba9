"""Stock inference clients, each in a virtual environment of its own, get what Predict answers."""

import base64
import json
import os
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from headlines.client import Client, Headline
from service.api import inference_messages as messages

ROOT = Path(__file__).parents[2]
CLIENTS = Path(__file__).parent / "clients"
TEXTS = ["City votes on new park", "zebra", "東京 and Москва", "!!!", "word " * 120]
WHEN = datetime.fromtimestamp(1_464_000_000, UTC)
OUTPUTS = ("main_output", "aux_output", "best", "word_count", "unknown_word_count", "outlet_known")


@pytest.fixture
def server(serve, models):
    with serve(models, "--engine", "litert") as server:
        server.wait_for("serving version")
        yield server


@pytest.fixture
def predicted(server):
    with Client(server.target) as client:
        found = client.predict([Headline(text, WHEN, "gazette") for text in TEXTS])
    return {name: [getattr(it, name) for it in found] for name in OUTPUTS}


def run(command, server, **options):
    done = subprocess.run(
        [*command, server.target],
        input="\n".join(TEXTS),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python(name):
    path = ROOT / ".tools" / name / "bin" / "python"
    if not path.exists():
        pytest.skip(f"{name} is not there: make interop or make interop-all")
    return path


@pytest.fixture
def of_triton(server):
    return json.loads(run([python("tritonclient"), CLIENTS / "with_tritonclient.py"], server))


@pytest.mark.interop
def test_tritonclient(of_triton, predicted):
    blocking, asynchronous = of_triton["blocking"], of_triton["asynchronous"]
    assert blocking["text"] == asynchronous["text"] == predicted
    assert blocking["arrays"] == asynchronous["arrays"]
    assert [len(rows) for rows in blocking["arrays"].values()] == [3, 3]
    assert blocking["inputs"] == ["headline", "outlet", "posted_at"]
    assert blocking["max_batch_size"] == 1024
    assert blocking["refusal"].startswith("StatusCode.INVALID_ARGUMENT: ")
    assert "headline[0] is blank" in blocking["refusal"]


@pytest.mark.interop
def test_the_program_in_the_docs(server):
    page = (ROOT / "docs" / "inference-clients.md").read_text("utf-8")
    [program] = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    said = run([python("tritonclient"), "-c", program.replace("127.0.0.1:50051", server.target)], server)
    assert re.fullmatch(r"\[0\.\d+ +0\.\d+ *\]\n", said)


@pytest.mark.interop
def test_messages_are_those_that_the_client_brings(of_triton):
    theirs = {}
    for file in of_triton["files"]:
        theirs |= shapes(descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(file)))
    file = descriptor_pb2.FileDescriptorProto()
    messages.SERVICE.file.CopyToProto(file)
    ours = shapes(file)
    assert len(ours) > 25
    for name, fields in ours.items():
        missing = fields.items() - theirs[name].items()
        assert not missing, name


def shapes(file):
    """Of each message and enumeration, the fields by number; of the service, its methods."""
    found = {enum.name: {value.number: value.name for value in enum.value} for enum in file.enum_type}
    for service in file.service:
        found[service.name] = {method.name: (method.input_type, method.output_type) for method in service.method}

    def add(message, outer):
        name = f"{outer}.{message.name}"
        found[name] = {
            field.number: (field.name, field.type, field.label, field.type_name, field.HasField("oneof_index"))
            for field in message.field
        }
        for inner in message.nested_type:
            add(inner, name)

    for message in file.message_type:
        add(message, "")
    return found


@pytest.mark.interop_all
def test_kserve(server, predicted):
    told = json.loads(run([python("kserve"), CLIENTS / "with_kserve.py"], server))
    assert told == {"ready": [True, True, True], "outputs": predicted}


@pytest.mark.interop_all
def test_perf_analyzer(server):
    directory = ROOT / ".tools" / "perf_analyzer"
    if not (directory / "perf_analyzer").exists():
        pytest.skip("perf_analyzer is not there: make interop-all")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(directory)}
    # Given shapes on the command line it makes up times as well.
    for model, data in (("headline-popularity", "headline.json"), ("headline-popularity-arrays", "arrays.json")):
        command = [directory / "perf_analyzer", "-m", model, "-i", "grpc", "--input-data", CLIENTS / data]
        said = run([*command, "--concurrency-range", "4", "--request-count", "200", "-u"], server, env=environment)
        assert "Request count: 200" in said
        assert "Concurrency: 4, throughput: " in said
