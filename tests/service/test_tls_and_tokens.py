"""Who gets in: TLS, mutual TLS and tokens, with real certificates against the server as a process; and how long they stay."""

import asyncio
import re
import subprocess
import sys
from contextlib import contextmanager, suppress
from urllib.request import urlopen

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from in_process import running

from harness.certificates import NAME, Authority
from harness.process import environment
from headlines.client import AsyncClient, Client, Unauthenticated, Unavailable
from headlines.v1 import popularity_pb2 as pb
from headlines.v1 import popularity_pb2_grpc
from service.model import engines
from service.server import Server

TEXT = "City votes on new park"
REQUEST = pb.PredictRequest(headlines=[pb.Headline(text=TEXT)])
SECRET = "Xyzzy-secret"


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture(scope="module")
def stranger():
    """An authority that nobody asked for."""
    return Authority()


class Files:
    """What a server is given, in a directory."""

    def __init__(self, directory):
        self.certificate, self.key = directory / "certificate.pem", directory / "key.pem"
        self.client_ca, self.tokens = directory / "client-ca.pem", directory / "tokens"

    def write(self, pair):
        self.certificate.write_bytes(pair.certificate)
        self.key.write_bytes(pair.key)

    @property
    def tls(self):
        return ("--tls-certificate", self.certificate, "--tls-key", self.key)


@pytest.fixture
def files(tmp_path, authority):
    files = Files(tmp_path)
    files.write(authority.issue())
    return files


@pytest.fixture
def start(serve, models):
    """A server that looks at its files all the time, and serves."""

    @contextmanager
    def start(*flags):
        with serve(models, "--engine", "litert", "--poll-seconds", 0.05, "--log-level", "debug", *flags) as server:
            server.wait_for("serving version 1")
            yield server

    return start


def credentials(authority, pair=None):
    return grpc.ssl_channel_credentials(authority.certificate, *((pair.key, pair.certificate) if pair else ()))


