"""Dynamic batching: the items of many callers are computed together.

Terms. A *request* is one caller's list of items. In the queue its admission is an *entry*. A *batch* is what the engine
computes in one call: slices of one or more entries. A *turn* is one iteration of the event loop.

Dispatch rule: when the engine is idle, dispatch a batch as soon as the queue holds the target number of requests, and at the
latest MAX_WAIT after the oldest one was enqueued. The target is the largest number of requests in any recent batch, plus one
for each request whose call began before that batch was answered: it comes from another caller than those in the batch. A
batch of a single request resets the target to one, so a lone caller never waits: its request is dispatched in the next turn.
Under load batches grow by themselves. That pays because the cost of a small request is waking up the event loop, not the
arithmetic.

Invariants, all on the event loop's thread:
* Enqueued items, including those that are admitted and not enqueued yet, never exceed `capacity`. Bulk items that are admitted
  and not answered never exceed half of it, except for a single larger request.
* At most one batch is being computed. All of its items go through the same `run`.
* A batch holds at most `largest_batch` items whose costs add up to at most `largest_cost`, except for a single item that costs
  more. So the time for which a batch blocks the event loop is bounded by cost, not just by the number of items.
* Each time an entry reaches the front of its queue it contributes one slice (SLICE items, or a quarter of `largest_cost`) and
  goes to the back. So a request of one item waits at most for one slice of each request before it and for the batch being
  computed.
* Bulk requests have a queue of their own. A batch takes interactive requests first, then at most BULK items, or half of
  `largest_cost`, of bulk, for which it keeps a slice free. After a batch without any bulk although some waited, as happens when
  a new version goes live, the next batch takes bulk first.
* After a long or large batch on the event loop there are YIELD_TURNS turns before the next, in which new calls are accepted or
  refused.
* Every enqueued entry's future is resolved: with results, with the error of its own run, with DeadlineExceeded, with the
  batcher's own error, or by its caller's cancellation.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from concurrent.futures import Future as ExecutorFuture
from typing import Any, Generic, NoReturn, Protocol, Self, TypeVar

from service.errors import DeadlineExceeded, Overloaded
from service.timer import LoopTimer, Timer

MAX_WAIT = 0.001  # seconds that an idle engine waits for a batch to grow, at most
# Batches that set the target: by the last one alone, one that happened to be small would keep the next ones small.
RECENT = 4
SLICE = 64  # items; with more a large request delays the others, with fewer its own overhead shows
SLICES_PER_BATCH = 4  # by cost
BULK = 2 * SLICE  # items of bulk in a batch; more delay the others, fewer make more batches, each followed by YIELD_TURNS turns
# Seconds of computing on the event loop after which the next batch yields first. So it does after more than SLICE items, which
# a fast machine computes in less.
LONG_BATCH = 0.001
# gRPC needs several turns to accept a call, read its message and send the answer. Without them an overload stays in gRPC's core
# until its deadlines have passed, and nothing is answered (tests/resilience/overload.py). Beside 50 bulk streams a lone
# headline's p99 is 276 ms with 0 turns, 51 ms with 8 and 8.5 ms with 32 (tests/resilience/bulk.py).
YIELD_TURNS = 32

Item = TypeVar("Item")
Result = TypeVar("Result")
Run = Callable[[Sequence[Item]], Sequence[Result]]
_Outcomes = tuple[Sequence[Sequence[Result] | Exception], bool]  # of the parts of a batch, and whether there is an exception


class Observer(Protocol):
    """Receives the batcher's events, on the event loop. Must not raise."""

    def computed(self, items: int, seconds: float, waits: Sequence[float]) -> None:
        """A batch of this many items was computed in this time.

        `waits` says for each entry of which it held the first items how long that was enqueued, in seconds.
        """

    def dropped(self, reason: str, items: int) -> None:
        """Some items were dropped; `reason` is "overloaded", "expired" or "cancelled"."""


