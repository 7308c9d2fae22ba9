"""The web port: JSON that says what gRPC says, and how a request ends that cannot be answered."""

import asyncio
import json
import random
import re
import shutil
import socket
import ssl
import subprocess
import sys
from base64 import b64encode
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format
from in_process import HeldEngine, generous, running, serving, until
from test_server import sample
from web import JSON, ask, connect, predict

from harness.certificates import Authority
from harness.process import PATIENCE, environment
from headlines.v1 import popularity_pb2 as pb
from headlines.v1 import popularity_pb2_grpc
from service.errors import InvalidRequest, UsageError
from service.model import artifact, engines
from service.server import Server
from service.settings import Settings
from service.web import messages, page

SECRET = "Xyzzy-secret"
WHEN = "2016-05-23T09:30:00Z"
HEADLINES = [
    {"text": "City votes on new park", "postedAt": WHEN, "outlet": "gazette"},
    {"text": "Council report says storm wins", "posted_at": "2016-05-23T23:59:59.250+02:00", "outlet": " HERALD"},
    {"text": "Xyzzy 東京 👩‍👩‍👧 &amp; rain", "postedAt": "2016-02-29T00:00:00-05:30", "outlet": "nobody"},
    {"text": "!!!", "postedAt": "0001-01-01T00:00:00Z"},
    {"text": "park " * 150, "postedAt": "9999-12-31T23:59:59Z", "outlet": None},
    {"text": 'quotes " and \\ and \n lines', "postedAt": WHEN, "outlet": ""},
]


@pytest.fixture
async def web(make_settings):
    """A server with a page, and a stub for it."""
    async with running(make_settings(web=True, web_port=0)) as (server, stub):
        yield server, stub


@pytest.fixture(scope="module")
def grpc_stub(target):
    with grpc.insecure_channel(target) as channel:
        yield popularity_pb2_grpc.PopularityServiceStub(channel)


def as_json(message):
    return json.loads(json_format.MessageToJson(message, always_print_fields_with_no_presence=True))


def parsed(body, kind):
    return json_format.Parse(json.dumps(body), kind())


# What it answers


@pytest.mark.parametrize("method", ["Predict", "Explain"])
def test_it_answers_as_grpc_does_in_protobufs_own_json(served, grpc_stub, method):
    for headlines in (HEADLINES[:1], HEADLINES[1:3], HEADLINES[3:4], HEADLINES[4:], HEADLINES if method == "Predict" else []):
        if not headlines:
            continue
        request, response = getattr(pb, f"{method}Request"), getattr(pb, f"{method}Response")
        told = getattr(grpc_stub, method)(parsed({"headlines": headlines}, request))
        answer = ask(served.web_port, "POST", f"/v1/{method.lower()}", {"headlines": headlines})
        assert answer.code == 200, answer.body
        assert answer.headers["content-type"] == "application/json"
        assert json_format.Parse(answer.body, response()) == told
        assert answer.json == as_json(told)


def test_random_texts_are_answered_as_by_grpc(served, grpc_stub):
    rng = random.Random(3)
    alphabet = "aAzZ09 .,'’-—&;#@:/\t\u00a0\u0301é東ไฟ🔥\ufdfa\u200d\u202e"
    for _ in range(40):
        texts = [f"x{''.join(rng.choices(alphabet, k=rng.randint(1, 60)))}" for _ in range(3)]
        headlines = [{"text": text, "postedAt": WHEN, "outlet": rng.choice(["gazette", "nobody"])} for text in texts]
        answer = ask(served.web_port, "POST", "/v1/predict", {"headlines": headlines})
        assert answer.json == as_json(grpc_stub.Predict(parsed({"headlines": headlines}, pb.PredictRequest)))


def test_the_model_is_described_as_by_grpc(served, grpc_stub):
    told = as_json(grpc_stub.GetModel(pb.GetModelRequest()))
    assert ask(served.web_port, "GET", "/v1/model").json == told
    assert told["version"] == "1"
    assert told["limits"]["maxHeadlines"] == 1024


