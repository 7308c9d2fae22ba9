"""Servers that are stopped and killed at random moments under load: what is promised to callers must hold.

    python -m tests.resilience.stopping [--models models] [--rounds 20] [beside] [undrained] [alone] [killed]

beside     SIGTERM to one of two replicas, in turn, under 64 clients of headlines.client: no call fails, no answer is wrong
undrained  the same with --drain-seconds 0
alone      SIGTERM to the only server under 64 callers without retries: every call whose handler began and did not refuse it
           is answered; the rest end as UNAVAILABLE or CANCELLED
killed     kill -9 while it starts, under traffic and as a new version comes in: MODELS is as it was, the same command starts it
           again, and the answers are right

Without a name it does all four. It ends with 1 if a promise is broken.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from harness import report
from harness.process import ServerProcess, serve, serving, started, versions
from harness.requests import Question, make_request, real_headlines
from headlines.client import AsyncClient, Headline, Prediction
from headlines.v1.popularity_pb2 import PredictRequest, PredictResponse
from headlines.v1.popularity_pb2_grpc import PopularityServiceStub
from service.settings import Settings
from tests.resilience import soak
from tests.resilience.soak import Tally

CLIENTS = 64
RUNNING = (0.3, 2.5)  # seconds that a server runs before its end comes, between these
LITERT = ("--engine", "litert")


@dataclass
class Outcome:
    """What came of one case."""

    tally: Tally = field(default_factory=Tally)
    codes: Counter[str] = field(default_factory=Counter)  # how calls ended that were not answered
    problems: list[str] = field(default_factory=list)  # broken promises


@dataclass(frozen=True)
class Trial:
    """One version, and what to ask of it."""

    models: Path
    questions: Sequence[Question]
    answers: dict[int, list[tuple[float, float]]]
    rounds: int
    clients: int = CLIENTS


async def stop_beside(trial: Trial, rng: random.Random, drain_seconds: float = Settings.drain_seconds) -> Outcome:
    """Stop one of two replicas, and start it again at its port, over and over."""
    outcome = Outcome()
    going = True
    with ExitStack() as stack:

        async def start(*flags: str) -> ServerProcess:
            server = serving(trial.models, *LITERT, "--drain-seconds", str(drain_seconds), *flags)
            return await asyncio.to_thread(stack.enter_context, server)

        replicas = [await start(), await start()]
        target = "ipv4:" + ",".join(replica.target for replica in replicas)
        asking = asyncio.create_task(soak.ask_all(target, trial.questions, trial.answers, lambda: going, trial.clients))
        for i in range(trial.rounds):
            await asyncio.sleep(rng.uniform(*RUNNING))
            stopped = replicas[i % 2]
            calls = await asyncio.to_thread(end, stopped, outcome)
            if not calls.get("OK"):
                outcome.problems.append(f"round {i}: the replica that was stopped had answered nobody")
            replicas[i % 2] = await start("--port", str(stopped.port))
        going = False
        outcome.tally = await asking
    outcome.problems += sorted(set(outcome.tally.errors))
    return outcome


async def stop_alone(trial: Trial, rng: random.Random) -> Outcome:
    """Stop the only server, and count at both ends."""
    outcome = Outcome()
    for i in range(trial.rounds):
        with ExitStack() as stack:
            server = await asyncio.to_thread(stack.enter_context, serving(trial.models, *LITERT))
            calling = [asyncio.create_task(call(server, trial, random.Random(j), outcome)) for j in range(trial.clients)]
            await asyncio.sleep(rng.uniform(*RUNNING))
            calls = await asyncio.to_thread(end, server, outcome)
            answered = sum(await asyncio.gather(*calling))
        # What was refused ended here as UNAVAILABLE; all else was admitted.
        admitted = sum(calls.values()) - calls.get("UNAVAILABLE", 0)
        if admitted != answered:
            outcome.problems.append(f"round {i}: of {admitted} calls that were admitted {answered} were answered; {calls}")
    if others := outcome.codes.keys() - {"UNAVAILABLE", "CANCELLED"}:
        outcome.problems.append(f"calls ended as {', '.join(others)}")
    return outcome


async def call(server: ServerProcess, trial: Trial, rng: random.Random, outcome: Outcome) -> int:
    """Predict over a connection of its own and without retries, while the server is there; how many calls were answered."""
    answered = 0
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(server.target, options=options) as channel:
        stub = PopularityServiceStub(channel)
        while server.process.poll() is None:
            chosen = [rng.randrange(len(trial.questions)) for _ in range(rng.choice(soak.SIZES))]
            began = time.monotonic()
            try:
                response = await stub.Predict(request(trial.questions, chosen), timeout=30)
            except grpc.aio.AioRpcError as error:
                outcome.codes[error.code().name] += 1
                await asyncio.sleep(0.01)
                continue
            answered += 1
            wrong = soak.count_wrong(trial.answers, chosen, read(response))
            outcome.tally.add(Tally(1, len(chosen), wrong, [], time.monotonic() - began))
    return answered


def request(questions: Sequence[Question], chosen: Sequence[int]) -> PredictRequest:
    """A request with these questions."""
    return make_request([questions[i] for i in chosen])


def read(response: PredictResponse) -> list[Prediction]:
    """The predictions of a response."""
    return [
        Prediction(p.main_output, p.aux_output, p.word_count, p.unknown_word_count, p.outlet_known, response.model_version)
        for p in response.predictions
    ]


def end(server: ServerProcess, outcome: Outcome) -> dict[str, int]:
    """Send a server SIGTERM and wait until it has ended; how its calls had ended, by status."""
    server.process.send_signal(signal.SIGTERM)
    *_, last = server.records()
    if code := server.wait(60):
        outcome.problems.append(f"a server that was stopped ended with {code}")
    calls: dict[str, int] = last["calls"]
    return calls


async def kill(trial: Trial, rng: random.Random) -> Outcome:
    """Kill a server at moments of its life, and look at what is left."""
    outcome = Outcome()
    models = trial.models
    version = versions(models)[0]
    with serving(models, *LITERT) as server:  # finds free ports
        flags = (*LITERT, "--port", str(server.port), "--http-port", str(server.http_port), "--poll-seconds", "0.05")
    command = serve(models, "--drain-seconds", "0", *flags)
    began = time.monotonic()
    with started(command):
        start_seconds = time.monotonic() - began
    for i in range(trial.rounds):
        moment = ("start", "traffic", "swap")[i % 3]
        before = look(models)
        if moment == "start":
            with ServerProcess(command):  # killed as the block ends
                time.sleep(rng.uniform(0, start_seconds))
        else:
            with started(command) as server:
                going = lambda server=server: server.process.poll() is None  # noqa: E731
                asking = asyncio.create_task(
                    soak.ask_all(server.target, trial.questions, trial.answers, going, trial.clients, timeout=0.5)
                )
                await asyncio.sleep(rng.uniform(*RUNNING))
                if moment == "swap":
                    version = bring(version, models)
                    trial.answers[int(version.name)] = trial.answers[int(version.name) - 1]
                    before = look(models)
                    await asyncio.sleep(rng.uniform(0, start_seconds))
                server.process.kill()
                traffic = await asking
                outcome.tally.wrong += traffic.wrong
                outcome.codes.update(error.partition(":")[0] for error in traffic.errors)
        if look(models) != before:
            outcome.problems.append(f"round {i}: {moment}: MODELS is not as it was")
        with started(command) as server:
            outcome.tally.add(await check(server, trial, version))
    return outcome


async def check(server: ServerProcess, trial: Trial, version: Path) -> Tally:
    """Whether a server answers by this version."""
    questions = trial.questions[: soak.SIZES[-1]]
    answers = {int(version.name): trial.answers[int(version.name)]}
    async with AsyncClient(server.target) as client:
        began = time.monotonic()
        predictions = await client.predict([Headline(*question) for question in questions])
    wrong = soak.count_wrong(answers, range(len(questions)), predictions)
    return Tally(1, len(questions), wrong, [], time.monotonic() - began)


def look(models: Path) -> dict[str, str]:
    """Everything in a directory, and what is in it."""
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in models.rglob("*")}


def bring(version: Path, models: Path) -> Path:
    """The same version again, under the next number."""
    coming = models / ".tmp-coming"
    shutil.copytree(version, coming, copy_function=os.link)
    return coming.rename(models / str(int(version.name) + 1))


CASES: dict[str, Callable[[Trial, random.Random], Coroutine[Any, Any, Outcome]]] = {
    "beside": stop_beside,
    "undrained": lambda trial, rng: stop_beside(trial, rng, 0.0),
    "alone": stop_alone,
    "killed": kill,
}


def main() -> None:
    """Try the cases and print a table."""
    parser = report.models_parser(__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"any of {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if unknown := set(args.cases) - CASES.keys():
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join(CASES)}")
    questions = real_headlines(5000)
    problems = []
    columns = {**dict.fromkeys(("rounds", "calls", "headlines", "wrong"), ""), "slowest, s": ".2f", "unanswered": "<"}
    table = report.Table("", columns)
    for name in args.cases or CASES:
        with tempfile.TemporaryDirectory() as temporary:
            version = versions(args.models)[0]
            models = Path(temporary) / "models"
            shutil.copytree(version, models / version.name)
            trial = Trial(models, questions, {int(version.name): soak.expect(version, questions)}, args.rounds)
            outcome = asyncio.run(CASES[name](trial, random.Random(args.seed)))
        tally = outcome.tally
        codes = ", ".join(f"{code} {count}" for code, count in sorted(outcome.codes.items()))
        table.row(name, args.rounds, tally.calls, tally.headlines, tally.wrong, tally.slowest, codes or len(tally.errors))
        problems += [f"{name}: {problem}" for problem in outcome.problems]
        if tally.wrong or not tally.calls:
            problems.append(f"{name}: {tally.wrong} answers of {tally.headlines} are wrong")
    report.require_none(problems)


if __name__ == "__main__":
    report.run(main)
