"""The server as a process: how it starts, stops in order, and ends when it cannot go on."""

import asyncio
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc
from in_process import HeldEngine, connect, serving, until

from harness import process
from harness.process import ServerProcess, environment
from headlines.v1 import popularity_pb2 as pb
from headlines.v1 import popularity_pb2_grpc
from service.api import inference_messages
from service.errors import Unavailable
from service.model import engines
from service.server import Server
from service.web import operators

NO_RETRIES = [("grpc.enable_retries", 0)]
SECRET = "Xyzzy-secret"


def request(texts=1, text="City votes on new park"):
    return pb.PredictRequest(headlines=[pb.Headline(text=text, posted_at=Timestamp(seconds=1_464_000_000))] * texts)


def ready(server):
    try:
        return urlopen(f"http://127.0.0.1:{server.http_port}/readyz").status
    except HTTPError as error:
        return error.code


def test_it_says_where_it_listens_and_what_it_serves(models, serve):
    with serve(models, "--engine", "litert", "--drain-seconds", 0) as server:
        record = server.wait_for("serving version 1 on litert")
        assert (record["version"], record["engine"], record["level"]) == (1, "litert", "info")
        assert (record["port"], record["http_port"]) == (server.port, server.http_port)
        with grpc.insecure_channel(server.target) as channel:
            stub = popularity_pb2_grpc.PopularityServiceStub(channel)
            assert len(stub.Predict(request(3)).predictions) == 3
        assert ready(server) == 200
        metrics = urlopen(f"http://127.0.0.1:{server.http_port}/metrics").read().decode()
        assert f'grpcio="{grpc.__version__}"' in next(line for line in metrics.splitlines() if "headlines_build_info{" in line)
        assert "headlines_log_dropped_total 0.0" in metrics
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        records = [json.loads(line) for line in server.lines]
        assert (records[0]["python"], records[0]["grpcio"]) == (platform.python_version(), grpc.__version__)
        assert (records[-1]["message"], records[-1]["calls"]) == ("stopped after 1 calls", {"OK": 1})
        assert all({"time", "level", "logger", "message"} <= set(record) for record in records)
        assert "Traceback" not in server.output


def test_flags_come_from_the_environment_and_kubernetes_links_do_not_matter(models, serve):
    variables = {
        "HEADLINES_MODEL_NAME": "gazette",
        "HEADLINES_PORT": "tcp://10.0.0.7:50051",
        "HEADLINES_SERVICE_HOST": "10.0.0.7",
        "HEADLINES_PROT": SECRET,
    }
    with serve(models, "--engine", "litert", **variables) as server, grpc.insecure_channel(server.target) as channel:
        assert popularity_pb2_grpc.PopularityServiceStub(channel).GetModel(pb.GetModelRequest()).name == "gazette"
        warned = [line for line in server.lines if "is not a variable of this program" in line]
        assert len(warned) == 1
        assert "HEADLINES_PROT is not a variable of this program; did you mean HEADLINES_PORT?" in warned[0]
        assert SECRET not in server.output


def test_without_a_models_directory_it_waits_and_is_not_serving(tmp_path, serve):
    with serve(tmp_path / "none", "--engine", "litert", "--drain-seconds", 0) as server:
        server.wait_for("does not exist")
        with grpc.insecure_channel(server.target) as channel:
            status = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status
            assert status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert popularity_pb2_grpc.PopularityServiceStub(channel).GetModel(pb.GetModelRequest()).version == 0
        assert ready(server) == 503
        server.process.send_signal(signal.SIGINT)
        assert server.wait() == 0


@pytest.mark.parametrize("flag", ["--port", "--http-port"])
def test_a_taken_port_ends_it_with_a_sentence_and_exit_code_1(models, flag):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with ServerProcess(process.serve(models, "--engine", "litert", flag, port)) as server:
            assert server.wait() == 1
    assert f"cannot start: cannot listen on 127.0.0.1:{port}" in server.output
    assert f"is {flag} already in use" in server.output
    assert "Traceback" not in server.output