def test_a_headline_without_a_time_is_posted_now(served, grpc_stub):
    [mine] = predict(served.web_port, "City votes on new park").json["predictions"]
    [told] = grpc_stub.Predict(pb.PredictRequest(headlines=[pb.Headline(text="City votes on new park")])).predictions
    assert mine["mainOutput"] == pytest.approx(told.main_output, abs=1e-4)
    assert mine["best"] == mine["auxOutput"] == pytest.approx(told.aux_output, abs=1e-7)


# What it accepts


@pytest.mark.parametrize(
    "headline",
    [
        *HEADLINES,
        {"text": "a", "postedAt": None, "outlet": None},
        {"text": "a", "posted_at": None},
        {"text": "\ud83d\ude00"},
        {"text": "a", "postedAt": "2016-05-23T09:30:00.123456789Z"},
        {"text": 3},
        {"text": "a", "outlet": 3},
        {"text": "a", "outlet": ["b"]},
        {"text": "a", "postedAt": 1464000000},
        {"text": "a", "postedAt": "yesterday"},
        {"text": "a", "postedAt": "2016-05-23"},
        {"text": "a", "postedAt": "2016-05-23T09:30:00"},
        {"text": "a", "postedAt": "2016-13-23T09:30:00Z"},
        {"text": "a", "postedAt": "10000-01-01T00:00:00Z"},
        {"text": "a", "author": "b"},
        {"Text": "a"},
        "a",
        ["a"],
        None,
        3,
    ],
)
def test_it_takes_what_protobufs_json_takes(headline):
    body = json.dumps({"headlines": [headline]}).encode()
    try:
        [told] = json_format.Parse(body, pb.PredictRequest()).headlines
    except json_format.ParseError:
        with pytest.raises(InvalidRequest):
            messages.headlines(body)
        return
    [taken] = messages.headlines(body)
    assert (taken.text, taken.outlet) == (told.text, told.outlet)
    if told.HasField("posted_at"):
        assert taken.posted_at == pytest.approx(told.posted_at.ToNanoseconds() / 1e9, abs=1e-6)


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        (b"", None, "not JSON"),
        (b"{", None, "not JSON"),
        (b"\xef\xbb\xbf{}", None, "not JSON"),
        (b"\x00\x01\x02", None, "not JSON"),
        (b'{"headlines": [{"text": "\xff"}]}', None, "not UTF-8"),
        (b'{"headlines": [{"text": "\\ud83d"}]}', None, "surrogate"),
        (b'{"headlines": [{"text": "\\udE00 x"}]}', None, "surrogate"),
        (b'{"headlines": [{"text": NaN}]}', None, "not JSON"),
        (b'{"headlines": []} x', None, "trailing"),
        (b'{"headlines": ' + b"[" * 100_000, "headlines[0]", "Expected `object`"),
        (b'"a"', "the body", "Expected `object`"),
        (b"{}", "the body", "missing required field `headlines`"),
        (b'{"headlines": null}', "headlines", "Expected `array`"),
        (b'{"headlines": []}', "headlines", "is empty; send 1 to 128 headlines"),
        (b'{"headlines": [{"text": "a"}, {}]}', "headlines[1]", "missing required field `text`"),
        (b'{"headlines": [{"text": "a"}, {"text": null}]}', "headlines[1].text", "Expected `str`"),
        (b'{"headlines": [{"text": " \\t"}]}', "headlines[0].text", "is blank"),
        (b'{"headlines": [{"text": "a", "Xyzzy-secret": 1}]}', "headlines[0]", "text, postedAt, posted_at, outlet"),
        (b'{"Xyzzy-secret": []}', "the body", "there are headlines"),
        (b'{"headlines": [{"text": "a", "postedAt": "Xyzzy-secret"}]}', "headlines[0].postedAt", "RFC3339"),
    ],
)
def test_what_is_wrong_is_named_and_not_quoted(served, body, field, says):
    answer = ask(served.web_port, "POST", "/v1/predict", body)
    assert answer.code == 400
    assert answer.json["error"]["status"] == "INVALID_ARGUMENT"
    assert says in answer.error
    assert answer.fields == ([field] if field else [])
    assert SECRET.encode() not in answer.body


