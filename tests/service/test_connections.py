"""How many connections fit below the limit of open files, and how many are open."""

import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from harness.process import ROOT, environment
from service.connections import count_open, listeners


def capacity(wanted, soft, hard, http=64):
    """What a process with these limits arrives at, and its soft limit afterwards; or its error."""
    script = (
        "import resource, sys\n"
        "from service.connections import grpc_capacity\n"
        "from service.errors import UsageError\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "try:\n"
        f"    print(grpc_capacity({wanted}, {http}), resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
        "except UsageError as error:\n"
        "    print(error)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], env=environment(), cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return ended.stdout.strip()


@pytest.mark.parametrize(
    ("wanted", "soft", "hard", "result"),
    [
        (None, 256, 256, "128 256"),
        (None, 256, 1000, "872 1000"),
        (None, 256, 6000, "4096 4224"),  # raised as far as is needed
        (None, 6000, 6000, "4096 6000"),
        (100, 256, 1000, "100 256"),
        (500, 256, 1000, "500 628"),
        (872, 256, 1000, "872 1000"),
        (None, 129, 129, "1 129"),
    ],
)
def test_connections_get_what_the_limit_of_open_files_leaves(wanted, soft, hard, result):
    if 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
        pytest.skip("this process may open too few files")
    assert capacity(wanted, soft, hard) == result


@pytest.mark.parametrize(
    ("wanted", "hard", "words"),
    [
        (
            873,
            1000,
            "873 with 128 for the server itself are more than the limit of open files (ulimit -Hn), 1000; raise that, ",
        ),
        (873, 1000, "or ask for at most 872"),
        (None, 100, "1 with 128 for the server itself are more than the limit of open files (ulimit -Hn), 100; raise that"),
    ],
)
def test_what_does_not_fit_is_an_error_that_says_what_would(wanted, hard, words):
    error = capacity(wanted, hard, hard)
    assert error.startswith("--max-connections (HEADLINES_MAX_CONNECTIONS): ")
    assert words in error


@pytest.mark.parametrize(("host", "number"), [("127.0.0.1", 1), ("0.0.0.0", 1), ("::1", 1), ("::", 1), ("x" * 64, 1)])
def test_an_address_is_one_listener(host, number):
    assert listeners(host) == number


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux alone shows a process its descriptors")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_open_connections_are_counted_by_local_port(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        try:
            listener.bind((host, 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        listener.listen()
        port = listener.getsockname()[1]
        assert count_open(port) == 0
        callers = [socket.create_connection((host, port), 30) for _ in range(3)]
        accepted = [listener.accept()[0] for _ in callers]
        assert count_open(port) == 3
        accepted.pop().close()
        assert count_open(port) == 2
        for it in (*callers, *accepted):
            it.close()
