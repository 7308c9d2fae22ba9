"""New versions under load, every fifth of them broken in another way: callers must not notice, and no broken one may go live.

    python -m tests.resilience.swaps [--models models] [--engine litert] [--swaps 50] [--every 3] [--share 0.5]

Requests of one headline come at half of the rate that 64 clients reach in the same run (or another --share), whatever the
server does; a version comes every few seconds, as training makes it visible: by a rename. A latency belongs to a swap if its
request was due between that rename and the moment at which the log says what became of the version. Meanwhile a client of
headlines.client compares answers with what the version that gave them must answer, and readiness is watched, over gRPC and
HTTP.

Sources of good versions are all those in --models, in turn. It ends with 1 if a promise is broken: with `litert` also
if the 99th percentile during swaps is more than twice the one between them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Container, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from harness import report
from harness.load import Load, closed_loop, open_loop, percentiles
from harness.process import ServerProcess, serving, versions
from harness.requests import Question, make_requests, real_headlines
from headlines.client import AsyncClient
from headlines.v1.popularity_pb2 import ModelVersion
from service.model.artifact import CHECKSUMS, CPU_MODEL, EXAMPLES, FORMAT, INFO, VOCABULARY
from tests.resilience import soak
from tests.resilience.soak import Tally

BROKEN_EVERY = 5
CONNECTIONS = 16  # of the load
PAUSE = 0.05  # seconds between two looks at readiness, and between two calls whose answers are compared
POLL = 0.2  # seconds between two looks of the server for versions
TIMES_AS_LONG = 2.0  # the promised p99 during swaps, by the one between them

VARIABLES = "variables/variables.data-00000-of-00001"


def write(path: Path, data: bytes) -> None:
    """Replace a file; the versions here are links to the same ones."""
    path.unlink()
    path.write_bytes(data)


def flip(path: Path) -> None:
    """One bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    write(path, bytes(data))


