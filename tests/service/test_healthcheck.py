"""`headlines healthcheck`, as the image's HEALTHCHECK runs it: in the server's environment."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness.process import PATIENCE, environment

PROXIES = {
    name: "http://127.0.0.1:1" for lower in ("http_proxy", "https_proxy", "all_proxy") for name in (lower, lower.upper())
} | {"no_proxy": "", "NO_PROXY": ""}


def check(*flags, **variables):
    return subprocess.run(
        [sys.executable, "-m", "service", "healthcheck", *map(str, flags)],
        env=environment(**PROXIES, **variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::", "[::]", "localhost", "::1"])
def test_it_asks_the_server_itself_at_the_address_that_is_set(models, serve, host):
    if ":" in host and not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    with serve(models, "--engine", "litert", HEADLINES_HTTP_HOST=host) as server:
        server.wait_for("serving version 1")
        ended = check(HEADLINES_HTTP_HOST=host, HEADLINES_HTTP_PORT=str(server.http_port))
        assert (ended.returncode, ended.stdout) == (0, "ok\n")
        flags = ["--http-host", host, "--http-port", server.http_port]
        assert check(*flags, HEADLINES_HTTP_PORT="tcp://10.0.0.7:8080").returncode == 0


def test_a_server_without_a_version_is_not_healthy(tmp_path, serve):
    with serve(tmp_path, "--engine", "litert") as server:
        ended = check(HEADLINES_HTTP_PORT=str(server.http_port))
        assert ended.returncode == 1
        assert ended.stdout.strip()


def test_no_server_is_a_sentence():
    ended = check(HEADLINES_HTTP_PORT="1")
    assert ended.returncode == 1
    assert ended.stderr.startswith("headlines healthcheck: 127.0.0.1 port 1 does not answer: ")
    assert len(ended.stderr.splitlines()) == 1


def test_a_link_of_kubernetes_is_no_port():
    ended = check(HEADLINES_HTTP_PORT="tcp://10.0.0.7:8080", HEADLINES_HTTP_HOST="127.0.0.2")
    assert "127.0.0.2 port 8080" in ended.stderr


def test_a_wrong_variable_ends_it_with_exit_code_2():
    ended = check(HEADLINES_HTTP_PORT="http")
    assert ended.returncode == 2
    assert "HEADLINES_HTTP_PORT (--http-port): must be a whole number" in ended.stderr
