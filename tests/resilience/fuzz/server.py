"""A hostile client against a real server process; the target "wire" of tests.resilience.fuzz.

A call has damage in its messages, its framing or its metadata; a connection has damage in its HTTP/2 frames or its compressed
headers. How calls end is read from the wire, and how those ended whose handler began from the server's own counters: there,
INTERNAL and UNKNOWN are failures. What gRPC answers by itself shows in the first table alone: UNKNOWN (2) if a header is
missing that HTTP/2 or gRPC asks for, and for a path that is not UTF-8; resets for encodings and deadlines that it cannot read;
nothing for messages that are cut off.
"""

from __future__ import annotations

import json
import random
import re
import select
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path

from harness.process import ServerProcess, serving
from harness.wire import (
    BY_HANDLER,
    OPENING,
    PATIENCE,
    PING,
    PREDICT,
    PREDICT_STREAM,
    TOKEN,
    Connection,
    begin,
    frame,
    framed,
    head,
)
from tests.resilience.fuzz.calls import CALLS, CONNECTIONS, CONNECTIONS_SHARE, MESSAGES
from tests.resilience.fuzz.targets import TEXTS

AT_ONCE = 50  # calls under way on a connection, or connections at once
PEAK_MARGIN = 48 << 20  # bytes by which all these messages may raise the peak memory: twelve times the largest that is let in
GROWTH = 16 << 20  # bytes that the server may hold at the end beyond what it held after a fifth of the inputs
FORBIDDEN = ("INTERNAL", "UNKNOWN")


def try_calls(port: int, kind: str, inputs: int, seed: int) -> Counter[str]:
    """Make calls of a kind, many at once on a connection; how they ended."""
    make, _, seconds = CALLS[kind]
    outcomes: Counter[str] = Counter()
    connection = None
    for first in range(0, inputs, AT_ONCE):
        if connection is None:
            connection = Connection(port)
            connection.send(OPENING)
            stream = 1
        streams = range(stream, stream + 2 * min(AT_ONCE, inputs - first), 2)
        stream = streams.stop
        rngs = (random.Random(f"{seed} {kind} {number}") for number in range(first, first + AT_ONCE))
        sent = {stream: make(rng, stream) for rng, stream in zip(rngs, streams, strict=False)}
        connection.send(b"".join(sent.values()))
        until = time.monotonic() + seconds
        while not (connection.ended or all(stream in connection.endings for stream in streams)):
            if (left := until - time.monotonic()) <= 0:
                break
            connection.wait(left)
        missing = connection.ended or ("reset by us" if not seconds else "no answer in time")
        outcomes.update(connection.endings.get(stream, missing) for stream in streams)
        for it in streams:
            if connection.endings.get(it) == BY_HANDLER:
                print(f"{kind}, seed {seed}, number {first + (it - streams.start) // 2}:\n{sent[it][:4000].hex()}", flush=True)
        if connection.ended or not all(it in connection.endings for it in streams):
            connection.socket.close()
            connection = None
    if connection:
        connection.socket.close()
    return outcomes


def try_connections(port: int, kind: str, inputs: int, seed: int) -> Counter[str]:
    """Open connections of a kind, many at once; what became of them."""
    outcomes: Counter[str] = Counter()
    for first in range(0, inputs, AT_ONCE):
        connections = []
        for number in range(first, min(first + AT_ONCE, inputs)):
            connection = Connection(port)
            connections.append(connection)
            connection.send(CONNECTIONS[kind](random.Random(f"{seed} {kind} {number}")) + frame(PING, 0, 0, b"are you?"))
        until = time.monotonic() + 0.3
        while (open_ := [it for it in connections if not (it.ended or it.alive)]) and (left := until - time.monotonic()) > 0:
            ready = set(select.select([it.socket for it in open_], (), (), left)[0])
            for connection in open_:
                if connection.socket in ready:
                    connection.wait(0)
        outcomes.update(it.ended or ("lives" if it.alive else "silence") for it in connections)
        for connection in connections:
            connection.socket.close()
    return outcomes


