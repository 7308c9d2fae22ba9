"""Five times as much as a server can do: how much of its best it still does, how it refuses the rest, and what health says.

    python -m tests.resilience.overload [--models models] [--runs 3] [--seconds 4] [--max-streams 64 128 ...]

Open loop, Poisson arrivals over 8 connections, each call with a deadline of one second. Goodput is the calls that were
answered in time, a second; peak is the best goodput of a sweep of offered loads in the same run. The calls of the first two
deadlines are not counted: until then the callers' own queues only fill up. Like gRPC's clients the generator keeps to the
server's limit of streams, lets later calls wait for earlier ones, and ends each when its time is up. All the while a client of
this project asks for the health on a connection of its own, and /metrics is read.

With several --max-streams a server of each runs, and they are measured in turn; this is how the default was chosen. Every
figure is the median over the runs. `one connection` is what 100 callers that share one get in a closed loop, and what share of
their calls was refused. It ends with 1 if a promise is broken; those about health and single headlines hold with
--max-streams 48, and service/settings.py says why the default is another one.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np

from harness import report
from harness.load import DEADLINE_EXCEEDED, OK, UNAVAILABLE, Load, closed_loop, open_loop
from harness.process import ServerProcess, serving
from harness.requests import make_requests
from headlines.client import Client
from service.settings import Settings

CONNECTIONS = 8
DEADLINE = 1.0  # seconds
SWEEP = (0.8, 1.0, 1.2, 1.4)  # of what a closed loop reaches
OVERLOAD = 5
REFUSALS = {"RESOURCE_EXHAUSTED", UNAVAILABLE, DEADLINE_EXCEEDED}
KEPT = {1: 0.75, 1024: 0.85}  # by headlines a request: the share of the peak that is promised
CLOSED = {1: 64, 1024: 4}  # the clients of the closed loop
REQUESTS = {1: 1000, 1024: 40}  # different ones
SHARERS = 100  # callers that share a connection
HEALTH_P99 = 0.1  # seconds


@dataclass
class Pulse:
    """How long health checks took, in seconds, and what went wrong."""

    health: list[float] = field(default_factory=list)
    metrics: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@contextmanager
def repeating(act: Callable[[], object], every: float = 0.02) -> Iterator[None]:
    """Do this in a thread, at least once, and again after so many seconds until the block ends."""
    ended = threading.Event()

    def repeat() -> None:
        act()
        while not ended.wait(every):
            act()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def feeling_pulse(server: ServerProcess, timeout: float = 5.0) -> Iterator[Pulse]:
    """Ask for the health, and now and then for the metrics, at least once and until the block ends. In seconds."""
    pulse = Pulse()

    def feel() -> None:
        began = time.perf_counter()
        try:
            if not client.health():
                pulse.problems.append("NOT_SERVING")
            pulse.health.append(time.perf_counter() - began)
            if len(pulse.health) % 10 == 1:
                began = time.perf_counter()
                server.get("/metrics", timeout)
                pulse.metrics.append(time.perf_counter() - began)
        except Exception as error:
            pulse.problems.append(f"{type(error).__name__}: {error}")

    with Client(server.target, timeout=timeout) as client, repeating(feel):
        yield pulse


def overload(
    server: ServerProcess, requests: Sequence[bytes], headlines: int, rate: float, seconds: float
) -> tuple[Load, Pulse]:
    """Offer so many requests a second, and look after the server meanwhile."""
    with feeling_pulse(server) as pulse:
        load = open_loop(server.target, requests, headlines, rate, CONNECTIONS, seconds, deadline=DEADLINE, settle=2 * DEADLINE)
    return load, pulse


def unexpected(load: Load) -> dict[str, int]:
    """How calls ended that were neither answered nor refused as they may be."""
    return {status: count for status, count in load.statuses.items() if status not in REFUSALS | {OK}}


def measure(server: ServerProcess, headlines: int, seconds: float) -> tuple[dict[str, float], list[str]]:
    """One run: figures, and broken promises."""
    requests = make_requests(headlines, REQUESTS[headlines])
    closed = closed_loop(server.target, requests, headlines, CLOSED[headlines], seconds / 2)
    loads = [overload(server, requests, headlines, share * closed.rate, seconds) for share in SWEEP]
    peak = max(load.rate for load, _ in loads)
    load, pulse = overload(server, requests, headlines, OVERLOAD * max(peak, 1), seconds)
    problems = [
        f"{count} calls ended as {status}" for each, _ in [*loads, (load, pulse)] for status, count in unexpected(each).items()
    ]
    problems += [
        f"health or metrics: {problem}" for each in (*(pulse for _, pulse in loads), pulse) for problem in each.problems
    ]
    figures = {
        "peak/s": peak,
        "offered/s": OVERLOAD * peak,
        "goodput/s": load.rate,
        "kept": load.rate / peak if peak else np.nan,
        **{status: load.statuses[status] / max(load.statuses.total(), 1) for status in sorted(REFUSALS)},
        "health p99 ms": float(np.quantile(pulse.health, 0.99)) * 1e3 if pulse.health else np.nan,
        "/metrics max ms": max(pulse.metrics, default=np.nan) * 1e3,
        "sent late ms": load.late * 1e3,
    }
    if headlines == 1:
        shared = closed_loop(server.target, requests, headlines, SHARERS, seconds / 2, connections=1)
        figures["one connection/s"] = shared.rate
        figures["refused"] = shared.statuses[UNAVAILABLE] / max(shared.statuses.total(), 1)
    return figures, problems


def main() -> None:
    """Measure and print a table."""
    parser = report.models_parser(__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--headlines", type=int, nargs="+", action="extend", choices=tuple(KEPT), help="headlines a request")
    parser.add_argument("--max-streams", type=int, nargs="+", action="extend")
    args = parser.parse_args()
    args.headlines = args.headlines or list(KEPT)
    args.max_streams = args.max_streams or [Settings.max_streams]
    runs: dict[tuple[int, int], list[dict[str, float]]] = defaultdict(list)
    problems: Counter[str] = Counter()
    with ExitStack() as stack:
        servers = {
            limit: stack.enter_context(serving(args.models, "--engine", "litert", "--max-streams", str(limit)))
            for limit in args.max_streams
        }
        for _ in range(args.runs):
            for headlines in args.headlines:
                for limit, server in servers.items():
                    try:
                        figures, broken = measure(server, headlines, args.seconds)
                    except report.BrokenError as error:  # a run that cannot be measured must not cost the figures of the others
                        problems[f"{headlines} a request: {error}"] += 1
                        continue
                    runs[headlines, limit].append(figures)
                    problems.update(broken)
    heads = max((some[0] for some in runs.values()), key=len, default={})
    columns = {head: ".1%" if head in {"kept", "refused", *REFUSALS} else ",.1f" for head in heads}
    table = report.Table("headlines", {"max-streams": "", **columns})
    for (headlines, limit), some in runs.items():
        medians = report.medians(some)
        table.row(headlines, limit, *medians.values())
        if limit == Settings.max_streams:
            if not medians["kept"] >= KEPT[headlines]:
                problems[f"{headlines} a request: {medians['kept']:.1%} of the peak kept, not {KEPT[headlines]:.0%}"] += 1
            if not medians["health p99 ms"] <= HEALTH_P99 * 1e3:
                problems[f"{headlines} a request: health takes {medians['health p99 ms']:.0f} ms"] += 1
    report.require_none(problems.elements())


if __name__ == "__main__":
    report.run(main)
