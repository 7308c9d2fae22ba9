"""The one place that maps errors to gRPC status codes."""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from headlines.v1 import popularity_pb2
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
    """The status of a call, or of one request of a stream."""

    code: grpc.StatusCode
    message: str
    violations: Sequence[errors.FieldViolation] = ()
    pushback: int | None = None  # milliseconds to wait before a retry

    def to_proto(self) -> popularity_pb2.Error:
        """The status as the answer to one request of a stream."""
        violations = [popularity_pb2.FieldViolation(field=it.field, description=it.description) for it in self.violations]
        return popularity_pb2.Error(code=self.code.value[0], message=self.message, violations=violations)


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


async def abort(context: grpc.aio.ServicerContext[Any, Any], status: Status) -> NoReturn:
    """End a call with this status."""
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    if status.violations:
        details = AnyMessage()
        details.Pack(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=it.field, description=it.description)
                    for it in status.violations
                ]
            )
        )
        rich = status_pb2.Status(code=status.code.value[0], message=status.message, details=[details])
        metadata = tuple(rpc_status.to_status(rich).trailing_metadata)
    if status.pushback is not None:
        metadata = (*metadata, ("grpc-retry-pushback-ms", str(status.pushback)))
    await context.abort(status.code, status.message, metadata)
    raise AssertionError  # abort always raises
