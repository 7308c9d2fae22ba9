"""Room for messages, on an event loop whose time is the test's."""

import asyncio

import pytest

from service import budget as module
from service.budget import Budget
from service.errors import Overloaded

LARGEST = 100


def peer(name="a"):
    return lambda: name


@pytest.fixture
def budget():
    return Budget(16 * LARGEST, LARGEST, patience=0.05)


async def reading(budget, name="a", bulk=False, size=10, held=None):
    """A read that gets its message when `held` is set, at once without one; its size then."""
    lease = budget.try_reserve(peer(name), bulk) or await budget.reserve(peer(name), bulk)
    try:
        if held:
            await held.wait()
        lease.shrink(size)
        return lease
    except asyncio.CancelledError:
        lease.release()
        if lease.evicted:
            asyncio.current_task().uncancel()
            return "evicted"
        raise


async def settled(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_read_reserves_the_largest_message_and_returns_the_surplus(budget):
    lease = budget.try_reserve(peer())
    assert budget.reserved == LARGEST
    lease.shrink(30)
    assert budget.reserved == 30
    lease.release()
    lease.release()
    assert budget.reserved == 0


async def test_reservations_never_exceed_the_capacity_and_bulk_s_never_half_of_it(budget):
    bulk = [budget.try_reserve(peer(str(i)), bulk=True) for i in range(20)]
    assert sum(map(bool, bulk)) == 8
    others = [budget.try_reserve(peer(str(i))) for i in range(20)]
    assert sum(map(bool, others)) == 8
    assert budget.reserved == 16 * LARGEST


async def test_messages_that_are_held_count_until_they_are_answered(budget):
    leases = [await reading(budget, str(i), size=LARGEST) for i in range(16)]
    assert budget.try_reserve(peer("new")) is None
    waiting = asyncio.ensure_future(reading(budget, "new"))
    await settled(lambda: budget.waiting)
    leases[3].release()
    assert (await waiting).size == 10
    assert budget.waiting == 0


async def test_one_connection_leaves_room_for_others(budget):
    hoarder = [budget.try_reserve(peer("hoarder")) for _ in range(20)]
    assert sum(map(bool, hoarder)) == 8
    assert budget.try_reserve(peer("other"))


async def test_connections_take_turns(budget):
    held = asyncio.Event()
    first = [asyncio.ensure_future(reading(budget, str(i), held=held)) for i in range(16)]
    await settled(lambda: budget.reserved == 16 * LARGEST)
    order = []

    async def wait(name):
        lease = await budget.reserve(peer(name))
        order.append(name)
        lease.release()

    waiting = [asyncio.ensure_future(wait("crowd")) for _ in range(50)]
    await settled(lambda: budget.waiting == 50)
    waiting.append(asyncio.ensure_future(wait("alone")))
    await settled(lambda: budget.waiting == 51)
    held.set()
    await asyncio.gather(*first, *waiting)
    assert "alone" in order[:2]
    assert len(order) == 51


async def test_silent_reads_are_ended_when_others_wait_and_only_then(budget):
    never = asyncio.Event()
    silent = [asyncio.ensure_future(reading(budget, str(i), bulk=True, held=never)) for i in range(8)]
    await settled(lambda: budget.reserved == 8 * LARGEST)
    await asyncio.sleep(0.2)  # four times the patience
    assert not any(task.done() for task in silent)
    lease = await reading(budget, "new", bulk=True)
    assert lease.size == 10
    await settled(lambda: any(task.done() for task in silent))
    ended = [task for task in silent if task.done()]
    assert 1 <= len(ended) < 8
    assert {task.result() for task in ended} == {"evicted"}
    for task in silent:
        task.cancel()
    await asyncio.gather(*silent, return_exceptions=True)
    assert budget.reserved == 10


async def test_large_messages_are_refused_while_others_are_answered_and_small_ones_pass(monkeypatch):
    monkeypatch.setattr(module, "SMALL", 20)
    budget = Budget(16 * LARGEST, LARGEST, patience=0.2)
    held = [await reading(budget, str(i), size=LARGEST) for i in range(4)]
    held.append(await reading(budget, "4", size=15))  # more than a quarter
    with pytest.raises(Overloaded):
        await reading(budget, "crowd", size=LARGEST)
    assert budget.reserved == 4 * LARGEST + 15
    assert budget.try_reserve(peer("crowd")) is None  # it rests
    (await reading(budget, "other", size=10)).release()
    (await reading(budget, "crowd", size=10)).release()  # when it has rested
    bulk = await reading(budget, "crowd", bulk=True, size=LARGEST)
    for lease in (*held, bulk):
        lease.release()
    (await reading(budget, "crowd", size=LARGEST)).release()
    assert budget.reserved == 0


async def test_few_are_read_at_a_time_while_large_messages_are_answered(budget):
    held = [await reading(budget, str(i), size=LARGEST) for i in range(5)]
    reads = [budget.try_reserve(peer(name)) for name in ("a", "a", "b", "c", "d", "e")]
    assert [bool(lease) for lease in reads] == [True, False, True, True, True, False]
    for lease in (*held, *filter(None, reads)):
        lease.release()


async def test_a_single_message_is_never_too_large():
    assert (await reading(Budget(2 * LARGEST, LARGEST), size=LARGEST)).size == LARGEST


async def test_a_connection_that_waits_for_its_own_share_ends_no_read_of_others(budget):
    never = asyncio.Event()
    others = [asyncio.ensure_future(reading(budget, "other", held=never)) for _ in range(4)]
    crowd = [asyncio.ensure_future(reading(budget, "crowd", held=never)) for _ in range(9)]
    await settled(lambda: any(task.done() for task in crowd))
    assert not any(task.done() for task in others)
    for task in (*others, *crowd):
        task.cancel()
    await asyncio.gather(*others, *crowd, return_exceptions=True)
    assert budget.reserved == 0


async def test_whoever_waits_too_long_is_refused_but_bulk_is_not(budget):
    leases = [await reading(budget, str(i), size=LARGEST) for i in range(16)]
    bulk = asyncio.ensure_future(reading(budget, "bulk", bulk=True))
    with pytest.raises(Overloaded) as error:
        await reading(budget, "new")
    assert error.value.retry_after > 0
    assert not bulk.done()
    leases[0].release()
    assert (await bulk).size == 10
    assert budget.waiting == 0


async def test_the_number_of_reads_that_wait_is_bounded(budget, monkeypatch):
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    leases = [await reading(budget, str(i), size=LARGEST) for i in range(16)]
    waiting = [asyncio.ensure_future(reading(budget, "crowd", bulk=True)) for _ in range(3)]
    await settled(lambda: budget.waiting == 3)
    with pytest.raises(Overloaded, match="too many"):
        await reading(budget, "new")
    for lease in leases:
        lease.release()
    await asyncio.gather(*waiting)


async def test_a_cancelled_wait_takes_no_room(budget):
    leases = [await reading(budget, str(i), size=LARGEST) for i in range(16)]
    waiting = [asyncio.ensure_future(reading(budget, "new", bulk=True)) for _ in range(5)]
    await settled(lambda: budget.waiting == 5)
    for task in waiting[:3]:
        task.cancel()
    leases[0].release()  # in the same turn of the loop
    waiting[3].cancel()
    await asyncio.gather(*waiting[:4], return_exceptions=True)
    leases[1].release()
    (await waiting[4]).release()
    for lease in leases:
        lease.release()
    assert (budget.reserved, budget.waiting) == (0, 0)