class Admission(Generic[Item, Result]):
    """Room in the queue for one request, from before its items are known until it is answered, and its place there.

    Use it as a context manager.
    """

    __slots__ = (
        "_batcher",
        "began",
        "bulk",
        "cost",
        "deadline",
        "enqueued_at",
        "future",
        "items",
        "number",
        "results",
        "run",
        "taken",
    )

    run: Run[Item, Result]  # this and what follows from `compute` on
    items: Sequence[Item]
    enqueued_at: float
    results: list[Result]  # of a request in several slices: those that are known

    def __init__(
        self,
        batcher: Batcher[Item, Result],
        number: int,
        deadline: float | None,
        cost: int | None,
        began: float | None,
        bulk: bool,
    ) -> None:
        self._batcher = batcher
        self.number = number  # of its items
        self.deadline = deadline  # on the batcher's clock
        self.cost = cost  # of all items together, at most; None: not known
        self.began = began  # when its call did, on the batcher's clock; None: not known
        self.bulk = bulk
        self.taken = 0  # items that have left the queue, from the front
        self.future: asyncio.Future[Sequence[Result]] | None = None
        if number > 1:
            self.results = []

    def compute(self, run: Run[Item, Result], items: Sequence[Item]) -> asyncio.Future[Sequence[Result]]:
        """Compute `items`, as many as were admitted; await the results, which are in the same order. To be called once.

        A caller that is cancelled takes its items out of the queue as it leaves the context. The future raises
        DeadlineExceeded, or what `run` raised for these items.
        """
        if self.future or len(items) != self.number:
            raise ValueError(f"{len(items)} items for an admission of {self.number}")
        self.run = run
        self.items = items
        return self._batcher._enqueue(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bulk or self.taken < self.number:
            self.release()

    def release(self) -> None:
        """Take back what room there is still; `with` calls it."""
        self._batcher._release(self)


class _Batch(Generic[Item, Result]):
    """The next batch, while it is being filled."""

    __slots__ = ("cost", "entries", "items", "run", "sizes", "waits")

    def __init__(self) -> None:
        self.run: Run[Item, Result] | None = None  # what all entries have in common
        self.cost = 0
        self.entries: list[Admission[Item, Result]] = []
        self.sizes: list[int] = []  # how many items of each entry are in the batch
        self.items: list[Item] = []
        self.waits: list[float] = []  # seconds that each entry was enqueued which is here for the first time


class Batcher(Generic[Item, Result]):
    """Collects the items of many callers and runs them in batches.

    It knows nothing about what it runs. The clock and the timer are injected, so tests need not sleep.
    """

    def __init__(
        self,
        *,
        capacity: int,
        largest_batch: int,
        executor: Executor | None,
        observer: Observer,
        largest_cost: int = 0,
        cost: Callable[[Sequence[Item]], int] = lambda items: 0,  # noqa: ARG005
        clock: Callable[[], float] = time.monotonic,
        timer: Callable[[Callable[[], None]], Timer] = LoopTimer,
    ) -> None:
        """Set up an empty queue.

        `capacity` bounds the enqueued items, `largest_batch` the items of a batch, and `largest_cost` the sum of their costs:
        `cost` maps items, one or more, to an integer, 0 or greater, in any unit. Without an `executor` batches run on the event
        loop, which suits work that is short and would compete for the interpreter lock anyway.
        """
        self._capacity = capacity
        self._largest_batch = largest_batch
        self._largest_cost = largest_cost
        self._slice_cost = largest_cost // SLICES_PER_BATCH
        self._cost = cost
        self._executor = executor
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._queue: deque[Admission[Item, Result]] = deque()
        self._bulk_queue: deque[Admission[Item, Result]] = deque()
        self._bulk_first = False  # bulk was waiting, but the last batch took none
        self.queued = 0  # items that wait, those that are admitted and not enqueued yet among them
        self._bulk_in_flight = 0  # items of admitted bulk requests
        self._bulk_waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._recent: deque[int] = deque(maxlen=RECENT)  # requests in each batch since the last batch of one request
        self._target_requests = 1  # requests at which a batch is dispatched
        self._answered_at = -math.inf  # when the last batch was, by the clock
        self._computing = False  # a batch is in the executor
        self._timer = timer(self._on_timer)
        self._timer_set = False
        self._dispatching = False  # a batch is dispatched in one of the next turns
        self._yield_turns = 0  # turns before the next batch
        self._seconds_per_item = 0.0  # of recent batches
        self._failure: asyncio.Future[NoReturn] = self._loop.create_future()

    async def run(self) -> NoReturn:
        """Wait until the batcher itself fails, and raise its error. Whoever starts a batcher must watch this."""
        try:
            await asyncio.shield(self._failure)
        finally:
            self._timer.close()
        raise AssertionError  # a future that never has a result

    async def submit(
        self,
        run: Run[Item, Result],
        items: Sequence[Item],
        *,
        deadline: float | None = None,
        began: float | None = None,
        bulk: bool = False,
    ) -> Sequence[Result]:
        """Admit a request whose items are known, and compute it. See `admit`, `admit_bulk` and `Admission.compute`."""
        with (
            await self.admit_bulk(len(items), deadline) if bulk else self.admit(len(items), deadline, None, began) as admission
        ):
            return await admission.compute(run, items)

    def admit(
        self, items: int, deadline: float | None = None, cost: int | None = None, began: float | None = None
    ) -> Admission[Item, Result]:
        """Reserve room for a request of this many items. `deadline`, and when the call `began`, are on the batcher's clock.

        `cost` is what the items cost together, at most, which spares looking at each.

        Raises Overloaded if there is no room, or if the queue ahead is not expected to clear before the deadline.
        """
        seconds = self.queued * self._seconds_per_item
        if self.queued + items > self._capacity:
            problem = "the queue is full"
        elif deadline is not None and self._clock() + seconds > deadline:
            problem = "the queue is longer than the deadline allows"
        else:
            self.queued += items
            return Admission(self, items, deadline, cost, began, False)
        self._observer.dropped("overloaded", items)
        raise Overloaded(problem, seconds)

    async def admit_bulk(self, items: int, deadline: float | None = None, cost: int | None = None) -> Admission[Item, Result]:
        """Wait for room for a bulk request, as `admit` does; bulk requests together hold at most half of the queue."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._bulk_waiters.append((items, waiter))
        self._admit_bulk()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():  # admitted and cancelled in the same turn
                self._bulk_in_flight -= items
                self._remove(items)
            self._admit_bulk()
            raise
        return Admission(self, items, deadline, cost, None, True)

    def _release(self, admission: Admission[Item, Result]) -> None:
        """Take back what room there is still in an admission that ends."""
        if not self._failure.done() and (left := self._withdraw(admission)) and admission.future:
            expired = admission.deadline is not None and self._clock() >= admission.deadline
            self._observer.dropped("expired" if expired else "cancelled", left)
        if admission.bulk:
            self._bulk_in_flight -= admission.number
            self._admit_bulk()

    def _enqueue(self, entry: Admission[Item, Result]) -> asyncio.Future[Sequence[Result]]:
        if self._failure.done():
            raise self._failure.exception() or AssertionError
        entry.enqueued_at = self._clock()
        future = entry.future = self._loop.create_future()
        (self._bulk_queue if entry.bulk else self._queue).append(entry)
        if entry.began is not None and entry.began < self._answered_at:
            self._target_requests += 1
        # Once the timer is set for the oldest request, a later one changes something only if the batch is complete.
        if not self._timer_set or len(self._queue) + len(self._bulk_queue) >= self._target_requests:
            self._schedule()
        return future

    def _schedule(self) -> None:
        """Decide when to dispatch the next batch."""
        waiting = len(self._queue) + len(self._bulk_queue)
        if self._computing or self._dispatching or not waiting:
            return
        if waiting < self._target_requests:
            oldest = min(queue[0].enqueued_at for queue in (self._queue, self._bulk_queue) if queue)
            if (left := oldest + MAX_WAIT - self._clock()) > 0:
                if not self._timer_set:
                    self._timer_set = True
                    self._timer.set(left)
                return
        self._dispatching = True
        if self._yield_turns:
            self._dispatch_after(self._yield_turns)
        else:
            self._loop.call_soon(self._dispatch)

    def _on_timer(self) -> None:
        """MAX_WAIT is over for the oldest entry, or was for one that has left the queue since."""
        self._timer_set = False
        self._schedule()

    def _dispatch_after(self, turns: int) -> None:
        """Dispatch a batch in the next turn, or when so many more have passed."""
        if turns:
            self._loop.call_soon(self._dispatch_after, turns - 1)
        else:
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatching = self._timer_set = False
        batch = self._next_batch()
        run = batch.run
        if run is None:
            return
        try:
            self._record_batch(len(batch.waits) if len(batch.waits) == len(batch.entries) else len(set(batch.entries)))
            began = self._clock()
            if self._executor is None:
                self._finish(batch, began, *_run_parts(run, batch.items, batch.sizes))
                return
            self._computing = True
            done = self._executor.submit(_run_parts, run, batch.items, batch.sizes)
            done.add_done_callback(lambda done: self._loop.call_soon_threadsafe(self._finish_executed, batch, began, done))
        except BaseException as error:
            self._fail(error, batch)
            raise

    def _record_batch(self, requests: int) -> None:
        """Update the target when a batch of this many requests is dispatched."""
        if requests == 1:
            self._recent.clear()
            self._target_requests = 1
        else:
            self._recent.append(requests)
            self._target_requests = max(self._recent)

    def _next_batch(self) -> _Batch[Item, Result]:
        """Take the next batch from the queues."""
        batch: _Batch[Item, Result] = _Batch()
        max_items, max_cost = self._largest_batch, self._largest_cost
        if not self._bulk_queue:
            self._bulk_first = False
            self._fill(batch, self._queue, max_items, max_cost)
        else:
            parts = [
                (self._queue, max_items - min(SLICE, max_items // 2), max_cost - self._slice_cost),
                (self._bulk_queue, BULK, max_cost // 2),
            ]
            if self._bulk_first:
                parts.reverse()
            self._bulk_first = True
            for queue, share, share_cost in parts:
                before = len(batch.items)
                self._fill(batch, queue, min(max_items, before + share), min(max_cost, batch.cost + share_cost))
                if queue is self._bulk_queue and len(batch.items) > before:
                    self._bulk_first = False
        self.queued -= len(batch.items)
        if self._bulk_waiters:
            self._admit_bulk()
        return batch

    def _fill(self, batch: _Batch[Item, Result], queue: deque[Admission[Item, Result]], max_items: int, max_cost: int) -> None:
        """Fill a batch up to `max_items` or `max_cost` from one queue."""
        now = self._clock()
        items, entries, sizes = batch.items, batch.entries, batch.sizes
        slice_cost = self._slice_cost
        while queue and (room := max_items - len(items)) > 0:
            entry = queue[0]
            future = entry.future
            deadline = entry.deadline
            if not future or future.done():  # cancelled by its caller
                queue.popleft()
                continue
            if deadline is not None and now >= deadline:
                queue.popleft()
                self._drop(entry, "expired")
                future.set_exception(DeadlineExceeded("the deadline passed while the request waited"))
                continue
            if entry.run is not batch.run and batch.run:
                break
            part = entry.items
            cost = entry.cost
            number = entry.number
            taken = entry.taken
            if cost is None or cost > slice_cost or cost > max_cost - batch.cost or number > room or number > SLICE or taken:
                part, cost = self._next_part(batch, entry, min(room, SLICE), max_cost)
                number = len(part)
                if not number:
                    break
            queue.popleft()
            if not taken:
                batch.waits.append(now - entry.enqueued_at)
            items += part
            batch.run = entry.run
            batch.cost += cost
            entries.append(entry)
            sizes.append(number)
            taken += number
            entry.taken = taken
            if taken < entry.number:
                queue.append(entry)

    def _next_part(
        self, batch: _Batch[Item, Result], entry: Admission[Item, Result], max_items: int, max_cost: int
    ) -> tuple[Sequence[Item], int]:
        """Return the next slice of an entry that fits into a batch, of at most `max_items`, and its cost.

        It is empty if nothing fits. A single item may cost more than a slice and, in an empty batch, more than a batch.
        """
        part = entry.items[entry.taken : entry.taken + max_items]
        room = max_cost - batch.cost
        limit = min(room, self._slice_cost)
        total = entry.cost
        if total is None or total > limit:
            total = self._cost(part)
        if total <= limit:
            return part, total
        total = number = 0
        for item in part:
            cost = self._cost((item,))
            if total + cost > limit and (number or (batch.items and cost > room)):
                break
            total += cost
            number += 1
        return part[:number], total

    def _finish_executed(self, batch: _Batch[Item, Result], began: float, done: ExecutorFuture[_Outcomes[Result]]) -> None:
        self._computing = False
        try:
            self._finish(batch, began, *done.result())
        except BaseException as error:
            self._fail(error, batch)
            raise

    def _finish(self, batch: _Batch[Item, Result], began: float, outcomes: Sequence[Any], failed: bool) -> None:
        self._answered_at = self._clock()
        seconds = self._answered_at - began
        size = len(batch.items)
        self._seconds_per_item += 0.1 * (seconds / size - self._seconds_per_item)
        self._observer.computed(size, seconds, batch.waits)
        long = seconds > LONG_BATCH or size > SLICE
        self._yield_turns = YIELD_TURNS if self._executor is None and long else 0
        for entry, outcome in zip(batch.entries, outcomes):  # noqa: B905  (_run_parts sees to that, in less time)
            future = entry.future
            if not future or future.done():
                continue
            if failed and isinstance(outcome, Exception):
                self._withdraw(entry)
                future.set_exception(outcome)
            elif len(outcome) == entry.number:
                future.set_result(outcome)
            else:
                entry.results += outcome
                if len(entry.results) == entry.number:
                    future.set_result(entry.results)
        self._schedule()

    def _drop(self, entry: Admission[Item, Result], reason: str) -> None:
        if left := self._withdraw(entry):
            self._observer.dropped(reason, left)

    def _withdraw(self, entry: Admission[Item, Result]) -> int:
        """Remove the items of an entry that are still enqueued, and return how many there were."""
        left = entry.number - entry.taken
        entry.taken = entry.number
        self._remove(left)
        return left

    def _remove(self, items: int) -> None:
        """So many items have left the queue."""
        self.queued -= items
        if self._bulk_waiters:
            self._admit_bulk()

    def _admit_bulk(self) -> None:
        """Admit bulk requests in order of arrival while there is room."""
        while self._bulk_waiters:
            items, waiter = self._bulk_waiters[0]
            if waiter.cancelled():
                self._bulk_waiters.popleft()
                continue
            if (
                self._bulk_in_flight and self._bulk_in_flight + items > self._capacity // 2
            ) or self.queued + items > self._capacity:
                return
            self._bulk_waiters.popleft()
            self._bulk_in_flight += items
            self.queued += items
            waiter.set_result(None)

    def _fail(self, error: BaseException, batch: _Batch[Item, Result]) -> None:
        """Fail every caller with an error of the batcher's own, and let `run` raise it."""
        for entry in [*self._queue, *self._bulk_queue, *batch.entries]:
            if entry.future and not entry.future.done():
                entry.future.set_exception(error)
        self._queue.clear()
        self._bulk_queue.clear()
        self._remove(self.queued)
        if not self._failure.done():
            self._failure.set_exception(error)


def _run_parts(run: Run[Item, Result], items: Sequence[Item], sizes: Sequence[int]) -> _Outcomes[Result]:
    """Call `run`, and split its results into parts of these sizes.

    If it fails, each part is tried on its own, so that a bad part fails no other.
    """
    try:
        results = run(items)
        if len(results) != len(items):
            raise ValueError(f"{len(results)} results for {len(items)} items")
        return ([results] if len(sizes) == 1 else _cut(results, sizes)), False
    except Exception as error:
        if len(sizes) == 1:
            return [error], True
        return [_run_parts(run, part, [len(part)])[0][0] for part in _cut(items, sizes)], True


def _cut(values: Sequence[Result], sizes: Sequence[int]) -> Sequence[Sequence[Result]]:
    """Cut values into parts of these sizes, none of which is 0."""
    if len(sizes) == len(values):
        return [[value] for value in values]
    parts = []
    start = 0
    for size in sizes:
        parts.append(values[start : start + size])
        start += size
    return parts
