"""predict_stream over headlines that come slowly, fail or are many."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from concurrent import futures
from pathlib import Path

import pytest
from fake_server import Servicer, serving, texts, word_counts

from headlines.client import MAX_HEADLINES, AsyncClient, Client, DeadlineExceeded

SECONDS = 30  # for what takes milliseconds


class Gate:
    """An event that both a plain and an asynchronous source can wait for."""

    def __init__(self):
        self.event = threading.Event()
        self.taken = 0

    def plain(self, before, after):
        for text in before:
            self.taken += 1
            yield text
        assert self.event.wait(SECONDS)
        yield from after

    async def asynchronous(self, before, after):
        for text in before:
            self.taken += 1
            yield text
        async with asyncio.timeout(SECONDS):
            while not self.event.is_set():
                await asyncio.sleep(0.001)
        for text in after:
            yield text

    def source(self, kind, before, after):
        return (self.plain if kind is Client else self.asynchronous)(before, after)


def test_what_is_there_is_answered_while_the_next_headline_is_awaited(client, kind):
    gate = Gate()
    answers = client.predict_stream(gate.source(kind, ["a", "bb", "ccc"], ["dddd"]))
    assert word_counts(next(answers) for _ in range(3)) == [1, 2, 3]
    gate.event.set()
    assert word_counts(answers) == [4]


def test_a_partial_request_follows_full_ones(client, kind):
    gate = Gate()
    headlines = texts(300)
    answers = client.predict_stream(gate.source(kind, headlines, []))
    assert word_counts(next(answers) for _ in range(300)) == [len(text) for text in headlines]
    gate.event.set()
    assert list(answers) == []


def test_the_timeout_holds_while_the_source_blocks(client, kind):
    gate = Gate()
    answers = client.predict_stream(gate.source(kind, ["a"], ["bb"]), timeout=0.5)
    assert next(answers).word_count == 1
    with pytest.raises(DeadlineExceeded):
        next(answers)
    gate.event.set()


def test_the_timeout_holds_before_the_first_headline(client, kind):
    gate = Gate()
    with pytest.raises(DeadlineExceeded):
        next(client.predict_stream(gate.source(kind, [], ["a"]), timeout=0.2))
    gate.event.set()


def test_what_the_source_raises_comes_after_the_answers_to_what_was_before(client, kind):
    def plain():
        yield from ["a", "bb"]
        raise OSError("the disk is gone")

    async def asynchronous():
        for text in plain():
            yield text

    answers = client.predict_stream(plain() if kind is Client else asynchronous())
    assert word_counts(next(answers) for _ in range(2)) == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(answers)


def test_an_iterable_that_is_none_is_a_type_error(client):
    with pytest.raises(TypeError):
        list(client.predict_stream(7))
    with pytest.raises(TypeError, match=r"headlines\[1\] is a int"):
        list(client.predict_stream(["a", 7]))


def test_a_slow_plain_iterable_leaves_the_event_loop_room(target):
    taken = 0

    def slow():
        nonlocal taken
        for _ in range(100):
            threading.Event().wait(0.01)
            taken += 1
            yield "a"

    async def ask():
        async with AsyncClient(target) as client:
            answers = client.predict_stream(slow())
            assert (await anext(answers)).word_count == 1
            seen = taken
            assert len([answer async for answer in answers]) == 99
            return seen

    assert asyncio.run(ask()) < 100


def test_a_list_goes_in_as_few_requests_as_it_takes(client, servicer):
    assert len(list(client.predict_stream(texts(10_000)))) == 10_000
    assert len(servicer.requests) == -(-10_000 // MAX_HEADLINES)


def test_a_fast_generator_fills_its_requests(client, servicer):
    assert len(list(client.predict_stream(text for text in texts(10_000)))) == 10_000
    assert len(servicer.requests) < 10_000 / 16  # a partial request is sent only while no other is in flight


def test_no_more_is_taken_than_has_room(client, servicer, kind):
    servicer.hold.clear()
    gate = Gate()
    gate.event.set()
    answers = client.predict_stream(gate.source(kind, texts(5_000), []), timeout=1)
    with pytest.raises(DeadlineExceeded):
        next(answers)
    servicer.hold.set()
    assert gate.taken <= 5 * MAX_HEADLINES


def test_a_stream_that_is_left_takes_no_more_and_ends_its_threads(target):
    gate = Gate()
    before = set(threading.enumerate())
    with Client(target) as client:
        answers = client.predict_stream(gate.plain(["a"], texts(10_000)))
        next(answers)
        left = [thread for thread in set(threading.enumerate()) - before if thread.name == "headlines"]
        assert left
        answers.close()
        gate.event.set()
        for thread in left:
            thread.join(SECONDS)
            assert not thread.is_alive()


async def test_a_task_that_is_cancelled_cancels_its_source(target):
    ended = asyncio.Event()

    async def source():
        try:
            yield "a"
            await asyncio.sleep(SECONDS)
        finally:
            ended.set()

    async def ask():
        async for _ in client.predict_stream(source()):
            asked.set()

    asked = asyncio.Event()
    async with AsyncClient(target) as client:
        task = asyncio.create_task(ask())
        await asyncio.wait_for(asked.wait(), SECONDS)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(ended.wait(), SECONDS)


def test_a_connection_that_grows_old_while_the_source_is_silent_harms_nothing(kind):
    servicer = Servicer()
    age = {"max_connection_age_ms": 100, "max_connection_age_grace_ms": 100}
    with serving(servicer, **age) as target, kind(target) as client, futures.ThreadPoolExecutor(1) as pool:
        gate = Gate()
        answers = client.predict_stream(gate.source(kind, ["a"], ["bb"] * 300))
        assert next(answers).word_count == 1
        rest = pool.submit(word_counts, answers) if kind is Client else None
        threading.Timer(1.0, gate.event.set).start()
        assert (rest.result(SECONDS) if rest else word_counts(answers)) == [2] * 300
        assert servicer.streams >= 2


def test_an_interrupt_ends_the_wait_for_a_source(target):
    program = (
        "import sys, threading\n"
        "from headlines.client import Client\n"
        "def source():\n"
        "    yield 'a'\n"
        "    threading.Event().wait()\n"
        "with Client(sys.argv[1]) as client:\n"
        "    for answer in client.predict_stream(source()):\n"
        "        print(answer.word_count, flush=True)\n"
    )
    protos = Path(__file__).parents[2] / "protos"
    process = subprocess.Popen(
        [sys.executable, "-c", program, target],
        env={**os.environ, "PYTHONPATH": str(protos)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "1\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=SECONDS)
    assert "KeyboardInterrupt" in errors
    assert process.returncode == -signal.SIGINT
