"""Signals at moments of a server's start, also to PID 1: each must stop it in order, within the drain and grace time.

    python -m tests.resilience.starting [--models models] [--moments 30] [--engine litert]

It sends SIGTERM, SIGTERM twice, and SIGTERM with SIGINT: from when Python starts if they are blocked over exec, as in the
image, else from when the first line has run. It ends with 1 if one is lost. PID 1 needs `unshare` and the right to use it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import report
from harness.process import ServerProcess, serve

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


class Start(ServerProcess):
    """A process from its first moment on; `pid` is the server's own, whatever it is wrapped in."""

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__(command)
        self.pid = self.process.pid
        if command[0] == AS_PID_1[0]:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
            wait_for(lambda: children.read_text())
            self.pid = int(children.read_text().split()[0])

    def send(self, *numbers: int) -> None:
        """Send signals, one right after the other."""
        for number in numbers:
            os.kill(self.pid, number)

    def end(self) -> tuple[int, list[str]]:
        """The exit code, and what was still to be logged: messages. Raises TimeoutExpired if it does not end."""
        code = self.wait(PATIENCE)
        messages = []
        while line := self._new.get():
            messages.append(json.loads(line)["message"])
        return code, messages

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        super().__exit__()


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until it is true, but not for ever."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise report.BrokenError(f"what should take moments has not come about in {PATIENCE:.0f} s")
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
    with Start(command) as server:
        server.read_until("serving version")
        return time.monotonic() - began


def stop(command: Sequence[str], after: float, numbers: Sequence[int]) -> str:
    """Send signals that many seconds after the earliest moment; what became of it: "in order", or what went wrong."""
    with Start(command) as server:
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
    parser = report.models_parser(__doc__)
    parser.add_argument("--moments", type=int, default=30)
    parser.add_argument("--engine", default="litert")
    args = parser.parse_args()
    plain = serve(args.models, "--drain-seconds", "0", "--engine", args.engine)
    longest = 1.2 * start_seconds(plain)
    problems = []
    for where, wrapper in WRAPPERS.items():
        if not works(wrapper):
            print(f"{where}: this machine or user cannot run {' '.join(wrapper)}")
            continue
        for what, numbers in SIGNALS.items():
            moments = (longest * moment / args.moments for moment in range(args.moments))
            outcomes = Counter(stop([*wrapper, *plain], moment, numbers) for moment in moments)
            problems += [f"{where}, {what}: {count} {it}" for it, count in outcomes.items() if it != "in order"]
            print(f"{where}, {what}: " + ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()), flush=True)
    report.require_none(problems)


if __name__ == "__main__":
    report.run(main)
