"""What a predict_stream has taken in, sent and got back, whatever moves the messages."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol

import grpc

from headlines.client.errors import Broken, InvalidRequest, ServerError, from_status, is_outage, is_overload
from headlines.client.parts import MAX_HEADLINES, Part, messages_of, parts_of
from headlines.client.retries import Retries
from headlines.client.values import Headline, Prediction
from headlines.v1 import popularity_pb2
from headlines.v1.popularity_pb2 import PredictStreamRequest, PredictStreamResponse

_WINDOW = 4  # requests of one stream without an answer: two inside the server, two on their way to it
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_CORE = "Internal error from Core"


class Source(Protocol):
    """Headlines as they come."""

    @property
    def ended(self) -> bool:
        """Whether all have been taken."""

    @property
    def error(self) -> BaseException | None:
        """What the caller's iterable raised instead of its end."""

    def at_hand(self, whole: bool) -> bool:
        """Whether `take` would return any."""

    def take(self, whole: bool) -> Sequence[str | Headline]:
        """Up to MAX_HEADLINES of those that are there; with `whole`, none unless these are so many or the last."""


class Bulk:
    """The state of one predict_stream.

    Every headline is in one place: in a part that is unsent or unanswered, or among the answers, which are handed out in
    order. Their number is bounded: none is taken in while _WINDOW parts, or as many answers, are here.

    A request is sent with fewer than MAX_HEADLINES only when no other is without its answer: so a slow source is answered
    headline by headline, and a fast one in full requests, without a timer.
    """

    def __init__(self, source: Source, retries: Retries) -> None:
        self._source = source
        self._retries = retries
        self._unsent: deque[Part] = deque()
        self._unanswered: dict[int, Part] = {}  # by the id of its request, in the order of sending
        self._answers: dict[int, Prediction | InvalidRequest] = {}  # by the index of the headline
        self._taken_in = 0
        self._handed_out = 0
        self._last_id = 0
        self._last_error: grpc.RpcError | None = None  # since the last answer

    def fill(self) -> bool:
        """Take in what there is and has room; false when all is done. Raises what the source raised, after all before it."""
        while self._has_room() and self._source.at_hand(self.awaits_response):
            headlines = self._source.take(self.awaits_response)
            indexes, messages, invalid = messages_of(headlines, self._taken_in)
            self._unsent.extend(parts_of(indexes, messages))
            self._answers.update(invalid)
            self._taken_in += len(headlines)
        if self.awaits_response or self._answers or not self._source.ended:
            return True
        if self._source.error:
            raise self._source.error
        return False

    def can_go_on(self) -> bool:
        """Whether there is something to do without an answer of the server's."""
        if self.awaits_response or not self._source.ended:
            return (
                bool(self._unsent)
                or self._handed_out in self._answers
                or (self._has_room() and self._source.at_hand(self.awaits_response))
            )
        return True

    def _has_room(self) -> bool:
        parts = len(self._unsent) + len(self._unanswered)
        return parts < _WINDOW and len(self._answers) < _WINDOW * MAX_HEADLINES

    @property
    def awaits_response(self) -> bool:
        """Whether an answer of the server's is to come."""
        return bool(self._unsent or self._unanswered)

    def requests(self) -> Iterator[PredictStreamRequest]:
        """What is to be sent now."""
        while self._unsent:
            self._last_id += 1
            part = self._unanswered[self._last_id] = self._unsent.popleft()
            yield PredictStreamRequest(id=self._last_id, headlines=part.messages)

    def receive(self, response: PredictStreamResponse) -> None:
        """Raises grpc.RpcError when the stream is of no more use; ClientError when no stream would be."""
        part = self._unanswered.get(response.id)
        if part is None:
            raise ServerError(f"the server answered what it was not asked: {response.error.message[:200] or response.id}")
        if response.HasField("error"):
            error = response.error
            broken = Broken(_CODES.get(error.code, grpc.StatusCode.UNKNOWN), error.message)
            if is_outage(broken) or is_overload(broken):
                raise broken
            if broken.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                raise from_status(broken.code(), error.message)
            self._refuse(part, error)
        else:
            self._answers.update(zip(part.indexes, part.predictions(response.response), strict=True))
        del self._unanswered[response.id]
        self._last_error = None
        self._retries.answered()

    def _refuse(self, part: Part, error: popularity_pb2.Error) -> None:
        """Take what the server finds wrong out of the part, and send the rest again."""
        located = [part.locate(violation.field, violation.description) for violation in error.violations]
        wrong = {index for index, _ in located if index is not None}
        if not wrong:
            raise InvalidRequest(error.message, [violation for _, violation in located])
        for index in wrong:
            violations = [violation for other, violation in located if other == index]
            self._answers[index] = InvalidRequest(error.message, violations, index)
        if rest := [(index, it) for index, it in zip(part.indexes, part.messages, strict=True) if index not in wrong]:
            self._unsent.appendleft(Part([index for index, _ in rest], [it for _, it in rest]))

    def answers(self) -> Iterator[Prediction | InvalidRequest]:
        """Those whose turn it is."""
        while self._handed_out in self._answers:
            yield self._answers.pop(self._handed_out)
            self._handed_out += 1

    def interrupted(self, error: grpc.RpcError) -> float:
        """Seconds to wait before what has no answer is sent over a new stream. Raises ClientError when there is no use."""
        if not self.awaits_response:  # an idle connection has grown old
            return 0.0
        if error.details() == _CORE:
            # What grpc.aio says of a write after the server's end; it hides why (grpc/grpc#36066). A further try may tell.
            error = self._last_error or Broken(grpc.StatusCode.UNAVAILABLE, "the server ended the stream")
        self._last_error = error
        pause = self._retries.pause(error)
        self._unsent.extendleft(reversed(self._unanswered.values()))
        self._unanswered.clear()
        return pause
