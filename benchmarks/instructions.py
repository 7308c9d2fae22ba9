"""Instructions a request, from its bytes to the answer's, which machine and other work do not change.

    python -m benchmarks.instructions [--models models] [--check | --record "why they changed"]

Runs Predict's handler with all that surrounds it, without gRPC and without the engine (`--models` puts LiteRT in), under
valgrind's callgrind and on made-up headlines. Callers of one headline each come together, so that each batch has 1, 8 or 64
requests; the last case is a single request of 64 headlines. The batcher's clock stands still. What a handler takes that does
nothing, its task and the turns of the event loop, is subtracted. Two runs differ by 0.1 % at most: valgrind shows every program
the same CPU.

Figures depend on how Python and the libraries were built, so `benchmarks/instructions.csv` names both, with a row for each
change. `--check` compares with the newest row that was counted with the same ones, and fails if a figure has grown by more than
2 %; `--record` adds a row. Without valgrind, or a row to compare with, `--check` says so and passes.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import uvloop

from harness import process, report
from headlines.v1 import popularity_pb2
from service.api import middleware, popularity
from service.batcher import Batcher
from service.budget import Budget
from service.description import ModelDescription
from service.drain import DrainGate
from service.metrics import Metrics
from service.model import artifact, engines
from service.model.preprocessing import VOCABULARY_HEAD, Preprocessor
from service.model.version import Version
from service.predictor import Item, Predictor, Result, cost
from service.server import spare_collector

TABLE = Path(__file__).with_suffix(".csv")
LIBRARIES = ("grpcio", "msgspec", "numpy", "protobuf", "regex", "uvloop")
MOST_GROWTH = 0.02
CASES = {"batch of 1": (1, 1), "batch of 8": (8, 1), "batch of 64": (64, 1), "1 x 64 headlines": (1, 64)}  # callers, headlines
REQUESTS = 256  # counted in each case, after as many that are not
_VERSION = 1
_NOW = 1_464_000_000.0
_TURNS = 12  # of the event loop between two batches, as gRPC needs them to carry answers out and requests in

# What the counted process calls between two figures, and nothing else does: callgrind then writes down what it has counted.
_MARK = "getppid"
_EMPTY = " of a handler that does nothing"


def main() -> None:
    """Count, print a table, and compare or record."""
    parser = report.parser(__doc__)
    parser.add_argument("--models", type=Path, help="with LiteRT and the version in this directory; for tables alone")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--check", action="store_true", help="exit code 1 if a figure has grown by more than 2 %%")
    chosen.add_argument("--record", metavar="WHY", help=f"add a row to {TABLE.name}")
    parser.add_argument("--counted", action="store_true", help=argparse.SUPPRESS)  # this is the process under valgrind
    args = parser.parse_args()
    if args.counted:
        run_all(args.models)
        return
    if problem := no_valgrind():
        if not args.check:
            raise report.BrokenError(problem)
        print(f"{problem}; instructions are not counted")
        return
    with tempfile.TemporaryDirectory() as directory:
        figures = count(Path(directory), args.models)
    before = {} if args.models else recorded()
    table = report.Table("instructions a request", {"now": ",.0f", "recorded": ",.0f", "ratio": ".3f"}, width=24)
    for name, figure in figures.items():
        known = before.get(name)
        table.row(name, figure, known, figure / known if known else None)
    if args.record:
        record(args.record, figures)
    if args.check:
        if not before:
            print(f"no row of {TABLE.name} was counted with {environment()}: nothing to compare with")
        report.require_none(
            f"{name}: {figures[name] / known - 1:.1%} more instructions than recorded; save them, or say why with --record"
            for name, known in before.items()
            if figures[name] > (1 + MOST_GROWTH) * known
        )


def no_valgrind() -> str:
    """Why valgrind cannot count here; empty if it can."""
    if not shutil.which("valgrind"):
        return "valgrind is not installed (on Debian: apt install valgrind)"
    tried = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "true"], capture_output=True, check=False
    )
    return f"valgrind does not run here (exit code {tried.returncode})" if tried.returncode else ""


def environment() -> str:
    """What the figures depend on, beside the code."""
    libraries = ", ".join(f"{name} {version_of(name)}" for name in LIBRARIES)
    return f"{platform.machine()}, Python {platform.python_version()} ({platform.python_compiler()}), {libraries}"


def recorded() -> dict[str, float]:
    """The newest row for this environment, by case."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["environment"] == environment()]
    return {name: float(rows[-1][name]) for name in CASES} if rows else {}


