"""Signs of life while something takes long."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

EVERY = 5.0  # seconds; also on a busy machine nobody waits for 10 s without a line


@contextmanager
def busy(doing: str, stream: TextIO | None = None) -> Iterator[None]:
    """Write a line to `stream`, stderr by default, each time that the block has gone on for EVERY seconds more."""
    shown = stream or sys.stderr
    began = time.monotonic()
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(EVERY):
            seconds = time.monotonic() - began
            print(time.strftime("%H:%M:%S"), f"still {doing}, after {seconds:.0f} s", file=shown, flush=True)

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
