"""Signals that stop the server: SIGTERM, SIGINT and SIGHUP.

    signals.block()                          # the first thing that the program does
    stop_signals = signals.StopSignals()     # once logs can be written
    stop_signals.on_stop(stop)               # once there is something to stop in order

They stay blocked, and a thread waits for them. Handlers would lose some: as long as there is none, the kernel drops a signal to
PID 1, which a server in a container is, but it keeps a blocked one; and Python runs handlers in the main thread, which may be
busy with an import or a batch. Blocked signals are also kept over exec, so the image blocks them before Python starts.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import NoReturn

_STOPS = {getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)}
_SAME_WISH = 1.0  # seconds; make, process groups and supervisors send several signals for one stop
_FLUSH = 3.0  # seconds that the log may take at the end
_FLUSH_AT_ONCE = 0.5  # seconds likewise, when the process has to end at once


def block() -> set[int]:
    """Keep the signals until somebody waits for them; returns the mask as it was, for `restore`.

    SIGHUP is let through if it is ignored, as `nohup` asks for.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    return set(before)


def restore(mask: set[int]) -> None:
    """Undo `block`."""
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class StopSignals:
    """Waits for the signals that are blocked. The first asks for a stop in order, a later one ends the process at once.

    What comes within a second of the first is the same wish, of whatever kind. Only a second Ctrl-C on a terminal is not.
    """

    def __init__(self, close_log: Callable[[float], None]) -> None:
        """Start to wait; in the main thread. Until `on_stop` is called, a signal ends the process with exit code 0.

        `close_log` is called before the process ends, with the seconds that it may take.
        """
        import logging  # not above: `block` comes before all that takes time to import

        self._logger = logging.getLogger(__name__)
        self._close_log = close_log
        self._lock = threading.Lock()
        self._stop: Callable[[], object] | None = None
        self._awaited = _STOPS & signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)
        self._thread.start()
        for number in self._awaited:
            signal.signal(number, self._pass_on)

    def on_stop(self, stop: Callable[[], object]) -> None:
        """From now on the first signal calls `stop`, in the thread that waits."""
        with self._lock:
            self._stop = stop

    def _pass_on(self, number: int, _: object) -> None:
        # Threads that are older than the program's first line, as those of a tracer, do not block signals and get them all.
        assert self._thread.ident
        signal.pthread_kill(self._thread.ident, number)

    def _watch(self) -> None:
        number = signal.sigwait(self._awaited)
        first = time.monotonic()
        with self._lock:
            if not self._stop:
                self._logger.info("%s during the start: stopped", _name(number))
                try:
                    self._close_log(_FLUSH)
                finally:
                    os._exit(0)
            self._logger.info("%s: stopping", _name(number))
            self._stop()
        on_terminal = os.isatty(0) or os.isatty(2)
        interrupts = 0
        while True:
            interrupts += number == signal.SIGINT
            number = signal.sigwait(self._awaited)
            if time.monotonic() - first > _SAME_WISH or (on_terminal and interrupts and number == signal.SIGINT):
                break
            self._logger.info("%s: stopping already", _name(number))
        self._logger.warning("%s again: ending at once", _name(number))
        try:
            self._close_log(_FLUSH_AT_ONCE)
        finally:
            _end_by(number)


def _name(number: int) -> str:
    return signal.Signals(number).name


def _end_by(number: int) -> NoReturn:
    """End as if nobody had caught the signal."""
    import ctypes

    ctypes.pythonapi.PyOS_setsig(number, None)  # signal.signal works in the main thread alone, which may hang
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # PID 1 outlives it
