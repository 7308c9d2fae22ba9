"""The client's errors, and how gRPC's become these."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status

from headlines.client.values import FieldViolation

_SHOWN = 3  # violations in an error's text
_LONGEST = 1_000  # characters of a server's text in an error's text
_DETAILS = "grpc-status-details-bin"
_HEADLINE = re.compile(r"headlines\[([0-9]{1,9})\]")  # as a whole, not one of its fields
# gRPC says RESOURCE_EXHAUSTED of these too, on either side; a full queue passes, these do not.
_TOO_LARGE = re.compile(r"larger than max|metadata size exceeds|metadata too large", re.IGNORECASE)

# One violation of a server's, by the caller's index of the headline if that can be told.
Locate = Callable[[str, str], tuple[int | None, FieldViolation]]

TOO_LATE = "the time was up before all was answered"


class ClientError(Exception):
    """Root of all errors that a client raises on purpose."""


class InvalidSetting(ClientError, ValueError):
    """A parameter of the client or of a method, such as `target` or `timeout`, is wrong."""


class InvalidRequest(ClientError):
    """What was asked is malformed."""

    def __init__(self, message: str, violations: Sequence[FieldViolation] = (), index: int | None = None) -> None:
        super().__init__(message)
        self.violations = tuple(violations)
        self.index = index  # of the first malformed headline in what the caller passed, from 0; None: no single headline

    def __str__(self) -> str:
        shown = [f"{violation.field}: {violation.description}" for violation in self.violations[:_SHOWN]]
        rest = len(self.violations) - len(shown)
        return _shortened("; ".join([*shown, f"and {rest} more"] if rest else shown) or super().__str__())


class Overloaded(ClientError):
    """The server's queue is full, and stayed so while the client tried again."""


class DeadlineExceeded(ClientError):
    """The time was up before all answers were there."""


class Unavailable(ClientError):
    """No server can be reached, or it serves no model."""


class Unauthenticated(ClientError):
    """The token is missing or wrong."""


class ServerError(ClientError):
    """The server failed, or is no headline popularity service."""


_ERRORS: dict[grpc.StatusCode, type[ClientError]] = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
}


class Broken(grpc.RpcError):
    """A call that is of no more use, although gRPC has not said so."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        """As grpc.Call has it."""
        return self._code

    def details(self) -> str:
        """As grpc.Call has it."""
        return self._details


def unreadable() -> Broken:
    """What grpc.aio answers with None, and grpc with an error like this."""
    return Broken(grpc.StatusCode.INTERNAL, "the server's answer is no message of headlines.v1")


def is_outage(error: grpc.RpcError) -> bool:
    """Whether no server could be reached, or one that is stopping refused the call."""
    return error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def is_overload(error: grpc.RpcError) -> bool:
    """Whether the server has too much to do at present."""
    return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and not _TOO_LARGE.search(error.details() or "")


def refused_from(error: grpc.RpcError) -> int | None:
    """The headline of a request for which and for those behind it the server has no room; None: it says nothing like that."""
    if error.code() is grpc.StatusCode.INVALID_ARGUMENT and len(found := _violations(error)) == 1:
        field = _HEADLINE.fullmatch(found[0][0])
        return int(field[1]) if field else None
    return None


def translated(error: grpc.RpcError, locate: Locate | None = None) -> ClientError:
    """The ClientError for an error of gRPC's; `locate` puts a server's violations into the caller's terms."""
    if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
        found = _violations(error)
        located = [locate(*it) if locate else (None, FieldViolation(*it)) for it in found]
        violations = [violation for _, violation in located]
        index = min((i for i, _ in located if i is not None), default=None)
        return InvalidRequest(_text(error.code(), error.details()), violations, index)
    return from_status(error.code(), error.details())


def from_status(code: grpc.StatusCode, details: str | None) -> ClientError:
    """The ClientError for a status other than INVALID_ARGUMENT."""
    text = _text(code, details)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE.search(text):
        return ServerError(f"a message is larger than its receiver allows: {text}")
    return _ERRORS.get(code, ServerError)(text)


def _text(code: grpc.StatusCode, details: str | None) -> str:
    return _shortened(details or f"the server answered with the status {code.name} and no message")


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."


def _violations(error: grpc.RpcError) -> list[tuple[str, str]]:
    """Fields and descriptions of the google.rpc.BadRequest in a status; empty if what is there cannot be read."""
    found = []
    trailers = getattr(error, "trailing_metadata", lambda: None)() or ()
    for value in (value for key, value in trailers if key == _DETAILS):
        try:
            for detail in Status.FromString(value).details:
                bad = BadRequest()
                if detail.Unpack(bad):
                    found += [(it.field, it.description) for it in bad.field_violations]
        except (DecodeError, ValueError):
            continue
    return found