def test_a_part_that_dies_ends_it_with_exit_code_1(models):
    program = """
import sys
from service import __main__, repository
async def scan(self):
    raise ArithmeticError(" ".join(["secret", "words"]))  # a traceback may show this line
repository.Repository.scan = scan
sys.exit(__main__.main(sys.argv[1:]))
"""
    flags = ["--models", models, "--port", "0", "--http-port", "0", "--engine", "litert"]
    ended = subprocess.run(
        [sys.executable, "-c", program, "serve", *flags], env=environment(), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "the repository died" in ended.stderr
    assert "ArithmeticError" in ended.stderr
    assert "secret words" not in ended.stderr


def test_on_a_terminal_the_log_is_for_people_and_a_stop_does_not_wait(models):
    terminal, end = os.openpty()
    flags = ["--models", models, "--port", "0", "--http-port", "0", "--engine", "litert"]
    with subprocess.Popen([sys.executable, "-m", "service", "serve", *flags], env=environment(), stderr=end) as process:
        os.close(end)
        shown = ""
        while "serving version 1" not in shown:
            shown += os.read(terminal, 1000).decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    os.close(terminal)
    assert re.search(r"^\d\d:\d\d:\d\d INFO    service.server: listening at 127.0.0.1, gRPC port \d+", shown, re.MULTILINE)
    assert "{" not in shown


async def test_sigterm_answers_what_it_has_and_refuses_the_rest(models, serve):
    """Streams answer what they have read, admitted calls are answered, watches are told and end."""
    room = ("--queue-headlines", 100_000, "--message-memory-bytes", 256 << 20)
    with serve(models, "--engine", "litert", "--drain-seconds", 0, *room) as server:
        await asyncio.to_thread(server.wait_for, "serving version 1")
        async with grpc.aio.insecure_channel(server.target, options=NO_RETRIES) as channel, asyncio.timeout(60):
            stub = popularity_pb2_grpc.PopularityServiceStub(channel)
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            stream = stub.PredictStream()
            await stream.write(pb.PredictStreamRequest(id=1, headlines=request().headlines))
            assert (await stream.read()).id == 1

            long = request(1024, "city council " * 50)
            calls = [asyncio.ensure_future(stub.Predict(long)) for _ in range(40)]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            server.process.send_signal(signal.SIGTERM)

            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await watch.read() is grpc.aio.EOF
            assert await stream.code() is grpc.StatusCode.UNAVAILABLE
            answers = await asyncio.gather(*calls, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, BaseException)]
        assert all(answer.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED} for answer in refused)
        assert all(len(answer.predictions) == 1024 for answer in answers if answer not in refused)
        assert server.wait() == 0
        assert "internal error" not in server.output


async def test_while_it_drains_everything_is_answered_and_a_second_signal_ends_it(models, serve):
    with serve(models, "--engine", "litert", "--drain-seconds", 600) as server:
        await asyncio.to_thread(server.wait_for, "serving version 1")
        async with grpc.aio.insecure_channel(server.target, options=NO_RETRIES) as channel, asyncio.timeout(60):
            stub = popularity_pb2_grpc.PopularityServiceStub(channel)
            server.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(server.wait_for, "SIGTERM: stopping")
            assert len((await stub.Predict(request(2))).predictions) == 2
            status = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert status.status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await asyncio.to_thread(ready, server) == 503
            await asyncio.sleep(1.1)  # within a second it would be the same wish
            server.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(server.wait) == -signal.SIGTERM


def test_headlines_and_outlets_are_in_no_output(models, serve):
    with serve(models, "--engine", "litert", "--drain-seconds", 0, "--log-level", "debug") as server:
        server.wait_for("serving version 1")
        with grpc.insecure_channel(server.target) as channel:
            stub = popularity_pb2_grpc.PopularityServiceStub(channel)
            marked = pb.Headline(text=f"{SECRET} text", outlet=f"{SECRET} outlet")
            stub.Predict(pb.PredictRequest(headlines=[marked]))
            answers = list(stub.PredictStream(iter([pb.PredictStreamRequest(id=1, headlines=[marked, pb.Headline()])])))
            for wrong in (
                pb.Headline(text=SECRET * 500),
                pb.Headline(text=SECRET, posted_at=Timestamp(nanos=-1), outlet=SECRET),
            ):
                with pytest.raises(grpc.RpcError) as error:
                    stub.Predict(pb.PredictRequest(headlines=[wrong]))
                answers.append(error.value)
            with pytest.raises(grpc.RpcError) as error:
                channel.unary_unary(f"/headlines.v1.PopularityService/{SECRET}")(SECRET.encode())
            answers.append(stub.GetModel(pb.GetModelRequest()))
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            for name in ("headline", SECRET):
                content = {"bytes_contents": [SECRET.encode() * 500]}
                tensor = {"name": name, "datatype": "BYTES", "shape": [1], "contents": content}
                request_ = inference_messages.ModelInferRequest(model_name="headline-popularity", id=SECRET, inputs=[tensor])
                with pytest.raises(grpc.RpcError) as error:
                    infer(request_.SerializeToString())
                assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                answers.append(error.value)
        answers.append(urlopen(f"http://127.0.0.1:{server.http_port}/metrics").read())
        with pytest.raises(HTTPError):
            urlopen(f"http://127.0.0.1:{server.http_port}/{SECRET}")
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        assert SECRET not in str(answers)
        assert SECRET not in "".join(line for line in server.lines if "service.web.operators" not in line)


