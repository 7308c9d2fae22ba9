"""What the commands say when no answer comes: against a real server in each state, in words that name what to do."""

import asyncio
import http.server
import shutil
import socket
import threading
from concurrent import futures
from contextlib import contextmanager

import grpc
import pytest
from in_process import HeldEngine, connect, running

from harness.certificates import NAME, Authority
from harness.process import ServerProcess, serve
from headlines.__main__ import main
from headlines.v1 import popularity_pb2 as pb
from service.model import artifact

# What belongs to gRPC and TLS, and means nothing to whoever typed the command.
THEIR_WORDS = (
    "last error",
    "UNKNOWN",
    "UNAVAILABLE",
    "UNIMPLEMENTED",
    "ipv4:",
    "SSL",
    "TSI_",
    "VERSION_NUMBER",
    "metadata",
    "Socket closed",
    "recvmsg",
    "RESOURCE_EXHAUSTED",
    "DEADLINE",
    "Traceback",
)


@pytest.fixture
def say(capsys, monkeypatch):
    """Run a command that fails; the one line that it says."""
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)

    def say(target, *flags, command="predict", code=1):
        headlines = ["City votes"] if command == "predict" else []
        timeout = [] if "--timeout" in flags else ["--timeout", "10"]
        assert main([command, *headlines, "--target", target, *timeout, *map(str, flags)]) == code
        out, err = capsys.readouterr()
        assert out == ""
        [line] = err.splitlines()
        assert line.startswith(f"headlines {command}: ")
        assert not [words for words in THEIR_WORDS if words in line]
        return line.removeprefix(f"headlines {command}: ")

    return say


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture(scope="module")
def files(authority, tmp_path_factory):
    """PEM files: the authority, another one, and certificates of a caller."""
    directory = tmp_path_factory.mktemp("pem")
    other = Authority()
    for name, pair in {
        "server": authority.issue(),
        "caller": authority.issue(),
        "stranger": other.issue(),
        "old": authority.issue(expired=True),
    }.items():
        (directory / f"{name}.pem").write_bytes(pair.certificate)
        (directory / f"{name}-key.pem").write_bytes(pair.key)
    (directory / "ca.pem").write_bytes(authority.certificate)
    (directory / "other-ca.pem").write_bytes(other.certificate)
    (directory / "tokens").write_text("first\nsecond\n")
    (directory / "token").write_text("second\n")
    (directory / "wrong-token").write_text("third\n")
    return directory


@pytest.fixture(scope="module")
def encrypted(models, files):
    """A server with TLS; its address."""
    with _server(models, "--tls-certificate", files / "server.pem", "--tls-key", files / "server-key.pem") as target:
        yield target


@pytest.fixture(scope="module")
def guarded(models, files):
    """A server with TLS that asks callers for a certificate and a token; its address."""
    with _server(
        models,
        "--tls-certificate",
        files / "server.pem",
        "--tls-key",
        files / "server-key.pem",
        "--tls-client-ca",
        files / "ca.pem",
        "--tokens",
        files / "tokens",
    ) as target:
        yield target


@contextmanager
def _server(models, *flags):
    with ServerProcess(serve(models, "--engine", "litert", *flags)) as server:
        server.port = server.wait_for("listening")["port"]
        server.wait_for("serving version")
        yield server.target


@contextmanager
def grpc_server(credentials=None, code=None, details=""):
    """Some gRPC server; its methods, if `code` is given, end with it."""

    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details):  # noqa: ARG002
            return code and grpc.unary_unary_rpc_method_handler(lambda _, context: context.abort(code, details))

    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Handler()])
    address = "127.0.0.1:0"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextmanager
def tcp_server(answer):
    """`answer` has each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connections = []

        def accept():
            while True:
                connection, _ = listener.accept()
                if stopped.is_set():
                    connection.close()
                    return
                connections.append(connection)
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        stopped = threading.Event()
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stopped.set()
            socket.create_connection(listener.getsockname()).close()
            thread.join()
            for connection in connections:
                connection.close()


@contextmanager
def web_server(protocol):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = protocol

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def unused():
    """An address at which nothing listens, and nothing will."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.mark.parametrize("command", ["predict", "model", "outlets"])
def test_nothing_listens(say, unused, command):
    line = say(unused, command=command)
    assert line == f"no server listens at {unused}; is it running, and is this its gRPC port (--target HOST:PORT)?"


def test_nothing_listens_by_name_or_at_a_socket_file(say, unused, tmp_path):
    port = unused.partition(":")[2]
    assert say(f"localhost:{port}").startswith(f"no server listens at localhost:{port}")
    assert say(f"unix:{tmp_path}/socket").startswith(f"no server listens at unix:{tmp_path}/socket")


