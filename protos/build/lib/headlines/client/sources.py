"""A caller's headlines, whatever kind of iterable they come in."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice

from headlines.client.parts import MAX_HEADLINES
from headlines.client.values import Headline

_TURN = 0.002  # seconds for which a plain iterable may block the event loop before other tasks have as many


class InMemory:
    """Headlines that are all there, as in a list."""

    error: BaseException | None = None

    def __init__(self, headlines: Iterable[str | Headline]) -> None:
        self._headlines = iter(headlines)
        self.ended = False

    def at_hand(self, whole: bool) -> bool:  # noqa: ARG002
        """As Source.at_hand."""
        return not self.ended

    def take(self, whole: bool) -> Sequence[str | Headline]:  # noqa: ARG002
        """As Source.take."""
        headlines = list(islice(self._headlines, MAX_HEADLINES))
        self.ended = len(headlines) < MAX_HEADLINES
        return headlines

    def stop(self) -> None:
        """There is nothing to stop."""


class _Buffer:
    """At most MAX_HEADLINES that have come and are not taken."""

    def __init__(self) -> None:
        self._buffer: deque[str | Headline] = deque()
        self._exhausted = False
        self.error: BaseException | None = None

    @property
    def ended(self) -> bool:
        """As Source.ended."""
        return self._exhausted and not self._buffer

    def at_hand(self, whole: bool) -> bool:
        """As Source.at_hand."""
        return bool(self._buffer) and (self._exhausted or not whole or len(self._buffer) >= MAX_HEADLINES)

    def take(self, whole: bool) -> Sequence[str | Headline]:
        """As Source.take."""
        if not self.at_hand(whole):
            return []
        return [self._buffer.popleft() for _ in range(min(len(self._buffer), MAX_HEADLINES))]


class FromThread(_Buffer):
    """Headlines of an iterable that may block, which is read in a thread of its own.

    `changed` guards the buffer and is notified of what comes. A thread that blocks in the caller's iterable cannot be ended;
    it takes no further headline after `stop`.
    """

    def __init__(self, headlines: Iterable[str | Headline], changed: threading.Condition) -> None:
        super().__init__()
        self._changed = changed
        self._stopped = False
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._read, iter(headlines)), name="headlines", daemon=True).start()

    def take(self, whole: bool) -> Sequence[str | Headline]:
        """As Source.take."""
        with self._changed:
            headlines = super().take(whole)
            self._changed.notify_all()
        return headlines

    def stop(self) -> None:
        """Take no more from the caller's iterable."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _read(self, headlines: Iterable[str | Headline]) -> None:
        try:
            for headline in headlines:
                with self._changed:
                    self._buffer.append(headline)
                    if len(self._buffer) in (1, MAX_HEADLINES):  # the two numbers that `take` may wait for
                        self._changed.notify_all()
                    self._changed.wait_for(lambda: self._stopped or len(self._buffer) < MAX_HEADLINES)
                    if self._stopped:
                        return
        except BaseException as error:  # it is raised where the caller iterates
            self.error = error
        finally:
            with self._changed:
                self._exhausted = True
                self._changed.notify_all()


class FromTask(_Buffer):
    """Headlines of an asynchronous iterable, which is read in a task of its own; `changed` is called for what comes."""

    def __init__(self, headlines: AsyncIterable[str | Headline], changed: Callable[[], object]) -> None:
        super().__init__()
        self._changed = changed
        self._room = asyncio.Event()
        self._task = asyncio.create_task(self._read(aiter(headlines)))

    def take(self, whole: bool) -> Sequence[str | Headline]:
        """As Source.take."""
        headlines = super().take(whole)
        self._room.set()
        return headlines

    def stop(self) -> None:
        """Take no more from the caller's iterable."""
        if not self._task.get_loop().is_closed():
            self._task.cancel()

    async def _read(self, headlines: AsyncIterator[str | Headline]) -> None:
        try:
            async for headline in headlines:
                self._buffer.append(headline)
                self._changed()
                while len(self._buffer) >= MAX_HEADLINES:
                    self._room.clear()
                    await self._room.wait()
        except BaseException as error:  # it is raised where the caller iterates
            self.error = error
        finally:
            self._exhausted = True
            self._changed()


def source_of(headlines: Iterable[str | Headline], changed: threading.Condition) -> InMemory | FromThread:
    """For plain code."""
    return InMemory(headlines) if isinstance(headlines, Collection) else FromThread(headlines, changed)


def async_source_of(
    headlines: Iterable[str | Headline] | AsyncIterable[str | Headline], changed: Callable[[], object]
) -> InMemory | FromTask:
    """For asynchronous code."""
    if isinstance(headlines, AsyncIterable):
        return FromTask(headlines, changed)
    return InMemory(headlines) if isinstance(headlines, Collection) else FromTask(_in_turns(iter(headlines)), changed)


async def _in_turns(headlines: Iterator[str | Headline]) -> AsyncIterator[str | Headline]:
    """A plain iterable, read in the event loop's thread; if it blocks, other tasks have their turn in between."""
    blocked = 0.0
    while True:
        since = time.monotonic()
        try:
            headline = next(headlines)
        except StopIteration:
            return
        blocked += time.monotonic() - since
        yield headline
        if blocked > _TURN:
            await asyncio.sleep(_TURN)
            blocked = 0.0
