"""The client for plain code."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from functools import partial
from queue import SimpleQueue
from typing import Any, ClassVar, NamedTuple, Self, cast

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from headlines.client.bulk import Bulk
from headlines.client.caller import (
    FINISH_TIMEOUT,
    INBOX,
    NO_ROOM,
    OVERLOAD_TRIES,
    Answer,
    Call,
    Caller,
    closed,
    explain,
    predict,
)
from headlines.client.connection import Connection
from headlines.client.errors import TOO_LATE, Broken, DeadlineExceeded, InvalidRequest
from headlines.client.parts import iterable
from headlines.client.settings import Deadline
from headlines.client.sources import source_of
from headlines.client.values import Explanation, Headline, Prediction
from headlines.v1.popularity_pb2 import (
    GetModelRequest,
    GetModelResponse,
    PredictStreamRequest,
    PredictStreamResponse,
)


class Client(Caller):
    """A service's client for plain code; threads may share it, and a process that was forked may go on using it.

        with Client("news.example:443", tls=True, token="...") as client:
            [prediction] = client.predict(["Storm closes every school"])

    `target` is host:port, or any gRPC name: `dns:///host:port` calls all addresses of the host in turn. A proxy that the
    environment names (`http_proxy`) is used unless the target is this machine itself.

    `timeout` is in seconds and holds for a whole call of a method, all tries included, unless that call names its own;
    math.inf is no limit. While the server is away, as in a restart, a call is tried again until its timeout is over; without
    one, until there was no progress for 60 s. A client that no server has ever answered gives up after a third of that, but not
    before 2 s: there a wrong address is likelier than a restart.

    `tls` is true for the usual authorities, or `grpc.ssl_channel_credentials(...)` for others and for a certificate of the
    caller's own; `tls_server_name` is the name in the server's certificate, if that is not the target's host. `token`
    goes with every call as `authorization: Bearer`; without TLS, whoever is on the way can read it.

    Raises InvalidSetting, which is a ValueError, for a malformed parameter, and TypeError for one of a wrong type.
    """

    _library: ClassVar[Any] = grpc
    _semaphore: ClassVar[Any] = threading.Semaphore

    def predict(
        self, headlines: Iterable[str | Headline], *, timeout: float | None = None, one_version: bool = False
    ) -> list[Prediction]:
        """One prediction a headline, in the same order.

        More than MAX_HEADLINES headlines or MAX_BYTES are sent as several requests, some at a time; these may meet
        different model versions when the server changes to a new one. `one_version` refuses what needs several. A client has
        at most 32 requests in flight; others wait for these, as long as the timeout allows.

        Raises ClientError; TypeError for what is no headline.
        """
        deadline = self._deadline(timeout)
        start = partial(self._start, "Predict", deadline)
        return _run(predict(start, headlines, self._retries(deadline), one_version))

    def explain(self, headlines: Iterable[str | Headline], *, timeout: float | None = None) -> list[Explanation]:
        """What moves the score of each headline: its words, its outlet and its time, by leaving out one at a time.

            [explanation] = client.explain(["Storm closes every school"])
            max(explanation.words, key=lambda word: word.aux_effect)

        Lists of any length are sent as several requests, of 32 headlines or of fewer if these are more work than the server
        does in one. A headline is as much work as up to 270 predictions.

        Raises ClientError, also a ServerError if the server is too old to explain; TypeError for what is no headline.
        """
        deadline = self._deadline(timeout)
        start = partial(self._start, "Explain", deadline)
        return _run(explain(start, headlines, self._retries(deadline)))

    def predict_stream(
        self, headlines: Iterable[str | Headline], *, timeout: float | None = None
    ) -> Iterator[Prediction | InvalidRequest]:
        """One answer a headline, in the same order, for any number of headlines; they are taken as there is room for them.

            for answer in client.predict_stream(headlines):
                if isinstance(answer, Prediction): ...

        Answers come as soon as the server has given them, also when the next headline is long in coming. For this, an iterable
        that is no collection (a generator, a file) is read in a thread of its own; what belongs to the caller's thread, such
        as an sqlite3 cursor, is passed as a list. Some hundred headlines are taken ahead of their answers. What the
        iterable raises is raised here, after the answers to what came before.

        A malformed headline is answered by an InvalidRequest and harms no other. When the connection ends, what has no
        answer is sent again over a new one. `timeout` is for everything together; None: no limit.

        Raises ClientError if no further answer is to be had; TypeError for what is no headline.
        """
        self._connection()  # raises if the client is closed
        deadline = self._stream_deadline(timeout)
        return self._stream(iterable(headlines), deadline)

    def _stream(self, headlines: Iterable[str | Headline], deadline: Deadline) -> Iterator[Prediction | InvalidRequest]:
        changed = threading.Condition()
        source = source_of(headlines, changed)
        bulk = Bulk(source, self._retries(deadline, OVERLOAD_TRIES))
        stream = None
        try:
            while bulk.fill():
                try:
                    if bulk.awaits_response:
                        stream = stream or _Stream(self._connection(), deadline, self._metadata, changed)
                        for request in bulk.requests():
                            stream.write(request)
                    while stream and stream.inbox:
                        bulk.receive(stream.read())
                except grpc.RpcError as error:
                    if stream:
                        stream.cancel()
                    stream = None
                    time.sleep(bulk.interrupted(error))
                yield from bulk.answers()
                with changed:
                    if not changed.wait_for(partial(_has_work, bulk, stream), deadline.left()):
                        raise DeadlineExceeded(TOO_LATE)
            if stream:
                stream.finish()
        finally:
            source.stop()
            if stream:
                stream.cancel()

    def model(self, *, timeout: float | None = None) -> GetModelResponse:
        """What is served, as popularity.proto describes it; `version` is 0 if no model is. Raises ClientError."""
        deadline = self._deadline(timeout)
        retries = self._retries(deadline)
        while True:
            connection = self._connection()
            try:
                response: GetModelResponse = self._ask(connection, connection.stub.GetModel, GetModelRequest(), deadline)
            except grpc.RpcError as error:
                time.sleep(retries.pause(error))
            else:
                retries.answered()
                return response

    def health(self, *, timeout: float | None = None) -> bool:
        """Whether the server says that it can answer. Raises Unavailable if no server is reached, and other ClientErrors."""
        connection = self._connection()
        try:
            serving: bool = self._ask(connection, connection.check, StringValue(), self._deadline(timeout)).value == 1
        except grpc.RpcError as error:
            raise self._error(error) from error
        return serving

    def close(self) -> None:
        """End the connection, and all calls."""
        self._closed = True
        if connection := self._connections.pop(os.getpid(), None):
            for channel in connection.channels:
                channel.close()

    def __enter__(self) -> Self:
        if self._closed:
            raise closed()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connection(self) -> Connection:
        return self._connection_of(os.getpid())

    def _start(self, method: str, deadline: Deadline, request: object, pause: float, alone: bool) -> Call:
        if alone or pause:
            return _Blocking(partial(self._call, method, request, deadline, pause))
        connection = self._enter(deadline)
        call = getattr(connection.stub, method).future(request, timeout=deadline.left(), metadata=self._metadata)
        call.add_done_callback(lambda _: connection.room.release())
        return cast(Call, call)

    def _call(self, method: str, request: object, deadline: Deadline, pause: float) -> Any:  # noqa: ANN401
        time.sleep(pause)
        connection = self._enter(deadline)
        try:
            return self._ask(connection, getattr(connection.stub, method), request, deadline)
        finally:
            connection.room.release()

    def _enter(self, deadline: Deadline) -> Connection:
        """The connection, as soon as there is room for a call."""
        connection = self._connection()
        if not connection.room.acquire(timeout=deadline.left()):
            raise DeadlineExceeded(NO_ROOM)
        return connection

    def _ask(self, connection: Connection, method: Callable[..., Any], request: object, deadline: Deadline) -> Any:  # noqa: ANN401
        if deadline.passed():  # gRPC rounds up
            raise DeadlineExceeded(TOO_LATE)
        try:
            response = method(request, timeout=deadline.left(), metadata=self._metadata)
        except grpc.RpcError as error:
            connection.failed(error)
            raise
        except ValueError:  # as gRPC has it when another thread closed the channel
            if self._closed:
                raise closed() from None
            raise
        connection.answered()
        return response


class _Blocking(NamedTuple):
    """A call that is made when it is waited for, in the waiting thread: that takes 0.13 ms less than gRPC's futures."""

    result: Callable[[], Any]

    def cancel(self) -> None:
        pass


