"""What Explain costs, and what it costs those who ask for a prediction beside it.

    python -m benchmarks.explain [--models models] [--engine litert] [--runs 5] [--seconds 4]

One client that asks for the prediction of one headline, and one for its explanation; then callers of Predict, one headline
each, alone and beside clients that explain as much as a request may hold. Real headlines; every figure is the median over the
runs, and CPU is the server's own, user and system.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle

import numpy as np

from harness import report
from harness.load import OK, PATIENCE, Call, Connection, closed_loop, percentiles, wait
from harness.process import ServerProcess, serving
from harness.requests import make_requests, real_headlines
from harness.wire import EXPLAIN, PREDICT, framed
from headlines.v1.popularity_pb2 import ExplainRequest

CALLERS = 8
EXPLAINERS = 4
LARGEST = (100, 100, 100, 44)  # words of the headlines of a request with 1,024 rows, if the version uses the time


def largest_request() -> bytes:
    """A request to explain as much as a server allows by default, with words of real headlines."""
    words = " ".join(text for text, _, _ in real_headlines(200)).split()
    # Letters and digits alone: no word is two to the rules, and none is dropped.
    plain = [word for word in words if word.isascii() and word.isalnum()]
    request = ExplainRequest()
    for count in LARGEST:
        request.headlines.add(text=" ".join(plain[:count]), outlet="nytimes").posted_at.FromSeconds(1_464_000_000)
    return request.SerializeToString()


def measure_one(server: ServerProcess, method: bytes, requests: list[bytes], seconds: float) -> dict[str, float]:
    """One client, one headline a request."""
    began = server.cpu_seconds
    rows = server.metric("headlines_batch_size_sum")
    load = closed_loop(server.target, requests, 1, 1, seconds, method=method)
    count = len(load.latencies)
    return {
        "requests/s": load.rate,
        **percentiles(load.latencies),
        "rows": (server.metric("headlines_batch_size_sum") - rows) / count,
        "CPU us/req": (server.cpu_seconds - began) / count * 1e6,
    }


def measure_beside(server: ServerProcess, requests: Sequence[bytes], explainers: int, seconds: float) -> dict[str, float]:
    """Callers of Predict beside so many clients that explain."""
    messages = cycle([framed(request) for request in requests])
    largest = framed(largest_request())
    callers = [Connection(server.target) for _ in range(CALLERS)]
    others = [Connection(server.target, EXPLAIN) for _ in range(explainers)]
    latencies: list[float] = []
    explained = 0
    begin = now = time.perf_counter()
    for client in callers:
        client.begin(Call(next(messages), begin))
    for client in others:
        client.begin(Call(largest, begin))
    while now < begin + seconds:
        for client in wait([*callers, *others], PATIENCE):
            for call in client.answers():
                now = time.perf_counter()
                if call.status != OK:
                    raise report.BrokenError(f"a call ended as {call.status}")
                if client in others:
                    explained += 1
                    client.begin(Call(largest, now))
                else:
                    latencies.append(now - call.due)
                    client.begin(Call(next(messages), now))
    for client in (*callers, *others):
        client.close()
    return {
        "requests/s": len(latencies) / (now - begin),
        **percentiles(np.array(latencies)),
        "explained/s": explained / (now - begin),
    }


def main() -> None:
    """Measure and print two tables."""
    parser = report.models_parser(__doc__)
    parser.add_argument("--engine", default="litert", choices=("litert", "tensorflow"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()
    requests = make_requests(1)
    one: dict[str, list[dict[str, float]]] = defaultdict(list)
    beside: dict[str, list[dict[str, float]]] = defaultdict(list)
    with serving(args.models, "--engine", args.engine) as server:
        for _ in range(args.runs):
            for name, method in (("Predict", PREDICT), ("Explain", EXPLAIN)):
                one[name].append(measure_one(server, method, requests, args.seconds))
            for name, explainers in (("alone", 0), (f"beside {EXPLAINERS} Explains", EXPLAINERS)):
                beside[name].append(measure_beside(server, requests, explainers, args.seconds))
    for title, runs in (("1 client x 1 headline", one), (f"{CALLERS} callers of Predict", beside)):
        table = report.Table(title, dict.fromkeys(next(iter(runs.values()))[0], ",.2f"), width=24)
        for name, some in runs.items():
            table.row(name, *report.medians(some).values())
        print()


if __name__ == "__main__":
    report.run(main)
