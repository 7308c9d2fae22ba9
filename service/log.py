"""Logs: lines for people on a terminal, JSON for programs elsewhere."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from datetime import UTC, datetime

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up(level: str) -> None:
    """Send all logs of at least this level to standard error. Call it before gRPC and TensorFlow are imported."""
    # Both write in C++ of what is none of an operator's business: fork handlers, CPU features.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Text() if sys.stderr.isatty() else _Json())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in ("tensorflow", "absl", "h5py"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # service.api logs what goes wrong in a call; what is left for gRPC are tracebacks because a caller has hung up.
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(max(logging.INFO, logging.getLogger().level))


def places(error: BaseException) -> str:
    """An error as a traceback without its words, which may hold a headline: types and places alone."""
    lines: list[str] = []
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        frames = "".join(traceback.format_tb(cause.__traceback__))
        lines.insert(0, f"{frames}{type(cause).__module__}.{type(cause).__qualname__}")
        cause = cause.__cause__ or cause.__context__
    return "\nwhich led to\n".join(lines)


class _Text(logging.Formatter):
    """Lines such as `12:00:01 INFO    service.server: stopped`; what is given as extra is in the message, except places."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(filter(None, [super().format(record), getattr(record, "places", None)]))


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
        return json.dumps(fields, ensure_ascii=False, default=str)