def _run(steps: Generator[Call, Any, list[Answer]]) -> list[Answer]:
    with closing(steps):
        try:
            call = next(steps)
            while True:
                try:
                    response = call.result()
                except grpc.RpcError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(response)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def _has_work(bulk: Bulk, stream: _Stream | None) -> bool:
    return bool(stream and stream.inbox) or bulk.can_go_on()


class _Stream:
    """One call of PredictStream, whose responses a thread puts into `inbox`; `changed` is notified of them."""

    def __init__(
        self, connection: Connection, deadline: Deadline, metadata: tuple[tuple[str, str], ...], changed: threading.Condition
    ) -> None:
        self._connection = connection
        self._requests: SimpleQueue[PredictStreamRequest | None] = SimpleQueue()
        self.write = self._requests.put
        self.inbox: deque[PredictStreamResponse | grpc.RpcError] = deque()
        self._changed = changed
        self._ended = False
        self._call = connection.predict_stream(iter(self._requests.get, None), timeout=deadline.left(), metadata=metadata)
        threading.Thread(target=self._receive, name="headlines", daemon=True).start()

    def read(self) -> PredictStreamResponse:
        """The next response of the inbox. Raises grpc.RpcError at the stream's end."""
        response = self.inbox.popleft()
        with self._changed:
            self._changed.notify_all()
        if isinstance(response, grpc.RpcError):
            self._connection.failed(response)
            raise response
        self._connection.answered()
        return response

    def finish(self) -> None:
        """Let the server end the stream: one that is cancelled counts as a failure there."""
        self._requests.put(None)
        with self._changed:
            self._changed.wait_for(lambda: self._ended, FINISH_TIMEOUT)

    def cancel(self) -> None:
        """End the stream and its threads."""
        self._requests.put(None)
        self._call.cancel()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _receive(self) -> None:
        end: grpc.RpcError = Broken(grpc.StatusCode.UNAVAILABLE, "the server ended the stream before it had answered all")
        try:
            for response in self._call:
                self._put(response)
        except grpc.RpcError as error:
            end = error
        self._put(end)
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _put(self, response: PredictStreamResponse | grpc.RpcError) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._ended or len(self.inbox) < INBOX)
            self.inbox.append(response)
            self._changed.notify_all()
