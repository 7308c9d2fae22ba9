"""Callers that give up at random moments, a million times: no memory may leak, and the queue must be empty in the end.

    python -m tests.resilience.cancels [--models models] [--requests 1000000]

Half of the calls are to be reset at a random moment: before the server has seen them, while they wait, or just as the answer
is on its way; some are answered first. Most ask for one headline, some for hundreds, so that requests are given up between two
slices of theirs too. The memory after the last tenth is compared with that after the first two tenths: by then buffers and
allocators have what they need. It ends with 1 if a promise is broken.

With grpcio 1.78.0 it does, and 1.85.3 grows too: grpc.aio loses the array of a batch of operations that fails or whose awaiter
is cancelled (grpc/grpc#43360), some 130 bytes a cancelled call. No Python object stays, and without cancels nothing grows.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import Counter
from collections.abc import Sequence

from harness import report
from harness.load import CANCELLED, OK, PATIENCE, UNAVAILABLE, Call, Connection, wait
from harness.process import ServerProcess, serving
from harness.requests import make_requests
from harness.wire import framed

CONNECTIONS = 8
CALLERS = 8  # on each
GIVING_UP = 0.5  # the share of calls that are reset unless they are answered first
LATEST = 0.015  # seconds; somewhat more than most answers take
LARGE = 0.01  # the share of requests with 300 headlines
GROWTH = 0.02


def give_up_at_random(
    target: str, small: Sequence[bytes], large: Sequence[bytes], requests: int, rng: random.Random
) -> Counter[str]:
    """Send so many requests, cancel every second one, and count how they ended."""
    clients = [Connection(target) for _ in range(CONNECTIONS)]
    small, large = [[framed(request) for request in some] for some in (small, large)]
    ends: list[tuple[float, int, Connection, Call]] = []  # a heap: when to cancel
    statuses: Counter[str] = Counter()
    begun = 0

    def begin(client: Connection) -> None:
        nonlocal begun
        if begun == requests:
            return
        begun += 1
        now = time.perf_counter()
        call = Call(rng.choice(large if rng.random() < LARGE else small), now, now + 5)
        client.begin(call)
        if rng.random() < GIVING_UP:
            heapq.heappush(ends, (now + rng.random() * LATEST, begun, client, call))

    for client in clients:
        for _ in range(CALLERS):
            begin(client)
    while statuses.total() < begun:
        pause = ends[0][0] - time.perf_counter() if ends else PATIENCE
        for client in wait(clients, pause, required=not ends):
            for call in client.answers():
                statuses[call.status] += 1
                begin(client)
        now = time.perf_counter()
        while ends and (ends[0][0] <= now or ends[0][3].status):
            _, _, client, call = heapq.heappop(ends)
            if not call.status:
                client.cancel(call)
                statuses[call.status] += 1
                begin(client)
    for client in clients:
        client.close()
    return statuses


def wait_until_empty(server: ServerProcess) -> bool:
    """Whether the queue becomes empty, now that nobody asks any more."""
    until = time.perf_counter() + PATIENCE
    while server.metric("headlines_queue_headlines"):
        if time.perf_counter() > until:
            return False
    return True


def run(server: ServerProcess, small: Sequence[bytes], large: Sequence[bytes], requests: int) -> list[str]:
    """Print a row for each tenth of the requests; the broken promises."""
    rng = random.Random(0)
    tenth = requests // 10
    problems = []
    memory = []
    cancelled = 0  # since the memory that is compared with
    columns = {"a second": ",.0f", "answered": ",", "cancelled": ",", "refused": ",", "MB": ".1f"}
    table = report.Table("requests", columns)
    for i in range(10):
        began = time.perf_counter()
        statuses = give_up_at_random(server.target, small, large, tenth, rng)
        rate = tenth / (time.perf_counter() - began)
        if not wait_until_empty(server):
            problems.append("headlines stay in the queue")
        memory.append(server.resident_bytes / 1e6)
        cancelled += statuses[CANCELLED] if i > 1 else 0
        refused = statuses[UNAVAILABLE] + statuses["RESOURCE_EXHAUSTED"]
        table.row(f"{(i + 1) * tenth:,}", rate, statuses[OK], statuses[CANCELLED], refused, memory[-1])
        others = {status for status in statuses if status not in {OK, CANCELLED, UNAVAILABLE, "RESOURCE_EXHAUSTED"}}
        problems += [f"{statuses[status]} calls ended as {status}" for status in others]
    growth = memory[-1] / memory[1] - 1
    each = (memory[-1] - memory[1]) * 1e6 / max(cancelled, 1)
    print(f"memory after the last tenth over that after the first two: {growth:+.2%}, {each:.0f} bytes a cancelled call")
    if growth > GROWTH:
        problems.append(f"memory grew by {growth:.1%}, more than {GROWTH:.0%}")
    return problems


def main() -> None:
    """Read the flags, start a server, give up."""
    parser = report.models_parser(__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    args = parser.parse_args()
    # gRPC would end the connections in order in the middle of it.
    with serving(args.models, "--engine", "litert", "--max-connection-age", "86400") as server:
        problems = run(server, make_requests(1), make_requests(300, 20), args.requests)
    report.require_none(problems)


if __name__ == "__main__":
    report.run(main)
