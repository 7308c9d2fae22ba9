"""Clients in several event loops, threads and processes, and after their end."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fake_server import serving, texts, word_counts

from headlines.client import AsyncClient, Client, ClientError

SECONDS = 30  # for what takes milliseconds
PROTOS = Path(__file__).parents[2] / "protos"


async def ask(client):
    [prediction] = await client.predict(["four"])
    streamed = [answer.word_count async for answer in client.predict_stream(["a", "bb"], timeout=SECONDS)]
    return [prediction.word_count, *streamed, (await client.model()).version, await client.health()]


def test_an_async_client_is_made_without_a_loop_and_used_in_several(target):
    client = AsyncClient(target)
    for _ in range(3):
        assert asyncio.run(ask(client)) == [4, 1, 2, 7, True]


def test_an_async_client_is_used_in_several_loops_at_once(target):
    client = AsyncClient(target)
    answers = []
    together = threading.Barrier(3)

    def work():
        async def many():
            together.wait(SECONDS)
            return [await ask(client) for _ in range(20)]

        answers.extend(asyncio.run(many()))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert answers == [[4, 1, 2, 7, True]] * 60


def test_each_loop_closes_what_it_used(servicer):
    async def use():
        async with AsyncClient(target) as client:
            await ask(client)
            assert len(client._connections) == 1
        assert not client._connections

    with serving(servicer) as target:
        asyncio.run(use())


async def test_an_async_client_that_is_closed_says_so(target):
    client = AsyncClient(target)
    await client.predict(["a"])
    await client.close()
    await client.close()
    for call in (client.predict(["a"]), client.model(), client.health(), anext(client.predict_stream(["a"]))):
        with pytest.raises(ClientError, match="closed"):
            await call
    with pytest.raises(ClientError, match="closed"):
        async with client:
            pass


def test_a_client_that_is_closed_says_so(target):
    with Client(target) as client:
        client.predict(["a"])
    client.close()
    for call in (lambda: client.predict(["a"]), client.model, client.health, lambda: client.predict_stream(["a"])):
        with pytest.raises(ClientError, match="closed"):
            call()
    with pytest.raises(ClientError, match="closed"), client:
        pass


@pytest.mark.parametrize("count", [1, 1000])
def test_a_call_in_flight_ends_when_another_thread_closes(target, servicer, count):
    servicer.hold.clear()
    client = Client(target, timeout=SECONDS)
    errors = []

    def work():
        with pytest.raises(ClientError, match="closed") as caught:
            client.predict(texts(count))
        errors.append(caught.value)

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: servicer.requests)
    client.close()
    thread.join(SECONDS)
    servicer.hold.set()
    assert len(errors) == 1


@pytest.mark.parametrize("count", [1, 1000])
async def test_a_call_in_flight_ends_when_another_task_closes(target, servicer, count):
    servicer.hold.clear()
    client = AsyncClient(target, timeout=SECONDS)
    task = asyncio.create_task(client.predict(texts(count)))
    async with asyncio.timeout(SECONDS):
        while not servicer.requests:
            await asyncio.sleep(0.001)
        await client.close()
        with pytest.raises(ClientError, match="closed"):
            await task
    servicer.hold.set()


@pytest.mark.parametrize("kind_of_end", ["predict", "stream"])
async def test_what_is_cancelled_leaves_nothing_behind(target, servicer, kind_of_end):
    servicer.hold.clear()
    async with AsyncClient(target, timeout=SECONDS) as client:

        async def stream():
            async for _ in client.predict_stream(texts(300)):
                pass

        for _ in range(40):  # more than a client has room for
            call = client.predict(texts(300)) if kind_of_end == "predict" else stream()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(call, 0.01)
        servicer.hold.set()
        assert word_counts(await client.predict(texts(300))) == [len(text) for text in texts(300)]
    async with asyncio.timeout(SECONDS):
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.001)


def test_a_client_that_is_dropped_leaves_no_thread(target):
    before = threading.active_count()
    for _ in range(3):
        client = Client(target)
        client.predict(["a"])
        list(client.predict_stream(["a"]))
        list(client.predict_stream(text for text in ["a"]))
        del client
    gc.collect()
    wait_for(lambda: threading.active_count() <= before + 8)  # the server's


FORKS = """
import multiprocessing, os, sys
from headlines.client import Client

client = Client(sys.argv[1], timeout=20)

def ask(text):
    streamed = [answer.word_count for answer in client.predict_stream([text] * 300, timeout=20)]
    return [client.predict([text])[0].word_count, len(streamed), client.health()]

assert ask("a") == [1, 300, True]
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map(ask, ["a", "bb", "ccc"], chunksize=1))
print(ask("dddd"))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("support", [{}, {"GRPC_ENABLE_FORK_SUPPORT": "1"}], ids=["default", "support"])
def test_a_client_is_used_on_both_sides_of_a_fork(target, support):
    environment = {**os.environ, "PYTHONPATH": str(PROTOS), **support}
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS, target],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert process.stdout.splitlines() == ["[[1, 300, True], [2, 300, True], [3, 300, True]]", "[4, 300, True]"], process.stderr


FORKS_ASYNC = """
import asyncio, os, sys
from headlines.client import AsyncClient, Client, ClientError

async def ask(client):
    return (await client.predict(["four"], timeout=20))[0].word_count

client = AsyncClient(sys.argv[1])
assert asyncio.run(ask(client)) == 4
if child := os.fork():
    assert os.waitpid(child, 0)[1] == 0
    print(asyncio.run(ask(client)))
else:
    for used in (client, AsyncClient(sys.argv[1])):
        try:
            asyncio.run(ask(used))
        except ClientError as error:
            print(error, flush=True)
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_an_async_client_says_that_it_does_not_survive_a_fork(target):
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS_ASYNC, target],
        env={**os.environ, "PYTHONPATH": str(PROTOS)},
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
        check=False,
    )
    *refused, answer = process.stdout.splitlines() or [""]
    assert answer == "4", process.stderr
    assert len(refused) == 2
    assert all("forked" in line for line in refused)


def wait_for(condition):
    for _ in range(SECONDS * 100):
        if condition():
            return
        threading.Event().wait(0.01)
    pytest.fail("it did not happen")


def test_a_stream_that_outlives_its_loop_ends_without_words(target, capfd):
    """As one does that is dropped just before its loop is closed: on a busy machine nothing of it runs any more."""
    client = AsyncClient(target)

    async def endless():
        while True:
            yield "a"
            await asyncio.sleep(0.01)

    for source in (["a"] * 5, endless()):
        loop = asyncio.new_event_loop()
        stream = client.predict_stream(source, timeout=SECONDS)
        loop.run_until_complete(anext(stream))
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False
        loop.close()
        del stream
        gc.collect()  # pytest makes an error of what cannot be raised here
    assert "Traceback" not in capfd.readouterr().err
