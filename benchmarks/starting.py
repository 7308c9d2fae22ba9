"""Signals at moments of a server's start, also to PID 1: each must stop it in order, within the drain and grace time.

    python -m benchmarks.starting [--models models] [--moments 30] [--engine litert]

It sends SIGTERM, SIGTERM twice, and SIGTERM with SIGINT: from when Python starts if they are blocked over exec, as in the
image, else from when the first line has run. It ends with 1 if one is lost. PID 1 needs `unshare` and the right to use it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.process import serve, spawn

AS_PID_1 = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
BLOCKED = ("env", "--block-signal=TERM,INT,HUP")  # as in the image
WRAPPERS = {"child": (), "PID 1": AS_PID_1, "PID 1, blocked over exec": (*AS_PID_1, *BLOCKED)}
SIGNALS = {
    "once": [signal.SIGTERM],
    "twice": [signal.SIGTERM, signal.SIGTERM],
    "with SIGINT": [signal.SIGTERM, signal.SIGINT],
}
PATIENCE = 60.0  # seconds
_LIMIT = 25.0  # seconds: drain and grace time by default


def works(command: Sequence[str]) -> bool:
    """Whether this machine and user can run another command under this one."""
    return not command or (
        bool(shutil.which(command[0])) and not subprocess.run([*command, "true"], capture_output=True, check=False).returncode
    )


class Start:
    """A process from its first moment on; `pid` is the server's own, whatever it is wrapped in."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = spawn(command)
        self.pid = self.process.pid
        if command[0] == AS_PID_1[0]:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
            wait_for(lambda: children.read_text())
            self.pid = int(children.read_text().split()[0])

    def send(self, *numbers: int) -> None:
        """Send signals, one right after the other."""
        for number in numbers:
            os.kill(self.pid, number)

    def read_until(self, words: str) -> list[str]:
        """The log's next lines, as far as the first one with these words."""
        assert self.process.stderr is not None
        lines = [self.process.stderr.readline()]
        while words not in lines[-1]:
            if not lines[-1]:
                raise AssertionError(f"it ended before it logged {words!r}: {lines}")
            lines.append(self.process.stderr.readline())
        return lines

    def end(self) -> tuple[int, list[str]]:
        """The exit code, and what was still to be logged: messages. Raises TimeoutExpired if it does not end."""
        _, log = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, [json.loads(line)["message"] for line in log.splitlines()]


@contextmanager
def started(command: Sequence[str]) -> Iterator[Start]:
    """Start a process and wait for nothing; it is killed in the end."""
    start = Start(command)
    try:
        yield start
    finally:
        if start.process.poll() is None:
            os.kill(start.pid, signal.SIGKILL)
        start.process.communicate()


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until it is true, but not for ever."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("waited in vain")
        time.sleep(0.0005)


def wait_until_blocked(pid: int) -> None:
    """Wait until a process is Python and blocks SIGTERM, as the server does from its first line on."""

    def blocked() -> bool:
        status = Path(f"/proc/{pid}/status").read_text()
        mask = int(re.findall(r"^SigBlk:\s+(\w+)", status, re.MULTILINE)[0], 16)
        return "\tpython" in status.partition("\n")[0] and bool(mask >> (signal.SIGTERM - 1) & 1)

    wait_for(blocked)


def start_seconds(command: Sequence[str]) -> float:
    """How long a start takes until a version is live."""
    began = time.monotonic()
    with started(command) as server:
        server.read_until("serving version")
        return time.monotonic() - began


def stop(command: Sequence[str], after: float, numbers: Sequence[int]) -> str:
    """Send signals that many seconds after the earliest moment; what became of it: "in order", or what went wrong."""
    with started(command) as server:
        wait_until_blocked(server.pid)
        time.sleep(after)
        sent = time.monotonic()
        server.send(*numbers)
        try:
            code, messages = server.end()
        except subprocess.TimeoutExpired:
            return "lost"
        except ValueError:
            return "a line that is no record"
        if time.monotonic() - sent > _LIMIT:
            return "late"
        told = any(": stopping" in message or "during the start: stopped" in message for message in messages)
        return f"exit code {code}" if code else "in order" if told else "without a word"


def main() -> None:
    """Try all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--moments", type=int, default=30)
    parser.add_argument("--engine", default="litert")
    args = parser.parse_args()
    plain = serve(args.models, "--engine", args.engine)
    longest = 1.2 * start_seconds(plain)
    failed = False
    for where, wrapper in WRAPPERS.items():
        if not works(wrapper):
            print(f"{where}: this machine or user cannot run {' '.join(wrapper)}")
            continue
        for what, numbers in SIGNALS.items():
            moments = (longest * moment / args.moments for moment in range(args.moments))
            outcomes = Counter(stop([*wrapper, *plain], moment, numbers) for moment in moments)
            failed |= set(outcomes) != {"in order"}
            print(f"{where}, {what}: " + ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()), flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
