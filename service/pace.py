"""How work that can wait gives way to callers: in small steps, with rests between them.

    await asyncio.to_thread(pace.gently, load)  # which calls pace.rest() after each step

A thread beside the event loop takes the interpreter lock and processor time from it, and requests pile up behind a tenth of a
second of work. The same work in steps of a millisecond costs each request next to nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

SHARE = 0.1  # of a processor, for gentle work; less and a version waits longer until it is live, more and callers notice it
STEP = 0.0005  # seconds of work that are worth a rest
LONGEST_REST = 0.05  # seconds; after a step that could not be a small one, what piled up behind it is answered by then

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_thread = threading.local()


def gently(function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
    """Call a function in this thread; where it calls `rest`, it rests."""
    _thread.worked = time.thread_time()
    try:
        return function(*args, **kwargs)
    finally:
        del _thread.worked


def rest() -> None:
    """Sleep as long as the work since the last rest makes it necessary; not at all outside of `gently`."""
    if not hasattr(_thread, "worked"):
        return
    step = time.thread_time() - _thread.worked
    if step >= STEP:
        time.sleep(min(step * (1 / SHARE - 1), LONGEST_REST))
        _thread.worked = time.thread_time()
