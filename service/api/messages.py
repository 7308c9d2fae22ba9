"""Raw bytes to protos, in the handlers.

gRPC would end a call whose bytes do not parse as UNKNOWN, with the exception's words and a traceback in the log.
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from service.errors import InvalidRequest

_Message = TypeVar("_Message", bound=Message)


def parse(message: type[_Message], raw: bytes) -> _Message:
    """The message that these bytes are; raises InvalidRequest where they are none."""
    try:
        return message.FromString(raw)
    except DecodeError:
        raise InvalidRequest(f"these bytes are no {message.DESCRIPTOR.full_name}") from None
