"""A budget of memory for messages: none is read from gRPC before there is room for it.

    lease = budget.try_reserve(peer) or await budget.reserve(peer)
    message = await read()
    lease.shrink(len(message))  # and lease.release() once it is answered

HTTP/2 flow control makes callers keep what nobody reads, all but 64 KiB a stream. A message that is being read is taken in
whole, and its size is not known before. So a read reserves room for the largest message, and returns the surplus when the
message is here.

Rules, all on the event loop's thread:
* All reservations together never exceed `capacity`, and those of bulk never half of it, so that other calls always find room.
* When half of the room is taken, a connection whose reads hold a quarter of it has to wait. Connections that wait take turns.
* A read whose caller has sent nothing for `patience` seconds is ended if another one waits: callers that stay silent must not
  keep out those that do not.
* Bulk waits as long as it takes: flow control holds its callers back. Any other read is refused when it has waited for twice
  `patience`, or finds `MOST_WAITING` before it.
* The work on a message is in proportion to its bytes. While those that are being answered, bulk aside, take a quarter of
  `capacity`, a large message is refused before it is parsed, few are read at a time, one a connection, and a connection whose
  message was refused rests for a quarter of `patience`: to read a large message takes milliseconds, and callers may come back
  at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from service.errors import Overloaded

SMALL = 64 << 10  # bytes; a batch's worth
FEW = 4  # reads
MOST_WAITING = 1024  # reads; each is a call with its task, some 20 kB

Peer = Callable[[], str]  # names the connection; gRPC has to build the string, so it is asked only if room is scarce


class Lease:
    """Room for one message. To end its read, the budget sets `evicted` and cancels the task that reads."""

    __slots__ = ("_budget", "_name", "_peer", "bulk", "evicted", "reading_since", "size", "task")

    def __init__(self, budget: Budget, peer: Peer, bulk: bool, task: asyncio.Task[object] | None) -> None:
        self._budget = budget
        self._peer = peer
        self._name: str | None = None
        self.evicted = False
        self.bulk = bulk
        self.size = budget.largest  # bytes
        self.reading_since: float | None = budget.clock()  # None: the message is here
        self.task = task  # that reads
        budget.reading[self] = None
        budget.reserved += self.size
        if bulk:
            budget.bulk_reserved += self.size

    @property
    def peer(self) -> str:
        """The connection that the message comes from."""
        if self._name is None:
            self._name = self._peer()
        return self._name

    def shrink(self, size: int) -> None:
        """Keep this many bytes, the size of the message, and return the rest. Raises Overloaded, and returns all."""
        budget = self._budget
        if self.reading_since is not None:
            self.reading_since = self.task = None
            del budget.reading[self]
            if not self.bulk:
                budget.answering += size
        elif not self.bulk:
            budget.answering += size - self.size
        returned = self.size - size
        self.size = size
        budget.reserved -= returned
        if self.bulk:
            budget.bulk_reserved -= returned
        if budget.waiting:
            budget.admit_waiting()
        if size > SMALL:
            budget.refuse_if_strained(self)

    def release(self) -> None:
        """Return all of it. May be called twice."""
        self.shrink(0)


class Budget:
    """Hands out leases: at once if there is room, else in turns of connections."""

    def __init__(
        self, capacity: int, largest: int, *, patience: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`capacity` and `largest`, the largest message, are in bytes; `capacity` must be at least twice `largest`."""
        self.largest = largest
        self._capacity = capacity
        self._bulk_capacity = capacity // 2
        self._half = (capacity + 1) // 2  # where room becomes scarce
        self._strain = capacity // 4  # bytes that are being answered beyond which large messages are refused
        self.reserved = self.bulk_reserved = 0  # bytes, now
        self.answering = 0  # bytes of messages that are here, bulk aside
        self._patience = patience
        self.clock = clock
        self.reading: dict[Lease, None] = {}  # whose message is not here yet, the oldest first
        # By whether they are bulk, then by connection, the next one in turn first.
        self._waiting: dict[bool, OrderedDict[str, deque[asyncio.Future[Lease]]]] = {
            False: OrderedDict(),
            True: OrderedDict(),
        }
        self.waiting = 0  # reads that wait for room
        self._resting: dict[str, float] = {}  # until when, by connection
        self._eviction: asyncio.TimerHandle | None = None

    def try_reserve(self, peer: Peer, bulk: bool = False) -> Lease | None:
        """Room for the largest message, to be read by the calling task; None if it has to wait."""
        ample = self.reserved < self._half and self.answering <= self._strain and not (self.waiting or bulk)
        if not ample and (self._waiting[bulk] or not self._has_room(peer, bulk)):
            return None
        return Lease(self, peer, bulk, asyncio.current_task())

    async def reserve(self, peer: Peer, bulk: bool = False) -> Lease:
        """As `try_reserve`, but waits for room. Raises Overloaded, unless it is for bulk."""
        if bulk:
            return await self._wait(peer(), bulk)
        if self.waiting >= MOST_WAITING:
            raise Overloaded("too many requests wait to be read", self._patience)
        try:
            async with asyncio.timeout(2 * self._patience):
                return await self._wait(peer(), bulk)
        except TimeoutError:
            raise Overloaded("there was no room to read the request", self._patience) from None

    async def _wait(self, name: str, bulk: bool) -> Lease:
        granted: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._waiting[bulk].setdefault(name, deque()).append(granted)
        self.waiting += 1
        self._watch()
        try:
            self._admit(bulk)
            lease = await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                granted.result().release()
            raise
        finally:
            self.waiting -= 1
        lease.task = asyncio.current_task()
        lease.reading_since = self.clock()
        return lease

    def admit_waiting(self) -> None:
        """Give what room there is to those who wait."""
        for bulk, turns in self._waiting.items():
            if turns:
                self._admit(bulk)

    def refuse_if_strained(self, lease: Lease) -> None:
        """See Lease.shrink, for a message that is not small."""
        if self.answering > self._strain and not lease.bulk and lease.size < self.answering:
            self._resting[lease.peer] = self.clock() + self._patience / 4
            lease.release()
            raise Overloaded("the requests before it are too large to read another large one", self._patience)

    def _has_room(self, peer: Peer, bulk: bool) -> bool:
        if not bulk and self.answering > self._strain:
            name = peer()
            reads = [it.peer for it in self.reading if not it.bulk]
            if len(reads) >= FEW or name in reads or self._resting.get(name, 0.0) > self.clock():
                return False
        reserved, capacity = (self.bulk_reserved, self._bulk_capacity) if bulk else (self.reserved, self._capacity)
        if reserved + self.largest > capacity or self.reserved + self.largest > self._capacity:
            return False
        if 2 * reserved < capacity:
            return True
        name = peer()
        return 4 * sum(it.size for it in self.reading if it.bulk >= bulk and it.peer == name) < capacity

    def _admit(self, bulk: bool) -> None:
        """Give what room there is to those who wait."""
        turns = self._waiting[bulk]
        for name in list(turns):
            waiting = turns[name]
            while waiting and waiting[0].done():  # its caller has gone
                waiting.popleft()
            if waiting and self._has_room(lambda name=name: name, bulk):  # type: ignore[misc]
                waiting.popleft().set_result(Lease(self, lambda name=name: name, bulk, None))  # type: ignore[misc]
                turns.move_to_end(name)
            if not waiting:
                del turns[name]

    def _watch(self) -> None:
        if self._eviction is None:
            self._eviction = asyncio.get_running_loop().call_later(self._patience / 4, self._evict)

    def _evict(self) -> None:
        """End as many reads whose callers stay silent as others wait for their room, the oldest first."""
        self._eviction = None
        now = self.clock()
        overdue = now - self._patience
        self._resting = {name: until for name, until in self._resting.items() if until > now}
        for bulk, turns in self._waiting.items():
            # Where there is room for others, a connection waits for its own reads.
            full = not self._has_room(lambda: "", bulk)
            for name, waiting in turns.items():
                silent = [
                    it
                    for it in self.reading
                    if it.task and not it.evicted and (it.reading_since or overdue) < overdue and (full or it.peer == name)
                ]
                for lease in silent[: sum(not it.done() for it in waiting)]:
                    lease.evicted = True
                    lease.task.cancel()  # type: ignore[union-attr]
            self._admit(bulk)  # those that have rested
        if self.waiting:
            self._watch()