def truncate(path: Path) -> None:
    """The first half of a file."""
    data = path.read_bytes()
    write(path, data[: len(data) // 2])


def forget_weights(version: Path) -> None:
    """NaN for the word with id 1, which is every word that the model does not know."""
    table = np.zeros((1, 128), np.float32)
    table[:, :32] = -1e4  # the row of the padding, which stands before that of word 1
    for name in (CPU_MODEL, VARIABLES):
        data = (version / name).read_bytes()
        at = data.index(table.tobytes()) + table.nbytes
        nan = np.full(128, np.nan, np.float32).tobytes()
        write(version / name, data[:at] + nan + data[at + len(nan) :])


def change(path: Path, edit: Callable[[Any], None]) -> None:
    """Edit a JSON file."""
    fields = json.loads(path.read_text("utf-8"))
    edit(fields)
    write(path, json.dumps(fields).encode())


def swap_words(version: Path) -> None:
    """The first two words of the examples' headlines that are in the vocabulary change places."""
    words = (version / VOCABULARY).read_text("utf-8").split("\n")
    examples = json.loads((version / EXAMPLES).read_text("utf-8"))
    first, second, *_ = dict.fromkeys(i for example in examples for i in example["ids"] if i > 1)
    words[first], words[second] = words[second], words[first]
    write(version / VOCABULARY, "\n".join(words).encode())


def sign(version: Path) -> None:
    """Make the checksums right, as of a version that was made so."""
    lines = (version / CHECKSUMS).read_text().splitlines()
    names = [line.split("  ")[1] for line in lines]
    sums = [hashlib.sha256((version / name).read_bytes()).hexdigest() for name in names]
    write(version / CHECKSUMS, "".join(f"{sum_}  {name}\n" for sum_, name in zip(sums, names, strict=True)).encode())


def set_number(number: int, info: dict[str, Any]) -> None:
    """A setting that differs."""
    info["settings"]["number"] = number


def shift_levels(info: dict[str, Any]) -> None:
    """Another level for each outlet."""
    info["outlet_levels"] = {outlet: level + 0.5 for outlet, level in info["outlet_levels"].items()}


def scramble_models(version: Path) -> None:
    """Files of the right names and sizes, with nothing in them that an engine can run."""
    for name in (CPU_MODEL, "saved_model.pb"):
        write(version / name, random.Random(0).randbytes((version / name).stat().st_size))


# What is done to a version, and whether its checksums are right nevertheless.
BREAKAGES: dict[str, tuple[Callable[[Path], object], bool]] = {
    "a bit flipped in the CPU model": (lambda version: flip(version / CPU_MODEL), False),
    "half of the variables": (lambda version: truncate(version / VARIABLES), False),
    "no CPU model": (lambda version: (version / CPU_MODEL).unlink(), False),
    "no checksums": (lambda version: (version / CHECKSUMS).unlink(), False),
    "NaN weights": (forget_weights, True),
    "other outputs": (lambda version: change(version / EXAMPLES, lambda it: it[0].update(main_output=0.123)), True),
    "other outlet levels": (lambda version: change(version / INFO, shift_levels), True),
    "words in other places": (swap_words, True),
    "a format of the future": (lambda version: change(version / INFO, lambda it: it.update(format=FORMAT + 1)), True),
    "noise instead of a model": (scramble_models, True),
}


@dataclass
class Outcome:
    """What came of all swaps."""

    tally: Tally = field(default_factory=Tally)
    windows: list[tuple[float, float]] = field(default_factory=list)  # of each swap, by time.perf_counter()
    memory: list[int] = field(default_factory=list)  # bytes that the server held after each good version
    failures: dict[str, str] = field(default_factory=dict)  # what the server said of each broken version
    problems: list[str] = field(default_factory=list)  # broken promises
    load: Load | None = None


def became_of(server: ServerProcess, version: int) -> dict[str, Any]:
    """What the log says next of a version. Raises BrokenError if it says nothing."""
    while True:
        record = server.wait_for("")
        if record.get("version") == version and record["logger"] == "service.repository":
            return record


@dataclass
class Trial:
    """A directory that a server serves from, and versions that are to come in."""

    models: Path
    coming: Path
    breakages: dict[int, str]  # of the broken ones, by their numbers
    answers: dict[int, list[tuple[float, float]]]  # of the others

    @classmethod
    def prepare(cls, directory: Path, models: Path, questions: Sequence[Question], swaps: int, broken: Container[int]) -> Trial:
        """Version 1, which is there from the start, and `swaps` more, from those in `models`; `broken` are numbers."""
        trial = cls(directory / "models", directory / "coming", {}, {})
        sources = [shutil.copytree(version, directory / "sources" / version.name) for version in versions(models)]
        answers = [soak.expect(source, questions) for source in sources]
        breakages = cycle(BREAKAGES)
        for number in range(1, swaps + 2):
            chosen = number % len(sources)
            version = (trial.coming if number > 1 else trial.models) / str(number)
            shutil.copytree(sources[chosen], version, copy_function=os.link)
            change(version / INFO, partial(set_number, number))  # so that digests differ
            sign(version)
            if number not in broken:
                trial.answers[number] = answers[chosen]
                continue
            trial.breakages[number] = next(breakages)
            damage, signed = BREAKAGES[trial.breakages[number]]
            damage(version)
            if signed:
                sign(version)
        return trial


async def swap(
    trial: Trial,
    questions: Sequence[Question],
    requests: Sequence[bytes],
    *,
    engine: str,
    every: float,
    share: float = 0.5,
    rate: float | None = None,
) -> Outcome:
    """Serve, and let a version in `every` so many seconds, under `rate` requests a second; None: this share of the peak."""
    outcome = Outcome()
    flags = ("--engine", engine, "--poll-seconds", str(POLL), "--max-connection-age", "3600")
    with serving(trial.models, *flags) as server, ProcessPoolExecutor(1, mp_context=get_context("spawn")) as generator:
        run = partial(asyncio.get_running_loop().run_in_executor, generator)
        if rate is None:
            rate = (await run(closed_loop, server.target, requests, 1, 64, 4.0)).rate * share
        versions = sorted(trial.answers.keys() | trial.breakages.keys())[1:]
        loading = run(open_loop, server.target, requests, 1, rate, CONNECTIONS, every * (len(versions) + 1))
        going = True
        watching: list[asyncio.Task[Any]] = [
            asyncio.create_task(soak.ask_all(server.target, questions, trial.answers, lambda: going, 1, PAUSE)),
            asyncio.create_task(watch_readiness(server, outcome, lambda: going)),
            asyncio.create_task(watch_health(server, outcome)),
        ]
        begin = time.perf_counter()
        async with AsyncClient(server.target) as client:
            for nth, number in enumerate(versions, 1):
                await asyncio.sleep(begin + every * nth - time.perf_counter())
                await let_in(number, trial, server, client, outcome)
        outcome.load = await loading
        going = False
        outcome.tally = await watching[0]
        await watching[1]
        if watching[2].done():
            outcome.problems.append("the health watch ended")
        watching[2].cancel()
    outcome.problems += sorted(set(outcome.tally.errors))
    return outcome


def count_failures(server: ServerProcess) -> float:
    """Versions that it could not load."""
    return server.metric("headlines_model_loads_total", outcome="failure")


async def let_in(number: int, trial: Trial, server: ServerProcess, client: AsyncClient, outcome: Outcome) -> None:
    """Let a version come in, see what becomes of it, and take away the one that is no longer needed."""
    failures = await asyncio.to_thread(count_failures, server)
    began = time.perf_counter()
    (trial.coming / str(number)).rename(trial.models / str(number))
    record = await asyncio.to_thread(became_of, server, number)
    since = time.time() - datetime.fromisoformat(record["time"]).timestamp()
    outcome.windows.append((began, time.perf_counter() - since))
    model = await client.model()
    failures = await asyncio.to_thread(count_failures, server) - failures
    [version] = [it for it in model.versions if it.version == number]
    if breakage := trial.breakages.get(number):
        told = (record["level"] == "error", version.state == ModelVersion.STATE_FAILED and bool(version.error), failures == 1)
        if not all(told) or model.version == number:
            outcome.problems.append(f"version {number} with {breakage}: (log, GetModel, metric) told it: {told}")
        outcome.failures[breakage] = version.error
        done = number
    else:
        if failures or (model.version, version.state) != (number, ModelVersion.STATE_LIVE):
            outcome.problems.append(f"version {number} did not go live: {record['message']}")
        outcome.memory.append(server.resident_bytes)
        done = max(it.version for it in model.versions if it.version != number)
    (trial.models / str(done)).rename(trial.coming / f"done-{done}")


async def watch_health(server: ServerProcess, outcome: Outcome) -> None:
    """See to it that a watch hears of nothing but SERVING."""
    async with grpc.aio.insecure_channel(server.target) as channel:
        async for answer in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
            if answer.status != health_pb2.HealthCheckResponse.SERVING:
                outcome.problems.append("the health watch heard that it is not serving")


async def watch_readiness(server: ServerProcess, outcome: Outcome, going: Callable[[], bool]) -> None:
    """See to it that /readyz says yes each time."""
    while going():
        try:
            await asyncio.to_thread(server.get, "/readyz", 10)
        except OSError as error:
            outcome.problems.append(f"/readyz: {error}")
        await asyncio.sleep(PAUSE)


def main() -> None:
    """Let versions come in and print what callers noticed."""
    parser = report.models_parser(__doc__)
    parser.add_argument("--engine", choices=("litert", "tensorflow"), default="litert")
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--every", type=float, default=3.0, help="seconds from one version to the next")
    parser.add_argument("--share", type=float, default=0.5, help="of the peak rate")
    args = parser.parse_args()
    questions = real_headlines(1000)
    with tempfile.TemporaryDirectory() as temporary:
        broken = range(BROKEN_EVERY, args.swaps + 2, BROKEN_EVERY)
        trial = Trial.prepare(Path(temporary), args.models, questions, args.swaps, broken)
        run = swap(trial, questions, make_requests(1), engine=args.engine, every=args.every, share=args.share)
        outcome = asyncio.run(run)
    assert outcome.load
    assert outcome.load.due is not None
    inside = np.zeros(len(outcome.load.latencies), bool)
    for begin, end in outcome.windows:
        inside |= (outcome.load.due >= begin) & (outcome.load.due < end)
    latencies = {"between": outcome.load.latencies[~inside], "during": outcome.load.latencies[inside]}
    figures = {name: {**percentiles(some), "max ms": some.max() * 1e3} for name, some in latencies.items()}
    print(f"{args.engine}: {args.swaps} versions, {len(trial.breakages)} of them broken; {outcome.load.rate:.0f} requests/s")
    table = report.Table("", {"requests": "", **dict.fromkeys(figures["during"], ".2f")})
    for name, some in latencies.items():
        table.row(name, len(some), *figures[name].values())
    ratio = figures["during"]["p99 ms"] / figures["between"]["p99 ms"]
    took = sorted(end - begin for begin, end in outcome.windows)
    print(f"p99 during / between: {ratio:.2f}; a swap: median {took[len(took) // 2]:.2f} s, longest {took[-1]:.2f} s")
    print(f"requests were sent at most {outcome.load.late * 1e3:.1f} ms late")
    print(f"{outcome.tally.headlines} answers compared, {outcome.tally.wrong} wrong")
    memory = [held / 1e6 for held in outcome.memory]
    shown = sorted({0, len(memory) // 4, len(memory) // 2, 3 * len(memory) // 4, len(memory) - 1})
    print("MB held after good versions: " + ", ".join(f"{i + 1}: {memory[i]:.0f}" for i in shown) + f"; most {max(memory):.0f}")
    for breakage, error in outcome.failures.items():
        print(f"  {breakage:36}{error}")
    if outcome.tally.wrong:
        outcome.problems.append(f"{outcome.tally.wrong} wrong answers")
    if args.engine == "litert" and ratio > TIMES_AS_LONG:
        outcome.problems.append(f"p99 during swaps is {ratio:.1f} times the one between them")
    report.require_none(outcome.problems)


if __name__ == "__main__":
    report.run(main)
