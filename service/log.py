"""Logs: lines for people on a terminal, JSON for programs elsewhere.

    log.set_up("info")
    log.close()         # before the process ends

Who logs never waits for who reads: a record becomes a line where it is logged, and a thread writes the lines. When nobody reads
them, what is more than a megabyte is dropped and counted. What libraries write to standard error themselves, C++ included,
becomes records of the logger `stderr`.
"""

from __future__ import annotations

import atexit
import faulthandler
import json
import logging
import os
import select
import sys
import threading
import time
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from queue import SimpleQueue
from types import TracebackType

logger = logging.getLogger(__name__)

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_STDERR = 2  # the file descriptor
_MAX_LINE = 64 << 10  # bytes
_MAX_TEXT = 8 << 10  # characters of one field, in a line that would else be too long
_MAX_WAITING = 1 << 20  # bytes of lines that wait to be written
_PIPE_BYTES = 1 << 20  # that the kernel keeps of standard error until they are read here
_FLUSH = 3.0  # seconds

_writer: _Writer | None = None
_capture: _Capture | None = None


def set_up(level: str, format_: str = "auto") -> None:
    """Send all logs of at least this level to standard error, as "text", "json", or what suits it ("auto").

    Call it before gRPC and TensorFlow are imported.
    """
    global _writer, _capture
    # Both write in C++ of what is none of an operator's business: fork handlers, CPU features.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _open_closed_streams()
    terminal = os.isatty(_STDERR)
    as_text = format_ == "text" or (format_ == "auto" and terminal)
    real = os.dup(_STDERR)
    _writer = _Writer(real, _Text() if as_text else _Json(), (as_text and getattr(sys.stderr, "encoding", None)) or "utf-8")
    logging.basicConfig(level=level.upper(), handlers=[_writer], force=True)
    logging.captureWarnings(True)
    for name in ("tensorflow", "absl", "h5py"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # service.api logs what goes wrong in a call; what is left for gRPC are tracebacks because a caller has hung up.
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(max(logging.INFO, logging.getLogger().level))
    _log_uncaught()
    faulthandler.enable(real)  # not to what is captured: after a crash nobody reads it
    if not (terminal and as_text):
        _capture = _Capture(_writer, real)
    atexit.register(close)


def close(seconds: float = _FLUSH) -> None:
    """Write what waits, for so many seconds at most, and let standard error be as it was. `os._exit` needs it before."""
    end = time.monotonic() + seconds
    if _capture:
        _capture.end(seconds)
    if _writer:
        _writer.drain(end - time.monotonic())


def dropped() -> int:
    """How many lines were not written, since nobody reads them or standard error is broken."""
    return _writer.dropped if _writer else 0


def redacted_traceback(error: BaseException) -> str:
    """An error as a traceback without its words, which may hold a headline: types and places only."""
    lines: list[str] = []
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        frames = "".join(traceback.format_tb(cause.__traceback__))
        lines.insert(0, f"{frames}{type(cause).__module__}.{type(cause).__qualname__}")
        cause = cause.__cause__ or cause.__context__
    return "\nwhich led to\n".join(lines)


class _Writer(logging.Handler):
    """Writes lines to a file descriptor in a thread of its own."""

    def __init__(self, descriptor: int, formatter: logging.Formatter, encoding: str) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._descriptor = descriptor
        self._encoding = encoding
        # Not queue.Queue, which hangs when it is used while it is used, as by a destructor that logs.
        self._queue: SimpleQueue[bytes | threading.Event] = SimpleQueue()
        self._enqueued = 0  # bytes; changed under the handler's lock only, as is _refused
        self._refused = 0  # lines
        self._taken = 0  # bytes; changed by the thread only, as is _failed
        self._failed = 0  # lines
        self._writing = threading.Lock()  # never taken by who logs
        threading.Thread(target=self._run, name="log", daemon=True).start()

    @property
    def dropped(self) -> int:
        return self._refused + self._failed

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._line(record)
        except Exception:
            self.handleError(record)
            return
        if self._enqueued - self._taken + len(line) > _MAX_WAITING:
            self._refused += 1
            return
        self._enqueued += len(line)
        self._queue.put(line)

    def flush(self) -> None:
        self.drain(_FLUSH)

    def drain(self, seconds: float) -> None:
        """Wait until what is enqueued now is written, for so many seconds at most."""
        done = threading.Event()
        self._queue.put(done)
        done.wait(max(seconds, 0))

    def write(self, record: logging.LogRecord) -> bool:
        """Write a record before those that wait, and say whether that went well. It may wait for who reads."""
        return self._write(self._line(record))

    def _line(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode(self._encoding, "backslashreplace") + b"\n"

    def _run(self) -> None:
        told = 0
        while True:
            item = self._queue.get()
            if isinstance(item, bytes):
                self._failed += not self._write(item)
                self._taken += len(item)
            if (total := self.dropped) > told and (isinstance(item, threading.Event) or self._queue.empty()):
                arguments = ("%d log lines were dropped", (total - told,), None)
                if self.write(logger.makeRecord(logger.name, logging.WARNING, "", 0, *arguments)):
                    told = total
            if isinstance(item, threading.Event):
                item.set()

    def _write(self, line: bytes) -> bool:
        with self._writing:  # else a line could break another one
            while line:
                try:
                    line = line[os.write(self._descriptor, line) :]
                except BlockingIOError:  # another process has set what it shares with this one to be non-blocking
                    poll = select.poll()
                    poll.register(self._descriptor, select.POLLOUT)
                    poll.poll()
                except OSError:  # nobody will ever read it, or the disk is full: no reason to stop serving
                    return False
        return True


class _Capture:
    """What is written to standard error's file descriptor becomes records, whatever the level of the log.

    They go before others: when a library aborts the process, there are but moments for what it wrote last.
    """

    def __init__(self, writer: _Writer, real: int) -> None:
        self._writer = writer
        self._real = real
        self._pipe, end = os.pipe()
        if sys.platform == "linux":
            import fcntl

            with suppress(OSError):  # beyond what a user may have
                fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.set_blocking(end, False)  # who writes while holding the interpreter lock would wait for the reader for ever
        os.dup2(end, _STDERR)
        os.close(end)
        self._thread = threading.Thread(target=self._run, name="stderr", daemon=True)
        self._thread.start()

    def end(self, seconds: float) -> None:
        """Give standard error back, and wait until what was written before is logged, for so many seconds at most."""
        if sys.stderr:  # there is none if it was closed when Python started
            with suppress(OSError):
                sys.stderr.flush()
        os.dup2(self._real, _STDERR)  # which closes the pipe
        self._thread.join(seconds)

    def _run(self) -> None:
        rest = b""
        while chunk := os.read(self._pipe, _MAX_LINE // 4):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) >= _MAX_LINE // 2:  # no line is that long
                lines.append(rest)
                rest = b""
            for line in lines:
                self._log(line)
        self._log(rest)

    def _log(self, line: bytes) -> None:
        if text := line.decode("utf-8", "backslashreplace").rstrip():
            self._writer.write(logger.makeRecord("stderr", logging.INFO, "", 0, "%s", (text,), None))


def _open_closed_streams() -> None:
    """Open /dev/null in place of a standard stream that is closed; a socket would be in its place else, and be written to."""
    for descriptor in (0, 1, _STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _log_uncaught() -> None:
    """Let exceptions that nobody catches be one record each, without their words."""

    def in_main_thread(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:  # noqa: ARG001
        logger.critical("uncaught exception", extra={"traceback": redacted_traceback(error)})

    def in_thread(arguments: threading.ExceptHookArgs) -> None:
        name = arguments.thread.name if arguments.thread else "a thread"
        extra = {"traceback": redacted_traceback(arguments.exc_value)} if arguments.exc_value else None
        logger.error("uncaught exception in %s", name, extra=extra)

    def in_destructor(arguments: sys.UnraisableHookArgs) -> None:
        extra = {"traceback": redacted_traceback(arguments.exc_value)} if arguments.exc_value else None
        logger.warning("exception ignored", extra=extra)

    sys.excepthook = in_main_thread
    threading.excepthook = in_thread
    sys.unraisablehook = in_destructor


class _Text(logging.Formatter):
    """Lines such as `12:00:01 INFO    service.server: stopped`; the message says what is extra, except a traceback."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return _cut("\n".join(filter(None, [super().format(record), getattr(record, "traceback", None)])), _MAX_LINE)


class _Json(logging.Formatter):
    """One object a line: time, level, logger, message, what was given as extra, exception."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _STANDARD},
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        line = json.dumps(fields, ensure_ascii=False, default=str)
        if len(line) > _MAX_LINE:
            fields = {name: _cut(value, _MAX_TEXT) if isinstance(value, str) else value for name, value in fields.items()}
            line = json.dumps(fields, ensure_ascii=False, default=str)
        return line


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]} ... ({len(text) - length} characters more)"