def peaks(server: ServerProcess, size: int) -> dict[str, tuple[int, str]]:
    """By how many bytes one hostile message raises the server's peak memory above what it held at first, and how it ends.

    Not here: a large message that is honest, from a caller whose token is valid. See `buffered`.
    """
    zeros = framed(bytes(size))
    deflated = zlib.compressobj(wbits=31)
    packed = framed(deflated.compress(bytes(size)) + deflated.flush(), 1)
    found = {}
    before = server.resident_bytes
    for path, tag in ((PREDICT, b"\x0a"), (PREDICT_STREAM, b"\x12")):
        longest = tag + b"\xfb\xff\xff\x01" + b"\x0a\xf6\xff\xff\x01" + bytes((4 << 20) - 10)
        calls = {
            f"{size >> 20} MB in a gzip bomb": (packed, {"grpc_encoding": b"gzip"}),
            "the same, called identity": (packed, {"grpc_encoding": b"identity"}),
            f"{size >> 20} MB and no token": (zeros, {"authorization": b""}),
            f"{size >> 20} MB of which 100 bytes come": (zeros[:100], {}),
            "one headline of 4 MiB": (framed(longest), {}),
            "4 MiB of empty headlines": (framed((tag + b"\x00") * (2 << 20)), {}),
        }
        for name, (data, more) in calls.items():
            _reset_peak(server)
            ending = try_one(server.port, data, path, **more)
            found[f"{path.rpartition(b'/')[2].decode()}: {name}"] = (_status(server, "VmHWM") - before, ending)
    return found


def buffered(server: ServerProcess) -> tuple[int, str]:
    """The same for 100 MB by a caller with a token: gRPC's core looks at the size when it has all (grpc/grpc#43012)."""
    before = server.resident_bytes
    _reset_peak(server)
    ending = try_one(server.port, framed(bytes(100 << 20)))
    return _status(server, "VmHWM") - before, ending


def read_log(server: ServerProcess) -> tuple[Counter[str], int]:
    """What the log says beside what is informational, and how many of its lines hold a token or a headline."""
    secrets = (TOKEN.decode(), *TEXTS[:3])
    said: Counter[str] = Counter()
    for line in server.lines:
        record = json.loads(line) if line.startswith("{") else {"level": "?", "message": line}
        if record["level"] != "info":
            said[re.sub("[0-9a-f]*[0-9][0-9a-f]*", "N", record["message"].strip())[:100]] += 1
    return said, sum(any(secret in line for secret in secrets) for line in server.lines)


def handled(server: ServerProcess) -> Counter[tuple[str, str]]:
    """Calls whose handler began, by method and how they ended."""
    found: Counter[tuple[str, str]] = Counter()
    for sample in server.samples():
        if sample.name == "grpc_server_handled_total":
            found[sample.labels["grpc_method"], sample.labels["grpc_code"]] += round(sample.value)
    return +found


def fuzz(models: Path, inputs: int, seed: int, *, rounds: int = 5, bomb: int = 400 << 20) -> bool:
    """Fuzz a server and print tables; whether it kept its promises. `bomb` is in bytes, unpacked.

    Each of the `rounds` has its share of every kind, and the memory held is looked at after each.
    """
    with tempfile.NamedTemporaryFile() as tokens:
        tokens.write(TOKEN)
        tokens.flush()
        with serving(models, "--engine", "litert", "--tokens", tokens.name) as server:
            return _fuzz(server, inputs, seed, rounds, bomb)


