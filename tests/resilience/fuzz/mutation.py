"""Hostile inputs from harmless ones: random damage to bytes, and JSON with one value of another kind."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

# What breaks readers of text and numbers: no text, no number, too large, too deep.
TOKENS = (
    *(b"", b"\x00", b"\xff", b"\r", b"\n", b'"', b"'", b",", b"\\", b"]", b"{}", b"null", b"true"),
    *(b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xf4\x90\x80\x80", b"\xc0\x80", b"\\ud800", b"\\u0000"),
    *(b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1", b"9" * 25, b"9" * 5000, b"0.1e-999"),
    *(b"9999-12-31T23:59:59.999999Z", b"0001-01-01T00:00:00+23:59", b"../", b"/etc/passwd"),
    *(b"[" * 2000, b'{"a":' * 2000, b"a'" * 300, b"x" * 140_000),
    *(text.encode() for text in ("\ufdfa\u0130\u1e9e", "東\u0301", "\u2028\u0085")),
)
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 10**30, 1.5, -1e308, math.inf, math.nan, "", "NaN", "1", "\ud800", "x" * 5000),
    *([], [[]], [1, 2], {}, {"a": 1}, {"\ud800": 1}),
    *("2016-02-24", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999-12:00"),
)


def mutate(seeds: Sequence[bytes], rng: random.Random, whole: float = 0.0) -> bytes:
    """One of the seeds with a few damages; this share of them stays whole."""
    data = bytearray(rng.choice(seeds))
    for _ in range(0 if rng.random() < whole else rng.choice((1, 1, 1, 1, 2, 2, 3, 6))):
        at = rng.randrange(len(data) + 1)
        to = min(len(data), at + int(rng.paretovariate(0.7)))
        match rng.randrange(9):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(data):
                data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 2:
                del data[at:to]
            case 3:
                del data[at:]
            case 4:
                data[at:at] = data[at:to] * rng.choice((1, 2, 30))
            case 5:
                data[at:at] = rng.randbytes(min(to - at, 64) or 1)
            case 6:
                other = rng.choice(seeds)
                data[at:to] = other[rng.randrange(len(other) + 1) :][: rng.randrange(1, 200)]
            case _:
                data[at : rng.choice((at, to))] = rng.choice(TOKENS)
    return bytes(data)


def twisted(value: Any, whole: Any = None) -> Iterator[bytes]:
    """JSON documents that are `value` but for one value anywhere in it, which is one of VALUES or missing."""
    whole = value if whole is None else whole
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        kept = value[key]
        for other in VALUES:
            value[key] = other
            yield json.dumps(whole).encode()
        value[key] = kept
        if isinstance(value, dict):
            del value[key]
            yield json.dumps(whole).encode()
            value[key] = kept
        if isinstance(kept, dict | list):
            yield from twisted(kept, whole)
