"""Everything that goes wrong on purpose, as one tree.

HeadlinesError
├── RequestError            a caller's request cannot be answered
│   ├── InvalidRequest          it is wrong; names each field
│   │   └── Malformed               its bytes are no message
│   ├── UnknownModel            it is for a model or version that is not served
│   ├── Overloaded              the queue is full; says when to come back
│   ├── DeadlineExceeded        its time was up before it was computed
│   ├── Unavailable             nothing is served now, or the server stops
│   └── Unauthenticated         no valid token
├── VersionError            a model version on disk cannot be used
│   └── Unreadable              one of its files cannot be read now; another try may succeed
├── DataError               a data set cannot be read or trained on
└── UsageError              a flag or variable is wrong

`service.status` maps the requests' half to gRPC status codes; the commands print the other half and exit.
Messages never hold a headline, an outlet or a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class HeadlinesError(Exception):
    """Root of all errors that this project raises on purpose."""


class RequestError(HeadlinesError):
    """A caller's request cannot be answered."""


class FieldViolation(NamedTuple):
    """One field of a request that is wrong."""

    field: str  # its path, such as headlines[3].text
    description: str  # what is wrong and what would be right


class InvalidRequest(RequestError):
    """The request is wrong."""

    def __init__(self, message: str, violations: Sequence[FieldViolation] = ()) -> None:
        super().__init__(message)
        self.violations = tuple(violations)


class Malformed(InvalidRequest):
    """The request's bytes are no message."""


class UnknownModel(RequestError):
    """The request names a model or a version that is not served."""


class Overloaded(RequestError):
    """The queue is full."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds


class DeadlineExceeded(RequestError):
    """The caller's deadline passed before the request was computed."""


class Unavailable(RequestError):
    """No model is loaded, or the server is stopping."""


class Unauthenticated(RequestError):
    """The call has no valid token."""


class VersionError(HeadlinesError):
    """A model version on disk is damaged, incomplete or of a kind that this program cannot serve."""


class Unreadable(VersionError):
    """A file of a model version cannot be read at the moment: an error of the system's, not of what the file holds."""

    def __init__(self, message: str, file: str, offset: int) -> None:
        super().__init__(message)
        self.file = file  # its path inside the version
        self.offset = offset  # bytes that were read before the error


class DataError(HeadlinesError):
    """A data set cannot be read or trained on."""


class UsageError(HeadlinesError):
    """A flag or environment variable is wrong; the program ends with exit code 2."""


def reason(error: OSError) -> str:
    """What an error of the system's, or of Arrow's file systems, says in one line."""
    return error.strerror or str(error).partition("\n")[0] or type(error).__name__