def _fuzz(server: ServerProcess, inputs: int, seed: int, rounds: int, bomb: int) -> bool:
    began = time.monotonic()
    outcomes, memory, broken = _attack(server, inputs, seed, rounds)
    for kind, found in outcomes.items():
        shown = ", ".join(f"{outcome} {number}" for outcome, number in found.most_common(8))
        print(f"  {kind:28}{found.total():>9}  {shown}")
    if server.process.poll() is None:
        broken += _look_at_peaks(server, bomb) + _look_at_handlers(server)
    said, leaks = read_log(server)
    for line, number in said.most_common(10):
        print(f"  log: {number:>7} x {line}")
    if leaks:
        broken.append(f"{leaks} lines of the log hold a token or a headline")
    if any("internal error" in line for line in said):
        broken.append("the log tells of internal errors")
    if memory[-1] > memory[0] + GROWTH:
        broken.append(f"memory grew by {(memory[-1] - memory[0]) / 1e6:.0f} MB")
    total = sum(found.total() for found in outcomes.values())
    print("  MB after each round: " + ", ".join(f"{it / 1e6:.0f}" for it in memory))
    held = "".join(f"{it / 1e6:>8.0f}" for it in (memory[0], memory[-1], max(memory)))
    print(f"{'wire':20}{total:>9}{time.monotonic() - began:>7.0f}{held}  {'; '.join(broken) or 'as it should be'}", flush=True)
    return not broken


def _attack(server: ServerProcess, inputs: int, seed: int, rounds: int) -> tuple[dict[str, Counter[str]], list[int], list[str]]:
    """How calls and connections of each kind ended, the memory held after each round, and promises that were broken."""
    outcomes = {kind: Counter[str]() for kind in (*CALLS, *CONNECTIONS)}
    memory, broken = [], []
    kind = next(iter(CALLS))
    try:
        try_calls(server.port, kind, 500, seed=-1)  # so that it has taken the memory that it works with
        for turn in range(rounds):
            for kind, (_, share, _) in CALLS.items():
                number = round(inputs * share * (1 - CONNECTIONS_SHARE) / rounds)
                outcomes[kind] += try_calls(server.port, kind, number, seed * rounds + turn)
            for kind in CONNECTIONS:
                number = round(inputs * CONNECTIONS_SHARE / len(CONNECTIONS) / rounds)
                outcomes[kind] += try_connections(server.port, kind, number, seed * rounds + turn)
            memory.append(server.resident_bytes)
            if (ending := try_one(server.port)) != "status 0":
                broken.append(f"a good call fails: {ending}")
    except OSError as error:
        broken.append(f"during {kind!r}, seed {seed}: {error}; the server's exit code is {server.process.poll()}")
    return outcomes, memory or [0], broken


def _look_at_peaks(server: ServerProcess, bomb: int) -> list[str]:
    broken = []
    for name, (raised, ending) in peaks(server, bomb).items():
        print(f"  {name:50}{raised / 1e6:>8.1f} MB above the memory before  {ending}")
        if raised > PEAK_MARGIN:
            broken.append(f"{name} raises the peak by {raised / 1e6:.1f} MB")
    raised, ending = buffered(server)
    print(f"  {'100 MB and a token: not counted':50}{raised / 1e6:>8.1f} MB above the memory before  {ending}")
    return broken


def _look_at_handlers(server: ServerProcess) -> list[str]:
    ended = handled(server)
    for method in sorted({method for method, _ in ended}):
        codes = Counter({code: number for (of, code), number in ended.items() if of == method})
        shown = ", ".join(f"{code} {number}" for code, number in codes.most_common())
        print(f"  handlers begun: {method:24}{codes.total():>9}  {shown}")
    return [f"{method} ended as {code}: {number}" for (method, code), number in ended.items() if code in FORBIDDEN]


def try_one(port: int, data: bytes | None = None, path: bytes = PREDICT, **more: bytes) -> str:
    """How a call ends whose messages are sent as the server lets; a good one unless it is told otherwise."""
    connection = Connection(port)
    connection.send(OPENING + begin(1, head(path, **more)))
    connection.send_flowing(1, framed(MESSAGES[PREDICT][1]) if data is None else data)
    until = time.monotonic() + PATIENCE
    while 1 not in connection.endings and not connection.ended and time.monotonic() < until:
        connection.wait(0.1)
    connection.socket.close()
    return connection.endings.get(1) or connection.ended or "no answer"


def _status(server: ServerProcess, name: str) -> int:
    (kilobytes,) = re.findall(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text(), re.MULTILINE)
    return int(kilobytes) * 1024


def _reset_peak(server: ServerProcess) -> None:
    """Let the server's peak memory begin anew."""
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
