"""The log: whole lines whatever is written to standard error, and nobody waits for who reads it."""

import json
import os
import signal
import subprocess
import sys
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from harness.process import PATIENCE, environment
from tests.resilience.starting import wait_until_blocked

SECRET = "Xyzzy-secret"
SET_UP = "import logging, os, sys, threading\nfrom service import log\n"


def run(program, log_format="json", **keywords):
    """Run a program that has set up its log; its exit code and standard output and error."""
    keywords = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **keywords}
    return subprocess.run(
        [sys.executable, "-c", f"{SET_UP}log.set_up('info', {log_format!r})\n{program}"],
        env=environment(),
        text=True,
        timeout=PATIENCE,
        check=False,
        **keywords,
    )


def records(output):
    return [json.loads(line) for line in output.splitlines()]


def fill(pipe):
    """Write to a pipe until it is full; how many bytes that took."""
    filled = 0
    os.set_blocking(pipe, False)
    try:
        while True:
            filled += os.write(pipe, b"\n" * 4096)
    except BlockingIOError:
        os.set_blocking(pipe, True)
    return filled


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_server_whose_log_nobody_reads_answers_and_stops_in_order(models, log_format):
    flags = ["--models", models, "--port", "0", "--http-port", "0", "--engine", "litert", "--log-level", "debug"]
    reader, writer = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-m", "service", "serve", *flags, "--drain-seconds", "0", "--log-format", log_format],
        env=environment(),
        stderr=writer,
    ) as process:
        try:
            with os.fdopen(reader, "rb") as log:
                lines = []
                while not lines or b"serving version 1" not in lines[-1]:
                    lines.append(log.readline())
                    assert lines[-1], lines
                fill(writer)
                (listening,) = (line.decode() for line in lines if b"listening at" in line)
                port, http_port = (
                    int(listening.split(f"{name} port ")[1].split(",")[0].split(";")[0]) for name in ("gRPC", "HTTP")
                )
                with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                    stub = health_pb2_grpc.HealthStub(channel)
                    for _ in range(10):
                        assert urlopen(f"http://127.0.0.1:{http_port}/healthz", timeout=PATIENCE).status == 200
                        assert stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE).status == 1
                process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            os.close(writer)