def test_a_host_that_has_no_address(say):
    assert say("news..example:50051").startswith("the host name in news..example:50051 cannot be resolved; is it spelled right")


def test_a_server_with_tls_that_is_called_plainly(say, encrypted):
    line = say(encrypted)
    assert line.startswith(f"{encrypted} closes the connection; if the server wants TLS, add --tls, or --tls-ca FILE")


def test_a_plain_server_that_is_called_with_tls(say, target, files):
    for flags in (["--tls"], ["--tls-ca", files / "ca.pem"], ["--tls-server-name", NAME]):
        assert say(target, *flags).startswith(f"{target} does not speak TLS; leave out --tls")


def test_certificates_that_are_not_to_be_trusted(say, encrypted, authority, files):
    by = ["--tls-server-name", NAME]
    assert "from an authority that is not trusted here; give its own with --tls-ca FILE" in say(encrypted, "--tls", *by)
    assert "from an authority that is not trusted here" in say(encrypted, "--tls-ca", files / "other-ca.pem", *by)
    assert "is for another name; give a name that stands in it with --tls-server-name" in say(
        encrypted, "--tls-ca", files / "ca.pem"
    )
    pair = authority.issue(expired=True)
    with grpc_server(grpc.ssl_server_credentials([(pair.key, pair.certificate)])) as target:
        assert f"the certificate of {target} has expired" in say(target, "--tls-ca", files / "ca.pem", *by)


def test_a_server_that_asks_for_a_certificate_and_a_token(say, guarded, files, capsys):
    trust = ["--tls-ca", files / "ca.pem", "--tls-server-name", NAME]

    def shown(name):
        return ["--tls-client-certificate", files / f"{name}.pem", "--tls-client-key", files / f"{name}-key.pem"]

    for flags, words in (
        (trust, "if it asks for a client's certificate, add --tls-client-certificate FILE and --tls-client-key FILE"),
        ([*trust, *shown("stranger")], "is the one that --tls-client-certificate names expired, or from an authority"),
        ([*trust, *shown("old")], "is the one that --tls-client-certificate names expired, or from an authority"),
        ([*trust, *shown("caller")], "wants a token; name a file that holds one with --token-file FILE"),
        ([*trust, *shown("caller"), "--token-file", files / "wrong-token"], "does not accept the token in the file"),
    ):
        assert words in say(guarded, *flags)
    right = [*trust, *shown("caller"), "--token-file", str(files / "token"), "--target", guarded]
    for command in (["predict", "City votes"], ["model"], ["outlets"]):
        assert main([*command, *map(str, right)]) == 0
    assert "third" not in capsys.readouterr().err


def test_files_that_are_not_what_their_flags_say(say, target, files):
    for flags, words in (
        (["--tls-ca", files / "server-key.pem"], "--tls-ca (HEADLINES_TLS_CA): "),
        (
            ["--tls-client-certificate", files / "caller.pem", "--tls-client-key", files / "old-key.pem"],
            "must be a certificate and its own private key, in PEM and unencrypted",
        ),
    ):
        assert words in say(target, *flags, code=2)


def test_the_port_for_metrics_and_other_web_servers(say, served):
    metrics = f"127.0.0.1:{served.http_port}"
    assert say(metrics) == (
        f"{metrics} does not speak gRPC; is it the port for metrics and health (8080)? gRPC's is another (50051)"
    )
    for protocol in ("HTTP/1.0", "HTTP/1.1"):
        with web_server(protocol) as target:
            assert say(target).startswith(f"{target} does not speak gRPC")
            assert say(target, "--tls").startswith(f"{target} does not speak TLS")


@pytest.mark.parametrize("status", [b"\x8d", b"\x0e\x03\x35\x30\x33"], ids=["404", "503"])
def test_a_web_server_that_speaks_http_2(say, status):
    def answer(connection):
        connection.sendall(b"\0\0\0\4\0\0\0\0\0")  # SETTINGS
        received = b""
        while data := connection.recv(4096):
            received += data
            frames = received.removeprefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            while len(frames) >= 9 and len(frames) >= 9 + (length := int.from_bytes(frames[:3])):
                if frames[3] == 1:  # HEADERS, answered by the same with END_STREAM and END_HEADERS
                    connection.sendall(bytes([0, 0, len(status), 1, 5]) + frames[5:9] + status)
                frames = frames[9 + length :]
            received = frames

    code = "404" if status == b"\x8d" else "503"
    with tcp_server(answer) as target:
        line = say(target)
    assert line.startswith(f"a web server or proxy answers at {target} (HTTP {code}), no headline popularity service")


