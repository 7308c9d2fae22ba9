"""Crowds and attacks at the web port: what gRPC's callers beside them notice, and what memory they cost.

    python -m tests.resilience.visitors [--models models] [--only idle large ...] [--seconds 10]

Each of these meets a server of its own, beside a client that asks for one headline every 20 ms by gRPC and another that asks
for the health:

    nobody    to compare with
    idle      1,000 connections that say nothing, each opened again when it is closed
    headers   1,000 connections that send a byte of a header every 100 ms
    bodies    1,000 connections that send a byte of a body every 100 ms
    large     4 clients that send bodies of 10 MB
    refused   4 clients that send requests for another Host, from another Origin and as a form, as fast as they can
    json      4 clients that ask for 128 headlines at once, as fast as they can

It ends with 1 if a promise is broken: a call beside them that fails, more than 250 MB, or an answer that is not the one that is
documented.
"""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from harness import report
from harness.process import serving
from headlines.client import Client
from tests.resilience.crowds import asking, memory
from tests.resilience.overload import feeling_pulse

CONNECTIONS = 1000
CLIENTS = 4
MEMORY = 250e6  # bytes
JSON = {"Content-Type": "application/json"}
HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n"
LARGE = b"x" * (10 << 20)
MANY = json.dumps({"headlines": [{"text": "Storm closes every school", "outlet": "nytimes"}] * 128}).encode()
REFUSED = (
    ({**JSON, "Host": "evil.example"}, 403),
    ({**JSON, "Origin": "http://evil.example"}, 403),
    ({**JSON, "Sec-Fetch-Site": "cross-site"}, 403),
    ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
)


def nobody(port: int, seconds: float) -> Counter[str]:  # noqa: ARG001
    """Nobody comes."""
    time.sleep(seconds)
    return Counter()


def dripping(port: int, seconds: float, opening: bytes = b"", drop: bytes = b"") -> Counter[str]:
    """Connections that send an opening, and then a drop every 100 ms; how often they were closed."""

    async def visit(until: float) -> int:
        closed = 0
        while time.monotonic() < until:
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + until - time.monotonic()):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(opening)
                    while not reader.at_eof():
                        if drop:
                            writer.write(drop)
                            await writer.drain()  # raises once the connection is reset
                            await asyncio.sleep(0.1)
                        else:
                            await reader.read(1)
            except TimeoutError:
                break
            except OSError:
                pass
            closed += 1
        return closed

    async def run() -> int:
        until = time.monotonic() + seconds
        return sum(await asyncio.gather(*(visit(until) for _ in range(CONNECTIONS))))

    return Counter({"closed": asyncio.run(run())})


def asking_json(port: int, seconds: float, body: bytes, kinds: tuple[tuple[Mapping[str, str], int], ...]) -> Counter[str]:
    """Clients that ask as fast as they can, in turn with these headers; the answers by code, and those that were not due."""
    until = time.monotonic() + seconds

    def client(_: int) -> Counter[str]:
        codes: Counter[str] = Counter()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for headers, due in itertools.cycle(kinds):
            if time.monotonic() > until:
                break
            connection.request("POST", "/v1/predict", body, dict(headers))
            answer = connection.getresponse()
            answer.read()
            codes[str(answer.status) if answer.status == due else f"{answer.status} instead of {due}"] += 1
        connection.close()
        return codes

    with ThreadPoolExecutor(CLIENTS) as threads:
        return sum(threads.map(client, range(CLIENTS)), Counter())


CROWDS: dict[str, Callable[[int, float], Counter[str]]] = {
    "nobody": nobody,
    "idle": dripping,
    "headers": partial(dripping, opening=HEAD + b"X: ", drop=b"x"),
    "bodies": partial(dripping, opening=HEAD + b"\r\n", drop=b"x"),
    "large": partial(asking_json, body=LARGE, kinds=((JSON, 413),)),
    "refused": partial(asking_json, body=MANY, kinds=REFUSED),
    "json": partial(asking_json, body=MANY, kinds=((JSON, 200),)),
}


def main() -> None:
    """Measure and print a table."""
    parser = report.models_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=list(CROWDS), default=list(CROWDS))
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    broken: list[str] = []
    heads = ("p50 ms", "p99 ms", "max ms", "health p99", "MB before", "MB most")
    table = report.Table("", {**dict.fromkeys(heads, ".1f"), "answers": "<"})
    for name in args.only:
        context = multiprocessing.get_context("spawn")
        with serving(args.models, "--engine", "litert") as server, context.Pool(1) as pool:
            Client(server.target).predict(["Storm closes every school"])
            asking_json(server.web_port, 0.1, MANY, ((JSON, 200),))  # so that what is imported late does not count
            with memory(server) as seen, feeling_pulse(server) as pulse, asking(server) as (latencies, problems):
                codes = pool.apply(CROWDS[name], (server.web_port, args.seconds))
        asked = np.quantile(latencies, (0.5, 0.99, 1)) * 1e3
        health = np.quantile(pulse.health, 0.99) * 1e3
        table.row(name, *asked, health, seen[0] / 1e6, max(seen) / 1e6, str(dict(codes)))
        broken += [f"{name}: {problem}" for problem in (*problems, *pulse.problems)]
        broken += [f"{name}: {number} answers {code}" for code, number in codes.items() if "instead" in code]
        if max(seen) > MEMORY:
            broken.append(f"{name}: {max(seen) / 1e6:.0f} MB")
    report.require_none(broken)


if __name__ == "__main__":
    report.run(main)
