"""Signals that come while the server starts, several at once, and to PID 1."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import process
from harness.process import PATIENCE, environment
from tests.resilience import starting
from tests.resilience.starting import AS_PID_1, BLOCKED, Start

TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
LITERT = ("--engine", "litert")

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux' /proc")
needs_pid_1 = pytest.mark.skipif(not starting.works(AS_PID_1), reason="needs unshare and the right to use it")
needs_env = pytest.mark.skipif(not starting.works(BLOCKED), reason="needs env of GNU coreutils 8.31 or later")


def serve(models, *flags):
    return process.serve(models, "--drain-seconds", "0", *flags)


def changed(models, program):
    """The command for a server after this program has changed something."""
    command = serve(models, *LITERT)
    start = command.index("-m")
    program = f"import sys\nfrom service import __main__, signals\nsignals.block()\n{program}\nsys.exit(__main__.main())"
    return [*command[:start], "-c", program, *command[start + 2 :]]


@pytest.fixture(scope="module")
def start_seconds(models):
    return starting.start_seconds(serve(models, *LITERT))


@pytest.mark.parametrize(
    ("wrapper", "signals"),
    [
        pytest.param((), "once"),
        pytest.param(AS_PID_1, "once", marks=needs_pid_1),
        *[pytest.param((*AS_PID_1, *BLOCKED), name, marks=[needs_pid_1, needs_env]) for name in starting.SIGNALS],
    ],
    ids=["child-once", "PID 1-once", *[f"PID 1, blocked-{name}" for name in starting.SIGNALS]],
)
def test_a_signal_at_any_moment_of_the_start_stops_it_in_order(models, start_seconds, wrapper, signals):
    """tests/resilience/starting.py does it at 30 moments of each."""
    command = [*wrapper, *serve(models, *LITERT)]
    for share in (0, 0.3, 0.8):
        assert starting.stop(command, share * start_seconds, starting.SIGNALS[signals]) == "in order"


def test_it_stops_while_a_heavy_library_is_imported(models):
    """No handler in Python runs in a main thread that waits."""
    program = """
import threading
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "grpc":
            print("importing", file=sys.stderr, flush=True)
            lock = threading.Lock()
            lock.acquire()
            lock.acquire(timeout=600)
sys.meta_path.insert(0, Finder())
"""
    with Start(changed(models, program)) as server:
        server.read_until("importing")
        server.send(TERM)
        code, messages = server.end()
    assert code == 0
    assert messages == ["SIGTERM during the start: stopped"]


@pytest.mark.parametrize("second", [TERM, INT, HUP])
def test_a_second_signal_within_a_second_is_the_same_wish(models, second):
    with Start(serve(models, *LITERT, "--drain-seconds", "1")) as server:
        server.read_until("serving version 1")
        server.send(TERM)
        server.read_until("SIGTERM: stopping")
        server.send(second)
        code, messages = server.end()
    assert code == 0
    assert f"{second.name}: stopping already" in messages
    assert messages[-1].startswith("stopped after 0 calls")


@pytest.mark.parametrize("second", [TERM, INT, HUP])
@pytest.mark.parametrize("wrapper", [(), pytest.param(AS_PID_1, marks=needs_pid_1)], ids=["child", "PID 1"])
def test_a_later_signal_ends_it_at_once(models, second, wrapper):
    with Start([*wrapper, *serve(models, *LITERT, "--drain-seconds", "600")]) as server:
        server.read_until("serving version 1")
        server.send(TERM)
        server.read_until("SIGTERM: stopping")
        time.sleep(1.1)
        server.send(second)
        code, messages = server.end()
    assert code == (128 + second if wrapper else -second)
    assert messages[-1] == f"{second.name} again: ending at once"


def test_a_later_signal_ends_also_what_hangs(models):
    """The event loop, and with it the main thread, waits for what never comes."""
    program = """
import threading
from service import server
def hang(*_, **__):
    print("hanging", file=sys.stderr, flush=True)
    threading.Event().wait(600)
server.Server.start = hang
"""
    with Start(changed(models, program)) as server:
        server.read_until("hanging")
        server.send(TERM)
        server.read_until("SIGTERM: stopping")
        time.sleep(1.1)
        server.send(TERM)
        code, _ = server.end()
    assert code == -TERM


@pytest.mark.parametrize("again", [False, True])
def test_threads_that_are_older_than_the_program_do_not_matter(models, again):
    """As those that a tracer starts when Python starts."""
    command = serve(models, *LITERT, "--drain-seconds", "600" if again else "0")
    tracer = "import sys, threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    command[1:3] = ["-c", f"{tracer}from service import __main__\nsys.exit(__main__.main())"]
    with Start(command) as server:
        server.read_until("serving version 1")
        server.send(TERM)
        server.read_until("SIGTERM: stopping")
        if again:
            time.sleep(1.1)
            server.send(TERM)
        assert server.end()[0] == (-TERM if again else 0)


def test_sighup_is_a_stop_but_not_under_nohup(models):
    with Start(serve(models, *LITERT)) as server:
        server.read_until("serving version 1")
        server.send(HUP)
        code, messages = server.end()
        assert (code, messages[0]) == (0, "SIGHUP: stopping")
    with Start(["nohup", *serve(models, *LITERT)]) as server:
        server.read_until("serving version 1")
        server.send(HUP, TERM)
        code, messages = server.end()
        assert (code, messages[0]) == (0, "SIGTERM: stopping")
        assert not [message for message in messages if "SIGHUP" in message]


def test_on_a_terminal_the_second_ctrl_c_ends_it_at_any_time(models):
    terminal, end = os.openpty()
    with subprocess.Popen(
        serve(models, *LITERT, "--drain-seconds", "600"),
        env=environment(),
        stderr=end,
    ) as process:
        os.close(end)
        shown = ""
        for words in ("serving version 1", "SIGINT: stopping"):
            while words not in shown:
                shown += os.read(terminal, 1000).decode()
            process.send_signal(INT)
        assert process.wait(PATIENCE) == -INT
    os.close(terminal)


def test_a_part_that_dies_while_a_signal_comes_is_no_hurry(models):
    program = """
import asyncio
from service import repository, server
async def scan(self):
    raise ArithmeticError
repository.Repository.scan = scan
stop = server.Server.stop
async def slow(self, drain_seconds=0.0):
    await asyncio.sleep(0.5)
    await stop(self, drain_seconds)
server.Server.stop = slow
"""
    with Start(changed(models, program)) as server:
        server.read_until("the repository died")
        server.send(TERM, INT)
        code, messages = server.end()
    assert code == 1
    assert messages[-1].startswith("stopped after")


# `predict` that waits for standard input.
PREDICT = """
import sys, time
from headlines import __main__
from headlines.commands import connection
def wait(given):
    print("asking", file=sys.stderr, flush=True)
    time.sleep(600)
connection.read = wait
sys.exit(__main__.main(["predict", "-"]))
"""


def test_ctrl_c_ends_predict_without_a_traceback_also_where_the_image_blocks_signals():
    block = "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})\n"
    with Start([sys.executable, "-c", block + PREDICT]) as predict:
        predict.read_until("asking")
        predict.send(INT)
        assert predict.end() == (130, [])


@needs_pid_1
@needs_env
def test_as_pid_1_predict_ends_by_sigterm_too():
    with Start([*AS_PID_1, *BLOCKED, sys.executable, "-c", PREDICT]) as predict:
        predict.read_until("asking")
        predict.send(TERM)
        assert predict.end() == (128 + TERM, [])
