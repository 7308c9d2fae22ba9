"""One timer, exact to some microseconds if the system has one: event loops count whole milliseconds.

uvloop's timers are short by up to one and asyncio's late by as much, which is too far off if a batch waits for one in all.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """Calls back on the event loop, once for each time that it is set."""

    def set(self, seconds: float) -> None:
        """Call back after so long, more than 0, and not when it was set to before."""

    def close(self) -> None:
        """Never call back again."""


class LoopTimer:
    """As exact as the event loop is."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """See Timer."""
        self.close()
        self._handle = self._loop.call_later(seconds, self._callback)

    def close(self) -> None:
        """See Timer."""
        if self._handle:
            self._handle.cancel()


class KernelTimer:
    """Linux' timerfd. The standard library has it from Python 3.13 on, so it is called through ctypes."""

    def __init__(self, callback: Callable[[], None]) -> None:
        """Raises OSError or AttributeError if the system has none."""
        libc = ctypes.CDLL(None, use_errno=True)
        self._settime = libc.timerfd_settime
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._file = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop.add_reader(self._file, self._ring)

    def set(self, seconds: float) -> None:
        """See Timer."""
        whole, nanoseconds = divmod(max(1, int(seconds * 1e9)), 1_000_000_000)  # 0 in all would stop it
        self._settime(self._file, 0, ctypes.byref(_Setting(0, 0, whole, nanoseconds)), None)

    def close(self) -> None:
        """See Timer."""
        self._loop.remove_reader(self._file)
        os.close(self._file)

    def _ring(self) -> None:
        try:
            os.read(self._file, 8)
        except BlockingIOError:  # set again in the meantime
            return
        self._callback()


class _Setting(ctypes.Structure):
    """struct itimerspec: an interval and a time from now, each in seconds and nanoseconds."""

    _fields_ = (("interval_s", ctypes.c_long), ("interval_ns", ctypes.c_long), ("s", ctypes.c_long), ("ns", ctypes.c_long))


def exact(callback: Callable[[], None]) -> Timer:
    """The most exact timer that there is here."""
    try:
        return KernelTimer(callback)
    except (OSError, AttributeError):
        return LoopTimer(callback)
