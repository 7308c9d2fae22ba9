"""Parameters that a stranger may pass, and the environment's proxies."""

import math
from fractions import Fraction

import grpc
import pytest
from fake_server import word_counts

from headlines.client import ClientError, DeadlineExceeded, Unavailable
from headlines.client.settings import target as parsed_target

PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("timeout", [math.inf, 1e10, 1e300, pytest.param(10**400, id="large"), 10**9, 30, Fraction(61, 2)])
def test_a_timeout_may_be_long_or_none(kind, target, timeout):
    with kind(target, timeout=timeout) as client:
        assert word_counts(client.predict(["four"])) == [4]
        assert word_counts(client.predict(["four"] * 200, timeout=timeout)) == [4] * 200
        assert word_counts(client.predict_stream(["four"], timeout=timeout)) == [4]
        assert client.model(timeout=timeout).version == 7
        assert client.health(timeout=timeout)


@pytest.mark.parametrize("timeout", [math.nan, -1, -1e-9, -math.inf, pytest.param(-(10**400), id="large")])
def test_a_timeout_that_is_no_time_is_a_value_error(kind, client, timeout):
    with pytest.raises(ValueError, match="timeout"):
        kind("127.0.0.1:1", timeout=timeout)
    for ask in (client.predict, lambda it, timeout: list(client.predict_stream(it, timeout=timeout))):
        with pytest.raises(ValueError, match="timeout"):
            ask(["a"], timeout=timeout)
    for ask in (client.model, client.health):
        with pytest.raises(ValueError, match="timeout"):
            ask(timeout=timeout)


@pytest.mark.parametrize("timeout", ["5", True, b"5", [5], 5j])
def test_a_timeout_of_another_type_is_a_type_error(kind, client, timeout):
    with pytest.raises(TypeError, match="timeout"):
        kind("127.0.0.1:1", timeout=timeout)
    with pytest.raises(TypeError, match="timeout"):
        client.predict(["a"], timeout=timeout)
    with pytest.raises(TypeError, match="timeout"):
        list(client.predict_stream(["a"], timeout=timeout))


@pytest.mark.parametrize("timeout", [0, 0.0, 1e-9])
def test_no_time_left_is_a_deadline_exceeded(client, timeout):
    for ask in (client.predict, lambda it, timeout: list(client.predict_stream(it, timeout=timeout))):
        with pytest.raises(DeadlineExceeded):
            ask(["a"], timeout=timeout)
        with pytest.raises(DeadlineExceeded):
            ask(["a"] * 1000, timeout=timeout)
    for ask in (client.model, client.health):
        with pytest.raises(DeadlineExceeded):
            ask(timeout=timeout)


def test_a_client_whose_calls_have_no_time_is_a_value_error(kind):
    with pytest.raises(ValueError, match="timeout: must be above 0"):
        kind("127.0.0.1:1", timeout=0)


@pytest.mark.parametrize(
    "target",
    [
        "",
        " ",
        "news.example",
        "http://news.example:50051",
        "grpc://news.example:50051",
        "https://news.example",
        "tcp://10.0.0.1:50051",
        ":50051",
        "news.example:",
        "news.example:port",
        "news.example:0",
        "news.example:65536",
        "news.example:-1",
        "news example:50051",
        "news.example:50051 ",
        "news.example:50051\n",
        "news.example:50051/path",
        "user@news.example:50051",
        "::1:50051",
        "[::1]",
        "dns:///news.example",
        "dns:///",
        "ipv4:10.0.0.1",
        "ipv4:10.0.0.1:1,",
        "unix:",
    ],
)
def test_a_malformed_target_is_refused_at_once(kind, target):
    with pytest.raises(ClientError, match="target: must be host:port"):
        kind(target)
    with pytest.raises(ValueError, match="target: must be host:port"):
        kind(target)


@pytest.mark.parametrize("target", [None, 50051, b"127.0.0.1:50051", ("127.0.0.1", 50051)])
def test_a_target_of_another_type_is_a_type_error(kind, target):
    with pytest.raises(TypeError, match="target"):
        kind(target)


@pytest.mark.parametrize("form", ["{}", "localhost:{port}", "dns:///{}", "dns:{}", "ipv4:{}", "LOCALHOST:{port}"])
def test_this_machine_is_asked_without_a_proxy(kind, target, monkeypatch, form):
    for name in PROXIES[:3]:
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    name = form.format(target, port=target.rpartition(":")[2])
    with kind(name) as client:
        assert word_counts(client.predict(["four"], timeout=10)) == [4]


