"""Crowds and attacks: what a caller beside them notices, and what memory they cost.

    python -m tests.resilience.crowds [--models models] [--only resets callers ...] [--seconds 20]

Each of these meets a server of its own, beside a client that asks for one headline every 20 ms and another that asks for the
health:

    streams   100 PredictStream calls on each of 3 connections, which send the largest legal messages as fast as they can
    calls     100 Predict calls on each of 3 connections, with the largest legal message each, again and again
    silent    100 Predict calls on each of 3 connections that send no message
    resets    60,000 calls that are reset as soon as they are sent, as fast as one connection can
    callers   96 callers on one connection (grpc.aio, synchronous Python, ghz in turn) beside two processes that only compute

It ends with 1 if a promise is broken: more than 400 MB (resets: 100 MB more than before, or a health check that takes a
second), a caller of `callers` that is refused.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from harness import report
from harness.load import Call, Connection
from harness.process import ROOT, ServerProcess, serving
from harness.wire import PREDICT, framed
from headlines.client import Client, ClientError
from headlines.v1.popularity_pb2 import Headline, PredictRequest, PredictStreamRequest
from headlines.v1.popularity_pb2_grpc import PopularityServiceStub
from tests.resilience.overload import Pulse, feeling_pulse, repeating

CONNECTIONS = 3
CALLS = 100  # on each
CALLERS = 96
RESETS = 60_000
MEMORY = 400e6  # bytes
RESETS_MEMORY = 100e6  # bytes more than before
HEALTH = 1.0  # seconds
LARGEST = [Headline(text="слово " * 371)] * 1020  # 4,081 bytes each: nearly 4 MiB


def streams(target: str, seconds: float) -> Counter[str]:
    """Bulk callers that send as fast as flow control lets them."""
    message = PredictStreamRequest(id=1, headlines=LARGEST)

    async def stream(channel: grpc.aio.Channel, until: float) -> str:
        call = PopularityServiceStub(channel).PredictStream(timeout=seconds)
        with suppress(grpc.RpcError, asyncio.InvalidStateError):
            while time.monotonic() < until:
                await call.write(message)
        call.cancel()
        return "ended"

    return asyncio.run(_all(target, seconds, stream))


def calls(target: str, seconds: float) -> Counter[str]:
    """Callers that send the largest messages, and come back."""
    message = PredictRequest(headlines=LARGEST).SerializeToString()

    async def call(channel: grpc.aio.Channel, until: float) -> str:
        codes: Counter[str] = Counter()
        predict: Any = channel.unary_unary(PREDICT.decode(), None, None)
        while time.monotonic() < until:
            try:
                await predict(message, timeout=10)
                codes["OK"] += 1
            except grpc.aio.AioRpcError as error:
                codes[error.code().name] += 1
        return " ".join(codes)

    return asyncio.run(_all(target, seconds, call))


def silent(target: str, seconds: float) -> Counter[str]:
    """Callers that begin calls and send no message."""

    async def call(channel: grpc.aio.Channel, until: float) -> str:
        while time.monotonic() < until:
            begin: Any = channel.stream_unary(PREDICT.decode(), None, None)
            waiting = begin(timeout=until - time.monotonic() + 1)
            with suppress(grpc.RpcError, asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(waiting.code()), max(0.0, until - time.monotonic()))
            waiting.cancel()
        return "ended"

    return asyncio.run(_all(target, seconds, call))


async def _all(
    target: str, seconds: float, call: Callable[[grpc.aio.Channel, float], Coroutine[Any, Any, str]]
) -> Counter[str]:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]  # a connection for each channel
    channels = [grpc.aio.insecure_channel(target, options) for _ in range(CONNECTIONS)]
    until = time.monotonic() + seconds
    ended = await asyncio.gather(*(call(channel, until) for channel in channels for _ in range(CALLS)))
    for channel in channels:
        await channel.close(None)
    return Counter(ended)


def resets(target: str, seconds: float) -> Counter[str]:  # noqa: ARG001
    """Calls that are reset at once."""
    message = framed(PredictRequest(headlines=[Headline(text="a park")]).SerializeToString())
    connection = Connection(target)
    for i in range(RESETS):
        call = Call(message, time.perf_counter())
        connection.begin(call)
        connection.cancel(call)
        if i % 100 == 0 or connection.writes:
            list(connection.answers())
    time.sleep(2)
    connection.close()
    return Counter(reset=RESETS)


def aio_callers(target: str, seconds: float) -> Counter[str]:
    """96 coroutines on one connection."""
    request = PredictRequest(headlines=[Headline(text="Storm closes every school")])

    async def run() -> Counter[str]:
        codes: Counter[str] = Counter()
        until = time.monotonic() + seconds

        async def caller(stub: PopularityServiceStub) -> None:
            while time.monotonic() < until:
                try:
                    await stub.Predict(request)
                    codes["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    codes[error.code().name] += 1

        async with grpc.aio.insecure_channel(target, [("grpc.enable_retries", 0)]) as channel:
            stub = PopularityServiceStub(channel)
            await asyncio.gather(*(caller(stub) for _ in range(CALLERS)))
        return codes

    return asyncio.run(run())


def sync_callers(target: str, seconds: float) -> Counter[str]:
    """96 threads on one connection."""
    request = PredictRequest(headlines=[Headline(text="Storm closes every school")])
    until = time.monotonic() + seconds

    def caller(stub: PopularityServiceStub) -> Counter[str]:
        codes: Counter[str] = Counter()
        while time.monotonic() < until:
            try:
                stub.Predict(request)
                codes["OK"] += 1
            except grpc.RpcError as error:
                codes[error.code().name] += 1
        return codes

    with grpc.insecure_channel(target, [("grpc.enable_retries", 0)]) as channel, ThreadPoolExecutor(CALLERS) as threads:
        stub = PopularityServiceStub(channel)
        return sum(threads.map(lambda _: caller(stub), range(CALLERS)), Counter())


def ghz_callers(target: str, seconds: float) -> Counter[str]:
    """96 workers of ghz on one connection."""
    ghz = shutil.which("ghz", path=ROOT / ".tools")
    if not ghz:
        return Counter({"ghz is missing: make interop": 1})
    flags = ["--insecure", "--call", PREDICT.decode().strip("/"), "--concurrency", str(CALLERS), "--connections", "1"]
    flags += ["--duration", f"{seconds:.0f}s", "--duration-stop", "wait", "--format", "json"]
    flags += ["--proto", str(ROOT / "protos/headlines/v1/popularity.proto"), "--import-paths", str(ROOT / "protos")]
    done = subprocess.run(
        [ghz, *flags, "--data", '{"headlines": [{"text": "Storm closes every school"}]}', target],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 60,
    )
    return Counter(json.loads(done.stdout)["statusCodeDistribution"])


CROWDS = {"streams": streams, "calls": calls, "silent": silent, "resets": resets}
STOCK = {"grpc.aio": aio_callers, "synchronous": sync_callers, "ghz": ghz_callers}


def spin() -> None:
    """Take a processor's time."""
    while True:
        pass


