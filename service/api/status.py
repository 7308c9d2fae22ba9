"""Errors to gRPC status codes: the one place where that is decided."""

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

_CODES: dict[type[errors.RequestError], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
}
_PUSHBACK = (20, 2000)  # milliseconds


@dataclass(frozen=True, slots=True)
class Status:
    """How a call or one request of a stream ends."""

    code: grpc.StatusCode
    message: str
    violations: Sequence[errors.FieldViolation] = ()
    pushback: int | None = None  # milliseconds after which to try again

    def to_proto(self) -> popularity_pb2.Error:
        """The same, to be told in the answer to one request of a stream."""
        violations = [popularity_pb2.FieldViolation(field=it.field, description=it.description) for it in self.violations]
        return popularity_pb2.Error(code=self.code.value[0], message=self.message, violations=violations)


def of(error: Exception) -> Status:
    """The status that an error becomes.

    What was not raised on purpose becomes INTERNAL with a fixed text and an id, under which the log tells where it came from;
    not its words, since they may hold a headline.
    """
    code = _CODES.get(type(error)) if isinstance(error, errors.RequestError) else None
    if code is None:
        number = secrets.token_hex(8)
        logger.error("internal error %s", number, extra={"error_id": number, "places": log.places(error)})
        return Status(grpc.StatusCode.INTERNAL, f"internal error {number}; the server's log says more under this id")
    if isinstance(error, errors.InvalidRequest) and error.violations:
        first = error.violations[0]
        more = f" (and {len(error.violations) - 1} more)" if len(error.violations) > 1 else ""
        return Status(code, f"{error}: {first.field} {first.description}{more}", error.violations)
    if isinstance(error, errors.Overloaded):
        # Scattered, so that those who were refused together do not come back together.
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
