"""headlines.v1.PopularityService: protos to headlines, predictions to protos."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

import grpc

from headlines.v1 import popularity_pb2
from service import status
from service.api import wire
from service.api.messages import has_more_fields, parse
from service.api.middleware import Received, deadline_of, times
from service.description import ModelDescription
from service.drain import DrainGate
from service.errors import FieldViolation, InvalidRequest, Malformed, Unavailable
from service.model.explanation import Explanation
from service.model.preprocessing import Headline
from service.predictor import MAX_EXPLAINED, Predictor
from service.status import Status

SERVICE = popularity_pb2.DESCRIPTOR.services_by_name["PopularityService"]

# Requests of a stream in flight: one is computed while the next is read or the one before is written. More would only hold more
# of the queue.
_MAX_IN_FLIGHT = 2

_LARGE = 256 << 10  # bytes of a message that may hold so many empty headlines that parsing it takes significant memory

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class Popularity:
    """The servicer."""

    def __init__(
        self,
        predictor: Predictor,
        description: ModelDescription,
        *,
        stream_age: float,
        gate: DrainGate,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives the time of headlines without `posted_at`.

        Every call passes `gate`. A stream ends gracefully after `stream_age` seconds: gRPC's own maximum age of connections
        waits for streams, or cuts them off.
        """
        self._predictor = predictor
        self._description = description
        self._stream_age = stream_age
        self._clock = clock
        self._gate = gate
        self._readers: set[asyncio.Task[None]] = set()

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """The methods by name; they accept and return raw bytes."""
        return {
            "Predict": grpc.unary_unary_rpc_method_handler(self._predict),
            "PredictStream": grpc.stream_stream_rpc_method_handler(self._predict_stream),
            "Explain": grpc.unary_unary_rpc_method_handler(self._explain),
            "GetModel": grpc.unary_unary_rpc_method_handler(self._get_model),
        }

    def stop_reading(self) -> None:
        """Read no further requests from streams; what has been read is answered."""
        for reader in self._readers:
            reader.cancel()

    async def _predict(self, raw: bytes, context: _Context) -> bytes:  # noqa: ARG002
        # What `with gate`, `with admission` and `await predictor.predict` do, in 6,000 instructions less.
        predictor, gate = self._predictor, self._gate
        gate.enter()
        admission = None
        try:
            messages = wire.alone(raw) or self._parse(wire.PredictRequest, raw, predictor.limits.max_headlines).headlines
            began, deadline = times()
            admission = predictor.admit(len(messages), deadline, len(raw), began)
            headlines = wire.headlines(messages, self._clock())
            rows, version = predictor.submit(headlines, admission) or await predictor.check_and_submit(headlines, admission)
            return wire.response(await rows, version)
        finally:
            if admission and admission.taken < admission.number:
                admission.release()
            gate.leave()

    async def _predict_stream(self, requests: AsyncIterator[Received], context: _Context) -> AsyncIterator[bytes]:
        with self._gate:
            deadline = deadline_of(context)
            room = asyncio.Semaphore(_MAX_IN_FLIGHT)
            answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()  # None: there will be no more
            in_flight: set[asyncio.Task[bytes]] = set()

            async def read() -> None:
                await room.acquire()
                async for request in requests:
                    answer = asyncio.create_task(self._answer(request.raw, deadline))
                    answer.add_done_callback(lambda _, lease=request.lease: lease.release())  # type: ignore[misc]
                    in_flight.add(answer)
                    answers.put_nowait(answer)
                    await room.acquire()

            reader = asyncio.create_task(read())
            reader.add_done_callback(lambda _: answers.put_nowait(None))  # also if it is cancelled before its first step
            self._readers.add(reader)
            # Jittered, as gRPC does for connections, so that streams which began together do not come back together.
            age = self._stream_age * random.uniform(0.9, 1.1)
            expiry = asyncio.get_running_loop().call_later(age, reader.cancel)
            try:
                while answer := await answers.get():
                    yield await answer
                    in_flight.remove(answer)
                    room.release()
                if reader.cancelled():
                    why = "the server is stopping" if self._gate.closed else f"the stream has lasted {age:.0f} s"
                    raise Unavailable(f"{why}; resend unanswered requests on a new stream")
                await reader
            finally:
                expiry.cancel()
                self._readers.remove(reader)
                for task in (reader, *in_flight):
                    task.cancel()

    async def _answer(self, raw: bytes, deadline: float | None) -> bytes:
        """The answer to one request of a stream, whatever becomes of it."""
        identity = 0
        try:
            request = self._parse(wire.PredictStreamRequest, raw, self._predictor.limits.max_headlines)
            identity = request.id
            with await self._predictor.admit_bulk(len(request.headlines), deadline, len(raw)) as admission:
                headlines = wire.headlines(request.headlines, self._clock())
                predictions, version = await self._predictor.predict(headlines, admission)
            response = wire.PredictStreamResponse(id=identity, response=wire.response(predictions, version))
        except Exception as error:
            if isinstance(error, Malformed):
                identity = 0  # it means nothing if what stands beside it does not
            response = popularity_pb2.PredictStreamResponse(id=identity, error=_error(status.of(error)))
        return response.SerializeToString()  # type: ignore[no-any-return]

    async def _explain(self, raw: bytes, context: _Context) -> bytes:  # noqa: ARG002
        with self._gate:
            request = self._parse(popularity_pb2.ExplainRequest, raw, MAX_EXPLAINED)
            headlines = self._headlines(request.headlines[: MAX_EXPLAINED + 1])  # of too many, one too many is enough
            _, deadline = times()
            explained = await self._predictor.explain(headlines, deadline)
            response = popularity_pb2.ExplainResponse(model_version=explained.version)
            for each in explained.explanations:
                _fill_explanation(response.explanations.add(), each)
            return response.SerializeToString()

    async def _get_model(self, raw: bytes, context: _Context) -> bytes:  # noqa: ARG002
        with self._gate:
            parse(popularity_pb2.GetModelRequest, raw)
            return self._description.serialized()

    def _parse(self, message: Any, raw: bytes, most: int) -> Any:  # noqa: ANN401
        if len(raw) > _LARGE and has_more_fields(raw, 4 * most):  # fields of a later proto may stand beside headlines
            problem = f"holds far more than {most}; send at most {most} in a request"
            raise InvalidRequest("too many headlines", [FieldViolation("headlines", problem)])
        return parse(message, raw)

    def _headlines(self, headlines: Any) -> list[Headline]:  # noqa: ANN401
        now = self._clock()
        return [
            Headline(it.text, wire.seconds(it.posted_at) if it.HasField("posted_at") else now, it.outlet) for it in headlines
        ]


def _error(status: Status) -> popularity_pb2.Error:
    """A status as the answer to one request of a stream."""
    violations = [popularity_pb2.FieldViolation(field=it.field, description=it.description) for it in status.violations]
    return popularity_pb2.Error(code=status.code.value[0], message=status.message, violations=violations)


def _fill_explanation(explanation: popularity_pb2.Explanation, each: Explanation) -> None:
    prediction = each.prediction
    explanation.prediction.MergeFrom(popularity_pb2.Prediction(**prediction._asdict(), best=prediction.best))
    explanation.outlet_effect = each.outlet_effect
    explanation.time_effect = each.time_effect
    for word in each.words:
        explanation.words.add(**word._asdict())
