"""Many callers to one batch.

The rule: a free engine takes what waits as soon as it is as many requests as were in the largest of the recent batches and
came right behind the one before, at the latest 1 ms after the first of them came. A caller who is alone (the batch before held
one request, and none came behind it) never waits for company: batches before his own are no longer recent, and his leaves at
the event loop's next turn. Under load batches grow by themselves, since answering many callers at once costs hardly more than
answering one: what a small request costs is the event loop's waking up, not the arithmetic.

Invariants, all on the event loop's thread:
* The items that wait, those of admitted bulk requests included, are never more than `capacity`; bulk items that wait or are
  being computed are never more than half of it.
* At most one batch is being computed. All its items go through the same `run`.
* A batch holds at most `largest_batch` items, and their costs add up to at most `largest_cost`, unless it is one item that
  costs more: the time for which a batch holds the event loop is bounded by the work in it, not by its items alone.
* An entry takes at most SLICE items, or a quarter of `largest_cost`, of a batch before others had their turn, then goes to the
  back of the queue: a request of thousands never makes one of a single item wait for more than one slice of each request before
  it and for the batch that is being computed.
* Bulk requests have a queue of their own. A batch takes from the other one first, and of bulk at most BULK items or half of
  `largest_cost`: so others wait for short batches alone, and bulk gets at least a slice of each.
* Between two long batches on the event loop there are BREATHS turns of it, in which new calls come in or are refused.
* Every admitted entry's future is resolved: with results, with the error of its own run, or by its caller's cancellation.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from concurrent.futures import Future as ExecutorFuture
from typing import Generic, NoReturn, Protocol, TypeVar

from service.errors import DeadlineExceeded, Overloaded
from service.timer import LoopTimer, Timer

MAX_WAIT = 0.001  # seconds; the longest that an idle engine waits for a batch to grow
RECENT = 4  # batches; by the last one alone, one that happened to be small would make the next ones small
SLICE = 64  # items; larger and a big request holds the others up, smaller and its own overhead shows
SLICES = 4  # that fill a batch by cost
BULK = 2 * SLICE  # items; more holds the others up, fewer are more batches, after each of which others have their turns
LONG = 0.001  # seconds of computing on the event loop, after which others get their turns
# Turns of the loop, of which gRPC needs several to take in a call, read and answer it. Without them five times as many requests
# of 1,024 as can be answered waited in its core, unseen, until their time was up: none was answered, and health took a second;
# with 8 or 32 nine tenths of the best is kept, and health takes 14 ms (benchmarks/overload.py). Beside 50 bulk streams a lone
# headline's p99 was 276 ms without them, 51 ms with 8, and with 32 8.5 ms, as beside one stream (benchmarks/bulk.py).
BREATHS = 32

Item = TypeVar("Item")
Result = TypeVar("Result")
Run = Callable[[Sequence[Item]], Sequence[Result]]


class Observer(Protocol):
    """Who wants to know what the batcher does; called on the event loop, must not raise."""

    def queued(self, items: int) -> None:
        """The queue has now this many items."""

    def waited(self, seconds: Sequence[float]) -> None:
        """Entries' first items left the queue after so long."""

    def computed(self, items: int, seconds: float) -> None:
        """A batch of so many items was computed, and how long that took."""

    def dropped(self, reason: str, items: int) -> None:
        """Items were not computed: "overloaded", "expired" or "cancelled"."""


class _Entry(Generic[Item, Result]):
    """One request in the queue."""

    __slots__ = ("came", "deadline", "future", "items", "results", "run", "taken")

    def __init__(
        self,
        run: Run[Item, Result],
        items: Sequence[Item],
        deadline: float | None,
        future: asyncio.Future[list[Result]],
        came: float,
    ) -> None:
        self.run = run
        self.items = items
        self.deadline = deadline
        self.future = future
        self.came = came
        self.taken = 0  # items that have left the queue
        self.results: list[Result] = []  # complete when as long as items


class _Batch(Generic[Item, Result]):
    """What is to be computed at once, while it grows."""

    __slots__ = ("cost", "items", "parts")

    def __init__(self) -> None:
        self.parts: list[tuple[_Entry[Item, Result], int]] = []  # entries with how many of their items are in it
        self.items: list[Item] = []
        self.cost = 0


