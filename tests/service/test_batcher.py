"""Many callers to one batch, on a loop whose time stands still unless a test moves it."""

import asyncio
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import pairwise

import pytest

from service.batcher import BULK, LONG_BATCH, MAX_WAIT, RECENT, SLICE, YIELD_TURNS, Batcher
from service.errors import DeadlineExceeded, Overloaded


class Loop(asyncio.SelectorEventLoop):
    """A loop that jumps to its next timer instead of waiting for it."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        selector = self._selector
        select = selector.select

        def jump(timeout=None):
            events = select(0 if timeout is not None else None)
            if timeout and not events:
                self.now += timeout
            return events

        selector.select = jump

    def time(self):
        return self.now


class Record:
    """An observer that writes down."""

    def __init__(self):
        self.batches = []
        self.drops = Counter()
        self.waits = []
        self.batcher = None  # the one that is observed

    @property
    def queue(self):
        return self.batcher.queued

    def computed(self, items, seconds, waits):  # noqa: ARG002
        self.batches.append(items)
        self.waits += waits

    def dropped(self, reason, items):
        self.drops[reason] += items


def double(items):
    return [2 * item for item in items]


@pytest.fixture
def record():
    return Record()


@pytest.fixture
def run():
    """Run a coroutine on a fresh loop of our own time."""

    def run(main):
        loop = Loop()
        try:
            return loop.run_until_complete(main)
        finally:
            loop.close()

    return run


def make(record, *, capacity=4096, largest_batch=256, executor=None, **costs):
    record.batcher = Batcher(
        capacity=capacity,
        largest_batch=largest_batch,
        **costs,
        executor=executor,
        observer=record,
        clock=asyncio.get_running_loop().time,
    )
    return record.batcher


def test_a_lone_caller_whose_call_begins_after_each_answer_never_waits(run, record):
    async def main():
        loop = asyncio.get_running_loop()
        batcher = make(record)
        for _ in range(50):
            began = loop.time()
            await asyncio.sleep(MAX_WAIT / 8)
            before = loop.time()
            await batcher.submit(double, [1], began=began)
            assert loop.time() == before

    run(main())
    assert record.batches == [1] * 50


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_lone_caller_never_waits(run, record):
    async def main():
        batcher = make(record)
        for i in range(100):
            assert await batcher.submit(double, [i]) == [2 * i]
        return asyncio.get_running_loop().time()

    assert run(main()) == 0.0
    assert record.batches == [1] * 100


def test_a_batch_waits_to_be_as_large_as_the_one_before_but_no_longer_than_the_limit(run, record):
    async def main():
        loop = asyncio.get_running_loop()
        batcher = make(record)
        await asyncio.gather(*(batcher.submit(double, [i]) for i in range(8)))
        assert loop.time() == 0.0  # all came in one turn of the loop

        seven = [asyncio.ensure_future(batcher.submit(double, [i])) for i in range(7)]
        await settle()
        assert not any(task.done() for task in seven)
        assert await batcher.submit(double, [7]) == [14]  # the eighth: as many as before
        assert loop.time() == 0.0

        assert await batcher.submit(double, [1]) == [2]  # alone now: waits, once
        assert loop.time() == pytest.approx(MAX_WAIT)
        assert await batcher.submit(double, [1]) == [2]
        assert loop.time() == pytest.approx(MAX_WAIT)

    run(main())
    assert record.batches == [8, 8, 1, 1]
    assert max(record.waits) == pytest.approx(MAX_WAIT)


def test_one_small_batch_does_not_make_the_next_ones_small(run, record):
    async def main():
        loop = asyncio.get_running_loop()
        batcher = make(record)

        async def call(callers):
            began = loop.time()
            await asyncio.gather(*(batcher.submit(double, [i]) for i in range(callers)))
            return loop.time() - began

        assert await call(8) == 0.0
        for _ in range(RECENT - 1):
            assert await call(3) == pytest.approx(MAX_WAIT)  # for eight
        assert await call(8) == 0.0
        for _ in range(RECENT):
            await call(3)
        assert await call(3) == 0.0  # eight are long ago
        assert await call(1) == pytest.approx(MAX_WAIT)
        assert await call(1) == 0.0

    run(main())


def test_whose_call_began_before_a_batch_was_answered_is_waited_for_from_then_on(run, record):
    async def main():
        loop = asyncio.get_running_loop()
        batcher = make(record)

        async def call():
            for _ in range(50):
                began = loop.time()
                await asyncio.sleep(MAX_WAIT / 8)  # the message is read
                await batcher.submit(double, [1], began=began)
                await asyncio.sleep(MAX_WAIT / 8)  # the way to the caller and back

        first = asyncio.ensure_future(call())
        await asyncio.sleep(MAX_WAIT / 16)  # too late for the first one's batch
        await asyncio.gather(first, call())
        return loop.time()

    assert run(main()) < 50 * MAX_WAIT / 4 + 3 * MAX_WAIT  # they wait for each other at first, and never again
    assert record.batches[0] == 1
    assert record.batches[-41:-1] == [2] * 40


def test_late_company_does_not_prolong_the_wait(run, record):
    async def main():
        loop = asyncio.get_running_loop()
        batcher = make(record)
        await asyncio.gather(*(batcher.submit(double, [i]) for i in range(3)))
        first = asyncio.ensure_future(batcher.submit(double, [1]))
        await asyncio.sleep(MAX_WAIT * 0.9)
        second = asyncio.ensure_future(batcher.submit(double, [2]))
        await asyncio.gather(first, second)
        return loop.time()

    assert run(main()) == pytest.approx(MAX_WAIT)


def test_each_caller_gets_the_answers_to_his_own_items(run, record):
    async def main():
        batcher = make(record, capacity=100_000)
        rng = random.Random(1)
        requests = [[rng.random() for _ in range(rng.randint(1, 700))] for _ in range(100)]
        answers = await asyncio.gather(*(batcher.submit(double, items) for items in requests))
        assert answers == [double(items) for items in requests]

    run(main())
    assert max(record.batches) == 256


def test_a_large_request_lets_small_ones_through(run, record):
    async def main():
        batcher = make(record, largest_batch=128)
        order = []

        async def submit(name, size):
            await batcher.submit(double, [0] * size)
            order.append(name)

        await asyncio.gather(submit("large", 1024), submit("small", 1))
        return order

    assert run(main()) == ["small", "large"]


def test_a_batch_ends_at_its_items_or_at_their_cost(run, record):
    """Items are their own costs."""

    async def main():
        batcher = make(record, largest_batch=8, largest_cost=100, cost=sum)
        batches = []

        def compute(items):
            batches.append(items)
            return items

        requests = [
            [1] * 9,  # ends by items
            [10] * 5 + [30, 40, 500, 500, 5],  # 25 are a slice; 30 and 40 are more than that, 500 are more than a batch
            [0, 0, 0],
            [90],
        ]
        answers = await asyncio.gather(*(batcher.submit(compute, items) for items in requests))
        assert answers == requests
        return batches

    batches = run(main())
    assert all(len(batch) <= 8 and (sum(batch) <= 100 or len(batch) == 1) for batch in batches)
    assert batches[0] == [1] * 8
    assert [500] in batches


@pytest.mark.parametrize("bulk", [False, True])
def test_a_request_of_dear_items_holds_a_cheap_one_up_for_a_batch_at_most(run, record, bulk):
    async def main():
        batcher = make(record, largest_cost=100, cost=sum)
        batches = []

        def compute(items):
            batches.append(items)
            return items

        dear = asyncio.ensure_future(batcher.submit(compute, [20] * 1000, bulk=bulk))
        await settle()
        before = len(batches)
        await batcher.submit(compute, [1])
        between = batches[before:]
        assert await dear == [20] * 1000
        return between, batches

    between, batches = run(main())
    assert len(between) <= 2
    assert 1 in between[-1]
    assert max(map(sum, batches)) <= 100


def test_dear_requests_and_dear_bulk_share_each_batch(run, record):
    async def main():
        batcher = make(record, largest_cost=100, cost=lambda items: sum(cost for _, cost in items))
        batches = []

        def compute(items):
            batches.append(Counter(name for name, _ in items))
            return items

        bulk = asyncio.ensure_future(batcher.submit(compute, [("bulk", 10)] * 1000, bulk=True))
        await settle()
        before = len(batches)
        await batcher.submit(compute, [("one", 10)] * 40)
        between = batches[before:]
        await bulk
        return between

    shared = [batch for batch in run(main()) if batch["one"] and batch["bulk"]]
    assert shared
    assert all(batch.total() <= 10 and batch["bulk"] >= 2 for batch in shared)


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(run, record):
    async def main():
        batcher = make(record, capacity=10)
        waiting = asyncio.ensure_future(batcher.submit(double, [0] * 8))
        fits = asyncio.ensure_future(batcher.submit(double, [0] * 2))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as error:
            await batcher.submit(double, [0] * 3)
        assert error.value.retry_after >= 0
        assert record.queue == 10
        await asyncio.gather(waiting, fits)

    run(main())
    assert record.drops == {"overloaded": 3}
    assert record.queue == 0


def test_room_is_reserved_before_anything_is_decoded(run, record):
    async def main():
        batcher = make(record, capacity=4)
        waiting = asyncio.ensure_future(batcher.submit(double, [1, 2, 3]))
        await asyncio.sleep(0)
        with batcher.admit(1) as admission:
            with pytest.raises(Overloaded):
                batcher.admit(1)
            assert record.queue == 4
            assert await admission.compute(double, [4]) == [8]
        with suppress(ArithmeticError), batcher.admit(4):
            raise ArithmeticError  # what is decoded is malformed, for one
        assert record.queue == 0
        assert await waiting == [2, 4, 6]
        with batcher.admit(4) as admission:
            with pytest.raises(ValueError, match="3 items for an admission of 4"):
                await admission.compute(double, [1, 2, 3])
            assert await admission.compute(double, [1] * 4) == [2] * 4
            with pytest.raises(ValueError, match="admission"):
                await admission.compute(double, [1] * 4)

    run(main())
    assert record.drops == {"overloaded": 1}
    assert record.queue == 0


def test_a_request_that_could_not_be_answered_in_time_is_refused_before_it_is_parsed(run, record):
    async def main():
        loop = asyncio.get_running_loop()
        batcher = make(record)

        def slow(items):
            loop.now += 0.1 * len(items)
            return items

        for i in range(50):
            await batcher.submit(slow, [i])
        waiting = asyncio.ensure_future(batcher.submit(slow, [0] * 20))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="deadline") as error:
            batcher.admit(1, loop.now + 1)
        assert 1 < error.value.retry_after <= 2
        for deadline in (loop.now + 10, None):
            with batcher.admit(1, deadline):
                pass
        await waiting
        with batcher.admit(1, loop.now + 0.01):
            pass

    run(main())
    assert record.drops == {"overloaded": 1}


@pytest.mark.parametrize(("seconds", "turns"), [(2 * LONG_BATCH, YIELD_TURNS), (LONG_BATCH / 2, 0)])
def test_after_a_long_batch_others_have_their_turns_first(run, record, seconds, turns):
    async def main():
        loop = asyncio.get_running_loop()
        turns, computed_at = 0, []

        def compute(items):
            loop.now += seconds
            computed_at.append(turns)
            return items

        batcher = make(record, largest_batch=2)
        answer = asyncio.ensure_future(batcher.submit(compute, [1, 2, 3, 4, 5, 6]))
        while not answer.done():
            turns += 1
            await asyncio.sleep(0)
        return [after - before for before, after in pairwise(computed_at)]

    assert run(main()) == [turns + 1] * 2


def test_what_is_left_of_a_request_is_computed_once(run, record):
    computed = []

    def compute(items):
        computed.extend(items)
        return double(items)

    async def main():
        batcher = make(record, capacity=100, largest_batch=10)
        with ExitStack() as admissions:
            answers = []
            for start in (0, 6):
                admission = admissions.enter_context(batcher.admit(6, cost=0))
                answers.append(admission.compute(compute, list(range(start, start + 6))))
            found = [list(answer) for answer in await asyncio.gather(*answers)]
        assert batcher.queued == 0
        return found

    assert run(main()) == [[0, 2, 4, 6, 8, 10], [12, 14, 16, 18, 20, 22]]
    assert sorted(computed) == list(range(12))
    assert record.batches == [10, 2]


@pytest.mark.parametrize(("largest_batch", "turns"), [(2 * SLICE, YIELD_TURNS), (SLICE, 0)])
def test_after_a_large_batch_others_have_their_turns_first_however_fast_it_was(run, record, largest_batch, turns):
    async def main():
        turns, computed_at = 0, []

        def compute(items):
            computed_at.append(turns)
            return items

        batcher = make(record, capacity=8 * SLICE, largest_batch=largest_batch)
        answers = [asyncio.ensure_future(batcher.submit(compute, [0] * SLICE)) for _ in range(8)]
        while not all(it.done() for it in answers):
            turns += 1
            await asyncio.sleep(0)
        return [after - before for before, after in pairwise(computed_at)]

    assert set(run(main())) == {turns + 1}


def test_a_cancelled_request_is_not_computed_and_makes_room(run, record):
    async def main():
        batcher = make(record, capacity=10)
        gone = asyncio.ensure_future(batcher.submit(double, [0] * 10))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        assert await batcher.submit(double, [1] * 10) == [2] * 10

    run(main())
    assert record.batches == [10]
    assert record.drops == {"cancelled": 10}


def test_an_expired_request_is_not_computed(run, record):
    async def main():
        batcher = make(record)
        await asyncio.gather(*(batcher.submit(double, [i]) for i in range(3)))
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(double, [0], deadline=MAX_WAIT / 2)

    run(main())
    assert record.batches == [3]
    assert record.drops == {"expired": 1}
    assert record.queue == 0


def test_one_bad_request_harms_no_other(run, record):
    def picky(items):
        if any(item < 0 for item in items):
            raise ValueError("negative")
        return double(items)

    async def main():
        batcher = make(record)
        answers = await asyncio.gather(*(batcher.submit(picky, [i, i]) for i in (1, -1, 2)), return_exceptions=True)
        assert answers[0] == [2, 2]
        assert isinstance(answers[1], ValueError)
        assert answers[2] == [4, 4]

    run(main())


def test_a_run_that_answers_too_little_is_an_error_not_a_wrong_answer(run, record):
    async def main():
        batcher = make(record)
        with pytest.raises(ValueError, match="1 results for 2 items"):
            await batcher.submit(lambda items: items[1:], [1, 2])

    run(main())


def test_requests_of_two_runs_never_share_a_batch(run, record):
    seen = []

    def old(items):
        seen.append(("old", len(items)))
        return items

    def new(items):
        seen.append(("new", len(items)))
        return items

    async def main():
        batcher = make(record)
        await asyncio.gather(*(batcher.submit(run, [0]) for run in (old, old, new, new, old)))

    run(main())
    assert seen == [("old", 2), ("new", 2), ("old", 1)]


def test_bulk_waits_where_others_are_refused_and_leaves_half_the_queue(run, record):
    async def main():
        batcher = make(record, capacity=100, largest_batch=10)
        bulk = [asyncio.ensure_future(batcher.submit(double, [i] * 25, bulk=True)) for i in range(40)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert record.queue <= 50
        assert await batcher.submit(double, [9] * 50) == [18] * 50
        bulk[3].cancel()
        answers = await asyncio.gather(*bulk, return_exceptions=True)
        assert isinstance(answers.pop(3), asyncio.CancelledError)
        assert [answer[0] for answer in answers] == [2 * i for i in range(40) if i != 3]
        assert await batcher.submit(double, [1] * 50, bulk=True) == [2] * 50  # all room was given back

    run(main())
    assert record.drops.total() <= 25
    assert record.queue == 0


def test_who_is_waited_for_goes_before_bulk_which_goes_on_by_slices(run, record):
    async def main():
        batcher = make(record)
        batches = []

        def compute(items):
            batches.append(Counter(items))
            return items

        bulk = [asyncio.ensure_future(batcher.submit(compute, ["bulk"] * 512, bulk=True)) for _ in range(4)]
        await settle()
        others = [asyncio.ensure_future(batcher.submit(compute, [name] * size)) for name, size in (("a", 1), ("b", 400))]
        await asyncio.gather(*others, *bulk)
        return batches

    batches = run(main())
    shared = [batch for batch in batches if set(batch) != {"bulk"}]
    assert shared == [{"a": 1, "b": 191, "bulk": SLICE}, {"b": 192, "bulk": SLICE}, {"b": 17, "bulk": BULK}]
    assert {batch["bulk"] for batch in batches if batch not in shared} == {BULK}


def test_bulk_of_a_version_that_is_gone_is_not_starved(run, record):
    async def main():
        batcher = make(record)
        served = []

        def ask(run):
            return batcher.submit(run, ["one"])

        old = asyncio.ensure_future(batcher.submit(lambda items: served.append("old") or items, ["bulk"] * 512, bulk=True))
        callers = []
        while not old.done():
            callers.append(asyncio.ensure_future(ask(double)))
            await asyncio.sleep(0)
        await asyncio.gather(*callers)
        return served

    assert run(main()) == ["old"] * (512 // BULK)


def test_random_cancels_leave_the_queue_empty_and_its_room_whole(run, record):
    async def main():
        rng = random.Random(2)
        batcher = make(record, capacity=200, largest_batch=16)

        async def one(bulk):
            size = rng.randint(1, 100)
            task = asyncio.ensure_future(batcher.submit(double, [size] * size, bulk=bulk))
            for _ in range(rng.randint(0, 6)):
                await asyncio.sleep(0)
            if rng.random() < 0.5:
                task.cancel()
            with suppress(asyncio.CancelledError, Overloaded):
                assert await task == [2 * size] * size

        for _ in range(100):
            await asyncio.gather(*(one(bulk=i % 2 == 0) for i in range(20)))
            assert record.queue == 0
        answers = await asyncio.gather(*(batcher.submit(double, [1] * 100, bulk=bulk) for bulk in (True, False)))
        assert answers == [[2] * 100] * 2

    run(main())


@pytest.fixture
def executor():
    with ThreadPoolExecutor(1) as executor:
        yield executor


async def test_with_an_executor_what_comes_meanwhile_is_the_next_batch(record, executor):
    free = threading.Event()

    def slow(items):
        assert threading.current_thread() is not threading.main_thread()
        assert free.wait(10)
        return double(items)

    batcher = make(record, executor=executor)
    first = asyncio.ensure_future(batcher.submit(slow, [1]))
    await settle()
    others = [asyncio.ensure_future(batcher.submit(slow, [i])) for i in range(5)]
    await settle()
    free.set()
    assert await first == [2]
    assert await asyncio.gather(*others) == [[2 * i] for i in range(5)]
    assert record.batches == [1, 5]


async def test_a_dead_executor_is_an_error_for_those_inside_and_is_told(record):
    executor = ThreadPoolExecutor(1)
    batcher = make(record, executor=executor)
    assert await batcher.submit(double, [1]) == [2]
    watch = asyncio.ensure_future(batcher.run())
    executor.shutdown()
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    with pytest.raises(RuntimeError):
        await batcher.submit(double, [1])
    with pytest.raises(RuntimeError):
        await watch
    with pytest.raises(RuntimeError):
        await batcher.submit(double, [1])
    assert len(told) == 1
