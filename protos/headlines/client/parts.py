"""Headlines as the parts of what a caller passed that fit into one request each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple, TypeVar

from headlines.client.errors import InvalidRequest, ServerError
from headlines.client.values import Explanation, FieldViolation, Headline, Prediction, WordEffect
from headlines.v1 import popularity_pb2
from headlines.v1.popularity_pb2 import ExplainResponse, PredictResponse

# What every server accepts in one request, whatever its own limits are.
MAX_HEADLINES = 128
MAX_EXPLAINED = 32  # headlines in one request to explain
MAX_BYTES = 2**20 - 16  # of headlines; the rest is for the id of a stream's request

_FRAME = 4  # bytes that a message of at most MAX_BYTES takes inside another, besides its own
_PATH = re.compile(r"headlines\[([0-9]{1,9})\]")  # longer numbers are no index of a part

H = TypeVar("H")


class Part(NamedTuple):
    """What goes into one request."""

    indexes: Sequence[int]  # where its headlines stand in what the caller passed
    messages: Sequence[popularity_pb2.Headline]

    def predictions(self, response: PredictResponse) -> list[Prediction]:
        """Raises ServerError for what cannot be the answer."""
        self._check_number(len(response.predictions), "predictions")
        return [_prediction(it, response.model_version) for it in response.predictions]

    def explanations(self, response: ExplainResponse) -> list[Explanation]:
        """Raises ServerError for what cannot be the answer."""
        self._check_number(len(response.explanations), "explanations")
        return [_explanation(it, response.model_version) for it in response.explanations]

    def _check_number(self, answers: int, name: str) -> None:
        if answers != len(self.messages):
            raise ServerError(f"the server answered {len(self.messages)} headlines with {answers} {name}")

    def cut(self, at: int) -> tuple[Part, Part]:
        """The first `at` headlines, and the rest."""
        return Part(self.indexes[:at], self.messages[:at]), Part(self.indexes[at:], self.messages[at:])

    def locate(self, field: str, description: str) -> tuple[int | None, FieldViolation]:
        """A server's violation with the caller's index: which headline of the caller's it is, if that can be told."""
        found = _PATH.match(field)
        if not found or (i := int(found[1])) >= len(self.indexes):
            return None, FieldViolation(field, description)
        return self.indexes[i], FieldViolation(f"headlines[{self.indexes[i]}]{field[found.end() :]}", description)


def iterable(headlines: H) -> H:
    """Raises TypeError for one string or Headline, which are iterable too."""
    if isinstance(headlines, (str, Headline)):
        one = "string" if isinstance(headlines, str) else "Headline"
        raise TypeError(f"headlines is one {one}; it should be a list of them")
    return headlines


def messages_of(
    headlines: Iterable[str | Headline], start: int = 0
) -> tuple[list[int], list[popularity_pb2.Headline], dict[int, InvalidRequest]]:
    """What can be sent, with the headlines' indexes counted from `start`, and what cannot, by index."""
    indexes, messages, invalid = [], [], {}
    for i, headline in enumerate(headlines, start):
        try:
            messages.append(_message(headline, i))
        except InvalidRequest as error:
            invalid[i] = error
        else:
            indexes.append(i)
    return indexes, messages, invalid


def parts_of(indexes: Sequence[int], messages: Sequence[popularity_pb2.Headline], most: int = MAX_HEADLINES) -> Iterator[Part]:
    """The messages in as few requests as every server takes, of at most so many headlines."""
    start = size = 0
    for end, message in enumerate(messages):
        more = message.ByteSize() + _FRAME
        if end - start == most or size + more > MAX_BYTES:
            yield Part(indexes[start:end], messages[start:end])
            start, size = end, 0
        size += more
    if messages:
        yield Part(indexes[start:], messages[start:])


def _prediction(message: popularity_pb2.Prediction, version: int) -> Prediction:
    if not (0 <= message.main_output <= 1 and 0 <= message.aux_output <= 1):  # NaN is not either
        raise ServerError("the server answered with a number that is not a probability")
    return Prediction(
        message.main_output,
        message.aux_output,
        message.word_count,
        message.unknown_word_count,
        message.outlet_known,
        version,
    )


def _explanation(message: popularity_pb2.Explanation, version: int) -> Explanation:
    words = tuple(WordEffect(it.word, it.known, it.main_effect, it.aux_effect, it.start, it.end) for it in message.words)
    effects = [message.outlet_effect, message.time_effect]
    for word in words:
        effects += word.main_effect, word.aux_effect
    if not all(-1 <= effect <= 1 for effect in effects):
        raise ServerError("the server answered with an effect that is not between -1 and 1")
    return Explanation(_prediction(message.prediction, version), words, message.outlet_effect, message.time_effect)


def _message(headline: str | Headline, index: int) -> popularity_pb2.Headline:
    """Raises InvalidRequest for what no server could be sent."""
    path = f"headlines[{index}]"
    if not isinstance(headline, (str, tuple)):
        raise TypeError(f"{path} is a {type(headline).__name__}; it should be a string or a Headline")
    text, posted_at, outlet = Headline(headline) if isinstance(headline, str) else Headline(*headline)
    for name, value in (("text", text), ("outlet", outlet)):
        if not isinstance(value, str):
            raise TypeError(f"{path}.{name} is a {type(value).__name__}; it should be a string")
    try:
        message = popularity_pb2.Headline(text=text, outlet=outlet)
    except UnicodeEncodeError:
        raise _invalid(index, "", "is not valid Unicode (text that was not UTF-8?)") from None
    if posted_at is not None:
        if not isinstance(posted_at, datetime):
            raise TypeError(f"{path}.posted_at is a {type(posted_at).__name__}; it should be a datetime with its zone")
        if posted_at.utcoffset() is None:
            raise _invalid(index, ".posted_at", "has no zone, such as datetime.UTC")
        try:
            message.posted_at.FromDatetime(posted_at)
        except (ValueError, OverflowError):
            raise _invalid(index, ".posted_at", "is outside the years 1 to 9999 in UTC") from None
    if (size := message.ByteSize() + _FRAME) > MAX_BYTES:
        raise _invalid(index, "", f"takes {size:,} bytes; one request holds {MAX_BYTES:,}")
    return message


def _invalid(index: int, field: str, description: str) -> InvalidRequest:
    violation = FieldViolation(f"headlines[{index}]{field}", description)
    return InvalidRequest("a headline cannot be sent", [violation], index)
