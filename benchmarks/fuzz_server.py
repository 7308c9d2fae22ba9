"""Calls and connections as no client makes them, against a real server process; the target "wire" of benchmarks.fuzz.

A call has damage in its messages, its framing or its metadata; a connection has damage in its HTTP/2 frames or its compressed
headers. How calls end is read from the wire, and how those ended whose handler began from the server's own counters: there,
INTERNAL and UNKNOWN are failures. What gRPC's core answers by itself shows in the first table alone.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import select
import struct
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO
from urllib.request import urlopen

from benchmarks import mutation
from benchmarks.fuzz_targets import TEXTS, message, messages
from benchmarks.fuzz_wire import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    OPENING,
    PATIENCE,
    PING,
    PREDICT,
    PREFACE,
    PRIORITY,
    PUSH,
    RESET,
    SETTINGS,
    TOKEN,
    WIDE,
    WINDOW,
    Connection,
    begin,
    block,
    body,
    frame,
    framed,
    head,
)
from benchmarks.process import ServerProcess, serving

STREAM = b"/headlines.v1.PopularityService/PredictStream"
MODEL = b"/headlines.v1.PopularityService/GetModel"
OTHERS = (
    b"/grpc.health.v1.Health/Check",
    b"/grpc.health.v1.Health/Watch",
    b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    b"/headlines.v1.PopularityService/Nothing",
)
AT_ONCE = 50  # calls under way on a connection, or connections at once
PEAK_MARGIN = 32 << 20  # bytes by which messages may raise the peak memory: eight times the largest that is let in
GROWTH = 16 << 20  # bytes that the server may hold at the end beyond what it held after a fifth of the inputs
FORBIDDEN = ("INTERNAL", "UNKNOWN")


MESSAGES = messages()


def _message(rng: random.Random) -> bytes:
    good = message(rng)
    return rng.choice((good, mutation.mutate([good], rng), mutation.mutate(MESSAGES, rng, whole=0.1)))


def _predict(rng: random.Random, stream: int) -> bytes:
    return begin(stream, head()) + body(stream, framed(_message(rng)))


def _predict_stream(rng: random.Random, stream: int) -> bytes:
    some = b"".join(framed(_message(rng)) for _ in range(rng.randrange(5)))
    return begin(stream, head(STREAM)) + body(stream, some)


def _other(rng: random.Random, stream: int) -> bytes:
    path = rng.choice((MODEL, *OTHERS))
    message = rng.choice((b"", b"\x0a\x00", mutation.mutate(MESSAGES, rng)))
    return begin(stream, head(path, b"50m")) + body(stream, framed(message))


def _framing(rng: random.Random, stream: int) -> bytes:
    message = rng.choice(MESSAGES[:4])
    length = rng.choice((0, 1, len(message) - 1, len(message) + 1, 4 << 20, (4 << 20) + 1, WIDE, -1, len(message)))
    data = framed(message, rng.choice((0, 0, 1, 2, 255)), length) + rng.choice((b"", b"\0", framed(message)))
    flags = rng.choice((END_STREAM, END_STREAM, 0))
    return begin(stream, head(rng.choice((PREDICT, STREAM)), b"50m")) + body(stream, data, flags)


def _encoding(rng: random.Random, stream: int) -> bytes:
    encoding = rng.choice((b"gzip", b"deflate", b"identity", b"snappy", b"", b"gzip, gzip", b"x" * 3000, b"GZIP"))
    message = rng.choice(MESSAGES[:4])
    message = rng.choice((gzip.compress, zlib.compress, bytes))(message)
    fields = head(rng.choice((PREDICT, STREAM)), b"200m", grpc_encoding=encoding, grpc_accept_encoding=encoding)
    return begin(stream, fields) + body(stream, framed(message, rng.choice((0, 1))))


def _timeout(rng: random.Random, stream: int) -> bytes:
    nonsense = (
        b"",
        b"0S",
        b"0n",
        b"-1S",
        b"1",
        b"S",
        b"1x",
        b"1n",
        b"1u",
        b" 1S",
        b"1S ",
        b"1.5S",
        b"1e3S",
        b"99999999H",
        b"9" * 40,
    )
    path = rng.choice((PREDICT, STREAM))
    timeout = rng.choice((rng.choice(nonsense), b"%d%c" % (rng.randrange(10**9), rng.choice(b"HMSmun")), rng.randbytes(3)))
    return begin(stream, head(path, timeout)) + body(stream, framed(rng.choice(MESSAGES[:4])))


def _path(rng: random.Random, stream: int) -> bytes:
    path = rng.choice(
        (mutation.mutate((PREDICT, *OTHERS), rng)[:9000], rng.randbytes(20), b"", b"/", b"*", b"//", PREDICT + b"/")
    )
    return begin(stream, head(path)) + body(stream, framed(MESSAGES[1]))


def _metadata(rng: random.Random, stream: int) -> bytes:
    fields = head(rng.choice((PREDICT, STREAM)))
    at = rng.randrange(len(fields) + 1)
    values = (
        b"",
        b"x",
        b"\0",
        b"\r\n",
        b"\xff\xfe",
        "\u00e9".encode(),
        b"a" * 20_000,
        rng.randbytes(9),
        b"Bearer",
        b"Bearer x",
        b"=A=",
    )
    names = (
        *(
            b"x-bin",
            b"grpc-trace-bin",
            b"grpc-tags-bin",
            b"x",
            b"",
            b"X-Upper",
            b"a b",
            b":path",
            b":odd",
            b"host",
            b"connection",
        ),
        *(
            b"authorization",
            b"grpc-status",
            b"grpc-message",
            b"grpc-previous-rpc-attempts",
            b"content-length",
            b"user-agent",
            b"te",
        ),
        *(
            b"content-type",
            b"lb-token",
            b"lb-cost-bin",
            b"grpc-internal-encoding-request",
            b"transfer-encoding",
            b"\xc3\xa9",
            b"cookie",
        ),
    )
    match rng.randrange(5):
        case 0:
            fields[at:at] = [(rng.choice(names), rng.choice(values))] * rng.choice((1, 1, 2, 300))
        case 1 if at < len(fields):
            fields[at] = (fields[at][0], rng.choice(values))
        case 2 if at < len(fields):
            fields[at] = (rng.choice(names), fields[at][1])
        case 3 if at < len(fields):
            del fields[at]
        case _:
            fields[at:at] = [(b"x-%d" % i, rng.choice(values[:2])) for i in range(rng.choice((1, 50, 700)))]
    return begin(stream, fields) + body(stream, framed(MESSAGES[1]))


def _reset(rng: random.Random, stream: int) -> bytes:
    some = body(stream, framed(rng.choice(MESSAGES[:4]))[: rng.choice((0, 3, 1 << 20))], rng.choice((0, END_STREAM)))
    reset = frame(RESET, 0, stream, rng.choice((0, 8, 2**32 - 1)).to_bytes(4, "big"))
    return begin(stream, head(rng.choice((PREDICT, STREAM, MODEL)))) + rng.choice((b"", some)) + reset


# Kinds of calls: what makes one, its share of the inputs, and the seconds in which most that end at all have ended.
CALLS: Mapping[str, tuple[Callable[[random.Random, int], bytes], float, float]] = {
    "Predict's message": (_predict, 0.49, PATIENCE),
    "PredictStream's messages": (_predict_stream, 0.25, PATIENCE),
    "other methods": (_other, 0.05, PATIENCE),
    "framing": (_framing, 0.03, 0.2),
    "encoding": (_encoding, 0.03, 0.4),
    "grpc-timeout": (_timeout, 0.04, 0.2),
    "path": (_path, 0.02, 0.5),
    "metadata": (_metadata, 0.04, 0.5),
    "reset": (_reset, 0.03, 0.0),
}


def _conversation(rng: random.Random) -> bytes:
    calls = [rng.choice((_predict, _predict_stream))(rng, stream) for stream in range(1, 2 * rng.randrange(1, 6), 2)]
    return OPENING + b"".join(calls)


def _cut_off(rng: random.Random) -> bytes:
    data = _conversation(rng)
    return data[: rng.randrange(len(data))]


def _damaged(rng: random.Random) -> bytes:
    return mutation.mutate([_conversation(rng)], rng)


def _continuations(rng: random.Random) -> bytes:
    size = rng.choice((0, 1, 16_384))
    more = frame(CONTINUATION, 0, rng.choice((1, 1, 3)), block([(b"a", b"b" * max(size - 5, 0))])[:size])
    return OPENING + frame(HEADERS, 0, 1, block(head())) + more * rng.choice((1, 10, 100 if size > 1 else 10_000))


def _compressed_headers(rng: random.Random) -> bytes:
    bad = (
        b"\x80",
        b"\xff" * 12,
        b"\x3f" + b"\xff" * 9,
        b"\xbe",
        b"\x3f\xe1\x1f",
        b"\x20" * 50,
        b"\x00\xff" + b"\xff" * 8,
        b"\x41\xff",
    )
    good = block(head())
    data = rng.choice(
        (rng.choice(bad), good + rng.choice(bad), rng.choice(bad) + good, mutation.mutate([good], rng), rng.randbytes(60))
    )
    return OPENING + frame(HEADERS, END_HEADERS, 1, data[:16_384]) + body(1, framed(MESSAGES[1]))


def _frames(rng: random.Random) -> bytes:
    def one() -> bytes:
        made = frame(
            rng.choice((*range(11), 255)), rng.randrange(256), rng.choice((0, 1, 2, 3, WIDE)), rng.randbytes(rng.randrange(20))
        )
        return rng.choice((made, made, rng.randbytes(3) + made[3:]))

    return OPENING + begin(1, head()) + b"".join(one() for _ in range(rng.randrange(1, 6)))


def _resets(rng: random.Random) -> bytes:
    calls = (_reset(rng, stream) for stream in range(1, 2 * rng.choice((20, 100, 500)), 2))
    return OPENING + b"".join(calls)


def _floods(rng: random.Random) -> bytes:
    one = rng.choice(
        (
            frame(SETTINGS, 0, 0, struct.pack(">HI", rng.randrange(9), rng.getrandbits(32))),
            frame(SETTINGS, 0, 0),
            frame(PING, 0, 0, b"12345678"),
            frame(WINDOW, 0, rng.choice((0, 1)), rng.choice((0, 1, WIDE)).to_bytes(4, "big")),
            frame(PRIORITY, 0, 1, rng.randbytes(5)),
            frame(DATA, 0, 1),
            frame(PUSH, END_HEADERS, 1, b"\0\0\0\2" + block(head())),
        )
    )
    return OPENING + begin(1, head()) + one * rng.choice((1, 2, 1000))


def _no_http2(rng: random.Random) -> bytes:
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(32)
    return rng.choice((request, hello, rng.randbytes(rng.randrange(1, 200)), PREFACE[:9] + b"x", PREFACE, b""))


# What a connection sends from its first byte on.
CONNECTIONS: Mapping[str, Callable[[random.Random], bytes]] = {
    "cut off": _cut_off,
    "damaged bytes": _damaged,
    "continuations": _continuations,
    "compressed headers": _compressed_headers,
    "frames": _frames,
    "rapid resets": _resets,
    "floods": _floods,
    "no HTTP/2": _no_http2,
}
CONNECTIONS_SHARE = 0.02  # of the inputs; each is a connection of its own


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
        connection.send(b"".join(make(rng, stream) for rng, stream in zip(rngs, streams, strict=False)))
        until = time.monotonic() + seconds
        while not (connection.ended or all(stream in connection.endings for stream in streams)):
            if (left := until - time.monotonic()) <= 0:
                break
            connection.wait(left)
        missing = connection.ended or ("reset by us" if not seconds else "no answer in time")
        outcomes.update(connection.endings.get(stream, missing) for stream in streams)
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


def peaks(server: ServerProcess) -> dict[str, tuple[int, str]]:
    """By how many bytes one hostile message raises the server's peak memory above what it held at first, and how it ends.

    Not here: a large message that is honest, from a caller whose token is valid. See `buffered`.
    """
    zeros = framed(bytes(400 << 20))
    deflated = zlib.compressobj(wbits=31)
    bomb = framed(deflated.compress(zeros) + deflated.flush(), 1)
    largest = b"\x0a\x84\x80\x80\x02" + b"\x0a\xfe\xff\xff\x01" + bytes((4 << 20) - 10)
    calls = {
        "400 MB in a gzip bomb": (bomb, {"grpc_encoding": b"gzip"}),
        "the same, called identity": (bomb, {"grpc_encoding": b"identity"}),
        "400 MB and no token": (zeros, {"authorization": b""}),
        "400 MB of which 100 bytes come": (zeros[:100], {}),
        "4 MiB, the most that is let in": (framed(largest), {}),
        "4 MiB of empty headlines": (framed(b"\x0a\x00" * (2 << 20)), {}),
    }
    found = {}
    before = server.resident_bytes
    for name, (data, more) in calls.items():
        for path in (PREDICT, STREAM):
            _reset_peak(server)
            ending = try_one(server.port, data, path, **more)
            found[f"{name}: {path.rpartition(b'/')[2].decode()}"] = (_status(server, "VmHWM") - before, ending)
    return found


def buffered(server: ServerProcess) -> tuple[int, str]:
    """The same for 100 MB by a caller with a token: gRPC's core looks at the size once it has all (grpc/grpc#43012)."""
    before = server.resident_bytes
    _reset_peak(server)
    ending = try_one(server.port, framed(bytes(100 << 20)))
    return _status(server, "VmHWM") - before, ending


