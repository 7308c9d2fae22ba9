"""What serving costs: this server beside one that answers constants and one that calls the plain model.

    python -m benchmarks.serving [--models models] [--runs 5] [--seconds 4] [--other CHECKOUT]

no-op     grpc.aio on this project's grpcio and event loop: parses the request, answers constants; the floor for gRPC in Python
plain     grpc.aio that calls `serving_default` padded to 100 words for each request, without batching
headlines this project
other     the server of --other, a checkout of another commit

The servers run at the same time and are measured in turn, each with the same load from a process of its own (this one). Every
figure is the median over the runs; CPU is the server's own, user and system. Clients have a connection each, or share one.
benchmarks.clients does the same with stock clients.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

from harness import report
from harness.load import closed_loop, open_loop, percentiles
from harness.process import ServerProcess, serving, started
from harness.requests import make_requests

CLOSED = ((1, 1, 1), (8, 8, 1), (8, 1, 1), (64, 64, 1), (64, 1, 1), (4, 4, 64))  # clients, connections, headlines a request
_PEAK = (64, 64, 1)
OPEN = (0.3, 0.6, 0.8)  # shares of the rate that 64 clients reached
CONNECTIONS = 16  # of the open loop
PLAIN = ((1, 1, 1), _PEAK, (4, 4, 64))  # what the plain server is asked; the rest says nothing new
RATIOS = {  # over the no-op's, and what is aimed at
    "1 client: p50": ("p50 ms", (1, 1, 1), 1.4),
    "8 clients: CPU a request": ("CPU us/req", (8, 8, 1), 1.35),
    "8 clients on one connection: CPU a request": ("CPU us/req", (8, 1, 1), 1.35),
    "64 clients: CPU a request": ("CPU us/req", (64, 64, 1), 1.15),
    "64 clients on one connection: CPU a request": ("CPU us/req", (64, 1, 1), 1.25),
    "4 clients x 64: CPU a request": ("CPU us/req", (4, 4, 64), 3.5),
}


def measure_closed(
    server: ServerProcess, clients: int, connections: int, headlines: int, requests: list[bytes], seconds: float
) -> dict[str, float]:
    """One run of a closed loop."""
    began, own = server.cpu_seconds, time.process_time()
    load = closed_loop(server.target, requests, headlines, clients, seconds, None if connections == clients else connections)
    return {
        "requests/s": load.rate,
        "headlines/s": load.headlines / load.seconds,
        **percentiles(load.latencies),
        "CPU us/req": (server.cpu_seconds - began) / len(load.latencies) * 1e6,
        "client's": (time.process_time() - own) / len(load.latencies) * 1e6,
    }


def main() -> None:
    """Measure and print tables."""
    parser = report.models_parser(__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--other", type=Path, help="a checkout of another commit, which is measured too")
    args = parser.parse_args()
    requests = {headlines: make_requests(headlines) for headlines in {headlines for _, _, headlines in CLOSED}}
    runs: dict[tuple[str, object], list[dict[str, float]]] = defaultdict(list)
    with ExitStack() as stack:
        servers = {
            "no-op": stack.enter_context(started([sys.executable, "-m", "benchmarks.noop"])),
            "plain": stack.enter_context(started([sys.executable, "-m", "benchmarks.plain", "--models", str(args.models)])),
            "headlines": stack.enter_context(serving(args.models, "--engine", "litert")),
        }
        if args.other:
            servers["other"] = stack.enter_context(serving(args.models, "--engine", "litert", checkout=args.other))
        for _ in range(args.runs):
            for case in CLOSED:
                clients, connections, headlines = case
                for name, server in servers.items():
                    if name == "plain" and case not in PLAIN:
                        continue
                    before = batches(server) if name in ("headlines", "other") else None
                    figures = measure_closed(server, clients, connections, headlines, requests[headlines], args.seconds)
                    if before:
                        after = batches(server)
                        figures["mean batch"] = (after[0] - before[0]) / (after[1] - before[1])
                    runs[name, case].append(figures)
        peak = report.medians(runs["headlines", _PEAK])["requests/s"]
        for _ in range(args.runs):
            for share in OPEN:
                for name in sorted(servers.keys() & {"headlines", "other"}):
                    runs[name, share].append(measure_open(servers[name], share * peak, requests[1], args.seconds))
    show({key: report.medians(some) for key, some in runs.items()})


def measure_open(server: ServerProcess, rate: float, requests: list[bytes], seconds: float) -> dict[str, float]:
    """One run of an open loop, and what a request waits for.

    That is in the mean the batcher's queue, and what its handler takes with it. The rest is gRPC, where calls wait to be
    accepted if the server's one thread has no time, or the generator: what is busy tells which.
    """
    began, own, before, start = server.cpu_seconds, time.process_time(), spent(server), time.perf_counter()
    load = open_loop(server.target, requests, 1, rate, CONNECTIONS, seconds)
    took, after = time.perf_counter() - start, spent(server)
    in_queue, in_handler, items, count = (new - old for new, old in zip(after, before, strict=True))
    return {
        "requests/s": load.rate,
        **percentiles(load.latencies),
        "mean ms": float(load.latencies.mean()) * 1e3,
        "in queue": in_queue / items * 1e3,
        "in handler": in_handler / items * 1e3,
        "sent late ms": load.late * 1e3,
        "server busy": (server.cpu_seconds - began) / took,
        "generator busy": (time.process_time() - own) / took,
        "mean batch": items / count,
    }


def spent(server: ServerProcess) -> tuple[float, float, float, float]:
    """Seconds that all requests were in the batcher's queue, and in their handlers; headlines in all batches, and batches."""
    method = {"grpc_type": "unary", "grpc_service": "headlines.v1.PopularityService", "grpc_method": "Predict"}
    handled = server.metric("grpc_server_handling_seconds_sum", **method)
    return server.metric("headlines_queue_wait_seconds_sum"), handled, *batches(server)


def batches(server: ServerProcess) -> tuple[float, float]:
    """Headlines in all batches, and batches."""
    return server.metric("headlines_batch_size_sum"), server.metric("headlines_batch_size_count")


def show(medians: dict[tuple[str, object], dict[str, float]]) -> None:
    """Print the tables and the ratios that matter."""
    names = ("no-op", "plain", "other", "headlines")
    table = report.Table(
        "closed loop: clients / connections x headlines", dict.fromkeys(medians["headlines", CLOSED[0]], ",.2f"), width=48
    )
    for case in CLOSED:
        for name in names:
            if figures := medians.get((name, case)):
                table.row(f"{'{} / {} x {}'.format(*case):14} {name}", *figures.values())
    print()
    table = report.Table("open loop, Poisson", dict.fromkeys(medians["headlines", OPEN[0]], ",.2f"), width=48)
    for share in OPEN:
        for name in names:
            if figures := medians.get((name, share)):
                table.row(f"{share:.0%} of the peak {name}", *figures.values())
    print()
    others = [name for name in ("other", "headlines") if (name, _PEAK) in medians]
    table = report.Table("over the no-op's", {**dict.fromkeys(others, ".2f"), "aimed at": ".2f"}, width=48)
    for title, (figure, case, aim) in RATIOS.items():
        table.row(title, *(medians[name, case][figure] / medians["no-op", case][figure] for name in others), aim)


if __name__ == "__main__":
    report.run(main)