def test_a_time_that_is_there_in_both_spellings_is_refused(served):
    for first, second in ((WHEN, "2016-05-24T09:30:00Z"), (None, WHEN), (WHEN, None), (None, None)):
        headline = {"text": "a", "postedAt": first, "posted_at": second}
        answer = ask(served.web_port, "POST", "/v1/predict", {"headlines": [{"text": "a"}, headline]})
        assert (answer.code, answer.fields) == (400, ["headlines[1]"])


def test_too_many_headlines_and_too_many_rows_are_refused(served):
    for path, most, number in (("/v1/predict", 128, 129), ("/v1/predict", 128, 60_000), ("/v1/explain", 32, 33)):
        answer = ask(served.web_port, "POST", path, {"headlines": [{"text": "a"}] * number})
        assert (answer.code, answer.fields) == (400, ["headlines"])
        assert f"at most {most}" in answer.error
    answer = ask(served.web_port, "POST", "/v1/explain", {"headlines": [{"text": "a"}] * 32})
    assert (answer.code, answer.fields) == (400, ["headlines[5]"])
    assert ask(served.web_port, "POST", "/v1/predict", {"headlines": [{"text": "a"}] * 128}).code == 200


# How HTTP is spoken


@pytest.mark.parametrize(
    ("method", "path", "headers", "code"),
    [
        ("GET", "/nowhere", {}, 404),
        ("GET", "/report", {}, 404),
        ("GET", "/../v1/model", {}, 404),
        ("GET", "//v1/model", {}, 404),
        ("GET", "/v1/predict", {}, 405),
        ("POST", "/v1/model", JSON, 405),
        ("POST", "/", JSON, 405),
        ("OPTIONS", "/v1/predict", {"Origin": "http://127.0.0.1"}, 403),
        ("OPTIONS", "/v1/predict", {}, 405),
        ("PUT", "/v1/predict", JSON, 405),
        ("DELETE", "/v1/model", {}, 405),
        ("POST", "/v1/predict", {}, 415),
        ("POST", "/v1/predict", {"Content-Type": "text/plain"}, 415),
        ("POST", "/v1/predict", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ("POST", "/v1/predict", {**JSON, "Content-Encoding": "gzip"}, 415),
        ("POST", "/v1/predict", {**JSON, "Host": "evil.example"}, 403),
        ("GET", "/", {"Host": "evil.example"}, 403),
        ("GET", "/nowhere", {"Host": "evil.example"}, 403),
        ("POST", "/v1/predict", {**JSON, "Origin": "http://evil.example"}, 403),
        ("POST", "/v1/predict", {**JSON, "Sec-Fetch-Site": "cross-site"}, 403),
        ("POST", "/v1/predict", {"Content-Type": "text/plain", "Origin": "http://evil.example"}, 403),
    ],
)
def test_what_may_not_come_in_is_refused_before_its_body_is_read(served, method, path, headers, code):
    answer = ask(served.web_port, method, path, b"x" * 200_000 if method in {"POST", "PUT"} else None, headers)
    assert answer.code == code
    assert answer.error
    if code == 405:
        assert answer.headers["allow"] in {"GET, HEAD", "POST"}
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("path", ["/", "/openapi.json", "/v1/model"])
def test_head_is_get_without_a_body(served, path):
    got, head = ask(served.web_port, "GET", path), ask(served.web_port, "HEAD", path)
    assert (got.code, head.code, head.body) == (200, 200, b"")
    assert {**got.headers, "date": ""} == {**head.headers, "date": ""}
    assert int(head.headers["content-length"]) == len(got.body)


def test_a_large_body_is_refused_whether_its_length_is_told_or_not(served):
    for body in (b"x" * (10 << 20), [b"x" * 65_536] * 40):
        answer = ask(served.web_port, "POST", "/v1/predict", body)
        assert answer.code == 413
        assert "1048576 bytes" in answer.error
    text = "park " * 800
    fits = ask(served.web_port, "POST", "/v1/predict", {"headlines": [{"text": text}] * 128})
    assert fits.code == 200


def test_a_connection_is_used_again_and_ends_with_what_is_no_http(served):
    with connect(served.web_port) as connection:
        for _ in range(3):
            connection.sendall(b"GET /v1/model HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(1)
            length = int(re.search(rb"content-length: (\d+)", head)[1])
            while length:
                length -= len(connection.recv(length))
        connection.sendall(b"\x16\x03\x01 nothing of the kind\r\n\r\n")
        answer = b""
        while part := connection.recv(4096):
            answer += part
        assert answer.startswith(b"HTTP/1.1 400 ")
    with connect(served.web_port) as connection:  # both at once
        connection.sendall(
            b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2 + b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n"
        )
        answer = b""
        while part := connection.recv(65_536):
            answer += part
        assert answer.count(b"HTTP/1.1 200 OK") == 3


def test_the_page_may_do_nothing_but_ask_its_own_server(served):
    answer = ask(served.web_port, "GET", "/")
    policy = answer.headers["content-security-policy"]
    text = answer.body.decode()
    for element, directive in (("style", "style-src"), ("script", "script-src")):
        [content] = re.findall(f"<{element}>(.*?)</{element}>", text, re.DOTALL)
        digest = b64encode(sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in policy
    for directive in (
        "default-src 'none'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    ):
        assert directive in policy
    assert "unsafe" not in policy
    for name, value in (
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
    ):
        assert answer.headers[name] == value
    assert not re.search(r"<[^>]*\s(style|on\w+)=", text.split("<script>")[0])
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert len(page.CONTENT) < 40_000


def test_the_api_describes_itself(served):
    document = ask(served.web_port, "GET", "/openapi.json").json
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]) == {"/v1/predict", "/v1/explain", "/v1/model"}
    schemas = document["components"]["schemas"]
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references <= set(schemas)
    model = ask(served.web_port, "GET", "/v1/model").json
    assert set(model) - {"trainedAt", "loadedAt", "limits"} <= set(schemas["GetModelResponse"]["properties"])
    assert "security" not in document


# Tokens, times and stops


def test_tokens_guard_everything_but_the_page_and_the_description(serve, models, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("one\ntwo\n")
    with serve(models, "--engine", "litert", "--tokens", tokens) as server:
        server.wait_for("serving version 1")
        for path in ("/v1/model", "/report/"):
            for bearer in ({}, {"Authorization": "Bearer three"}, {"Authorization": "Basic one"}, {"Cookie": "token=one"}):
                answer = ask(server.web_port, "GET", path, headers=bearer)
                assert (answer.code, answer.headers["www-authenticate"]) == (401, "Bearer")
                assert "Authorization: Bearer TOKEN" in answer.error
        assert predict(server.web_port, "park").code == 401
        assert ask(server.web_port, "GET", "/v1/model?token=one", headers={}).code == 401
        for token in ("one", "two"):
            assert predict(server.web_port, "park", Authorization=f"Bearer {token}").code == 200
        assert ask(server.web_port, "GET", "/").code == 200
        document = ask(server.web_port, "GET", "/openapi.json").json
        assert document["security"] == [{"token": []}]


async def test_a_deadline_ends_a_request_and_so_does_a_client_that_leaves(make_settings):
    engine = HeldEngine()
    async with running(make_settings(web=True, web_port=0), engine) as (server, stub):
        port = server.web_port
        assert (await asyncio.to_thread(predict, port, "park")).code == 200
        await until(lambda: sample(server, "headlines_http_requests_total", route="/v1/predict", code="200") == 1)
        held = asyncio.ensure_future(stub.Predict(pb.PredictRequest(headlines=[pb.Headline(text="park")])))
        await engine.hold()
        late = await asyncio.to_thread(predict, port, "park", grpc_timeout="50m")
        assert (late.code, late.json["error"]["status"]) == (504, "DEADLINE_EXCEEDED")
        gone = connect(port)
        body = json.dumps({"headlines": [{"text": "park"}] * 3}).encode()
        head = f"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        gone.sendall(head.replace("Host: a", "Host: localhost").encode() + body)
        await until(lambda: sample(server, "headlines_queue_headlines") == 3)
        gone.close()
        await until(lambda: sample(server, "headlines_queue_headlines") == 0)
        await until(lambda: sample(server, "headlines_http_requests_total", route="/v1/predict", code="499") == 1)
        engine.go.set()
        await held
        assert (await asyncio.to_thread(predict, port, "park")).code == 200


@pytest.mark.parametrize(
    ("given", "code"), [("10S", 200), ("1H", 200), ("", 400), ("10", 400), ("-1S", 400), ("123456789S", 400)]
)
def test_the_deadline_is_written_as_grpc_writes_it(served, given, code):
    assert predict(served.web_port, "park", grpc_timeout=given).code == code


async def test_a_full_queue_is_said_with_the_time_to_wait(make_settings):
    engine = HeldEngine()
    async with running(make_settings(web=True, web_port=0, max_headlines=128, queue_headlines=256), engine) as (server, stub):
        many = pb.PredictRequest(headlines=[pb.Headline(text="park")] * 128)
        held = [asyncio.ensure_future(stub.Predict(many))]
        await engine.hold()
        held += [asyncio.ensure_future(stub.Predict(many)) for _ in range(2)]
        await until(lambda: sample(server, "headlines_queue_headlines") == 256)
        refused = await asyncio.to_thread(predict, server.web_port, "park")
        assert (refused.code, refused.json["error"]["status"]) == (429, "RESOURCE_EXHAUSTED")
        assert int(refused.headers["retry-after"]) >= 1
        engine.go.set()
        await asyncio.gather(*held)


async def test_without_a_version_it_says_so_and_the_page_is_there(make_settings, tmp_path):
    async with Server(make_settings(web=True, web_port=0, models=tmp_path), engines.choose("litert")) as server:
        for path in ("/", "/openapi.json", "/v1/model"):
            assert (await asyncio.to_thread(ask, server.web_port, "GET", path)).code == 200
        refused = await asyncio.to_thread(predict, server.web_port, "park")
        assert (refused.code, refused.json["error"]["status"]) == (503, "UNAVAILABLE")
        assert refused.headers["retry-after"] == "1"
        assert (await asyncio.to_thread(ask, server.web_port, "GET", "/report/")).code == 404


async def test_a_stop_answers_what_has_begun_and_refuses_what_comes(make_settings):
    engine = HeldEngine()
    async with running(make_settings(web=True, web_port=0), engine) as (server, _):
        assert (await asyncio.to_thread(predict, server.web_port, "park")).code == 200
        held = asyncio.ensure_future(asyncio.to_thread(predict, server.web_port, "park"))
        await engine.hold()
        stopping = asyncio.ensure_future(server.stop())
        await until(lambda: server._gate.closed)
        refused = await asyncio.to_thread(predict, server.web_port, "park")
        assert (refused.code, refused.error) == (503, "the server is stopping")
        engine.go.set()
        assert (await held).code == 200
        await stopping
        with pytest.raises(OSError, match="refused"):
            connect(server.web_port)


async def test_an_unexpected_error_says_nothing_of_itself(make_settings, caplog):
    engine = HeldEngine()
    async with running(make_settings(web=True, web_port=0), engine) as (server, _):
        engine.fault = SECRET
        answer = await asyncio.to_thread(predict, server.web_port, SECRET)
        assert answer.code == 500
        assert re.fullmatch(r"internal error [0-9a-f]{16}; see the server's log", answer.error)
        assert answer.error.split()[2].rstrip(";") in caplog.text
        assert SECRET not in caplog.text


def test_headlines_outlets_and_tokens_are_told_nowhere(serve, models, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("Xyzzy-token-0123456789\n")
    with serve(models, "--engine", "litert", "--log-level", "debug", "--tokens", tokens) as server:
        server.wait_for("serving version 1")
        bearer = {**JSON, "Authorization": "Bearer Xyzzy-token-0123456789"}
        told = []
        for headline in (
            {"text": f"{SECRET} park", "outlet": "Xyzzy-outlet"},
            {"text": SECRET * 2000},
            {"text": SECRET, SECRET: SECRET},
            {"text": SECRET, "postedAt": SECRET},
            {SECRET: [SECRET]},
        ):
            for path in ("/v1/predict", "/v1/explain", f"/{SECRET}", f"/v1/predict?text={SECRET}"):
                for headers in (
                    bearer,
                    JSON,
                    {**bearer, "Host": SECRET},
                    {**bearer, "Origin": SECRET},
                    {"Content-Type": SECRET},
                ):
                    answer = ask(server.web_port, "POST", path, {"headlines": [headline]}, headers)
                    if answer.code == 200 and "explain" in path:  # it tells the words, to whoever sent them
                        continue
                    told.append(answer.body.decode() + str(answer.headers))
        for broken in (
            f"GET /{SECRET} HTTP/9.9\r\nConnection: close\r\n\r\n",
            f"{SECRET}\r\n\r\n",
            f"GET / HTTP/1.1\r\n{SECRET}\r\n\r\n",
        ):
            with connect(server.web_port) as connection, suppress(OSError):
                connection.sendall(broken.encode())
                while part := connection.recv(4096):
                    told.append(part.decode())
        told += [Path(f"/proc/{server.process.pid}/{name}").read_text() for name in ("cmdline", "comm", "environ")]
        told += [server.get("/metrics"), server.output]
    assert not [text for text in told if "xyzzy" in text.lower()]


# The report, the port and TLS


async def test_the_live_versions_report_is_shown_as_a_page_that_runs_nothing(make_settings, models, tmp_path):
    shutil.copytree(models / "1", tmp_path / "1")
    report = tmp_path / "1" / artifact.REPORT
    shutil.rmtree(report, ignore_errors=True)
    report.mkdir()
    (report / "index.html").write_text("<p>as good as a coin<script>alert(1)</script>")
    (report / "figures.json").write_text("{}")
    (report / "link").symlink_to("/etc/passwd")
    (report / "below").mkdir()
    async with running(make_settings(models=tmp_path, web=True, web_port=0)) as (server, _):

        async def get(path):
            return await asyncio.to_thread(ask, server.web_port, "GET", path)

        shown = await get("/report/")
        assert (shown.code, shown.body[:8]) == (200, b"<p>as go")
        assert "sandbox" in shown.headers["content-security-policy"]
        assert "default-src 'none'" in shown.headers["content-security-policy"]
        assert (await get("/report/figures.json")).headers["content-type"] == "application/json"
        for path in ("link", "below", "below/", "../saved_model.pb", "%2e%2e/saved_model.pb", "nothing", "index.html/"):
            assert (await get(f"/report/{path}")).code == 404, path


def test_a_report_that_is_too_large_or_unreadable_is_left_out(tmp_path):
    report = tmp_path / "1" / artifact.REPORT
    report.mkdir(parents=True)
    (report / "a").write_bytes(b"x" * (4 << 20))
    (report / "b").write_bytes(b"x" * (2 << 20))
    (report / "c").write_bytes(b"x")
    assert {name: len(it) for name, it in artifact.read_report(tmp_path / "1").items()} == {"a": 4 << 20, "c": 1}
    assert artifact.read_report(tmp_path / "2") == {}


async def test_a_taken_port_ends_it_only_if_it_was_asked_for(make_settings, monkeypatch, caplog):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=r"is --web-port already in use"):
            await Server(make_settings(web=True, web_port=port), engines.choose("litert")).start()
        monkeypatch.setattr("service.web.port.DEFAULT_PORT", port)
        async with Server(make_settings(web=True), engines.choose("litert")) as server:
            await serving(server)
            assert server.web_port is None
        assert f"there is no page: port {port} at 127.0.0.1 cannot be had" in caplog.text


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "news.example"])
def test_the_network_needs_a_token_or_a_word(make_settings, tmp_path, host):
    with pytest.raises(UsageError, match=r"--web-host .* wants --tokens, or --web-open"):
        make_settings(web=True, web_host=host, web_port=0)
    assert make_settings(web=True, web_host=host, web_port=0, web_open=True).may_serve_web
    assert make_settings(web=True, web_host=host, web_port=0, tokens=tmp_path / "tokens").may_serve_web
    assert not make_settings(web=True, web_host=host).may_serve_web
    assert make_settings(web=False, web_host=host, web_port=0)


async def test_a_page_for_the_network_that_nobody_asked_for_is_left_out_with_a_warning(make_settings, caplog):
    async with Server(make_settings(web=True, web_host="0.0.0.0"), engines.choose("litert")) as server:
        await serving(server)
        assert server.web_port is None
    assert "there is no page: --web-host 0.0.0.0 opens it to the network" in caplog.text


def test_names_are_checked_before_the_start(models):
    flags = ["--models", str(models), "--web-hosts", "news.example, http://desk.example"]
    ended = subprocess.run(
        [sys.executable, "-m", "service", "serve", *flags],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 2
    assert "--web-hosts (HEADLINES_WEB_HOSTS): must be host names" in ended.stderr
    with pytest.raises(UsageError):
        Settings(models=models, web_host="0.0.0.0", web_port=1)


async def test_off_this_machine_it_speaks_tls_with_grpcs_certificate_which_may_be_renewed(make_settings, tmp_path):
    first, second = Authority(), Authority()
    certificate, key = tmp_path / "certificate", tmp_path / "key"

    def write(authority):
        pair = authority.issue()
        certificate.write_bytes(pair.certificate)
        key.write_bytes(pair.key)

    def trusting(authority):
        context = ssl.create_default_context(cadata=authority.certificate.decode())
        context.check_hostname = False
        return context

    write(first)
    settings = make_settings(
        web=True, web_host="0.0.0.0", web_port=0, web_open=True, tls_certificate=certificate, tls_key=key, handshake_seconds=0.5
    )
    async with Server(settings, engines.choose("litert")) as server:

        async def get(authority):
            return await asyncio.to_thread(ask, server.web_port, "GET", "/v1/model", tls=trusting(authority))

        assert (await get(first)).code == 200
        with pytest.raises(ssl.SSLError):
            await get(second)
        write(second)
        async with asyncio.timeout(60):
            while True:
                with suppress(ssl.SSLError):
                    assert (await get(second)).code == 200
                    break
        with connect(server.web_port) as silent:  # no handshake, and none that goes on
            silent.sendall(b"\x16\x03\x01")
            assert await asyncio.to_thread(silent.recv, 1) == b""


async def test_requests_are_counted_by_route_and_code_and_in_no_grpc_metric(web):
    server, stub = web
    await generous(stub)

    def count():
        for path in ("/", "/v1/model", "/v1/model", "/nowhere", f"/{SECRET}"):
            ask(server.web_port, "GET", path)
        predict(server.web_port, "park")
        predict(server.web_port, " ")

    calls = sum(server.metrics.ended().values())
    await asyncio.to_thread(count)
    for route, code, number in (("/", 200, 1), ("/v1/model", 200, 2), ("unknown", 404, 2), ("/v1/predict", 200, 1)):
        assert sample(server, "headlines_http_requests_total", route=route, code=str(code)) == number
    assert sample(server, "headlines_http_requests_total", route="/v1/predict", code="400") == 1
    assert sample(server, "headlines_http_requests_total", route="/v1/explain", code="200") == 0
    assert sample(server, "headlines_connection_capacity", port="web") > 0
    assert sum(server.metrics.ended().values()) == calls
