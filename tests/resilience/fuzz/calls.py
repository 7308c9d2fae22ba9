"""What a hostile client sends to a server: kinds of calls, and kinds of whole connections.

Each makes bytes from a random number generator alone, so that a seed repeats them. For tests.resilience.fuzz.server.
"""

from __future__ import annotations

import gzip
import random
import struct
import zlib
from collections.abc import Callable, Mapping

from harness.wire import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    HEADERS,
    OPENING,
    PATIENCE,
    PING,
    PREDICT,
    PREDICT_STREAM,
    PREFACE,
    PRIORITY,
    PUSH,
    RESET,
    SETTINGS,
    WIDE,
    WINDOW,
    begin,
    block,
    body,
    frame,
    framed,
    head,
)
from headlines.v1 import popularity_pb2 as pb
from tests.resilience.fuzz import mutation
from tests.resilience.fuzz.targets import message, messages

MODEL = b"/headlines.v1.PopularityService/GetModel"
OTHERS = (
    b"/grpc.health.v1.Health/Check",
    b"/grpc.health.v1.Health/Watch",
    b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    b"/headlines.v1.PopularityService/Nothing",
)

MESSAGES = {PREDICT: messages(pb.PredictRequest), PREDICT_STREAM: messages(pb.PredictStreamRequest)}
_REQUESTS = {PREDICT: pb.PredictRequest, PREDICT_STREAM: pb.PredictStreamRequest}


def _message(rng: random.Random, path: bytes) -> bytes:
    good = message(rng, _REQUESTS[path])
    return rng.choice((good, mutation.mutate([good], rng), mutation.mutate(MESSAGES[path], rng, whole=0.1)))


def _plain(rng: random.Random) -> tuple[bytes, bytes]:
    """A path, and a message for it that is empty or good."""
    path = rng.choice((PREDICT, PREDICT_STREAM))
    return path, rng.choice(MESSAGES[path][:4])


def _predict(rng: random.Random, stream: int) -> bytes:
    return begin(stream, head()) + body(stream, framed(_message(rng, PREDICT)))


def _predict_stream(rng: random.Random, stream: int) -> bytes:
    some = b"".join(framed(_message(rng, PREDICT_STREAM)) for _ in range(rng.randrange(5)))
    return begin(stream, head(PREDICT_STREAM)) + body(stream, some)


def _other(rng: random.Random, stream: int) -> bytes:
    path = rng.choice((MODEL, *OTHERS))
    message = rng.choice((b"", b"\x0a\x00", mutation.mutate(MESSAGES[PREDICT], rng)))
    return begin(stream, head(path, b"50m")) + body(stream, framed(message))


def _framing(rng: random.Random, stream: int) -> bytes:
    path, message = _plain(rng)
    length = rng.choice((0, 1, len(message) - 1, len(message) + 1, 4 << 20, (4 << 20) + 1, WIDE, -1, len(message)))
    data = framed(message, rng.choice((0, 0, 1, 2, 255)), length) + rng.choice((b"", b"\0", framed(message)))
    flags = rng.choice((END_STREAM, END_STREAM, 0))
    return begin(stream, head(path, b"50m")) + body(stream, data, flags)


def _encoding(rng: random.Random, stream: int) -> bytes:
    encoding = rng.choice((b"gzip", b"deflate", b"identity", b"snappy", b"", b"gzip, gzip", b"x" * 3000, b"GZIP"))
    path, message = _plain(rng)
    message = rng.choice((gzip.compress, zlib.compress, bytes))(message)
    fields = head(path, b"200m", grpc_encoding=encoding, grpc_accept_encoding=encoding)
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
    path, message = _plain(rng)
    timeout = rng.choice((rng.choice(nonsense), b"%d%c" % (rng.randrange(10**9), rng.choice(b"HMSmun")), rng.randbytes(3)))
    return begin(stream, head(path, timeout)) + body(stream, framed(message))


def _path(rng: random.Random, stream: int) -> bytes:
    path = rng.choice(
        (mutation.mutate((PREDICT, *OTHERS), rng)[:9000], rng.randbytes(20), b"", b"/", b"*", b"//", PREDICT + b"/")
    )
    return begin(stream, head(path)) + body(stream, framed(MESSAGES[PREDICT][1]))


def _metadata(rng: random.Random, stream: int) -> bytes:
    path, message = _plain(rng)
    fields = head(path)
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
    return begin(stream, fields) + body(stream, framed(message))


def _reset(rng: random.Random, stream: int) -> bytes:
    path, message = _plain(rng)
    some = body(stream, framed(message)[: rng.choice((0, 3, 1 << 20))], rng.choice((0, END_STREAM)))
    reset = frame(RESET, 0, stream, rng.choice((0, 8, 2**32 - 1)).to_bytes(4, "big"))
    return begin(stream, head(rng.choice((path, path, MODEL)))) + rng.choice((b"", some)) + reset


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
    size = rng.choice((0, 1, FRAME_BYTES))
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
    return OPENING + frame(HEADERS, END_HEADERS, 1, data[:FRAME_BYTES]) + body(1, framed(MESSAGES[PREDICT][1]))


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
