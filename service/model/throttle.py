"""Throttles background work: it runs in small steps, with pauses between them that leave the processor to callers.

    loader = ThreadPoolExecutor(1, initializer=throttle.enable)
    loader.submit(load)  # which calls throttle.pause() after each step

A thread beside the event loop takes the interpreter lock and processor time from it, and requests pile up behind a tenth of a
second of work. The same work in steps of a millisecond costs each request next to nothing.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress

SHARE = 0.05  # of a processor; less and a version waits longer until it is live, more and callers notice it
STEP = 0.0005  # seconds of work after which a pause is worth it
LONGEST_PAUSE = 0.05  # seconds; what piled up behind a step that could not be a small one is answered by then

_thread = threading.local()


def enable() -> None:
    """Throttle the calling thread: from now on `pause` sleeps in it, and it runs at the lowest priority."""
    _thread.worked = time.thread_time()
    if sys.platform == "linux":  # elsewhere only whole processes have a priority
        with suppress(OSError):  # a sandbox may forbid it; a lower priority is a courtesy, the pauses are what matters
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def pause() -> None:
    """Sleep in proportion to the work since the last pause; return at once in a thread that is not throttled."""
    if not hasattr(_thread, "worked"):
        return
    step = time.thread_time() - _thread.worked
    if step >= STEP:
        time.sleep(min(step * (1 / SHARE - 1), LONGEST_PAUSE))
        _thread.worked = time.thread_time()
