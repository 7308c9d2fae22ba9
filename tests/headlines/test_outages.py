"""A server that goes away and comes back."""

import os
import socket
import threading
import time
from concurrent import futures

import grpc
import pytest
from fake_server import Servicer, serving, texts, word_counts

from headlines.client import DeadlineExceeded, Overloaded, Unavailable, connection

SECONDS = 60  # for what takes a few
CROWD = 12  # clients


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


@pytest.mark.parametrize("seconds", [0.5, 0.6, 0.7])
def test_streams_of_many_clients_outlive_a_restart(kind, seconds):
    """In a channel that makes retries, gRPC may never end a stream whose connection fails as it starts."""
    with serving(Servicer()) as target:
        clients = [kind(target) for _ in range(CROWD)]
        for client in clients:
            assert word_counts(client.predict(["four"], timeout=SECONDS)) == [4]
    release, thread = back_after(seconds, int(target.rpartition(":")[2]))
    counts = [[] for _ in clients]
    callers = [
        threading.Thread(target=lambda c=client, n=count: n.extend(word_counts(c.predict_stream(texts(500)))), daemon=True)
        for client, count in zip(clients, counts, strict=True)
    ]
    try:
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(SECONDS / CROWD)
        assert counts == [[len(text) for text in texts(500)]] * CROWD
    finally:
        release.set()
        thread.join()
    for client in clients:
        client.close()


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
        client.predict(["four"], timeout=8)
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


class NameServer(threading.Thread):
    """Answers that no name is known, until it knows that of the server."""

    def __init__(self):
        super().__init__()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.known = False
        self.asked = threading.Semaphore(0)

    def run(self):
        while (received := self.socket.recvfrom(512))[0]:
            query, sender = received
            question = query[12 : query.index(b"\0", 12) + 5]
            is_ipv4 = question.endswith(b"\0\1\0\1")
            answer = b""
            if is_ipv4:
                self.asked.release()
                if self.known:
                    answer = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton("127.0.0.1")
            flags = b"\x81\x80" if self.known else b"\x81\x83"
            header = query[:2] + flags + b"\0\1" + (b"\0\1" if answer else b"\0\0") + b"\0\0\0\0"
            self.socket.sendto(header + question + answer, sender)

    def stop(self):
        self.socket.sendto(b"", self.socket.getsockname())
        self.join(SECONDS)
        self.socket.close()


@pytest.mark.skipif(os.environ.get("GRPC_DNS_RESOLVER", "ares") != "ares", reason="this resolver takes no name server")
def test_a_name_that_was_lost_is_looked_up_again_soon(kind, monkeypatch):
    """By gRPC's own backoff the twelfth lookup comes minutes after the first."""
    monkeypatch.setattr(connection, "_STALE_AFTER", 1.0)
    names = NameServer()
    names.start()
    with serving(Servicer()) as target, kind(f"dns://127.0.0.1:{names.port}/news.test:{target.rpartition(':')[2]}") as client:
        for _ in range(12):
            while not names.asked.acquire(timeout=0.01):
                with pytest.raises((Unavailable, DeadlineExceeded)):
                    client.predict(["four"], timeout=0.5)
        names.known = True
        assert word_counts(client.predict(["four"], timeout=SECONDS)) == [4]
    names.stop()


def ask_for(client, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with pytest.raises((Unavailable, DeadlineExceeded)):
            client.predict(["four"], timeout=3)


def test_an_overload_is_not_waited_for_as_an_outage_is(client, servicer):
    servicer.failures = [grpc.StatusCode.RESOURCE_EXHAUSTED] * 100
    with pytest.raises(Overloaded, match="on purpose"):
        client.predict(["four"], timeout=SECONDS)
    assert len(servicer.failures) >= 95