@contextmanager
def asking(server: ServerProcess) -> Iterator[tuple[list[float], list[str]]]:
    """Ask for a headline every 20 ms until the block ends: seconds of each answer, and what went wrong."""
    latencies: list[float] = []
    problems: list[str] = []

    def ask() -> None:
        began = time.perf_counter()
        try:
            client.predict(["Storm closes every school"])
            latencies.append(time.perf_counter() - began)
        except ClientError as error:
            problems.append(f"{type(error).__name__}: {error}")

    with Client(server.target) as client, repeating(ask):
        yield latencies, problems


@contextmanager
def memory(server: ServerProcess) -> Iterator[list[int]]:
    """The server's memory in bytes, again and again until the block ends."""
    seen = [server.resident_bytes]
    with repeating(lambda: seen.append(server.resident_bytes)):
        yield seen


def measure(
    models: Path, crowd: Callable[[str, float], Counter[str]], seconds: float, flags: list[str]
) -> tuple[Counter[str], list[float], Pulse, list[int], list[str]]:
    """A crowd in a process of its own: how its calls ended, latencies, health checks' times, memory, problems."""
    context = multiprocessing.get_context("spawn")
    with serving(models, "--engine", "litert", *flags) as server, context.Pool(1) as pool:
        Client(server.target).predict(["Storm closes every school"])
        with memory(server) as seen, feeling_pulse(server) as pulse, asking(server) as (latencies, problems):
            codes = pool.apply(crowd, (server.target, seconds))
    return codes, latencies, pulse, seen, problems


def main() -> None:
    """Measure and print a table."""
    parser = report.models_parser(__doc__)
    names = [*CROWDS, "callers"]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--flags", default="", help="more flags of the server")
    args = parser.parse_args()
    runs: dict[str, Callable[[str, float], Counter[str]]] = {name: CROWDS[name] for name in args.only if name in CROWDS}
    if "callers" in args.only:
        runs.update(STOCK)
    broken: list[str] = []
    heads = ("p50 ms", "p99 ms", "max ms", "health p99", "health max", "MB before", "MB most")
    table = report.Table("", {**dict.fromkeys(heads, ".1f"), "calls": "<"})
    for name, crowd in runs.items():
        spinners = [multiprocessing.Process(target=spin, daemon=True) for _ in range(2 if name in STOCK else 0)]
        for spinner in spinners:
            spinner.start()
        codes, latencies, pulse, seen, problems = measure(args.models, crowd, args.seconds, args.flags.split())
        for spinner in spinners:
            spinner.kill()
        asked = np.quantile(latencies, (0.5, 0.99, 1)) * 1e3
        health, slowest = np.quantile(pulse.health, (0.99, 1)) * 1e3
        beside = f", beside: {dict(Counter(problems))}" if problems else ""
        table.row(name, *asked, health, slowest, seen[0] / 1e6, max(seen) / 1e6, f"{dict(codes)}{beside}")
        if name == "resets":
            broken += [f"{name}: health: {problem}" for problem in pulse.problems]
            if slowest > HEALTH * 1e3:
                broken.append(f"{name}: a health check took {slowest:.0f} ms")
        if max(seen) > (seen[0] + RESETS_MEMORY if name == "resets" else MEMORY):
            broken.append(f"{name}: {max(seen) / 1e6:.0f} MB")
        if name in STOCK and set(codes) - {"OK"}:
            broken.append(f"{name}: {dict(codes)}")
    report.require_none(broken)


if __name__ == "__main__":
    report.run(main)