def record(why: str, figures: Mapping[str, float]) -> None:
    """Add a row."""
    with TABLE.open("a", encoding="utf-8", newline="") as file:
        row = [datetime.now(UTC).date(), why, *(round(figure) for figure in figures.values()), environment()]
        csv.writer(file, lineterminator="\n").writerow(row)


def count(directory: Path, models: Path | None) -> dict[str, float]:
    """Instructions a request, by case; callgrind's own files are left in the directory."""
    more = ["--models", str(models.absolute())] if models else []
    done = subprocess.run(
        [
            "valgrind",
            "--tool=callgrind",
            f"--callgrind-out-file={directory}/counted",
            f"--dump-before={_MARK}",
            sys.executable,
            "-m",
            "benchmarks.instructions",
            "--counted",
            *more,
        ],
        cwd=process.ROOT,
        # Hashes decide how often a dict looks twice.
        env=process.environment(PYTHONHASHSEED="0"),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode:
        raise report.BrokenError(f"valgrind: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    figures: dict[str, float] = {}
    for i, line in enumerate(done.stdout.splitlines(), 1):  # as many as callgrind's files
        name, requests = line.split("\t")
        found = re.search(r"^(?:totals|summary): (\d+)", (directory / f"counted.{i}").read_text(), re.MULTILINE)
        if not found:
            raise report.BrokenError(f"callgrind's file {i} has no total")
        figures[name] = int(found[1]) / int(requests)
    return {name: figures[name] - figures[f"{name}{_EMPTY}"] for name in CASES}


# What follows runs under valgrind.


class Stub:
    """An engine's model that answers constants."""

    def __init__(self) -> None:
        self._answer = np.linspace(0.05, 0.95, 512, dtype=np.float32).reshape(256, 2)

    def predict(self, ids: object, lengths: Any, aux: object) -> Any:  # noqa: ANN401, ARG002
        """See service.model.engines.Model."""
        return self._answer[: len(lengths)]

    def warm(self) -> None:
        """Nothing to do."""


def run_all(models: Path | None) -> None:
    """Run each case, and the same with a handler that does nothing."""
    version = load(models)
    mark("loading")
    for name, (callers, headlines) in CASES.items():
        requests = list(islice(make_requests(headlines), REQUESTS if headlines == 1 else REQUESTS // 4))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run_case(name, version, callers, requests))


def load(models: Path | None) -> Version:
    """A version that answers constants, or a real one."""
    if models:
        return Version.load(artifact.read(process.versions(models)[0]), engines.choose("litert"))
    levels = {outlet: 0.1 * i for i, outlet in enumerate(OUTLETS)}
    preprocessor = Preprocessor([*VOCABULARY_HEAD, *VOCABULARY[: len(VOCABULARY) * 9 // 10]], levels)
    return Version(_VERSION, "", cast(Any, None), preprocessor, cast(Any, Stub()), 0.0, OUTLETS, {})


def mark(name: str, requests: int = 1) -> None:
    """What was counted since the last mark is so many requests of this name."""
    print(name, requests, sep="\t", flush=True)
    os.getppid()


async def run_case(name: str, version: Version, callers: int, raws: Sequence[bytes]) -> None:
    """Let callers send their requests together, again and again."""
    metrics = Metrics(4096)
    metrics.went_live(version.number, version.digest, "stub", 0.0)
    sizes: list[int] = []
    await run_handler(f"{name}{_EMPTY}", empty, callers, raws)
    await run_handler(name, make_handler(version, metrics, sizes), callers, raws)
    if set(sizes) != {callers}:
        raise report.BrokenError(f"{name}: batches had {sorted(set(sizes))} requests")


async def run_handler(name: str, handler: Any, callers: int, raws: Sequence[bytes]) -> None:  # noqa: ANN401
    """Run it twice, and count the second time."""
    batches = len(raws) // callers

    async def run() -> None:
        requests = iter(raws)
        for _ in range(batches):
            calls = [asyncio.create_task(handler(None, Context(next(requests)))) for _ in range(callers)]
            for call in calls:
                await call
            for _ in range(_TURNS):
                await asyncio.sleep(0)

    await run()
    spare_collector()  # as a server does; so what is collected is what requests leave, and no more the later they come
    mark("warming up")
    await run()
    mark(name, batches * callers)


async def empty(_: object, context: Context) -> bytes:
    """A handler that does nothing."""
    return await context.read()


class Context:
    """What the handler needs of grpc.aio's context."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    async def read(self) -> bytes:
        """The call's message."""
        return self._raw

    def time_remaining(self) -> float:
        """Seconds to the deadline."""
        return 5.0

    def peer(self) -> str:
        """The connection's name."""
        return "ipv4:127.0.0.1:50000"

    def code(self) -> None:
        """The status that a handler has set."""


def make_handler(version: Version, metrics: Metrics, sizes: list[int]) -> Callable[..., Coroutine[Any, Any, bytes]]:
    """Predict as a server has it; `sizes` gets the number of requests of each batch."""

    class Observer:
        """Counts requests on the way to the metrics."""

        dropped = metrics.dropped

        def computed(self, items: int, seconds: float, waits: Sequence[float]) -> None:
            """A batch was computed."""
            sizes.append(len(waits))
            metrics.computed(items, seconds, waits)

    batcher: Batcher[Item, Result] = Batcher(
        capacity=4096,
        largest_batch=256,
        largest_cost=64 << 10,
        cost=cost,
        executor=None,
        observer=Observer(),
        clock=lambda: 0.0,
    )
    repository: Any = SimpleNamespace(live=version)
    predictor = Predictor(repository, batcher, observer=metrics.predicted)
    description = ModelDescription(repository, "", predictor.limits, 4 << 20)
    service = popularity.Popularity(predictor, description, stream_age=1.0, gate=DrainGate(), clock=lambda: _NOW)
    handlers = middleware.Middleware(metrics, {popularity.SERVICE: service.handlers()}, Budget(64 << 20, 4 << 20))
    details: Any = SimpleNamespace(method=f"/{popularity.SERVICE.full_name}/Predict")
    return cast(Any, handlers.service(details)).stream_unary  # type: ignore[no-any-return]


def make_vocabulary() -> list[str]:
    """Ten thousand made-up words, the commonest first, as long as English ones."""
    rng = random.Random(1)
    syllables = [a + b + c for a in "bcdfghlmnprst" for b in "aeiou" for c in ("", "", "n", "r", "s", "t")]
    words: dict[str, None] = {}
    while len(words) < 10_000:
        length = 1 if len(words) < 100 else rng.choice((1, 2, 2, 3))
        words["".join(rng.choices(syllables, k=length))] = None
    return list(words)


def make_requests(headlines: int) -> Iterator[bytes]:
    """Requests that look like real ones: some 10 words, 61 characters; every 35th headline is not ASCII."""
    rng = random.Random(2)
    endings = ("", "", "", "", "", "", "'s", "'s", ":", ",", ",", "-" + VOCABULARY[50])
    while True:
        request = popularity_pb2.PredictRequest()
        for _ in range(headlines):
            # Common words are common: the rank of a word is as in Zipf's law.
            words = [VOCABULARY[int(len(VOCABULARY) ** rng.random()) - 1] for _ in range(rng.randint(6, 13))]
            text = " ".join(word.capitalize() + rng.choice(endings) for word in words)
            if rng.random() < 1 / 5:
                text = f"'{text}'"
            if rng.random() < 1 / 35:
                text += rng.choice((" \u2014 caf\u00e9", " \u2013 \u00a35m", "\u2026"))
            if rng.random() < 1 / 100:
                text += " &amp; more"
            headline = request.headlines.add(text=text, outlet=rng.choice(OUTLETS))
            headline.posted_at.seconds = int(_NOW) - rng.randrange(7_000_000)
        yield request.SerializeToString()


VOCABULARY = make_vocabulary()
OUTLETS = VOCABULARY[1000:1029]


if __name__ == "__main__":
    report.run(main)
