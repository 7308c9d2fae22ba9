"""The one place that maps errors to gRPC status codes, for every face."""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from service import errors, log

logger = logging.getLogger(__name__)

_CODES: dict[type[object], grpc.StatusCode] = {  # subclasses inherit
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnknownModel: grpc.StatusCode.NOT_FOUND,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
}
_PUSHBACK = (20, 2000)  # milliseconds


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ends that cannot be answered, or one request of a stream."""

    code: grpc.StatusCode
    message: str
    violations: Sequence[errors.FieldViolation] = ()
    pushback: int | None = None  # milliseconds to wait before a retry


def of(error: Exception) -> Status:
    """Map an error to a status.

    An unexpected error becomes INTERNAL with a fixed text and an id. The log has its traceback under that id, without the
    exception's message, which may contain a headline.
    """
    code = next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), None)
    if code is None:
        error_id = secrets.token_hex(8)
        logger.error("internal error %s", error_id, extra={"error_id": error_id, "traceback": log.redacted_traceback(error)})
        return Status(grpc.StatusCode.INTERNAL, f"internal error {error_id}; see the server's log")
    if isinstance(error, errors.InvalidRequest) and error.violations:
        first = error.violations[0]
        more = f" (and {len(error.violations) - 1} more)" if len(error.violations) > 1 else ""
        return Status(code, f"{error}: {first.field} {first.description}{more}", error.violations)
    if isinstance(error, errors.Overloaded):
        # Jitter: callers that were refused together should not come back together.
        wait = 1000 * error.retry_after * random.uniform(0.5, 1.5)
        return Status(code, str(error), pushback=round(min(max(wait, _PUSHBACK[0]), _PUSHBACK[1])))
    return Status(code, str(error))