@contextmanager
def secure(server, *trusted, name=NAME):
    """A stub on a connection of its own, which tries once."""
    options = [
        ("grpc.ssl_target_name_override", name),
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    with grpc.secure_channel(server.target, credentials(*trusted), options) as channel:
        yield popularity_pb2_grpc.PopularityServiceStub(channel)


def answers(stub):
    return len(stub.Predict(REQUEST).predictions) == 1


def refusal(stub):
    with pytest.raises(grpc.RpcError) as error:
        stub.Predict(REQUEST)
    return error.value.code(), error.value.details()


def test_tls_answers_who_trusts_its_certificate_and_nobody_else(start, files, authority, stranger):
    with start(*files.tls) as server:
        with Client(server.target, tls=credentials(authority), tls_server_name=NAME) as client:
            assert client.health()
            assert len(client.predict([TEXT])) == 1
        with secure(server, stranger) as stub:
            code, details = refusal(stub)
            assert code is grpc.StatusCode.UNAVAILABLE
            assert "CERTIFICATE_VERIFY_FAILED" in details
        with secure(server, authority, name="elsewhere.test") as stub:
            code, details = refusal(stub)
            assert code is grpc.StatusCode.UNAVAILABLE
            assert "Hostname Verification" in details
        with Client(server.target) as plain, pytest.raises(Unavailable):
            plain.predict([TEXT])
        with secure(server, authority) as stub:
            assert answers(stub)


def test_a_renewed_certificate_is_taken_without_a_restart_and_a_half_renewed_one_is_not(start, files, authority, stranger):
    with start(*files.tls) as server, secure(server, authority) as old:
        assert answers(old)
        renewed = stranger.issue()
        files.certificate.write_bytes(renewed.certificate)
        assert "KEY_VALUES_MISMATCH" in server.wait_for("--tls-certificate, --tls-key")["message"]
        files.key.write_bytes(renewed.key[:60])
        server.wait_for("no certificate and its private key")
        with secure(server, authority) as stub:
            assert answers(stub)
        files.key.write_bytes(renewed.key)
        server.wait_for("reloaded")
        with secure(server, stranger) as stub:
            assert answers(stub)
        with secure(server, authority) as stub:
            assert refusal(stub)[0] is grpc.StatusCode.UNAVAILABLE
        assert answers(old)  # a connection stays what it was

        files.write(authority.issue(expired=True))
        assert server.wait_for("expired on")["level"] == "error"
        with secure(server, stranger) as stub:  # what was valid is still in use
            assert answers(stub)
        valid = authority.issue()
        files.write(valid)
        server.wait_for("reloaded")
        metrics = urlopen(f"http://127.0.0.1:{server.http_port}/metrics").read().decode()
        (expiry,) = re.findall("^headlines_tls_certificate_expiry_timestamp_seconds (.*)$", metrics, re.MULTILINE)
        assert float(expiry) == x509.load_pem_x509_certificate(valid.certificate).not_valid_after_utc.timestamp()
        with secure(server, authority) as stub:
            assert answers(stub)
        assert "PRIVATE KEY" not in server.output


def test_with_client_authorities_only_their_callers_get_in(start, files, authority, stranger):
    files.client_ca.write_bytes(stranger.certificate)
    with start(*files.tls, "--tls-client-ca", files.client_ca) as server:
        caller = stranger.issue()
        with Client(server.target, tls=credentials(authority, caller), tls_server_name=NAME) as client:
            assert len(client.predict([TEXT])) == 1
        for pair in (None, authority.issue(), stranger.issue(expired=True)):
            with secure(server, authority, pair) as stub:
                assert refusal(stub)[0] is grpc.StatusCode.UNAVAILABLE
        files.client_ca.write_bytes(authority.certificate)
        server.wait_for("reloaded")
        with secure(server, authority, authority.issue()) as stub:
            assert answers(stub)
        with secure(server, authority, caller) as stub:
            assert refusal(stub)[0] is grpc.StatusCode.UNAVAILABLE


def test_every_call_but_health_needs_one_of_the_tokens(start, files):
    old, new, wrong = (f"{SECRET}-{it}" for it in ("old", "new", "wrong"))
    told = []

    def refused(token, method="predict"):
        with Client(server.target, token=token) as client, pytest.raises(Unauthenticated) as error:
            getattr(client, method)(*([[TEXT]] if method == "predict" else []))
        told.append(str(error.value))
        return True

    def admitted(token):
        with Client(server.target, token=token) as client:
            return len(client.predict([TEXT])) == len(list(client.predict_stream([TEXT]))) == client.model().version

    files.tokens.write_text(f"# {SECRET}\n{old}  # until tomorrow\n{new}\n")
    with start("--tokens", files.tokens) as server, grpc.insecure_channel(server.target) as channel:
        stub = popularity_pb2_grpc.PopularityServiceStub(channel)
        assert admitted(old)
        assert admitted(new)
        for token in (None, wrong, old[:-1], old + new):
            assert refused(token)
            assert refused(token, "model")
        with Client(server.target) as client:
            assert client.health()
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING

        question = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
        for version in ("v1", "v1alpha"):
            info = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
            with pytest.raises(grpc.RpcError) as error:
                list(info(iter([question])))
            assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert list(info(iter([question]), metadata=[("authorization", f"Bearer {new}")]))

        with pytest.raises(grpc.RpcError) as error:  # before it has said a word
            next(stub.PredictStream(iter(()), metadata=[("authorization", f"Bearer {wrong}")]))
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary("/headlines.v1.PopularityService/Guess")(b"")
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
        too_large = pb.PredictRequest(headlines=[pb.Headline(text="x" * (5 << 20))])
        with pytest.raises(grpc.RpcError) as error:  # and before what it says is read
            stub.Predict(too_large)
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED

        for spoilt in ("", f"{new} {SECRET}\n"):
            files.tokens.write_text(spoilt)
            server.wait_for("what was read before stays in use")
            assert admitted(old)
        files.tokens.write_text(new)
        server.wait_for("reloaded")
        assert refused(old)
        assert admitted(new)

        metrics = urlopen(f"http://127.0.0.1:{server.http_port}/metrics").read().decode()
        told += [metrics, server.output]
        labels = 'grpc_code="UNAUTHENTICATED",grpc_method="GetModel",grpc_service="headlines.v1.PopularityService"'
        assert f'grpc_server_handled_total{{{labels},grpc_type="unary"}} 4.0' in metrics
        watch.cancel()
    assert not [text for text in told if SECRET in text]


@pytest.mark.parametrize("flag", ["--tokens", "--tls-certificate"])
def test_what_cannot_be_used_ends_it_with_exit_code_2(models, files, flag):
    files.tokens.write_text(f"{SECRET} {SECRET}")
    files.key.write_bytes(b"")
    flags = files.tls if flag == "--tls-certificate" else ("--tokens", files.tokens)
    ended = subprocess.run(
        [sys.executable, "-m", "service", "serve", "--models", models, "--engine", "litert", "--port", "0", *flags],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(f"headlines serve: {flag}")
    assert "Traceback" not in ended.stderr
    assert SECRET not in ended.stderr


@pytest.mark.parametrize(
    ("host", "tls", "tokens", "warning"),
    [
        ("127.0.0.1", False, False, None),
        ("localhost", False, True, None),
        ("0.0.0.0", False, False, "neither TLS nor tokens"),
        ("0.0.0.0", False, True, "read tokens and headlines"),
        ("0.0.0.0", True, False, None),
        ("0.0.0.0", True, True, None),
    ],
)
async def test_it_warns_where_strangers_may_call_or_listen(make_settings, files, caplog, host, tls, tokens, warning):
    files.tokens.write_text("token")
    changes = {"tls_certificate": files.certificate, "tls_key": files.key} if tls else {}
    settings = make_settings(host=host, tokens=files.tokens if tokens else None, **changes)
    async with Server(settings, engines.choose("litert")):
        pass
    warnings = [it.getMessage() for it in caplog.records if "open to the network" in it.getMessage()]
    assert len(warnings) == (warning is not None)
    assert all(warning in it for it in warnings)


# How long they stay


async def test_a_connection_that_does_not_finish_its_handshake_ends_and_others_do_not(make_settings):
    async with running(make_settings(handshake_seconds=0.5)) as (server, stub), asyncio.timeout(60):
        assert await stub.Predict(REQUEST)
        for said in (b"", b"PRI *", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01"):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(said)
            with suppress(ConnectionResetError):
                while await reader.read(1000):
                    pass
            writer.close()
        assert await stub.Predict(REQUEST)  # on the connection of the first


async def test_a_connection_that_ends_by_its_age_fails_no_call(make_settings):
    async with running(make_settings(max_connection_age=1)) as (server, _), asyncio.timeout(60):
        # gRPC itself tries again what was under way to a connection that ends; the service's config asks for no more.
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")
        stub = popularity_pb2_grpc.PopularityServiceStub(channel)
        ends = 0

        async def watch():
            nonlocal ends
            state = channel.get_state()
            while True:
                await channel.wait_for_state_change(state)
                state = channel.get_state()
                ends += state is grpc.ChannelConnectivity.IDLE

        watching = asyncio.create_task(watch())
        while ends < 2:
            assert all(len(it.predictions) == 1 for it in await asyncio.gather(*(stub.Predict(REQUEST) for _ in range(8))))
        watching.cancel()
        await channel.close()


async def test_a_stream_that_ends_by_its_age_has_answered_what_it_read_and_the_client_goes_on(make_settings):
    async with running(make_settings(max_connection_age=1)) as (server, stub), asyncio.timeout(60):
        labels = {
            "grpc_type": "bidi_stream",
            "grpc_service": "headlines.v1.PopularityService",
            "grpc_method": "PredictStream",
        }

        def count(name):
            return server.metrics.registry.get_sample_value(f"grpc_server_{name}_total", labels)

        idle = stub.PredictStream()
        assert await idle.code() is grpc.StatusCode.UNAVAILABLE
        assert await idle.details() == "the stream has lasted 1 s; resend unanswered requests on a new stream"

        sent = 0

        async def headlines():
            nonlocal sent
            while count("started") < 5:
                sent += 1
                yield TEXT

        async with AsyncClient(f"127.0.0.1:{server.port}") as client:
            received = [answer async for answer in client.predict_stream(headlines())]
        assert len(received) == sent
        assert all(answer.model_version == 1 for answer in received)
        assert count("msg_received") == count("msg_sent")
