"""What callers rely on, against a whole server in the test's own process with the engine for CPUs."""

import asyncio
import logging
import math
import shutil
import socket
import time
from datetime import UTC, datetime
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from in_process import HeldEngine, connect, generous, running, until
from prometheus_client.parser import text_string_to_metric_families

from headlines.v1 import popularity_pb2 as pb
from headlines.v1 import popularity_pb2_grpc
from service.model import artifact, engines
from service.model.preprocessing import Headline
from service.model.version import Version
from service.server import Server

WHEN = 1_464_000_000
SECRET = "Xyzzy-secret"
SERVICE = "headlines.v1.PopularityService"


def headline(text="City votes on new park", seconds=WHEN, outlet="gazette", nanos=0):
    return pb.Headline(text=text, posted_at=Timestamp(seconds=seconds, nanos=nanos), outlet=outlet)


def request(*texts):
    return pb.PredictRequest(headlines=[headline(text) for text in texts])


def sample(server, name, **labels):
    return server.metrics.registry.get_sample_value(name, labels)


async def failure(call):
    """The status that a call ends with: code, message, and the violations of its BadRequest."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    status = rpc_status.from_call(error.value)
    violations = []
    for detail in status.details if status else []:
        bad_request = error_details_pb2.BadRequest()
        assert detail.Unpack(bad_request)
        violations = [(it.field, it.description) for it in bad_request.field_violations]
    return error.value.code(), error.value.details(), violations


@pytest.fixture(scope="session")
def version(models):
    return Version.load(artifact.read(models / "1"), engines.choose("litert"))


# Predict


async def test_predict_answers_each_headline_in_order(stub, version):
    texts = ["City votes on new park", "!!!", "東京 wins", "the unheard-of " * 60, "Don’t park"]
    outlets = ["gazette", " Herald ", "The Gazette", "", "GAZETTE"]
    answer = await stub.Predict(
        pb.PredictRequest(headlines=[headline(*it) for it in zip(texts, [WHEN] * 5, outlets, strict=True)])
    )
    expected = version.predict([Headline(text, WHEN, outlet) for text, outlet in zip(texts, outlets, strict=True)]).rows()
    assert answer.model_version == 1
    assert len(answer.predictions) == 5
    for got, wanted in zip(answer.predictions, expected, strict=True):
        assert math.isclose(got.main_output, wanted.main_output, abs_tol=1e-6)
        assert math.isclose(got.aux_output, wanted.aux_output, abs_tol=1e-6)
        assert got.best == (got.main_output if wanted.outlet_known else got.aux_output)
    assert [it.word_count for it in answer.predictions] == [5, 0, 3, 180, 2]
    assert [it.unknown_word_count for it in answer.predictions] == [0, 0, 2, 60, 1]
    assert [it.outlet_known for it in answer.predictions] == [True, True, False, False, True]


async def test_an_unset_time_is_now_and_the_epoch_is_not(stub, version):
    before = time.time()
    answer = await stub.Predict(
        pb.PredictRequest(headlines=[pb.Headline(text="The market wins"), headline("The market wins", 0)])
    )
    now, epoch = (it.main_output for it in answer.predictions)
    wanted = [version.predict([Headline("The market wins", seconds)]).main_output[0] for seconds in (before, time.time())]
    assert min(wanted) - 1e-5 <= now <= max(wanted) + 1e-5
    assert math.isclose(epoch, version.predict([Headline("The market wins", 0.0, "gazette")]).main_output[0], abs_tol=1e-6)


async def test_every_wrong_field_is_named(stub):
    code, message, violations = await failure(
        stub.Predict(
            pb.PredictRequest(
                headlines=[
                    headline(),
                    headline(" \u2003\n"),
                    headline("x" * 4097),
                    headline("é" * 2049),
                    headline(seconds=253_402_300_800),
                    headline(seconds=-62_135_596_801),
                    headline(nanos=-1),
                    headline("", nanos=1_000_000_000),
                ]
            )
        )
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert [field for field, _ in violations] == [
        "headlines[1].text",
        "headlines[2].text",
        "headlines[3].text",
        "headlines[4].posted_at",
        "headlines[5].posted_at",
        "headlines[6].posted_at",
        "headlines[7].posted_at",
        "headlines[7].text",
    ]
    assert "4098 bytes; write at most 4096" in violations[2][1]
    assert "between the years 1 and 9999" in violations[3][1]
    assert "headlines[1].text is blank" in message


async def test_the_edges_of_what_is_allowed_are_answered(stub):
    edges = [
        headline("x" * 4096),
        headline("é" * 2048),
        headline(seconds=253_402_300_799, nanos=999_999_999),
        headline(seconds=-62_135_596_800),
        headline("\0"),
        headline("a\u0301" * 500, outlet="x" * 100_000),
    ]
    assert len((await stub.Predict(pb.PredictRequest(headlines=edges))).predictions) == len(edges)
    assert len((await stub.Predict(request(*["park"] * 1024))).predictions) == 1024


@pytest.mark.parametrize("count", [0, 1025, 500_000])
async def test_the_number_of_headlines_is_bounded(stub, count):
    code, _, violations = await failure(stub.Predict(pb.PredictRequest(headlines=[pb.Headline()] * count)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert [field for field, _ in violations] == ["headlines"]
    assert "1024" in violations[0][1]


async def test_a_thousand_wrong_fields_still_fit_into_the_metadata(stub):
    code, _, violations = await failure(stub.Predict(request(*[" "] * 1024)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert violations[0] == ("headlines[0].text", "is blank; write at least one character")


@pytest.mark.parametrize(
    ("method", "raw"),
    [
        ("GetModel", b"\xff"),
        ("Explain", b"\xff"),
        ("Predict", b"\xff"),
        ("Predict", b"\x0a\x05ab"),  # cut off
        ("Predict", b"\x0a\x04\x0a\x02\xff\xfe"),  # a text that is no UTF-8
        ("Predict", b"\x0a\xff\xff\xff\xff\x7f"),  # longer than it is
    ],
)
async def test_bytes_that_are_no_request_are_refused(channel, method, raw):
    code, message, _ = await failure(channel.unary_unary(f"/{SERVICE}/{method}")(raw))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith("not a valid headlines.v1.")


async def test_what_grpc_itself_refuses(channel, server):
    predict = channel.unary_unary(f"/{SERVICE}/Predict")
    assert (await failure(predict(b"\x0a" * ((4 << 20) + 1))))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    squeezed = predict(request("park").SerializeToString() * 100, compression=grpc.Compression.Gzip)
    assert (await failure(squeezed))[0] is grpc.StatusCode.UNIMPLEMENTED
    assert (await failure(channel.unary_unary(f"/{SERVICE}/Guess")(b"")))[0] is grpc.StatusCode.UNIMPLEMENTED
    assert (await failure(channel.unary_unary(f"/{SECRET}/{SECRET}")(b"")))[0] is grpc.StatusCode.UNIMPLEMENTED
    unknown = {"grpc_type": "unknown", "grpc_service": "unknown", "grpc_method": "unknown"}
    assert sample(server, "grpc_server_handled_total", **unknown, grpc_code="UNIMPLEMENTED") == 2
    assert sample(server, "grpc_server_started_total", **unknown) == 2
    with pytest.raises(grpc.aio.AioRpcError):
        await predict(request("park").SerializeToString(), metadata=[("x", "y" * 20_000)])
    assert await predict(request("park").SerializeToString())


async def test_without_a_version_predict_is_unavailable_and_get_model_says_why(make_settings, models, tmp_path):
    settings = make_settings(models=tmp_path / "models")
    async with Server(settings, engines.choose("litert")) as server, connect(server) as channel, asyncio.timeout(60):
        stub = popularity_pb2_grpc.PopularityServiceStub(channel)
        code, message, _ = await failure(stub.Predict(request("park")))
        assert (code, message) == (grpc.StatusCode.UNAVAILABLE, "no model version is loaded")
        model = await stub.GetModel(pb.GetModelRequest())
        assert (model.version, model.engine, list(model.versions)) == (0, "litert", [])
        assert not model.HasField("trained_at")
        shutil.copytree(models, tmp_path / "broken")
        (tmp_path / "broken" / "1" / artifact.CPU_MODEL).write_bytes(b"broken")
        (tmp_path / "broken").rename(settings.models)
        while not (model.versions and model.versions[0].state == pb.ModelVersion.STATE_FAILED):
            await asyncio.sleep(0.01)
            model = await stub.GetModel(pb.GetModelRequest())
        assert model.version == 0
        assert "cpu.tflite" in model.versions[0].error


async def test_what_is_served_and_what_is_not_is_said_in_metrics_readiness_and_get_model(make_settings, models, tmp_path):
    def ready():
        try:
            with urlopen(f"http://127.0.0.1:{server.http_port}/readyz") as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    def read():
        names = ("ready", "model_directory_missing", "model_trained_timestamp_seconds")
        return [sample(server, f"headlines_{name}") for name in names]

    async def until(*expected):
        async with asyncio.timeout(60):
            while read() != [*expected]:
                await asyncio.sleep(0.01)
        return await asyncio.to_thread(ready)

    settings = make_settings(models=tmp_path / "models")
    (settings.models / "v1").mkdir(parents=True)
    async with Server(settings, engines.choose("litert")) as server, connect(server) as channel:
        stub = popularity_pb2_grpc.PopularityServiceStub(channel)
        status, body = await until(0, 0, None)
        while "v1" not in body:  # it has not looked yet
            status, body = await asyncio.to_thread(ready)
        assert (status, "only whole numbers name versions" in body, str(settings.models) in body) == (503, True, True)
        shutil.copytree(models / "1", tmp_path / "1")
        (tmp_path / "1").rename(settings.models / "1")
        assert await until(1, 0, 1_464_200_000) == (200, "ok\n")
        (settings.models / "1").rename(tmp_path / "1")
        assert await until(1, 1, 1_464_200_000) == (200, "ok\n")
        [state] = (await stub.GetModel(pb.GetModelRequest())).versions
        assert (state.state, "its directory is missing" in state.error) == (pb.ModelVersion.STATE_LIVE, True)
        assert (await stub.Predict(request("park"))).model_version == 1
        (settings.models / "1.withdrawn").touch()
        assert (await until(0, 0, None))[0] == 503
        assert (await stub.GetModel(pb.GetModelRequest())).version == 0


async def test_known_unknown_and_absent_outlets_are_counted(server, stub):
    outlets = ["gazette", " GAZETTE", "The Gazette", "", "", ""]
    await stub.Predict(pb.PredictRequest(headlines=[headline(outlet=outlet) for outlet in outlets]))
    counts = [sample(server, "headlines_outlets_total", known=known) for known in ("true", "false", "none")]
    assert counts == [2, 1, 3]


async def test_get_model_describes_what_is_served(stub, version):
    model = await stub.GetModel(pb.GetModelRequest())
    assert (model.name, model.version, model.digest, model.engine) == ("headline-popularity", 1, version.digest, "litert")
    assert model.trained_at.ToDatetime(UTC) == datetime.fromtimestamp(1_464_200_000, UTC)
    assert 0 <= time.time() - model.loaded_at.seconds < 600
    assert model.synthetic
    assert (model.vocabulary_size, model.sequence_length) == (version.info.vocabulary_size, 100)
    assert list(model.aux_features) == ["hour_sin", "hour_cos", "weekday_sin", "weekday_cos", "outlet_level"]
    assert list(model.outlets) == ["gazette", "herald"]
    assert (model.label, model.label_threshold) == ("above_median", 12.0)
    assert model.label_description.startswith("more than 12 retweets and likes together, as half of the posts")
    assert dict(model.evaluation) == version.info.evaluation
    assert model.label_change == ""
    assert model.limits == pb.Limits(max_headlines=1024, max_text_bytes=4096, max_message_bytes=4 << 20, max_explain_rows=1024)
    assert [(it.version, it.digest, it.state) for it in model.versions] == [(1, version.digest, pb.ModelVersion.STATE_LIVE)]


async def test_a_newer_version_takes_over_under_load(make_settings, models, tmp_path):
    settings = make_settings(models=tmp_path / "models")
    shutil.copytree(models, settings.models)
    async with running(settings) as (server, stub):
        answers = []

        async def ask():
            while not answers or answers[-1] != 2:
                answers.append((await stub.Predict(request("park"))).model_version)

        asking = asyncio.create_task(ask())
        shutil.copytree(models / "1", tmp_path / "2")
        (tmp_path / "2").rename(settings.models / "2")
        async with asyncio.timeout(60):
            await asking
        assert answers == sorted(answers)
        digest = (await stub.GetModel(pb.GetModelRequest())).digest
        assert sample(server, "headlines_model_info", version="2", digest=digest, engine="litert") == 1
        assert sample(server, "headlines_model_info", version="1", digest=digest, engine="litert") is None
        assert sample(server, "headlines_predictions_total", version="2") >= 1
        assert sample(server, "headlines_model_loads_total", outcome="success") == 2


# What goes wrong


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(make_settings):
    engine = HeldEngine()
    async with running(make_settings(max_headlines=128, queue_headlines=256), engine) as (server, stub):
        first = stub.Predict(request("park"))
        await engine.hold()
        waiting = [stub.Predict(request(*["park"] * 128)) for _ in range(2)]
        await until(lambda: sample(server, "headlines_queue_headlines") == 256)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.Predict(request("park"))
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert 20 <= int(error.value.trailing_metadata()["grpc-retry-pushback-ms"]) <= 2000
        assert sample(server, "headlines_dropped_total", reason="overloaded") == 1
        engine.go.set()
        assert [len((await call).predictions) for call in [first, *waiting]] == [1, 128, 128]


async def test_expired_and_cancelled_calls_cost_no_compute_and_are_told_apart(make_settings):
    engine = HeldEngine()
    labels = {"grpc_type": "unary", "grpc_service": SERVICE, "grpc_method": "Predict"}
    async with running(make_settings(), engine) as (server, stub):
        timeout = await generous(stub)
        first = stub.Predict(request("park"))
        await engine.hold()
        expired = stub.Predict(request("city", "city"), timeout=timeout)
        cancelled = stub.Predict(request("market", "market", "market"))
        await until(lambda: sample(server, "headlines_queue_headlines") == 5)
        cancelled.cancel()
        assert (await failure(expired))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: not sample(server, "headlines_queue_headlines"))
        engine.go.set()
        await first
        assert sample(server, "headlines_dropped_total", reason="expired") == 2
        assert sample(server, "headlines_dropped_total", reason="cancelled") == 3
        assert sample(server, "headlines_predictions_total", version="1") == 1
        assert sample(server, "grpc_server_handled_total", **labels, grpc_code="DEADLINE_EXCEEDED") == 1
        assert sample(server, "grpc_server_handled_total", **labels, grpc_code="CANCELLED") == 1
        assert sample(server, "grpc_server_handled_total", **labels, grpc_code="OK") == 1


async def test_a_fault_of_ours_is_internal_with_an_id_that_the_log_bears(make_settings, caplog):
    engine = HeldEngine()
    async with running(make_settings(), engine) as (_, stub):
        engine.fault = f"cannot compute {SECRET}"
        code, message, _ = await failure(stub.Predict(request(SECRET)))
        stream = stub.PredictStream(iter([pb.PredictStreamRequest(id=5, headlines=[headline(SECRET)])]))
        answers = [answer async for answer in stream]
        assert code is grpc.StatusCode.INTERNAL
        assert (answers[0].id, answers[0].error.code) == (5, grpc.StatusCode.INTERNAL.value[0])
        assert await stream.code() is grpc.StatusCode.OK
    records = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.error_id in text for record, text in zip(records, [message, answers[0].error.message], strict=True)] == [
        True
    ] * 2
    assert "ArithmeticError" in records[0].traceback
    assert "in predict" in records[0].traceback
    assert SECRET not in message + answers[0].error.message + "".join(str(vars(record)) for record in records)


async def test_headlines_and_outlets_are_told_to_nobody(make_settings, caplog):
    caplog.set_level(logging.DEBUG)
    async with running(make_settings()) as (server, stub):
        async with connect(server) as channel:
            text, outlet = f"{SECRET} text", f"{SECRET} outlet"
            answered = await stub.Predict(pb.PredictRequest(headlines=[headline(text, outlet=outlet)]))
            stream = stub.PredictStream(
                iter([pb.PredictStreamRequest(id=1, headlines=[headline(text, outlet=outlet)] * n) for n in (1, 0)])
            )
            told = [str(answer) async for answer in stream]
            told += map(str, await failure(stub.Predict(request(text + "x" * 5000))))
            explained = await stub.Explain(pb.ExplainRequest(headlines=[headline(text, outlet=outlet)]))
            assert len(explained.explanations[0].words) == 3
            told += map(str, await failure(stub.Explain(pb.ExplainRequest(headlines=[headline(text + "x" * 5000)]))))
            told += map(str, await failure(stub.Explain(pb.ExplainRequest(headlines=[headline(f"{text} {'x ' * 100}")] * 9))))
            told += map(str, await failure(stub.Predict(pb.PredictRequest(headlines=[headline(text, nanos=-1)]))))
            raw = pb.PredictRequest(headlines=[headline(text, outlet=outlet)]).SerializeToString()
            told += map(str, await failure(channel.unary_unary(f"/{SERVICE}/Predict")(raw[:-1])))
            told += [str(answered), str(await stub.GetModel(pb.GetModelRequest()))]
        url = f"http://127.0.0.1:{server.http_port}/metrics"
        told.append((await asyncio.to_thread(lambda: urlopen(url).read())).decode())
    told += [str(vars(record)) for record in caplog.records]
    assert not [text for text in told if SECRET in text]


# PredictStream


async def test_a_stream_answers_in_order_and_tells_what_is_wrong_with_one_request(channel, stub):
    good = pb.PredictStreamRequest(id=7, headlines=[headline(), headline("The market wins")]).SerializeToString()
    requests = [
        good,
        pb.PredictStreamRequest(id=8).SerializeToString(),
        b"\xff",
        pb.PredictStreamRequest(id=-9, headlines=[headline(), headline(" ")]).SerializeToString(),
        good,
    ]
    stream = channel.stream_stream(f"/{SERVICE}/PredictStream", response_deserializer=pb.PredictStreamResponse.FromString)(
        iter(requests)
    )
    answers = [answer async for answer in stream]
    assert await stream.code() is grpc.StatusCode.OK
    assert [answer.id for answer in answers] == [7, 8, 0, -9, 7]
    assert [answer.WhichOneof("result") for answer in answers] == ["response", "error", "error", "error", "response"]
    assert [answer.error.code for answer in answers if answer.HasField("error")] == [3, 3, 3]
    assert [it.field for it in answers[3].error.violations] == ["headlines[1].text"]
    assert len(answers[0].response.predictions) == 2
    assert answers[0].response == (await stub.Predict(request("City votes on new park", "The market wins")))


async def test_a_stream_answers_before_the_next_request_comes(stub):
    stream = stub.PredictStream()
    for number in range(5):
        await stream.write(pb.PredictStreamRequest(id=number, headlines=[headline()]))
        assert (await stream.read()).id == number
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


async def test_a_stream_never_meets_a_full_queue_and_never_has_more_than_two_messages_inside(make_settings):
    engine = HeldEngine()
    async with running(make_settings(max_headlines=128, queue_headlines=256), engine) as (server, stub):
        streams = [
            stub.PredictStream(iter([pb.PredictStreamRequest(id=n, headlines=[headline()] * 60) for n in range(20)]))
            for _ in range(5)
        ]
        engine.go.clear()
        for stream in streams:
            await stream.wait_for_connection()
        labels = {"grpc_type": "bidi_stream", "grpc_service": SERVICE, "grpc_method": "PredictStream"}
        await until(lambda: sample(server, "grpc_server_msg_received_total", **labels) >= 5 * 2)
        assert (await stub.GetModel(pb.GetModelRequest())).version == 1
        engine.go.set()
        for stream in streams:
            assert [(answer.id, answer.HasField("response")) async for answer in stream] == [(n, True) for n in range(20)]
        assert sample(server, "headlines_dropped_total", reason="overloaded") == 0
        assert sample(server, "grpc_server_msg_sent_total", **labels) == 100


async def test_a_stream_ends_with_its_deadline_or_an_oversize_message(stub):
    stream = stub.PredictStream(timeout=await generous(stub))
    await stream.write(pb.PredictStreamRequest(id=1, headlines=[headline()]))
    assert (await stream.read()).id == 1
    assert await stream.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    stream = stub.PredictStream()
    await stream.write(pb.PredictStreamRequest(id=1, headlines=[headline("x" * (5 << 20))]))
    assert await stream.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len((await stub.Predict(request("park"))).predictions) == 1


async def test_a_stream_that_is_dropped_leaves_nothing_behind(make_settings):
    engine = HeldEngine()
    async with running(make_settings(), engine) as (server, stub):
        stream = stub.PredictStream(iter([pb.PredictStreamRequest(id=n, headlines=[headline()] * 100) for n in range(2)]))
        await engine.hold()
        stream.cancel()
        await until(lambda: not sample(server, "headlines_queue_headlines"))
        engine.go.set()
        assert len((await stub.Predict(request("park"))).predictions) == 1
        await until(
            lambda: not [task for task in asyncio.all_tasks() if "_answer" in repr(task) or "read()" in repr(task.get_coro())]
        )


# The rest of a server


async def test_millions_of_empty_headlines_are_refused_before_each_takes_memory(channel):
    empty = b"\x0a\x00" * ((4 << 20) // 2 - 8)
    for message in (empty, b"\x0b\x0c" + empty, b"\x8a\x00\x00" + empty):  # also behind a group, and an overlong tag
        code, _, violations = await failure(channel.unary_unary(f"/{SERVICE}/Predict")(message))
        assert (code, violations[0][0]) == (grpc.StatusCode.INVALID_ARGUMENT, "headlines")
        assert "far more than 1024" in violations[0][1]
    good = pb.PredictStreamRequest(headlines=[headline()]).SerializeToString()
    hostile = b"\x08\x07" + empty.replace(b"\x0a", b"\x12")
    answers = channel.stream_stream(f"/{SERVICE}/PredictStream")(iter([hostile, good]))
    refused, answered = [pb.PredictStreamResponse.FromString(it) async for it in answers]
    assert (refused.id, refused.error.code, refused.error.violations[0].field) == (0, 3, "headlines")
    assert len(answered.response.predictions) == 1


async def test_metrics_are_scraped_while_requests_are_counted(server, stub):
    await stub.Predict(request("City votes on new park", "unheard"))
    url = f"http://127.0.0.1:{server.http_port}"
    text = (await asyncio.to_thread(lambda: urlopen(f"{url}/metrics").read())).decode()
    samples = {
        (it.name, tuple(sorted(it.labels.items()))): it.value
        for family in text_string_to_metric_families(text)
        for it in family.samples
    }
    method = (("grpc_method", "Predict"), ("grpc_service", SERVICE), ("grpc_type", "unary"))
    assert samples["grpc_server_handled_total", (("grpc_code", "OK"), *method)] == 1
    assert samples["grpc_server_handled_total", (("grpc_code", "INVALID_ARGUMENT"), *method)] == 0
    assert samples["grpc_server_handling_seconds_count", method] == 1
    assert samples["headlines_predictions_total", (("version", "1"),)] == 2
    assert samples["headlines_words_total", (("known", "false"),)] == 1
    assert samples["headlines_main_output_count", ()] == 2
    assert samples["headlines_batch_size_sum", ()] == 2
    for path in ("/healthz", "/readyz"):
        assert (await asyncio.to_thread(lambda path=path: urlopen(url + path).status)) == 200


async def test_a_taken_port_is_an_error_that_names_its_flag(make_settings, server):
    with pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1:\d+: is --port already in use"):
        await Server(make_settings(port=server.port), engines.choose("litert")).start()
    with pytest.raises(OSError, match=r"is --http-port already in use"):
        await Server(make_settings(http_port=server.http_port), engines.choose("litert")).start()


async def test_it_warns_where_strangers_may_call(make_settings, caplog):
    for host, warned in (("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)):
        caplog.clear()
        if host == "0.0.0.0" and not socket.has_ipv6:
            continue
        server = Server(make_settings(host=host), engines.choose("litert"))
        await server.start()
        await server.stop()
        assert ("open to the network" in caplog.text) == warned
