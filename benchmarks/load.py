"""A load generator: gRPC over plain sockets, which costs a tenth of what a gRPC library in Python does.

    load = closed_loop("127.0.0.1:50051", requests, clients=8, seconds=5)
    load.rate, load.quantile(0.99)

So two cores are enough: one for the server, and the generator, which runs in a process of its own, is never what is measured.
Each client is a connection. HTTP/2 as in RFC 9113, header compression as in RFC 7541.
"""

from __future__ import annotations

import random
import select
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7
_END_STREAM, _END_HEADERS, _ACK = 0x1, 0x4, 0x1
_WINDOW = (1 << 31) - 1  # bytes that a server may send before it is told to go on; no run comes near it
_PATH = b"/headlines.v1.PopularityService/Predict"
_TIMEOUT = b"5S"  # the client's default deadline


@dataclass(frozen=True)
class Load:
    """What came of a run."""

    seconds: float
    latencies: np.ndarray  # seconds, one a request
    headlines: int
    late: float = 0.0  # seconds by which the generator itself sent a request too late, at most
    due: np.ndarray | None = None  # of an open loop: when each request was, by time.perf_counter()

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """The latency in seconds that this share of the requests did not exceed."""
        return float(np.quantile(self.latencies, share))


def closed_loop(target: str, requests: Sequence[bytes], headlines: int, clients: int, seconds: float) -> Load:
    """Clients of which each sends its next request as soon as it has the answer; `headlines` are in every request."""
    messages = cycle([_framed(request) for request in requests])
    connections = {client.socket: client for client in (_Connection(target) for _ in range(clients))}
    sockets = list(connections)
    latencies: list[float] = []
    sent = dict.fromkeys(sockets, 0.0)
    begin = now = time.perf_counter()
    for key, client in connections.items():
        sent[key] = time.perf_counter()
        client.send(next(messages))
    while now < begin + seconds:
        ready, _, _ = select.select(sockets, (), (), 10)
        if not ready:
            raise SystemExit("the server has not answered for 10 s")
        for key in ready:
            client = connections[key]
            for _ in client.answers():
                now = time.perf_counter()
                latencies.append(now - sent[key])
                client.send(next(messages))
                sent[key] = now
    for client in connections.values():
        client.socket.close()
    return Load(now - begin, np.array(latencies), len(latencies) * headlines)


def open_loop(target: str, requests: Sequence[bytes], headlines: int, rate: float, connections: int, seconds: float) -> Load:
    """Requests that come as a Poisson process, `rate` a second in the mean, whether or not the server keeps up.

    A latency counts from the time at which its request was due, so that a server that falls behind cannot hide it.
    """
    rng = random.Random(0)
    due = deque(np.cumsum([rng.expovariate(rate) for _ in range(round(rate * seconds))]).tolist())
    messages = cycle([_framed(request) for request in requests])
    clients = cycle([_Connection(target) for _ in range(connections)])
    by_socket = {client.socket: client for client in (next(clients) for _ in range(connections))}
    sockets = list(by_socket)
    meant: dict[tuple[socket.socket, int], float] = {}
    latencies: list[float] = []
    times: list[float] = []
    late = 0.0
    begin = time.perf_counter()
    while due or meant:
        now = time.perf_counter() - begin
        while due and due[0] <= now:
            client = next(clients)
            at = due.popleft()
            late = max(late, now - at)
            meant[client.socket, client.send(next(messages))] = at
        # select alone waits to the microsecond; epoll and event loops round up to a millisecond.
        wait = max(0.0, due[0] - (time.perf_counter() - begin)) if due else 10.0
        ready, _, _ = select.select(sockets, (), (), wait)
        if not (ready or due):
            raise SystemExit(f"{len(meant)} requests have no answer after 10 s")
        for key in ready:
            for stream in by_socket[key].answers():
                at = meant.pop((key, stream))
                latencies.append(time.perf_counter() - begin - at)
                times.append(begin + at)
    seconds = time.perf_counter() - begin
    for key in sockets:
        key.close()
    return Load(seconds, np.array(latencies), len(latencies) * headlines, late, np.array(times))


class _Connection:
    """An HTTP/2 connection that calls Predict."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = b"\x00\x04" + _WINDOW.to_bytes(4, "big")  # SETTINGS_INITIAL_WINDOW_SIZE
        window = (_WINDOW - 65_535).to_bytes(4, "big")
        self.socket.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(0x8, 0, 0, window))
        # The first request's headers enter the server's table, from where the later ones name them by a byte each.
        named = [
            (b"\x41", target.encode()),  # :authority
            (b"\x44", _PATH),  # :path
            (b"\x5f", b"application/grpc"),  # content-type
            (b"\x40\x02te", b"trailers"),
            (b"\x40\x0cgrpc-timeout", _TIMEOUT),
        ]
        common = b"\x83\x86"  # :method POST, :scheme http
        self._headers = common + b"".join(name + bytes([len(value)]) + value for name, value in named)
        self._later_headers = common + bytes(0x80 | (62 + i) for i in reversed(range(len(named))))
        self._stream = -1
        self._received = b""
        self._message: set[int] = set()  # streams that had one

    def send(self, message: bytes) -> int:
        """Send a framed message; the number of its stream."""
        self._stream += 2
        headers = _frame(_HEADERS, _END_HEADERS, self._stream, self._headers)
        self.socket.sendall(headers + _frame(_DATA, _END_STREAM, self._stream, message))
        self._headers = self._later_headers
        return self._stream

    def answers(self) -> Iterator[int]:
        """The streams whose answers are complete, once there is something to read. One without a message ends the program."""
        received = self._received + self.socket.recv(1 << 18)
        at = 0
        while len(received) >= at + 9:
            end = at + 9 + int.from_bytes(received[at : at + 3], "big")
            if end > len(received):
                break
            kind, flags = received[at + 3], received[at + 4]
            stream = int.from_bytes(received[at + 5 : at + 9], "big")
            if kind == _DATA and end > at + 9:
                self._message.add(stream)
            elif kind == _HEADERS and flags & _END_STREAM:
                if stream not in self._message:  # a call that fails has trailers alone
                    raise SystemExit(f"a call failed: {received[at + 9 : end]!r}")
                self._message.remove(stream)
                yield stream
            elif kind in {_SETTINGS, _PING} and not flags & _ACK:
                payload = received[at + 9 : end] if kind == _PING else b""
                self.socket.sendall(_frame(kind, _ACK, 0, payload))
            elif kind in {_RESET, _GOAWAY}:
                raise SystemExit(f"the server ended a connection or call: {received[at + 9 : end]!r}")
            at = end
        self._received = received[at:]


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _framed(request: bytes) -> bytes:
    """A message as gRPC sends it: not compressed, its length, its bytes."""
    return b"\x00" + len(request).to_bytes(4, "big") + request