def test_another_grpc_service(say):
    with grpc_server() as target:
        assert say(target).startswith(f"a gRPC server answers at {target}, but not a headline popularity service")
        assert say(target, command="model").startswith(f"a gRPC server answers at {target}, but not")


def test_servers_that_close_or_say_something_else(say):
    with tcp_server(lambda connection: connection.close()) as target:
        assert "closes the connection; if the server wants TLS" in say(target)
        assert "closes the connection; if it asks for a client's certificate" in say(target, "--tls")
    with tcp_server(lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")) as target:
        assert say(target).startswith(f"{target} does not speak gRPC")


def test_a_server_that_says_nothing(say, silent_target):
    line = say(silent_target.address, "--timeout", "0.5")
    assert line.startswith(
        f"{silent_target.address} did not answer in time; is the address right (--target)? --timeout SECONDS"
    )


def test_no_model(say, models, tmp_path):
    shutil.copytree(models, tmp_path / "broken")
    (tmp_path / "broken" / "1" / artifact.CPU_MODEL).write_bytes(b"broken")
    (tmp_path / "none").mkdir()
    for name, words in (("none", "it found no version; is its --models right?"), ("broken", "version 1 cannot be served: ")):
        with ServerProcess(serve(tmp_path / name, "--engine", "litert")) as server:
            server.port = server.wait_for("listening")["port"]
            if name == "broken":
                server.wait_for("cannot go live")
            assert say(server.target).startswith(f"{server.target} has no model to answer with: {words}")
            assert words in say(server.target, command="outlets")


@pytest.mark.parametrize(
    ("code", "details", "words"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", "has more to do than it can; ask again later"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)", "a message that is too large"),
        (grpc.StatusCode.UNAVAILABLE, "no model version is loaded", "has no model to answer with; `headlines model` shows why"),
        (grpc.StatusCode.PERMISSION_DENIED, "not for\x1b[31m you\nat all", "gives no answer: not for\ufffd[31m you at all"),
        (grpc.StatusCode.UNKNOWN, "x" * 5000, "gives no answer: " + "x" * 300),
    ],
)
def test_what_a_server_says_itself(say, code, details, words):
    with grpc_server(code=code, details=details) as target:
        line = say(target)
        assert target in line
        assert words in line
        assert len(line) < 500


async def test_a_server_that_is_full_fails_or_stops(say, make_settings):
    engine = HeldEngine()
    async with running(make_settings(drain_seconds=0.0), engine) as (server, stub), asyncio.timeout(60):
        target = f"127.0.0.1:{server.port}"
        engine.fault = "secret words"
        line = await asyncio.to_thread(say, target)
        assert line.startswith(f"the server at {target} failed (internal error ")
        assert "its log says more under this id" in line
        assert "secret" not in line
        engine.fault = ""

        admitted = asyncio.ensure_future(stub.Predict(pb.PredictRequest(headlines=[pb.Headline(text="park")])))
        await engine.hold()
        line = await asyncio.to_thread(say, target, "--timeout", "0.5")
        assert line.startswith(f"{target} did not answer in time")

        stopping = asyncio.create_task(server.stop())
        async with connect(server) as channel:
            model = channel.unary_unary("/headlines.v1.PopularityService/GetModel")
            with pytest.raises(grpc.aio.AioRpcError, match="the server is stopping"):
                while True:
                    await model(b"")
        line = await asyncio.to_thread(say, target, "--timeout", "2")
        assert line.startswith(f"the server at {target} is stopping; ask again when it, or another, has started")
        engine.go.set()
        await admitted
        await stopping


def test_a_proxy_in_the_way(say, monkeypatch, unused):
    with web_server("HTTP/1.1") as proxy:
        monkeypatch.setenv("http_proxy", f"http://user:secret@{proxy}")
        line = say("news.example:50051")
        assert line.startswith("a proxy refuses to connect to news.example:50051 (HTTP 501)")
        assert "The variable http_proxy names a proxy" in line
        assert "no_proxy" in line
        assert "secret" not in line
    monkeypatch.setenv("http_proxy", f"http://{unused}")
    line = say("news.example:50051", command="model")
    assert line.startswith("no server listens at news.example:50051")
    assert "The variable http_proxy names a proxy" in line


def test_grpcs_own_words_are_there_for_who_asks(capsys, unused):
    assert main(["model", "--target", unused, "--verbose"]) == 1
    theirs, ours = capsys.readouterr().err.splitlines()
    assert theirs.startswith("gRPC says: ")
    assert "Connection refused" in theirs
    assert ours.startswith("headlines model: no server listens")
