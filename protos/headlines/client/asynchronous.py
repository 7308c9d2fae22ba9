"""The client for asynchronous code."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable
from contextlib import closing
from functools import partial
from typing import Any, ClassVar, Self

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from headlines.client.bulk import Bulk
from headlines.client.caller import (
    FINISH_TIMEOUT,
    INBOX,
    NO_ROOM,
    OVERLOAD_TRIES,
    Answer,
    AsyncCall,
    Caller,
    closed,
    explain,
    predict,
)
from headlines.client.connection import Connection
from headlines.client.errors import TOO_LATE, Broken, ClientError, DeadlineExceeded, InvalidRequest, unreadable
from headlines.client.parts import iterable
from headlines.client.settings import Deadline
from headlines.client.sources import async_source_of
from headlines.client.values import Explanation, Headline, Prediction
from headlines.v1.popularity_pb2 import (
    GetModelRequest,
    GetModelResponse,
    PredictStreamRequest,
    PredictStreamResponse,
)


class AsyncClient(Caller):
    """`Client` for asynchronous code: the same parameters, methods and errors.

        async with AsyncClient("news.example:443", tls=True, token="...") as client:
            [prediction] = await client.predict(["Storm closes every school"])

    It may be made while no event loop runs, as when a module is imported, and used in several loops, one after another or at
    once (gRPC then logs a harmless BlockingIOError now and then); each has a connection of its own. `close` ends them all. gRPC
    for asyncio does not survive a fork: a child of a process that has used an AsyncClient gets a ClientError.
    """

    _library: ClassVar[Any] = grpc.aio
    _semaphore: ClassVar[Any] = asyncio.Semaphore
    _process: ClassVar[int | None] = None  # which first used gRPC for asyncio

    async def predict(
        self, headlines: Iterable[str | Headline], *, timeout: float | None = None, one_version: bool = False
    ) -> list[Prediction]:
        """As Client.predict."""
        deadline = self._deadline(timeout)
        start = partial(self._start, "Predict", deadline)
        return await _run(predict(start, headlines, self._retries(deadline), one_version))

    async def explain(self, headlines: Iterable[str | Headline], *, timeout: float | None = None) -> list[Explanation]:
        """As Client.explain."""
        deadline = self._deadline(timeout)
        start = partial(self._start, "Explain", deadline)
        return await _run(explain(start, headlines, self._retries(deadline)))

    def predict_stream(
        self, headlines: Iterable[str | Headline] | AsyncIterable[str | Headline], *, timeout: float | None = None
    ) -> AsyncIterator[Prediction | InvalidRequest]:
        """As Client.predict_stream, with `async for`; `headlines` may be asynchronous too, and is read in a task of its own.

        One that is not is read in the event loop, which it should not block.
        """
        deadline = self._stream_deadline(timeout)
        return self._stream(iterable(headlines), deadline)

    async def _stream(
        self, headlines: Iterable[str | Headline] | AsyncIterable[str | Headline], deadline: Deadline
    ) -> AsyncIterator[Prediction | InvalidRequest]:
        changed = asyncio.Event()
        source = async_source_of(headlines, changed.set)
        bulk = Bulk(source, self._retries(deadline, OVERLOAD_TRIES))
        stream = None
        try:
            while bulk.fill():
                try:
                    if bulk.awaits_response:
                        stream = stream or _Stream(self._connection(), deadline, self._metadata, changed.set)
                        for request in bulk.requests():
                            await stream.write(request)
                    while stream and stream.inbox:
                        bulk.receive(stream.read())
                except grpc.RpcError as error:
                    if stream:
                        stream.cancel()
                    stream = None
                    await asyncio.sleep(bulk.interrupted(error))
                for answer in bulk.answers():
                    yield answer
                while not (stream and stream.inbox) and not bulk.can_go_on():
                    changed.clear()
                    try:
                        async with asyncio.timeout(deadline.left()):
                            await changed.wait()
                    except TimeoutError:
                        raise DeadlineExceeded(TOO_LATE) from None
            if stream:
                await stream.finish()
        finally:
            source.stop()
            if stream:
                stream.cancel()

    async def model(self, *, timeout: float | None = None) -> GetModelResponse:
        """As Client.model."""
        deadline = self._deadline(timeout)
        retries = self._retries(deadline)
        while True:
            connection = self._connection()
            try:
                response: GetModelResponse = await self._ask(connection, connection.stub.GetModel, GetModelRequest(), deadline)
            except grpc.RpcError as error:
                await asyncio.sleep(retries.pause(error))
            else:
                retries.answered()
                return response

    async def health(self, *, timeout: float | None = None) -> bool:
        """As Client.health."""
        connection = self._connection()
        try:
            response = await self._ask(connection, connection.check, StringValue(), self._deadline(timeout))
        except grpc.RpcError as error:
            raise self._error(error) from error
        return bool(response.value == 1)

    async def close(self) -> None:
        """As Client.close."""
        self._closed = True
        running = asyncio.get_running_loop()
        for loop, connection in [*self._connections.items()]:
            for channel in connection.channels:
                if loop is running:
                    await channel.close()
                elif not loop.is_closed():
                    asyncio.run_coroutine_threadsafe(channel.close(), loop)
        self._connections.clear()

    async def __aenter__(self) -> Self:
        if self._closed:
            raise closed()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _connection(self) -> Connection:
        loop = asyncio.get_running_loop()
        if AsyncClient._process is None:
            AsyncClient._process = os.getpid()
        elif AsyncClient._process != os.getpid():  # gRPC would wait for ever for a thread that was not forked
            raise ClientError("an AsyncClient was used before this process was forked; use Client here, or spawn the process")
        if loop not in self._connections:
            for other in [*self._connections]:
                if other.is_closed():
                    self._connections.pop(other, None)
        return self._connection_of(loop)

    def _start(
        self,
        method: str,
        deadline: Deadline,
        request: object,
        pause: float,
        alone: bool,  # noqa: ARG002
    ) -> AsyncCall:
        call = asyncio.ensure_future(self._call(method, request, deadline, pause))
        call.add_done_callback(lambda call: call.cancelled() or call.exception())  # nobody awaits it when an earlier one failed
        return call

    async def _call(self, method: str, request: object, deadline: Deadline, pause: float) -> Any:  # noqa: ANN401
        await asyncio.sleep(pause)
        connection = self._connection()
        try:
            async with asyncio.timeout(deadline.left()):
                await connection.room.acquire()
        except TimeoutError:
            raise DeadlineExceeded(NO_ROOM) from None
        try:
            return await self._ask(connection, getattr(connection.stub, method), request, deadline)
        finally:
            connection.room.release()

    async def _ask(self, connection: Connection, method: Callable[..., Any], request: object, deadline: Deadline) -> Any:  # noqa: ANN401
        if deadline.passed():  # gRPC rounds up
            raise DeadlineExceeded(TOO_LATE)
        try:
            response = await method(request, timeout=deadline.left(), metadata=self._metadata)
        except grpc.RpcError as error:
            connection.failed(error)
            raise
        except (asyncio.CancelledError, grpc.aio.UsageError):
            # gRPC cancels what is in flight when the channel is closed, as if the caller's own task were cancelled.
            task = asyncio.current_task()
            if self._closed and not (task and task.cancelling()):
                raise closed() from None
            raise
        if response is None:
            raise unreadable()
        connection.answered()
        return response


async def _run(steps: Generator[AsyncCall, Any, list[Answer]]) -> list[Answer]:
    with closing(steps):
        try:
            call = next(steps)
            while True:
                try:
                    response = await call
                except grpc.RpcError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(response)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


class _Stream:
    """One call of PredictStream, whose responses a task puts into `inbox`; `changed` is called for them."""

    def __init__(
        self,
        connection: Connection,
        deadline: Deadline,
        metadata: tuple[tuple[str, str], ...],
        changed: Callable[[], object],
    ) -> None:
        self._connection = connection
        self._call = connection.predict_stream(timeout=deadline.left(), metadata=metadata)
        self.inbox: deque[PredictStreamResponse | grpc.RpcError] = deque()
        self._changed = changed
        self._room = asyncio.Event()
        self._task = asyncio.create_task(self._receive())

    async def write(self, request: PredictStreamRequest) -> None:
        """Send a request, unless the stream has ended: then read() raises why."""
        if self._call.done():
            return
        try:
            await self._call.write(request)
        except (grpc.RpcError, asyncio.InvalidStateError):
            if not self._call.done():
                raise

    def read(self) -> PredictStreamResponse:
        """The next response of the inbox. Raises grpc.RpcError at the stream's end."""
        response = self.inbox.popleft()
        self._room.set()
        if isinstance(response, grpc.RpcError):
            self._connection.failed(response)
            raise response
        self._connection.answered()
        return response

    async def finish(self) -> None:
        """Let the server end the stream: one that is cancelled counts as a failure there."""
        if not self._call.done():
            await self._call.done_writing()
            await asyncio.wait([self._task], timeout=FINISH_TIMEOUT)

    def cancel(self) -> None:
        """End the stream and its task; with their event loop they have ended already."""
        if not self._task.get_loop().is_closed():
            self._call.cancel()
            self._task.cancel()

    async def _receive(self) -> None:
        end: grpc.RpcError = Broken(grpc.StatusCode.UNAVAILABLE, "the server ended the stream before it had answered all")
        try:
            while isinstance(response := await self._call.read(), PredictStreamResponse):
                self.inbox.append(response)
                self._changed()
                while len(self.inbox) >= INBOX:
                    self._room.clear()
                    await self._room.wait()
            if response is None:
                end = unreadable()
        except grpc.RpcError as error:
            end = error
        self.inbox.append(end)
        self._changed()
