"""Signs of life while something takes long."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

EVERY = 5.0  # seconds; also on a busy machine nobody waits for 10 s without a line


@contextmanager
def counting(doing: str, stream: TextIO | None = None) -> Iterator[Callable[[int, int], None]]:
    """Like busy, but says how much is done and how long the rest takes. The block is given what is told (done, of how many)."""
    began = time.monotonic()
    first = done = total = 0

    def tell(now: int, of: int) -> None:
        nonlocal began, first, done, total
        if not total:
            began, first = time.monotonic(), now  # what was done before tells nothing about the pace
        done, total = now, of

    def describe() -> str:
        if done == first:
            return doing
        left = (time.monotonic() - began) * (total - done) / (done - first)
        return f"{doing}, {done:,} of {total:,}, about {left:.0f} s left"

    with _repeating(describe, stream):
        yield tell


@contextmanager
def busy(doing: str, stream: TextIO | None = None) -> Iterator[None]:
    """Write a line to `stream`, stderr by default, each time that the block has gone on for EVERY seconds more."""
    began = time.monotonic()
    with _repeating(lambda: f"still {doing}, after {time.monotonic() - began:.0f} s", stream):
        yield


@contextmanager
def _repeating(describe: Callable[[], str], stream: TextIO | None) -> Iterator[None]:
    shown = stream or sys.stderr
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(EVERY):
            print(time.strftime("%H:%M:%S"), describe(), file=shown, flush=True)

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
