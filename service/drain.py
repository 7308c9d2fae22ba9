"""The drain: calls in flight are finished while new ones are refused."""

from __future__ import annotations

import asyncio

from service.errors import Unavailable


class DrainGate:
    """Counts the calls in flight, and can be closed to new ones. For the event loop's thread.

    with gate:  # raises Unavailable if the gate is closed
        ...
    gate.close()
    await gate.wait_until_drained()
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.closed = False
        self._drained = asyncio.Event()

    def enter(self) -> None:
        """Begin a call; `leave` ends it. Raises Unavailable if the gate is closed."""
        if self.closed:
            raise Unavailable("the server is stopping")
        self.in_flight += 1

    def leave(self) -> None:
        """End a call."""
        self.in_flight -= 1
        if self.closed:
            self._update()

    def __enter__(self) -> None:
        self.enter()

    def __exit__(self, *_: object) -> None:
        self.leave()

    def close(self) -> None:
        """Refuse new calls from now on."""
        self.closed = True
        self._update()

    async def wait_until_drained(self) -> None:
        """Wait until the gate is closed and no call is in flight."""
        await self._drained.wait()

    def _update(self) -> None:
        if self.closed and not self.in_flight:
            self._drained.set()