# In the test's own process, where an engine can be held


async def test_new_calls_are_refused_while_admitted_ones_are_finished(make_settings):
    engine = HeldEngine()
    server = Server(make_settings(), engine)
    await server.start()
    await serving(server)
    async with connect(server) as channel, asyncio.timeout(60):
        stub = popularity_pb2_grpc.PopularityServiceStub(channel)
        stream = stub.PredictStream()
        admitted = asyncio.ensure_future(stub.Predict(request(2)))
        await engine.hold()
        for number in (1, 2, 3):
            await stream.write(pb.PredictStreamRequest(id=number, headlines=request().headlines))
        # Two of the three.
        await until(lambda: server.metrics.registry.get_sample_value("headlines_queue_headlines") == 2)
        stopping = asyncio.create_task(server.stop())
        with pytest.raises(grpc.aio.AioRpcError, match="the server is stopping") as error:
            while True:
                await stub.GetModel(pb.GetModelRequest())
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        engine.go.set()
        assert len((await admitted).predictions) == 2
        assert [(await stream.read()).id for _ in range(2)] == [1, 2]
        assert await stream.code() is grpc.StatusCode.UNAVAILABLE
        await stopping


@pytest.mark.parametrize("grace_seconds", [0, 0.1])
async def test_a_stuck_call_cannot_hold_the_stop_beyond_the_grace_time(make_settings, caplog, grace_seconds):
    engine = HeldEngine()
    server = Server(make_settings(grace_seconds=grace_seconds), engine)
    await server.start()
    await serving(server)
    async with connect(server) as channel, asyncio.timeout(60):
        call = popularity_pb2_grpc.PopularityServiceStub(channel).Predict(request())
        await engine.hold()
        await server.stop()
        assert await call.code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}
        assert "1 calls in flight are cut off" in caplog.text
        engine.go.set()


async def test_a_stream_that_begins_as_the_server_stops_does_not_hold_it(make_settings):
    class Context:
        def time_remaining(self):
            return None

    async def none():
        return
        yield

    server = Server(make_settings(), engines.choose("litert"))
    stream = server._popularity._predict_stream(none(), Context())
    beginning = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)  # it is inside, and has not begun to read
    server._gate.close()
    server._popularity.stop_reading()
    async with asyncio.timeout(60):
        with pytest.raises(Unavailable, match="the server is stopping"):
            await beginning
        await server._gate.wait_until_drained()


async def test_without_grace_and_with_nobody_inside_none_is_cut_off(make_settings, caplog):
    server = Server(make_settings(grace_seconds=0), engines.choose("litert"))
    await server.start()
    await server.stop()
    assert "cut off" not in caplog.text


@pytest.mark.parametrize("part", ["repository", "batcher"])
async def test_a_part_that_dies_is_seen_at_once(make_settings, caplog, part, monkeypatch):
    server = Server(make_settings(), engines.choose("litert"))

    async def die():
        raise ArithmeticError(SECRET)

    monkeypatch.setattr(getattr(server, f"_{part}"), "run", die)
    await server.start()
    async with asyncio.timeout(60):
        assert await server.wait(asyncio.Event())
    await server.stop()
    assert f"the {part} died" in caplog.text
    assert "ArithmeticError" in caplog.records[-1].traceback
    assert SECRET not in str([vars(record) for record in caplog.records])


async def test_the_death_of_the_engines_thread_is_seen_at_once_and_an_error_for_who_waits(make_settings, caplog):
    server = Server(make_settings(), HeldEngine())
    await server.start()
    await serving(server)
    async with connect(server) as channel, asyncio.timeout(60):
        server._executor.shutdown()
        call = popularity_pb2_grpc.PopularityServiceStub(channel).Predict(request())
        assert await server.wait(asyncio.Event())
        assert await call.code() is grpc.StatusCode.INTERNAL
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(server.stop())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await stopping
    assert "the batcher died" in caplog.text


async def test_the_death_of_the_http_thread_is_seen_at_once(make_settings, caplog, monkeypatch):
    server = Server(make_settings(), engines.choose("litert"))
    await server.start()

    def die(_):
        raise ArithmeticError(SECRET)

    monkeypatch.setattr(operators.HttpServer, "_turn", die)  # which the thread calls again and again
    async with asyncio.timeout(60):
        assert await server.wait(asyncio.Event())
    await server.stop()
    assert "the HTTP port died" in caplog.text
    assert "ArithmeticError" in caplog.records[-1].traceback
    assert SECRET not in str([vars(record) for record in caplog.records])