class _Log:
    """The server's log, read as it comes, lest the server wait for a reader."""

    def __init__(self, stream: IO[str]) -> None:
        self.lines: Counter[str] = Counter()  # by what they say
        self.leaks = 0
        self._secrets = (TOKEN.decode(), *TEXTS[:3])
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream: IO[str]) -> None:
        try:
            for line in stream:
                self.leaks += any(it in line for it in self._secrets)
                said = json.loads(line) if line.startswith("{") else {"level": "?", "message": line}
                if said["level"] != "info":
                    self.lines[re.sub("[0-9a-f]*[0-9][0-9a-f]*", "N", said["message"].strip())[:100]] += 1
        except ValueError:  # it is closed
            return


def handled(server: ServerProcess) -> Counter[tuple[str, str]]:
    """Calls whose handler began, by method and how they ended."""
    with urlopen(f"http://127.0.0.1:{server.http_port}/metrics") as answer:
        text = answer.read().decode()
    found: Counter[tuple[str, str]] = Counter()
    for code, method, number in re.findall(
        r'^grpc_server_handled_total{grpc_code="(\w+)",grpc_method="(\w+)".*} (.+)$', text, re.MULTILINE
    ):
        found[method, code] += round(float(number))
    return +found


def fuzz(models: Path, inputs: int, seed: int) -> bool:
    """Fuzz a server and print tables; whether it kept its promises."""
    with tempfile.NamedTemporaryFile() as tokens:
        tokens.write(TOKEN)
        tokens.flush()
        with serving(models, "--engine", "litert", "--tokens", tokens.name) as server:
            return _fuzz(server, inputs, seed)


