"""Predict's messages from bytes and to bytes, without an object of protobuf's for each headline.

    messages = wire.alone(raw) or parse(wire.PredictRequest, raw).headlines
    headlines = wire.headlines(messages, now=time.time())
    raw = wire.response(predictions, version=7)

To reach each field of each headline through protobuf's objects takes longer than to compute the predictions. So protobuf cuts a
request into its headlines, and a headline is read here if it is written as all libraries write it: text, time and outlet in
this order, each once. All others are protobuf's to read. A response is, byte for byte, what protobuf would make of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from struct import Struct
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from headlines.v1 import popularity_pb2
from service.errors import Malformed
from service.model.preprocessing import Fields
from service.model.version import Prediction, PredictionFields

_Field = descriptor_pb2.FieldDescriptorProto

# Tags: a field's number and wire type.
_HEADLINES = 0x0A
_TEXT, _POSTED_AT, _OUTLET = 0x0A, 0x12, 0x1A
_PREDICTIONS = 0x0A
_MAIN_OUTPUT, _AUX_OUTPUT, _BEST = 0x0D, 0x15, 0x35

# A number is written in groups of seven bits, the lowest first, with a bit in all but the last byte that says that it goes on.
_MORE = 0x80
_LAST = 0x7F  # what a number's last byte is, at most
# A time of whole seconds from 1978 to 3058, which have five bytes; and what their bits that say so are worth.
_TIME = Struct("<3s5B")
_TIME_SIZE = _TIME.size
_unpack_time = _TIME.unpack_from
_TIME_HEAD = bytes([_POSTED_AT, 6, 0x08])
_TIME_SURPLUS = float(_MORE * (1 + (1 << 7) + (1 << 14) + (1 << 21)))

_LEAST = 1e-37  # no smaller number is certain not to be 0 as a float32, which protobuf leaves out


def _message(name: str, **fields: tuple[int, int, int]) -> Any:  # noqa: ANN401
    """A class of messages with these fields: number, type, label."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package="headlines.v1", syntax="proto3")
    message = file.message_type.add(name=name)
    for field, (number, type_, label) in fields.items():
        message.field.add(name=field, number=number, type=type_, label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{name}"))


# The API's messages of these names, with bytes in place of the messages inside.
PredictRequest = _message("PredictRequest", headlines=(1, _Field.TYPE_BYTES, _Field.LABEL_REPEATED))
PredictStreamRequest = _message(
    "PredictStreamRequest",
    id=(1, _Field.TYPE_INT64, _Field.LABEL_OPTIONAL),
    headlines=(2, _Field.TYPE_BYTES, _Field.LABEL_REPEATED),
)
PredictStreamResponse = _message(
    "PredictStreamResponse",
    id=(1, _Field.TYPE_INT64, _Field.LABEL_OPTIONAL),
    response=(2, _Field.TYPE_BYTES, _Field.LABEL_OPTIONAL),
)


def alone(raw: bytes) -> tuple[bytes] | None:
    """The one headline of a PredictRequest that holds nothing else, as most do; None if it holds more, or none."""
    try:
        if raw[0] == _HEADLINES:
            length = raw[1]
            if length <= _LAST:
                if length == len(raw) - 2:
                    return (raw[2:],)
            elif raw[2] <= _LAST and length + (raw[2] << 7) - _MORE == len(raw) - 3:
                return (raw[3:],)
    except IndexError:
        pass
    return None


def headlines(messages: Iterable[bytes], now: float) -> list[Fields]:
    """The headlines of a request; `now` is the time of those without one. Raises Malformed."""
    try:
        return [_usual(message, now) or _any(message, now) for message in messages]
    except DecodeError:
        raise Malformed(f"not a valid {popularity_pb2.Headline.DESCRIPTOR.full_name}") from None


def seconds(timestamp: Timestamp) -> float:
    """Seconds since 1970; NaN, which the predictor refuses by the field's name, if the nanoseconds are out of range."""
    if not 0 <= timestamp.nanos < 1_000_000_000:
        return math.nan
    next_second = timestamp.seconds + 1  # to which a double may round the last nanoseconds
    return min(timestamp.seconds + timestamp.nanos / 1e9, math.nextafter(next_second, -math.inf))


def response(predictions: Iterable[PredictionFields], version: int) -> bytes:
    """A PredictResponse."""
    parts = []
    for main, aux, words, unknown, known in predictions:
        if main >= _LEAST and aux >= _LEAST:
            pack, head, middle = _frame(words, unknown, known)
            parts.append(pack(head, main, _AUX_OUTPUT, aux, middle, _BEST, main if known else aux))
        else:
            parts.append(_rare(Prediction(main, aux, words, unknown, known)))
    parts.append(_version(version))
    return b"".join(parts)


def _usual(message: bytes, now: float) -> Fields | None:
    """A headline if it is written in the usual way, else None."""
    try:
        start, length = 2, message[1]
        if length > _LAST:
            if message[2] > _LAST:
                return None
            start, length = 3, length + (message[2] << 7) - _MORE
        end = start + length
        text = message[start:end].decode()
        left = len(message) - end
        if message[0] != _TEXT or left < 0:
            return None
        if left >= _TIME_SIZE and message[end] == _POSTED_AT:
            head, a, b, c, d, e = _unpack_time(message, end)
            if head != _TIME_HEAD or a <= _LAST or b <= _LAST or c <= _LAST or d <= _LAST or e > _LAST:
                return None
            now = a + 128.0 * b + 16_384.0 * c + 2_097_152.0 * d + 268_435_456.0 * e - _TIME_SURPLUS
            end += _TIME_SIZE
            left -= _TIME_SIZE
        if not left:
            return text, now, ""
        if message[end] != _OUTLET or message[end + 1] != left - 2 or left > _LAST:
            return None
        return text, now, message[end + 2 :].decode()
    except (IndexError, UnicodeDecodeError):
        return None


def _any(message: bytes, now: float) -> Fields:
    """A headline as protobuf reads it."""
    headline = popularity_pb2.Headline.FromString(message)
    return headline.text, seconds(headline.posted_at) if headline.HasField("posted_at") else now, headline.outlet


@lru_cache(4096)
def _frame(words: int, unknown: int, known: bool) -> tuple[Callable[..., bytes], bytes, bytes]:
    """What packs a Prediction with these counts as a field of a response, what begins it, and the bytes of the counts."""
    middle = popularity_pb2.Prediction(word_count=words, unknown_word_count=unknown, outlet_known=known).SerializeToString()
    struct = Struct(f"<3sfBf{len(middle)}sBf")
    return struct.pack, bytes([_PREDICTIONS, struct.size - 2, _MAIN_OUTPUT]), middle


def _rare(prediction: Prediction) -> bytes:
    """The same for any outputs."""
    message = popularity_pb2.Prediction(**prediction._asdict(), best=prediction.best)
    return popularity_pb2.PredictResponse(predictions=[message]).SerializeToString()


@lru_cache(16)
def _version(version: int) -> bytes:
    """The end of a response."""
    return popularity_pb2.PredictResponse(model_version=version).SerializeToString()