class Batcher(Generic[Item, Result]):
    """Collects the items of many callers and runs them as batches.

    Knows nothing of what it runs. Its clock and its timer are handed in: a loop with another idea of time tests it without
    sleeping.
    """

    def __init__(
        self,
        *,
        capacity: int,
        largest_batch: int,
        executor: Executor | None,
        observer: Observer,
        largest_cost: int = 0,
        cost: Callable[[Item], int] = lambda item: 0,  # noqa: ARG005
        return_turns: int = 0,
        clock: Callable[[], float] = time.monotonic,
        timer: Callable[[Callable[[], None]], Timer] = LoopTimer,
    ) -> None:
        """Set up an empty queue.

        `capacity` bounds the items that wait, `largest_batch` the items of a batch, and `largest_cost` the sum of their costs:
        `cost` of an item is a whole number, 0 or greater, in any unit. Without an `executor` batches run on the event loop:
        right for what is short and would fight for the interpreter lock anyway. `return_turns` are the turns of the loop within
        which no caller can have had his answer and be back with a request: so whoever comes within them, right behind a batch,
        is another one. 0 for callers in this process.
        """
        self._capacity = capacity
        self._largest_batch = largest_batch
        self._largest_cost = largest_cost
        self._slice_cost = largest_cost // SLICES
        self._cost = cost
        self._executor = executor
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._queue: deque[_Entry[Item, Result]] = deque()
        self._bulk_queue: deque[_Entry[Item, Result]] = deque()
        self._bulk_first = False  # since the batch before had nothing of it
        self._queued = 0  # items
        self._bulk = 0  # items of bulk requests that are inside
        self._bulk_waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._recent: deque[int] = deque(maxlen=RECENT)  # requests in each batch, back to the last that held one
        self._company = 1  # requests for which a batch waits
        self._return_turns = return_turns
        self._behind = 0  # batches that were answered within the last `return_turns`
        self._computing = False  # a batch is in the executor
        self._timer = timer(self._ring)
        self._timer_set = False
        self._leaving = False  # a batch leaves in the loop's next turns
        self._breaths = 0  # turns until then
        self._seconds_per_item = 0.0  # of recent batches
        self._death: asyncio.Future[NoReturn] = self._loop.create_future()

    async def run(self) -> NoReturn:
        """Wait until the batcher itself breaks; raises what broke it. Whoever starts a batcher must watch this."""
        try:
            await asyncio.shield(self._death)
        finally:
            self._timer.close()
        raise AssertionError  # a future that never has a result

    async def submit(
        self, run: Run[Item, Result], items: Sequence[Item], *, deadline: float | None = None, bulk: bool = False
    ) -> list[Result]:
        """Run `items` in some batch; the results in the same order.

        `deadline` is in the clock's time. A `bulk` request waits for room, and all of them together hold at most half the
        queue; any other is refused at once where there is none. Cancelling the caller takes the request out of the queue.

        Raises Overloaded, DeadlineExceeded, or what `run` raised for these items.
        """
        if bulk:
            await self._enter_bulk(len(items))
            try:
                return await self._compute(self._bulk_queue, run, items, deadline)
            finally:
                self._bulk -= len(items)
                self._admit_bulk()
        self.require_room(len(items))
        self._change_queued(len(items))
        return await self._compute(self._queue, run, items, deadline)

    def require_room(self, items: int, deadline: float | None = None) -> None:
        """Refuse so many items if `submit` would, or if those before them take until the deadline; before they are parsed.

        Raises Overloaded.
        """
        seconds = self._queued * self._seconds_per_item
        if self._queued + items > self._capacity:
            problem = "the queue is full"
        elif deadline is not None and self._clock() + seconds > deadline:
            problem = "the queue is longer than the deadline allows"
        else:
            return
        self._observer.dropped("overloaded", items)
        raise Overloaded(problem, seconds)

    async def _compute(
        self, queue: deque[_Entry[Item, Result]], run: Run[Item, Result], items: Sequence[Item], deadline: float | None
    ) -> list[Result]:
        if self._death.done():
            raise self._death.exception() or AssertionError
        entry = _Entry(run, items, deadline, self._loop.create_future(), self._clock())
        queue.append(entry)
        if self._behind:
            self._company += 1
        self._arrange()
        try:
            return await entry.future
        except asyncio.CancelledError:
            expired = deadline is not None and self._clock() >= deadline
            self._drop(entry, "expired" if expired else "cancelled")
            raise

    def _arrange(self) -> None:
        """Decide when the next batch leaves."""
        waiting = len(self._queue) + len(self._bulk_queue)
        if self._computing or self._leaving or not waiting:
            return
        left = min(queue[0].came for queue in (self._queue, self._bulk_queue) if queue) + MAX_WAIT - self._clock()
        if waiting >= self._company or left <= 0:
            self._leaving = True
            self._loop.call_soon(self._leave_after, self._breaths)
        elif not self._timer_set:
            self._timer_set = True
            self._timer.set(left)

    def _ring(self) -> None:
        """It is time for the oldest entry, or for one that has left since."""
        self._timer_set = False
        self._arrange()

    def _leave_after(self, turns: int) -> None:
        if turns:
            self._loop.call_soon(self._leave_after, turns - 1)
        else:
            self._leave()

    def _leave(self) -> None:
        self._leaving = self._timer_set = False
        batch, items = self._take()
        if not batch:
            return
        try:
            run = batch[0][0].run
            self._note(len({id(entry) for entry, _ in batch}))
            began = self._clock()
            if self._executor is None:
                self._finish(batch, began, _attempt(run, items, [n for _, n in batch]))
                return
            self._computing = True
            done = self._executor.submit(_attempt, run, items, [n for _, n in batch])
            done.add_done_callback(lambda done: self._loop.call_soon_threadsafe(self._finish_executed, batch, began, done))
        except BaseException as error:
            self._die(error, batch)
            raise

    def _note(self, requests: int) -> None:
        """A batch of so many requests leaves."""
        if requests == 1:
            self._recent.clear()
        self._recent.append(requests)
        self._company = max(self._recent)

    def _take(self) -> tuple[list[tuple[_Entry[Item, Result], int]], list[Item]]:
        """The next batch: entries with how many of their items are in it, and those items."""
        batch: _Batch[Item, Result] = _Batch()
        most, most_cost = self._largest_batch, self._largest_cost
        kept = kept_cost = 0
        if self._bulk_queue:
            kept, kept_cost = min(SLICE, most // 2), self._slice_cost
        parts = [(self._queue, most - kept, most_cost - kept_cost), (self._bulk_queue, BULK, most_cost // 2)]
        if self._bulk_first:
            parts.reverse()
        self._bulk_first = bool(self._bulk_queue)
        for queue, share, share_cost in parts:
            before = len(batch.items)
            self._fill(batch, queue, min(most, before + share), min(most_cost, batch.cost + share_cost))
            if queue is self._bulk_queue and len(batch.items) > before:
                self._bulk_first = False
        self._change_queued(-len(batch.items))
        return batch.parts, batch.items

    def _fill(self, batch: _Batch[Item, Result], queue: deque[_Entry[Item, Result]], most: int, most_cost: int) -> None:
        """Let a batch grow to `most` items or `most_cost`, out of one queue."""
        waits: list[float] = []
        now = self._clock()
        while queue and len(batch.items) < most:
            entry = queue[0]
            if entry.future.done():  # its caller has gone
                queue.popleft()
                continue
            if entry.deadline is not None and now >= entry.deadline:
                queue.popleft()
                self._drop(entry, "expired")
                entry.future.set_exception(DeadlineExceeded("the deadline passed while the request waited"))
                continue
            if batch.parts and entry.run is not batch.parts[0][0].run:
                break
            part, cost = self._next_part(batch, entry, most, most_cost)
            if not part:
                break
            queue.popleft()
            if not entry.taken:
                waits.append(now - entry.came)
            batch.items += part
            batch.cost += cost
            batch.parts.append((entry, len(part)))
            entry.taken += len(part)
            if entry.taken < len(entry.items):
                queue.append(entry)
        self._observer.waited(waits)

    def _next_part(
        self, batch: _Batch[Item, Result], entry: _Entry[Item, Result], most: int, most_cost: int
    ) -> tuple[Sequence[Item], int]:
        """The items of an entry that a batch takes next, at most a slice, and their cost; none if there is no room.

        One item may cost more than a slice, and in an empty batch more than a batch.
        """
        part = entry.items[entry.taken : entry.taken + min(SLICE, most - len(batch.items))]
        room = most_cost - batch.cost
        limit = min(room, self._slice_cost)
        total = sum(map(self._cost, part))
        if total <= limit:
            return part, total
        total = number = 0
        for cost in map(self._cost, part):
            if total + cost > limit and (number or (batch.items and cost > room)):
                break
            total += cost
            number += 1
        return part[:number], total

    def _finish_executed(
        self,
        batch: list[tuple[_Entry[Item, Result], int]],
        began: float,
        done: ExecutorFuture[Sequence[Sequence[Result] | Exception]],
    ) -> None:
        self._computing = False
        try:
            self._finish(batch, began, done.result())
        except BaseException as error:
            self._die(error, batch)
            raise

    def _finish(
        self, batch: list[tuple[_Entry[Item, Result], int]], began: float, outcomes: Sequence[Sequence[Result] | Exception]
    ) -> None:
        seconds = self._clock() - began
        size = sum(n for _, n in batch)
        self._seconds_per_item += 0.1 * (seconds / size - self._seconds_per_item)
        self._observer.computed(size, seconds)
        self._breaths = BREATHS if self._executor is None and seconds > LONG else 0
        for (entry, _), outcome in zip(batch, outcomes, strict=True):
            if entry.future.done():
                continue
            if isinstance(outcome, Exception):
                self._withdraw(entry)
                entry.future.set_exception(outcome)
                continue
            entry.results += outcome
            if len(entry.results) == len(entry.items):
                entry.future.set_result(entry.results)
        if self._return_turns:
            self._behind += 1
            self._loop.call_soon(self._turn, self._return_turns)
        self._arrange()

    def _turn(self, left: int) -> None:
        """Count the loop's turns after a batch."""
        if left:
            self._loop.call_soon(self._turn, left - 1)
        else:
            self._behind -= 1

    def _drop(self, entry: _Entry[Item, Result], reason: str) -> None:
        if left := self._withdraw(entry):
            self._observer.dropped(reason, left)

    def _withdraw(self, entry: _Entry[Item, Result]) -> int:
        """Take back what of an entry has not been computed; how many items that was."""
        left = len(entry.items) - entry.taken
        entry.taken = len(entry.items)
        self._change_queued(-left)
        return left

    def _change_queued(self, by: int) -> None:
        self._queued += by
        self._observer.queued(self._queued)
        if by < 0:
            self._admit_bulk()

    async def _enter_bulk(self, items: int) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._bulk_waiters.append((items, waiter))
        self._admit_bulk()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():  # it was admitted in the same turn
                self._bulk -= items
                self._change_queued(-items)
            self._admit_bulk()
            raise

    def _admit_bulk(self) -> None:
        """Let bulk requests in, first come, first served, as far as there is room."""
        while self._bulk_waiters:
            items, waiter = self._bulk_waiters[0]
            if waiter.cancelled():
                self._bulk_waiters.popleft()
                continue
            if (self._bulk and self._bulk + items > self._capacity // 2) or self._queued + items > self._capacity:
                return
            self._bulk_waiters.popleft()
            self._bulk += items
            self._change_queued(items)
            waiter.set_result(None)

    def _die(self, error: BaseException, batch: Sequence[tuple[_Entry[Item, Result], int]]) -> None:
        """What is wrong is the batcher's own: nobody is left waiting, and `run` tells."""
        for entry in [*self._queue, *self._bulk_queue, *(entry for entry, _ in batch)]:
            if not entry.future.done():
                entry.future.set_exception(error)
        self._queue.clear()
        self._bulk_queue.clear()
        self._change_queued(-self._queued)
        if not self._death.done():
            self._death.set_exception(error)


def _attempt(run: Run[Item, Result], items: Sequence[Item], parts: Sequence[int]) -> Sequence[Sequence[Result] | Exception]:
    """What `run` answers, cut into parts of the given lengths.

    Where it fails, each part is tried alone, so that one bad part harms no other.
    """
    try:
        return _cut(run(items), parts)
    except Exception as error:
        if len(parts) == 1:
            return [error]
        return [outcome for part in _cut(items, parts) for outcome in _attempt(run, part, [len(part)])]


def _cut(values: Sequence[Result], parts: Sequence[int]) -> list[Sequence[Result]]:
    cut = []
    start = 0
    for length in parts:
        cut.append(values[start : start + length])
        start += length
    if start != len(values):
        raise ValueError(f"{len(values)} results for {start} items")
    return cut
