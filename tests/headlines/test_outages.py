"""A server that goes away and comes back."""

import socket
import threading
import time
from concurrent import futures

import grpc
import pytest
from fake_server import Servicer, serving, texts, word_counts

from headlines.client import Overloaded, Unavailable

SECONDS = 60  # for what takes a few


def back_after(seconds, port):
    """Serve again on that port after so many seconds, until the event is set."""
    release = threading.Event()

    def serve():
        time.sleep(seconds)  # the outage
        with serving(Servicer(), port):
            release.wait(SECONDS)

    thread = threading.Thread(target=serve)
    thread.start()
    return release, thread


@pytest.fixture
def outage(kind):
    """A client that its server answered, and whose server is away for some seconds."""
    started = []

    def begin(seconds, **settings):
        with serving(Servicer()) as target:
            client = kind(target, **settings)
            assert word_counts(client.predict(["four"], timeout=SECONDS)) == [4]
        started.append((client, *back_after(seconds, int(target.rpartition(":")[2]))))
        return client

    yield begin
    for client, release, thread in started:
        client.close()
        release.set()
        thread.join()


def test_a_call_with_time_outlives_a_restart(outage):
    client = outage(5)  # gRPC's five tries take 1.5 s
    assert word_counts(client.predict(["four"], timeout=SECONDS)) == [4]
    assert client.health(timeout=SECONDS)


def test_a_long_list_outlives_a_restart(outage):
    client = outage(4)
    assert word_counts(client.predict(texts(1000), timeout=SECONDS)) == [len(text) for text in texts(1000)]
    assert client.model(timeout=SECONDS).version == 7


def test_a_stream_outlives_a_restart(outage):
    client = outage(7)  # five tries took 5.8 s
    assert word_counts(client.predict_stream(texts(500))) == [len(text) for text in texts(500)]


def test_a_stream_goes_on_where_it_was_when_the_server_restarts(kind):
    servicer = Servicer()
    with serving(servicer) as target:
        client = kind(target)
        answers = client.predict_stream(texts(3000))
        first = [next(answers) for _ in range(200)]
    release, thread = back_after(2, int(target.rpartition(":")[2]))
    try:
        assert word_counts([*first, *answers]) == [len(text) for text in texts(3000)]
    finally:
        client.close()
        release.set()
        thread.join()


def test_a_client_without_an_answer_yet_waits_for_a_server_that_starts(kind):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    release, thread = back_after(4, port)
    try:
        with kind(f"127.0.0.1:{port}") as client:
            assert word_counts(client.predict(["four"], timeout=SECONDS)) == [4]
    finally:
        release.set()
        thread.join()


def test_an_outage_that_lasts_is_unavailable_before_the_time_is_up(kind):
    with serving(Servicer()) as target:
        client = kind(target)
        client.predict(["four"])
    with client, pytest.raises(Unavailable):
        client.predict(["four"], timeout=2)
    with kind("127.0.0.1:1") as client, pytest.raises(Unavailable):  # never answered: not after all of the minute
        client.predict(["four"], timeout=9)


def test_a_long_outage_does_not_keep_the_client_away(kind):
    """By gRPC's own backoff the eighth try to connect comes 20 s or more after the first."""
    tries = threading.Semaphore(0)
    with socket.create_server(("127.0.0.1", 0)) as listener, futures.ThreadPoolExecutor(2) as pool:

        def accept():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.close()
                tries.release()

        accepting = pool.submit(accept)
        with kind(f"127.0.0.1:{listener.getsockname()[1]}") as client:
            asking = pool.submit(ask_for, client, 12)
            assert all(tries.acquire(timeout=12) for _ in range(8))
            asking.result(SECONDS)
        listener.shutdown(socket.SHUT_RDWR)
        accepting.result(SECONDS)


def ask_for(client, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with pytest.raises(Unavailable):
            client.predict(["four"], timeout=3)


def test_an_overload_is_not_waited_for_as_an_outage_is(client, servicer):
    servicer.failures = [grpc.StatusCode.RESOURCE_EXHAUSTED] * 100
    with pytest.raises(Overloaded, match="on purpose"):
        client.predict(["four"], timeout=SECONDS)
    assert len(servicer.failures) >= 95
