"""Interactive callers beside bulk streams at full speed: none may be refused, and none may wait long.

    python -m tests.resilience.bulk [--models models] [--runs 3] [--seconds 5]

8 callers ask for one headline at a time; beside them 1 or 50 streams, each on a connection of its own, keep four requests of
128 headlines without an answer, as this project's client does. All are one process, so that two cores are enough. Every figure
is the median over the runs. It ends with 1 if a promise is broken.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle

from harness import report
from harness.load import OK, PATIENCE, Call, Connection, percentiles, wait
from harness.process import ServerProcess, serving
from harness.requests import make_requests
from harness.wire import PREDICT_STREAM, framed
from headlines.v1.popularity_pb2 import PredictRequest, PredictStreamRequest, PredictStreamResponse

CALLERS = 8
STREAMS = (0, 1, 50)
HEADLINES = 128  # in a request of a stream
WINDOW = 4  # requests of a stream without an answer
SLOWER = 3  # times the p99 beside one stream


@dataclass
class Outcome:
    """What came of a run."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)  # of interactive calls, in seconds
    statuses: Counter[str] = field(default_factory=Counter)  # theirs
    streamed: int = 0  # headlines
    problems: list[str] = field(default_factory=list)


def ask_beside(target: str, requests: Sequence[bytes], bulk_requests: Sequence[bytes], streams: int, seconds: float) -> Outcome:
    """Ask one by one, with so many streams at full speed beside."""
    outcome = Outcome()
    messages = cycle([framed(request) for request in requests])
    bulk_messages = cycle([framed(request) for request in bulk_requests])
    callers = [Connection(target) for _ in range(CALLERS)]
    pipes = [Connection(target, PREDICT_STREAM) for _ in range(streams)]
    began = now = time.perf_counter()
    for client in pipes:
        call = Call(next(bulk_messages), began, streaming=True)
        client.begin(call)
        for _ in range(WINDOW - 1):
            client.write(call, next(bulk_messages))
    for client in callers:
        client.begin(Call(next(messages), time.perf_counter()))
    while now < began + seconds:
        for client in wait([*callers, *pipes], PATIENCE):
            for call in client.answers():
                now = time.perf_counter()
                if call.streaming:
                    for message in call.take():
                        answer = PredictStreamResponse.FromString(message)
                        outcome.streamed += len(answer.response.predictions)
                        if answer.HasField("error"):
                            outcome.problems.append(f"a stream's request failed: {answer.error.message}")
                        client.write(call, next(bulk_messages))
                    if call.status:
                        raise report.BrokenError(f"a stream ended as {call.status}")
                    continue
                outcome.statuses[call.status] += 1
                if call.status == OK:
                    outcome.latencies.append(now - call.due)
                client.begin(Call(next(messages), now))
    for client in (*callers, *pipes):
        client.close()
    outcome.seconds = now - began
    if refused := outcome.statuses.total() - outcome.statuses[OK]:
        outcome.problems.append(f"{refused} Predicts were not answered beside {streams} streams: {dict(outcome.statuses)}")
    return outcome


def to_stream(request: bytes) -> bytes:
    """The same headlines as a request of a stream."""
    return PredictStreamRequest(id=1, headlines=PredictRequest.FromString(request).headlines).SerializeToString()


def measure(server: ServerProcess, streams: int, seconds: float) -> tuple[dict[str, float], list[str]]:
    """One run: figures, and broken promises."""
    bulk_requests = [to_stream(request) for request in make_requests(HEADLINES, 50)]
    outcome = ask_beside(server.target, make_requests(1), bulk_requests, streams, seconds)
    return {
        "requests/s": len(outcome.latencies) / outcome.seconds,
        "streamed headlines/s": outcome.streamed / outcome.seconds,
        **percentiles(outcome.latencies),
    }, outcome.problems


def main() -> None:
    """Measure and print a table."""
    parser = report.models_parser(__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    args = parser.parse_args()
    runs: dict[int, list[dict[str, float]]] = defaultdict(list)
    problems: list[str] = []
    with serving(args.models, "--engine", "litert") as server:
        for _ in range(args.runs):
            for streams in STREAMS:
                figures, broken = measure(server, streams, args.seconds)
                runs[streams].append(figures)
                problems += broken
    medians = {streams: report.medians(some) for streams, some in runs.items()}
    table = report.Table("streams", dict.fromkeys(medians[1], ",.1f"))
    for streams, figures in medians.items():
        table.row(streams, *figures.values())
    ratio = medians[STREAMS[-1]]["p99 ms"] / medians[1]["p99 ms"]
    print(f"p99 beside {STREAMS[-1]} streams over p99 beside one: {ratio:.2f}   at most {SLOWER}")
    if ratio > SLOWER:
        problems.append("interactive calls wait too long")
    report.require_none(problems)


if __name__ == "__main__":
    report.run(main)