def _fuzz(server: ServerProcess, inputs: int, seed: int) -> bool:
    assert server.process.stderr
    log = _Log(server.process.stderr)
    try_calls(server.port, next(iter(CALLS)), 500, seed + 1)  # so that it has taken the memory that it works with
    broken = []
    rounds = 5
    memory = []
    began = time.monotonic()
    outcomes: dict[str, Counter[str]] = {}
    for turn in range(rounds):
        for kind, (_, share, _) in CALLS.items():
            found = try_calls(server.port, kind, round(inputs * share * (1 - CONNECTIONS_SHARE) / rounds), seed * rounds + turn)
            outcomes[kind] = outcomes.get(kind, Counter()) + found
        for kind in CONNECTIONS:
            number = round(inputs * CONNECTIONS_SHARE / len(CONNECTIONS) / rounds)
            outcomes[kind] = outcomes.get(kind, Counter()) + try_connections(server.port, kind, number, seed * rounds + turn)
        if server.process.poll() is not None:
            broken.append(f"the server ended with {server.process.returncode}")
            break
        memory.append(server.resident_bytes)
        if (ending := try_one(server.port)) != "status 0":
            broken.append(f"a good call fails: {ending}")
    for kind, found in outcomes.items():
        shown = ", ".join(f"{outcome} {number}" for outcome, number in found.most_common(8))
        print(f"  {kind:28}{found.total():>9}  {shown}")
    if server.process.poll() is None:
        for name, (raised, ending) in peaks(server).items():
            print(f"  {name:60}{raised / 1e6:>8.1f} MB above the memory before  {ending}", flush=True)
            if raised > PEAK_MARGIN:
                broken.append(f"{name} raises the peak by {raised / 1e6:.1f} MB")
        raised, ending = buffered(server)
        print(
            f"  {'100 MB and a token: not counted, grpc/grpc#43012':60}{raised / 1e6:>8.1f} MB above the memory before  {ending}"
        )
        ended = handled(server)
        for method in sorted({method for method, _ in ended}):
            shown = ", ".join(f"{code} {number}" for (of, code), number in ended.most_common() if of == method)
            print(f"  handlers begun: {method:24}{sum(n for (of, _), n in ended.items() if of == method):>9}  {shown}")
        broken += [f"{method} ended as {code}: {number}" for (method, code), number in ended.items() if code in FORBIDDEN]
    for line, number in log.lines.most_common(10):
        print(f"  log: {number:>7} x {line}")
    if log.leaks:
        broken.append(f"{log.leaks} lines of the log hold a token or a headline")
    if len(memory) == rounds and memory[-1] > memory[0] + GROWTH:
        broken.append(f"memory grew by {(memory[-1] - memory[0]) / 1e6:.0f} MB")
    total = sum(found.total() for found in outcomes.values())
    held = "".join(f"{it / 1e6:>8.0f}" for it in (memory[0], memory[-1], max(memory))) if memory else ""
    print(f"{'wire':20}{total:>9}{time.monotonic() - began:>7.0f}{held}  {'; '.join(broken) or 'as it should be'}", flush=True)
    return not broken


def try_one(port: int, data: bytes | None = None, path: bytes = PREDICT, **more: bytes) -> str:
    """How a call ends whose messages are sent as the server lets; a good one unless it is told otherwise."""
    connection = Connection(port)
    connection.send(OPENING + begin(1, head(path, **more)))
    connection.send_flowing(1, framed(MESSAGES[1]) if data is None else data)
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