@pytest.mark.parametrize("variable", PROXIES[:3])
def test_an_error_names_the_proxy_in_use(kind, monkeypatch, variable):
    monkeypatch.setenv(variable, "http://user:secret@127.0.0.1:1")
    named = f"proxy that the environment variable {variable} names"
    with kind("news.invalid:50051") as client:
        for ask in (lambda: client.predict(["a"], timeout=9), lambda: list(client.predict_stream(["a"], timeout=9))):
            with pytest.raises(Unavailable, match=named) as caught:  # after a third of the time
                ask()
            assert "secret" not in str(caught.value)
        with pytest.raises((Unavailable, DeadlineExceeded), match=variable):
            client.health(timeout=9)


@pytest.mark.parametrize(
    ("name", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("[::ffff:127.0.0.1]:1", True),
        ("0.0.0.0:1", True),
        ("localhost:1", True),
        ("localhost.:1", True),
        ("headlines.localhost:1", True),
        ("dns://10.0.0.53/localhost:1", True),
        ("ipv4:127.0.0.1:1,127.0.0.2:1", True),
        ("ipv6:[::1]:1", True),
        ("unix:/run/headlines.sock", True),
        ("unix:///run/headlines.sock", True),
        ("unix-abstract:headlines", True),
        ("xds:///headlines", False),
        ("dns:53", False),
        ("ipv4:127.0.0.1:1,10.0.0.1:1", False),
        ("10.0.0.1:1", False),
        ("[fe80::1%eth0]:1", False),
        ("news.example:1", False),
        ("localhost.example:1", False),
        ("dns:///news.example:1", False),
    ],
)
def test_which_targets_are_this_machine(name, loopback):
    found = parsed_target(name)
    assert found.is_loopback is loopback
    assert found.proxy_variable({"http_proxy": "http://proxy.example:3128"}) == (None if loopback else "http_proxy")


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        ({}, None),
        ({"http_proxy": ""}, None),
        ({"HTTP_PROXY": "http://proxy.example"}, None),  # gRPC looks at the lower case alone
        ({"http_proxy": "a", "https_proxy": "b"}, "https_proxy"),
        ({"http_proxy": "a", "no_proxy": "10.0.0.0, .example"}, None),
        ({"http_proxy": "a", "no_proxy": "other.example"}, "http_proxy"),
        ({"http_proxy": "a", "no_grpc_proxy": "other.example", "no_proxy": ".example"}, "http_proxy"),
    ],
)
def test_which_variable_names_the_proxy(environment, variable):
    assert parsed_target("news.example:50051").proxy_variable(environment) == variable


@pytest.mark.parametrize("token", ["top\nsecret", "secret\r", "sécret", "secret ", "\tsecret", "sec\x00ret", " "])
def test_a_malformed_token_is_refused_and_not_quoted(kind, token):
    with pytest.raises(ValueError, match="token: must be printable ASCII") as caught:
        kind("127.0.0.1:1", token=token)
    assert "cret" not in str(caught.value)


def test_parameters_of_another_type_are_type_errors(kind):
    with pytest.raises(TypeError, match="token"):
        kind("127.0.0.1:1", token=b"secret")
    with pytest.raises(TypeError, match="tls"):
        kind("127.0.0.1:1", tls="server.pem")
    with pytest.raises(ValueError, match="tls_server_name"):
        kind("127.0.0.1:1", tls_server_name="news.example")


def test_tls_to_a_plain_server_is_unavailable(kind, target):
    with kind(target, tls=True, timeout=2) as client, pytest.raises(Unavailable):
        client.predict(["a"])


@pytest.mark.parametrize("headline", [None, 7, b"abc", ["a", None, ""], {"text": "a"}, 1.5])
def test_what_is_no_headline_is_a_type_error(client, headline):
    with pytest.raises(TypeError, match=r"headlines\[1\] is a"):
        client.predict(["a", headline])


def test_a_compressed_answer_is_read(kind, servicer):
    from fake_server import serving

    with serving(servicer, default_compression_algorithm=2) as target, kind(target) as client:
        assert grpc.Compression.Gzip.value == 2
        assert len(client.predict(["four"] * 100)) == 100
