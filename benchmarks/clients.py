"""Stock clients against this server and one that answers constants: what callers see who have no generator of their own.

    python -m benchmarks.clients [--models models] [--runs 3] [--seconds 2]

generator  this project's own, as in benchmarks.serving
grpc.aio   Python, one event loop
grpc       Python, a thread for each caller
ghz        Go, if it is on the PATH: go install github.com/bojand/ghz/cmd/ghz@v0.93.0
h2load     C, if it is on the PATH: Debian's nghttp2-client

Callers share one connection or have one each. Each client is a process of its own beside the server, and both are measured in
turn; every figure is the median over the runs. CPU is a request's, in microseconds: the server's, and the client's, which a
machine with few cores takes from the server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np

from harness import report
from harness.load import closed_loop
from harness.process import ROOT, ServerProcess, environment, serving, started
from harness.requests import make_requests
from harness.wire import PREDICT, framed

CASES = ((1, 1, 1), (8, 1, 1), (8, 8, 1), (64, 1, 1), (64, 64, 1), (4, 4, 64))  # callers, connections, headlines a request
OWN = ("generator", "grpc.aio", "grpc")
OTHERS = ("ghz", "h2load")
_TIMEOUT = 5.0  # seconds
_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)  # else channels to one address share a connection


def main() -> None:
    """Measure and print a table."""
    parser = report.models_parser(__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--call", nargs=5, help=argparse.SUPPRESS)  # this is a client: its name, target and case
    args = parser.parse_args()
    if args.call:
        name, target, *case = args.call
        callers, connections, headlines = map(int, case)
        print(json.dumps(call(name, target, callers, connections, headlines, args.seconds)))
        return
    requests = {headlines: make_requests(headlines) for headlines in {headlines for _, _, headlines in CASES}}
    clients = [*OWN, *(name for name in OTHERS if shutil.which(name))]
    runs: dict[tuple[object, ...], list[dict[str, float]]] = defaultdict(list)
    with ExitStack() as stack:
        servers = {
            "no-op": stack.enter_context(started([sys.executable, "-m", "benchmarks.noop"])),
            "headlines": stack.enter_context(serving(args.models, "--engine", "litert")),
        }
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for headlines, some in requests.items():
            (directory / f"{headlines}.message").write_bytes(some[0])
            (directory / f"{headlines}.framed").write_bytes(framed(some[0]))
        for _ in range(args.runs):
            for case in CASES:
                for client in clients:
                    for name, server in servers.items():
                        runs[client, case, name].append(measure(client, server, case, args.seconds, directory))
    columns = {
        "no-op/s": ",.0f",
        "server/s": ",.0f",
        "ratio": ".2f",
        "no-op CPU": ",.0f",
        "server CPU": ",.0f",
        "CPU ratio": ".2f",
    }
    table = report.Table(
        "callers / connections x headlines",
        {**columns, "client's CPU": ",.0f", "no-op p50 ms": ".2f", "p50 ms": ".2f"},
        width=36,
    )
    for case in CASES:
        for client in clients:
            floor, found = (report.medians(runs[client, case, name]) for name in servers)
            rate, cpu = found["rate"], found["cpu"]
            rates = floor["rate"], rate, rate / floor["rate"]
            table.row(
                f"{'{} / {} x {}'.format(*case):14} {client}",
                *(*rates, floor["cpu"], cpu, cpu / floor["cpu"], found["client"], floor["p50"], found["p50"]),
            )


def measure(client: str, server: ServerProcess, case: tuple[int, int, int], seconds: int, directory: Path) -> dict[str, float]:
    """Answers a second, their median latency in milliseconds, and the CPU of server and client for each, in microseconds."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), server.cpu_seconds
    command = _command(client, server, case, seconds, directory)
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment())
    after, spent = resource.getrusage(resource.RUSAGE_CHILDREN), server.cpu_seconds - began
    figures = _READ[client](done.stdout) if client in _READ else json.loads(done.stdout)
    figures.setdefault("client", after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    answers = figures["rate"] * seconds
    return {**figures, "cpu": spent / answers * 1e6, "client": figures["client"] / answers * 1e6}


def _command(client: str, server: ServerProcess, case: tuple[int, int, int], seconds: int, directory: Path) -> list[str]:
    callers, connections, headlines = case
    if client == "h2load":
        url = f"http://{server.target}{PREDICT.decode()}"
        streams = callers // connections
        flags = [f"--clients={connections}", f"--max-concurrent-streams={streams}", f"--duration={seconds}"]
        headers = ["--header=content-type: application/grpc", "--header=te: trailers"]
        return [client, *flags, f"--data={directory}/{headlines}.framed", *headers, url]
    if client == "ghz":
        proto = ROOT / "protos" / "headlines" / "v1" / "popularity.proto"
        flags = [f"--import-paths={ROOT / 'protos'}", f"--proto={proto}", "--call=headlines.v1.PopularityService.Predict"]
        flags += [f"--concurrency={callers}", f"--connections={connections}", f"--duration={seconds}s", "--format=json"]
        return [client, "--insecure", *flags, f"--binary-file={directory}/{headlines}.message", server.target]
    return [
        sys.executable,
        "-m",
        "benchmarks.clients",
        f"--seconds={seconds}",
        "--call",
        client,
        server.target,
        *map(str, case),
    ]


def _read_h2load(output: str) -> dict[str, float]:
    found = re.search(r"finished in .*?, ([\d.]+) req/s", output)
    times = re.search(r"time for request: +\S+ +\S+ +([\d.]+)(us|ms|s)", output)  # least, most, mean: it tells no median
    if not found or not times or not re.search(r" 0 failed, 0 errored", output):
        raise report.BrokenError(f"h2load: {output}")
    return {"rate": float(found[1]), "p50": float(times[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[times[2]]}


def _read_ghz(output: str) -> dict[str, float]:
    found = json.loads(output)
    p50 = next(it["latency"] for it in found["latencyDistribution"] if it["percentage"] == 50)
    return {"rate": found["rps"], "p50": p50 / 1e6}


_READ = {"h2load": _read_h2load, "ghz": _read_ghz}


# What follows runs in a client's own process.


def call(client: str, target: str, callers: int, connections: int, headlines: int, seconds: float) -> dict[str, float]:
    """Let callers send their next request as soon as they have the answer."""
    requests = make_requests(headlines)
    if client == "generator":
        began = time.process_time()
        load = closed_loop(target, requests, headlines, callers, seconds, None if connections == callers else connections)
        took, latencies = load.seconds, load.latencies.tolist()
    elif client == "grpc.aio":
        began, took, latencies = asyncio.run(_call_asynchronously(target, requests, callers, connections, seconds))
    else:
        began, took, latencies = _call_in_threads(target, requests, callers, connections, seconds)
    return {
        "rate": len(latencies) / took,
        "p50": float(np.median(latencies)) * 1e3,
        "client": (time.process_time() - began) * seconds / took,
    }


async def _call_asynchronously(
    target: str, requests: list[bytes], callers: int, connections: int, seconds: float
) -> tuple[float, float, list[float]]:
    channels = [grpc.aio.insecure_channel(target, _OPTIONS) for _ in range(connections)]
    for channel in channels:
        await channel.channel_ready()
    messages = cycle(requests)
    latencies: list[float] = []
    began, cpu = time.perf_counter(), time.process_time()

    async def run(channel: grpc.aio.Channel) -> None:
        predict = cast(Any, channel).unary_unary(PREDICT.decode())
        while (now := time.perf_counter()) < began + seconds:
            await predict(next(messages), timeout=_TIMEOUT)
            latencies.append(time.perf_counter() - now)

    await asyncio.gather(*(run(channels[i % connections]) for i in range(callers)))
    return cpu, time.perf_counter() - began, latencies


def _call_in_threads(
    target: str, requests: list[bytes], callers: int, connections: int, seconds: float
) -> tuple[float, float, list[float]]:
    channels = [grpc.insecure_channel(target, _OPTIONS) for _ in range(connections)]
    for channel in channels:
        grpc.channel_ready_future(channel).result(_TIMEOUT)
    latencies: list[float] = []
    began, cpu = time.perf_counter(), time.process_time()

    def run(i: int) -> None:
        predict = cast(Any, channels[i % connections]).unary_unary(PREDICT.decode())
        messages = cycle(requests[i:] + requests[:i])
        while (now := time.perf_counter()) < began + seconds:
            predict(next(messages), timeout=_TIMEOUT)
            latencies.append(time.perf_counter() - now)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return cpu, time.perf_counter() - began, latencies


if __name__ == "__main__":
    report.run(main)
