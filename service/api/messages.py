"""Raw bytes to protos, in the handlers.

gRPC would end a call whose bytes do not parse as UNKNOWN, with the exception's words and a traceback in the log.
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from service.errors import Malformed

_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}  # bytes of a field, by its wire type

_Message = TypeVar("_Message", bound=Message)


def parse(message: type[_Message], raw: bytes) -> _Message:
    """Parse `raw`; raises Malformed."""
    try:
        return message.FromString(raw)
    except DecodeError:
        raise Malformed(f"not a valid {message.DESCRIPTOR.full_name}") from None


def has_more_fields(raw: bytes, most: int) -> bool:
    """Whether a message has more than `most` fields on its top level, whichever they are.

    A field of two bytes becomes an object of some eighty, so this is asked of large messages before they are parsed. For
    malformed bytes the answer may be either; they are refused in any case.
    """
    at = 0
    for _ in range(most):
        tag, at = _varint(raw, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(raw, at)
        elif kind == _BYTES:
            size, at = _varint(raw, at)
            at += size
        else:  # the bounds of groups count as fields, and so does what is in them; wire types 6 and 7 are malformed
            at += _FIXED.get(kind, 0)
    return at < len(raw)


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """A number and the offset of its end; (0, len(raw)) if it is truncated or too long."""
    value = shift = 0
    for byte in raw[at : at + 10]:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at + shift // 7
    return 0, len(raw)
