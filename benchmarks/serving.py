"""What serving costs: this server beside one that answers constants and one that calls the plain model.

    python -m benchmarks.serving [--models models] [--runs 5] [--seconds 4]

no-op     grpc.aio on asyncio's own loop with grpcio 1.81.1: parses the request, answers constants; the floor for gRPC in Python
plain     grpc.aio that calls `serving_default` padded to 100 words for each request, without batching
headlines this project

The servers run at the same time and are measured in turn, each with the same load from a process of its own (this one). Every
figure is the median over the runs; CPU is the server's own, user and system. With `h2load` (Debian's nghttp2-client) on the
PATH there is a row with that client, which is written in C.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack

from benchmarks import noop
from harness import report
from harness.load import closed_loop, open_loop, percentiles
from harness.process import ROOT, ServerProcess, serving, started
from harness.requests import make_requests
from harness.wire import PREDICT, framed

CLOSED = ((1, 1), (8, 1), (64, 1), (4, 64))  # clients, headlines a request
OPEN = (0.3, 0.6, 0.8)  # shares of the rate that 64 clients reached
CONNECTIONS = 16  # of the open loop
PLAIN = ((1, 1), (64, 1), (4, 64))  # what the plain server is asked; the rest says nothing new
TARGETS = {
    "64 clients x 1: CPU a request / no-op": ("at most", 1.05),
    "h2load, 64 clients x 1: requests/s / no-op": ("at least", 0.95),
    "1 client x 1: p50 / no-op": ("at most", 1.3),
    "8 clients x 1: requests/s / no-op": ("at least", 0.85),
    "4 clients x 64: headlines/s / plain": ("at least", 15),
}


def environment(name: str, requirements: Sequence[str]) -> str:
    """The Python of a virtual environment with these packages, which is made if it is not there yet."""
    directory = ROOT / ".benchmarks" / name
    python = str(directory / "bin" / "python")
    installed = directory / "requirements.txt"
    wanted = "\n".join(requirements)
    if not installed.exists() or installed.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", directory], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements], check=True)
        installed.write_text(wanted)
    return python


def measure_closed(
    server: ServerProcess, clients: int, headlines: int, requests: list[bytes], seconds: float
) -> dict[str, float]:
    """One run of a closed loop."""
    began = server.cpu_seconds
    load = closed_loop(server.target, requests, headlines, clients, seconds)
    return {
        "requests/s": load.rate,
        "headlines/s": load.headlines / load.seconds,
        **percentiles(load.latencies),
        "CPU us/req": (server.cpu_seconds - began) / len(load.latencies) * 1e6,
    }


def measure_h2load(server: ServerProcess, request: bytes, seconds: float) -> float:
    """Requests a second with 64 clients of h2load."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(framed(request))
        file.flush()
        url = f"http://{server.target}{PREDICT.decode()}"
        command = ["h2load", "--clients=64", f"--duration={seconds:g}", f"--data={file.name}"]
        headers = ["--header=content-type: application/grpc", "--header=te: trailers"]
        done = subprocess.run([*command, *headers, url], capture_output=True, text=True, check=True)
    found = re.search(r"finished in .*?, ([\d.]+) req/s", done.stdout)
    if not found or not re.search(r" 0 failed, 0 errored", done.stdout):
        raise report.BrokenError(f"h2load: {done.stdout}")
    return float(found[1])


def main() -> None:
    """Measure and print tables."""
    parser = report.models_parser(__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()
    noop_python = environment("noop", noop.REQUIREMENTS)
    requests = {headlines: make_requests(headlines) for headlines in {headlines for _, headlines in CLOSED}}
    runs: dict[tuple[str, object], list[dict[str, float]]] = defaultdict(list)
    with ExitStack() as stack:
        servers = {
            "no-op": stack.enter_context(started([noop_python, "-m", "benchmarks.noop"])),
            "plain": stack.enter_context(started([sys.executable, "-m", "benchmarks.plain", "--models", str(args.models)])),
            "headlines": stack.enter_context(serving(args.models, "--engine", "litert")),
        }
        product = servers["headlines"]
        for _ in range(args.runs):
            for clients, headlines in CLOSED:
                for name, server in servers.items():
                    if name == "plain" and (clients, headlines) not in PLAIN:
                        continue
                    before = [product.metric(f"headlines_batch_size_{part}") for part in ("sum", "count")]
                    figures = measure_closed(server, clients, headlines, requests[headlines], args.seconds)
                    if name == "headlines":
                        after = [product.metric(f"headlines_batch_size_{part}") for part in ("sum", "count")]
                        figures["mean batch"] = (after[0] - before[0]) / (after[1] - before[1])
                    runs[name, (clients, headlines)].append(figures)
            if shutil.which("h2load"):
                for name in ("no-op", "headlines"):
                    runs[name, "h2load"].append({"requests/s": measure_h2load(servers[name], requests[1][0], args.seconds)})
        peak = report.medians(runs["headlines", (64, 1)])["requests/s"]
        for _ in range(args.runs):
            for share in OPEN:
                load = open_loop(product.target, requests[1], 1, share * peak, CONNECTIONS, args.seconds)
                figures = {"requests/s": load.rate, **percentiles(load.latencies), "sent late ms": load.late * 1e3}
                runs["headlines", share].append(figures)
    show({key: report.medians(some) for key, some in runs.items()})


def show(medians: dict[tuple[str, object], dict[str, float]]) -> None:
    """Print the tables and the ratios that matter."""
    table = report.Table("closed loop", dict.fromkeys(medians["headlines", CLOSED[0]], ",.2f"), width=20)
    for case in CLOSED:
        for name in ("no-op", "plain", "headlines"):
            if figures := medians.get((name, case)):
                table.row(f"{'{} x {}'.format(*case):9} {name}", *figures.values())
    print()
    table = report.Table("open loop, Poisson", dict.fromkeys(medians["headlines", OPEN[0]], ",.2f"), width=20)
    for share in OPEN:
        table.row(f"{share:.0%} of the peak", *medians["headlines", share].values())

    def of(figure: str, case: object, other: str) -> float:
        return medians["headlines", case][figure] / medians[other, case][figure]

    ratios = {
        "64 clients x 1: CPU a request / no-op": of("CPU us/req", (64, 1), "no-op"),
        "1 client x 1: p50 / no-op": of("p50 ms", (1, 1), "no-op"),
        "8 clients x 1: requests/s / no-op": of("requests/s", (8, 1), "no-op"),
        "4 clients x 64: headlines/s / plain": of("headlines/s", (4, 64), "plain"),
    }
    if ("no-op", "h2load") in medians:
        ratios["h2load, 64 clients x 1: requests/s / no-op"] = of("requests/s", "h2load", "no-op")
    print()
    for name, (kind, target) in TARGETS.items():
        if name in ratios:
            print(f"{name:46}{ratios[name]:8.2f}   {kind} {target}")


if __name__ == "__main__":
    report.run(main)
