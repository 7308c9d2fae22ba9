"""The web port's connections: HTTP/1.1 by uvicorn's protocol on the server's event loop, within bounds.

uvicorn's own server takes over the process's signals, and bounds neither connections nor the time that a TLS handshake, a
request's headers or the reading of an answer may take. So connections are accepted here, and each is watched until it ends.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

_FRESH = 0.1  # seconds for which a new connection may be silent although others wait for its place
_KEEP_ALIVE = 75  # seconds that a connection may be idle after an answer: longer than proxies keep theirs


class Listener:
    """Serves an ASGI application on an open socket. For the event loop's thread."""

    def __init__(
        self,
        app: Callable[..., Any],
        listener: socket.socket,
        *,
        context: Callable[[], ssl.SSLContext] | None,
        seconds: float,
        max_connections: int,
    ) -> None:
        """`context` returns the TLS settings of the next connection; None: no TLS.

        A client has `seconds` for the handshake, for a request's headers, and to read on; when `max_connections` are open, the
        one that has waited longest without a whole request makes room.
        """
        self._listener = listener
        self._context = context
        self.seconds = seconds
        self._max_connections = max_connections
        self._open: dict[_Connection, None] = {}  # those that wait for a request in the order in which they began to
        self._room = asyncio.Event()
        self._state = ServerState()
        self._config = Config(
            app,
            http=H11Protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level=logging.CRITICAL,  # it would log what strangers send
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE,
        )
        self._config.load()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    async def run(self) -> None:
        """Accept connections for ever. Whoever starts a listener must watch this."""
        loop = asyncio.get_running_loop()
        while True:
            while len(self._open) >= self._max_connections and not self._drop_oldest():
                await self._wait_for_room(_FRESH)  # meanwhile the kernel keeps those that come
            try:
                accepted, _ = await loop.sock_accept(self._listener)
            except OSError:  # there is no descriptor, or the client has left
                if not self._drop_oldest():
                    await asyncio.sleep(_FRESH)
                continue
            connection = _Connection(self, self._config, self._state)
            self._open[connection] = None
            connection.opening = loop.create_task(self._connect(connection, accepted))
            connection.opening.add_done_callback(partial(self._opened, connection))

    async def stop(self, grace: float) -> None:
        """Close connections once they have their answers, within so many seconds. `run` has ended, and the port is closed."""
        for it in list(self._open):
            it.end()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while self._open:
                    await self._wait_for_room(grace)
        for it in list(self._open):
            it.drop()

    def waits(self, connection: _Connection) -> None:
        """A connection begins to wait for its next request."""
        self._open.pop(connection, None)
        self._open[connection] = None

    def closed(self, connection: _Connection) -> None:
        """A connection has ended."""
        self._open.pop(connection, None)
        self._room.set()

    async def _connect(self, connection: _Connection, accepted: socket.socket) -> None:
        context = self._context() if self._context else None
        accepted.setblocking(False)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection, accepted, ssl=context, ssl_handshake_timeout=self.seconds if context else None
            )
        except OSError:  # the handshake failed, or took too long
            accepted.close()

    def _opened(self, connection: _Connection, _: asyncio.Task[None]) -> None:
        if not connection.transport:  # it failed, or was cancelled, perhaps before its first step
            self.closed(connection)

    async def _wait_for_room(self, seconds: float) -> None:
        self._room.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._room.wait(), seconds)

    def _drop_oldest(self) -> bool:
        """End what has waited longest for a request; False if nothing waits, or all that does is fresh."""
        oldest = next((it for it in self._open if it.is_waiting), None)
        if not oldest or time.monotonic() - oldest.waiting_since < _FRESH:
            return False
        oldest.drop()
        self.closed(oldest)
        return True


class _Connection(H11Protocol):
    """A connection that ends if its client does not go on."""

    opening: asyncio.Task[None]

    def __init__(self, listener: Listener, config: Config, state: ServerState) -> None:
        super().__init__(config, state, {}, asyncio.get_running_loop())
        self._listener = listener
        self.waiting_since = time.monotonic()
        self._reading: asyncio.TimerHandle | None = None  # ends it if a request's headers do not come
        self._writing: asyncio.TimerHandle | None = None  # ends it if the client does not read

    @property
    def is_waiting(self) -> bool:
        """Whether no whole request is here that is to be answered."""
        return self._is_between_requests or self.cycle.more_body

    @property
    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def end(self) -> None:
        """Close it, after the answer that is being made."""
        if not self.transport:
            self.opening.cancel()
        elif self._is_between_requests:
            self.transport.close()
        else:
            self.cycle.keep_alive = False

    def drop(self) -> None:
        """Close it at once."""
        if self.transport:
            self.transport.abort()
        else:
            self.opening.cancel()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._reading, self._writing):
            if timer:
                timer.cancel()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # which uvicorn leaves after a reset
        self._listener.closed(self)

    def data_received(self, data: bytes) -> None:
        if self._is_between_requests and not self._reading:
            self._wait_for_headers()
        super().data_received(data)
        if not self._is_between_requests and self._reading:
            self._reading.cancel()
            self._reading = None

    def on_response_complete(self) -> None:
        self.waiting_since = time.monotonic()
        self._listener.waits(self)
        super().on_response_complete()
        if self.transport.is_closing():
            self._wait_for_reader()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._writing and not self.transport.is_closing():
            self._writing.cancel()
            self._writing = None

    def _wait_for_headers(self) -> None:
        self._reading = self.loop.call_later(self._listener.seconds, self.transport.abort)

    def _wait_for_reader(self) -> None:
        if not self._writing:
            self._writing = self.loop.call_later(self._listener.seconds, self.transport.abort)
