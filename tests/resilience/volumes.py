"""Volumes that misbehave under load: callers must lose no call, and a good version must be live soon after it can be read.

    python -m tests.resilience.volumes [CASE ...] [--models models] [--clients 16] [--poll-seconds 1]

Clients without retries ask while a volume is unmounted, permissions are withheld, a tool replaces the version in place or by
renames, a link is switched, and reads fail. What is compared with the promise is the time from the moment at which a version
can be read until its load begins: at most two polls. It ends with 1 if a promise is broken.

Where modes of files matter, the server runs without the capabilities by which they do not bind root. An audit hook lets opening
a model fail while a certain file exists.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import grpc

from harness import report
from harness.process import ServerProcess, started
from harness.requests import Question, real_headlines
from headlines.client import AsyncClient
from headlines.v1.popularity_pb2 import ModelVersion
from headlines.v1.popularity_pb2_grpc import PopularityServiceStub
from tests.resilience import soak, stopping, swaps

PROMISED_POLLS = 2.0
PATIENCE = 60.0  # seconds
SERVER = """
import os, sys
from service import __main__

failing = sys.argv.pop(1)

def fail(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".tflite") and os.path.exists(failing):
        raise OSError(5, os.strerror(5))

sys.addaudithook(fail)
sys.exit(__main__.main(sys.argv[1:]))
"""

AS_USERS_ARE = ("setpriv", *(f"--{name}=-dac_override,-dac_read_search" for name in ("bounding-set", "inh-caps")))


@dataclass
class Outcome:
    """What came of one case."""

    calls: int = 0  # that were answered
    wrong: int = 0  # headlines whose answer is not their version's
    polls: float = 0.0  # from when the version could be read until its load began
    problems: list[str] = field(default_factory=list)  # calls that were lost, and what else is against the promise


class Volume:
    """MODELS in a directory of its own, and what is done to it."""

    def __init__(self, directory: Path, models: Path, questions: Sequence[Question]) -> None:
        trial = swaps.Trial.prepare(directory, models, questions, swaps=1, broken=())
        self.models, self.coming, self.answers = trial.models, trial.coming / "2", trial.answers
        self.directory = directory
        self.failing = directory / "reads-fail"
        self.client: AsyncClient

    async def until(self, passed: Callable[[ModelVersion], bool], number: int) -> None:
        """Wait until GetModel says so of a version."""
        async with asyncio.timeout(PATIENCE):
            while not any(it.version == number and passed(it) for it in (await self.client.model()).versions):
                await asyncio.sleep(0.01)

    async def failed(self, number: int) -> None:
        """Wait until a version has failed, though another is live."""
        await self.until(lambda it: it.state == ModelVersion.STATE_FAILED, number)

    def mount(self) -> None:
        """Put an empty file system over MODELS. Raises subprocess.CalledProcessError."""
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", self.models], check=True, capture_output=True)

    def umount(self) -> None:
        """Take it away."""
        subprocess.run(["umount", "--lazy", self.models], check=True)

    def fill(self) -> None:
        """Let version 1 be there as it was."""
        shutil.copytree(self.directory / "1", self.models / "1")


def nothing(volume: Volume) -> None:
    """Prepare no more than version 1."""


def on_a_volume(volume: Volume) -> None:
    """Version 1 lies on a volume of its own."""
    (volume.models / "1").rename(volume.directory / "1")
    volume.mount()
    volume.fill()


async def unmount(volume: Volume) -> int:
    """The volume goes away and comes back, with a new version."""
    volume.umount()
    await volume.until(lambda it: "missing" in it.error, 1)
    volume.mount()
    volume.fill()
    shutil.copytree(volume.coming, volume.models / "2")
    return 2


async def withhold(volume: Volume) -> int:
    """A new version may not be read at first."""
    volume.coming.chmod(0o200)  # without which only root may move it
    volume.coming.rename(volume.models / "2")
    await volume.failed(2)
    (volume.models / "2").chmod(0o755)
    return 2


async def replace_in_place(volume: Volume) -> int:
    """A tool removes each file of the only version, and writes the new ones."""
    shutil.rmtree(volume.models / "1")
    await volume.until(lambda it: "missing" in it.error, 1)
    shutil.copytree(volume.coming, volume.models / "1")
    return 1


async def replace_by_rename(volume: Volume) -> int:
    """A tool moves the only version away, and another one in."""
    (volume.models / "1").rename(volume.directory / "old")
    volume.coming.rename(volume.models / "1")
    return 1


def as_a_link(volume: Volume) -> None:
    """Version 1 is a link."""
    (volume.models / "1").rename(volume.directory / "old")
    (volume.models / "1").symlink_to(volume.directory / "old")


async def switch_link(volume: Volume) -> int:
    """The link is switched to another release."""
    link = volume.directory / "link"
    link.symlink_to(volume.coming)
    link.rename(volume.models / "1")
    return 1


async def fail_reads(volume: Volume) -> int:
    """Reading a new version fails for a while."""
    volume.failing.touch()
    volume.coming.rename(volume.models / "2")
    await volume.failed(2)
    volume.failing.unlink()
    return 2


# What is prepared before the server starts, and what is done then: it returns the version that can be read now.
CASES: dict[str, tuple[Callable[[Volume], None], Callable[[Volume], Awaitable[int]]]] = {
    "umount": (on_a_volume, unmount),
    "chmod": (nothing, withhold),
    "in place": (nothing, replace_in_place),
    "rename": (nothing, replace_by_rename),
    "link": (as_a_link, switch_link),
    "read error": (nothing, fail_reads),
}


async def call(
    server: ServerProcess, volume: Volume, questions: Sequence[Question], rng: random.Random, outcome: Outcome
) -> None:
    """Ask until the task is cancelled."""
    async with grpc.aio.insecure_channel(server.target, [("grpc.enable_retries", 0)]) as channel:
        stub = PopularityServiceStub(channel)
        while True:
            chosen = [rng.randrange(len(questions)) for _ in range(4)]
            try:
                response = await stub.Predict(stopping.request(questions, chosen), timeout=30)
            except grpc.aio.AioRpcError as error:
                outcome.problems.append(f"a call was lost: {error.code().name}: {error.details()}")
                continue
            outcome.calls += 1
            outcome.wrong += soak.count_wrong(volume.answers, chosen, stopping.read(response))
            await asyncio.sleep(0.005)


async def attempt(name: str, volume: Volume, questions: Sequence[Question], clients: int, poll_seconds: float) -> Outcome:
    """One case."""
    outcome = Outcome()
    prepare, act = CASES[name]
    prepare(volume)
    bound = AS_USERS_ARE if name == "chmod" and not os.geteuid() else ()
    subprocess.run([*bound, "true"], check=True, capture_output=True)
    serve = [sys.executable, "-c", SERVER, str(volume.failing), "serve", "--models", str(volume.models), "--engine", "litert"]
    ports = ["--port", "0", "--http-port", "0", "--drain-seconds", "0", "--poll-seconds", str(poll_seconds)]
    command = [*bound, *serve, *ports]
    try:
        with started(command) as server:
            async with AsyncClient(server.target) as volume.client:
                calls = [call(server, volume, questions, random.Random(i), outcome) for i in range(clients)]
                calling = [asyncio.create_task(it) for it in calls]
                number = await act(volume)
                readable = time.time()
                record = await asyncio.to_thread(swaps.became_of, server, number)
                while "is live after" not in record["message"]:
                    record = await asyncio.to_thread(swaps.became_of, server, number)
                live = datetime.fromisoformat(record["time"]).timestamp()
                outcome.polls = (live - record["seconds"] - readable) / poll_seconds
                await asyncio.sleep(0.2)  # answers by the new version
                for task in calling:
                    task.cancel()
                await asyncio.gather(*calling, return_exceptions=True)
    finally:
        if os.path.ismount(volume.models):
            volume.umount()
    if outcome.wrong:
        outcome.problems.append(f"{outcome.wrong} headlines were answered wrongly")
    return outcome


def main() -> None:
    """Try the cases and print a table."""
    parser = report.models_parser(__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"any of {', '.join(CASES)}")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--poll-seconds", type=float, default=1.0)
    args = parser.parse_args()
    if unknown := set(args.cases) - CASES.keys():
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join(CASES)}")
    questions = real_headlines(1000)
    problems = []
    table = report.Table("", {"calls": "", "lost": "", "wrong": "", "polls": ".1f"})
    for name in args.cases or CASES:
        with tempfile.TemporaryDirectory() as directory:
            try:
                volume = Volume(Path(directory), args.models, questions)
                outcome = asyncio.run(attempt(name, volume, questions, args.clients, args.poll_seconds))
            except subprocess.CalledProcessError:
                print(f"{name:12}  left out: it needs rights that this user has not")
                continue
        lost = sum("lost" in problem for problem in outcome.problems)
        table.row(name, outcome.calls, lost, outcome.wrong, outcome.polls)
        problems += [f"{name}: {problem}" for problem in sorted(set(outcome.problems))]
        if outcome.polls > PROMISED_POLLS or not outcome.calls:
            problems.append(f"{name}: {outcome.calls} calls, live after {outcome.polls:.1f} polls")
    report.require_none(problems)


if __name__ == "__main__":
    report.run(main)