def test_lines_that_nobody_reads_are_dropped_counted_and_told_when_it_flows_again():
    program = """
for number in range(30_000):
    logging.info("line %d %s", number, "." * 200)
print(log.dropped(), flush=True)
sys.stdin.readline()
logging.info("the last one")
"""
    with subprocess.Popen(
        [sys.executable, "-c", f"{SET_UP}log.set_up('info', 'json')\n{program}"],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        dropped = int(process.stdout.readline())
        messages = []
        while not messages or "were dropped" not in messages[-1]:
            messages.append(json.loads(process.stderr.readline())["message"])
        process.stdin.write("go on\n")
        process.stdin.flush()
        messages.append(json.loads(process.stderr.readline())["message"])
        assert process.wait(PATIENCE) == 0
    assert 0 < dropped < 30_000
    assert messages[-2:] == [f"{dropped} log lines were dropped", "the last one"]
    written = [int(message.split()[1]) for message in messages[:-2]]
    assert len(written) == 30_000 - dropped
    assert written == sorted(set(written))  # in order, and none twice


def test_the_end_does_not_wait_for_who_reads():
    reader, writer = os.pipe()
    fill(writer)
    ended = run("logging.info('never read')\nos.write(2, b'nor this')", stderr=writer)
    os.close(reader)
    os.close(writer)
    assert ended.returncode == 0


def test_a_broken_pipe_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    ended = run("logging.info('one')\nos.write(2, b'two\\n')\nlog.close()\nprint(log.dropped())", stderr=writer)
    os.close(writer)
    assert (ended.returncode, ended.stdout) == (0, "1\n")


def test_a_full_disk_is_no_error_and_what_was_lost_is_told_when_there_is_room(tmp_path):
    program = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
logging.info("lost")
logging.getLogger().handlers[0].flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
logging.info("kept")
"""
    file = tmp_path / "log"
    with file.open("w") as stderr:
        ended = run(program, stderr=stderr)
    assert ended.returncode == 0
    assert [record["message"] for record in records(file.read_text())] == ["kept", "1 log lines were dropped"]


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_with_standard_error_closed_nothing_else_takes_its_place(closed, tmp_path):
    result = tmp_path / "result"
    program = f"""
import os, socket
from service import log
log.set_up("info", "json")
with socket.socket() as taken, open({str(result)!r}, "w") as file:
    file.write(f"{{taken.fileno() > 2}}")
os.write(2, b"to nobody")
"""
    script = f'exec "$0" -c "$1" {closed}'
    ended = subprocess.run(["sh", "-c", script, sys.executable, program], env=environment(), check=False, timeout=PATIENCE)
    assert ended.returncode == 0
    assert result.read_text() == "True"


def test_a_server_with_standard_error_closed_stops_in_order(models):
    """It says nowhere where it listens, so it is stopped at once."""
    script = 'exec "$0" -m service serve --models "$1" --engine litert --port 0 --http-port 0 --drain-seconds 0 2>&-'
    with subprocess.Popen(["sh", "-c", script, sys.executable, models], env=environment()) as process:
        try:
            wait_until_blocked(process.pid)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


def test_what_others_write_to_standard_error_becomes_records():
    program = """
import warnings
os.write(2, b"INFO: in C++\\n\\xff\\xfe binary\\r\\n\\n{not json}\\n")
print("by print", file=sys.stderr)
warnings.warn("by a warning")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
for _ in range(20):
    os.write(2, b"x" * 10_000)
    threading.Event().wait(0.02)  # a smaller pipe has room again
logging.info("y" * 200_000, extra={"traceback": "z" * 200_000})
os.write(2, b"no end of line")
"""
    ended = run(program)
    assert ended.returncode == 0
    found = records(ended.stderr)
    texts = [record["message"] for record in found if record["logger"] == "stderr"]
    assert texts[:4] == ["INFO: in C++", "\\xff\\xfe binary", "{not json}", "by print"]
    assert "".join(texts[4:]) == "x" * 200_000 + "no end of line"
    assert {record["level"] for record in found if record["logger"] == "stderr"} == {"info"}
    others = {record["logger"]: record for record in found if record["logger"] != "stderr"}
    assert "by a warning" in others["py.warnings"]["message"]
    assert others["service.log"]["traceback"].endswith("builtins.ZeroDivisionError")
    assert max(map(len, ended.stderr.splitlines())) <= 70_000
    assert others["root"]["message"].startswith("yyy")


def test_what_others_write_is_there_whatever_the_level():
    program = "logging.getLogger().setLevel('ERROR')\nlogging.info('no')\nos.write(2, b'E0000 no such device\\n')"
    assert [record["message"] for record in records(run(program).stderr)] == ["E0000 no such device"]


@pytest.mark.parametrize(
    "where", ["raise ArithmeticError(secret)", "class A:\n  def __del__(self): raise ArithmeticError(secret)\nA()"]
)
def test_what_nobody_catches_is_one_record_without_its_words(where):
    ended = run(f"secret = {SECRET!r}\n{where}\n")
    (record,) = records(ended.stderr)
    assert record["traceback"].endswith("builtins.ArithmeticError")
    assert SECRET not in ended.stderr


def test_an_abort_leaves_its_place_and_what_was_said_before():
    program = """
os.write(2, b"said before\\n")
threading.Event().wait(0.5)
def crash():
    os.abort()
crash()
"""
    ended = run(program)
    assert ended.returncode == -signal.SIGABRT
    first, *rest = ended.stderr.splitlines()
    assert json.loads(first)["message"] == "said before"
    assert rest[0] == "Fatal Python error: Aborted"
    assert any("in crash" in line for line in rest)


def test_text_is_a_line_each_too_and_cut():
    program = """
logging.getLogger("a").info("b" * 100_000)
logging.getLogger("a").info("surrogate \\udc80")
log.close()
os.write(2, b"c++\\n")
"""
    ended = run(program, "text")
    cut, surrogate, plain = ended.stderr.splitlines()
    assert len(cut) < 66_000
    assert cut.endswith("characters more)")
    assert surrogate.endswith("INFO    a: surrogate \\udc80")
    assert plain == "c++"  # standard error is itself again, for what is said at the end
