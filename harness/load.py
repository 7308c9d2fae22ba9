"""A load generator: gRPC over plain sockets, which costs a tenth of what a gRPC library in Python does.

    load = closed_loop("127.0.0.1:50051", requests, clients=8, seconds=5)
    load.rate, percentiles(load.latencies)["p99 ms"]

So two cores are enough: one for the server, and the generator, which runs in a process of its own, is never what is measured.
HTTP/2 as in RFC 9113, header compression as in RFC 7541; what a gRPC client does about a server's limits, `Connection` does.
"""

from __future__ import annotations

import math
import random
import select
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle

import grpc
import numpy as np

from harness import wire
from harness.report import BrokenError

OK, CANCELLED, DEADLINE_EXCEEDED = "OK", "CANCELLED", "DEADLINE_EXCEEDED"
UNAVAILABLE = "UNAVAILABLE"  # also how a gRPC client tells of a call that the server refused before it looked at it
PATIENCE = 10.0  # seconds without an answer, after which a server counts as dead

_TIMEOUT, _STREAM_TIMEOUT = b"5S", b"1H"  # the client's default deadline, and what is longer than any run
_STATUSES = {b"%d" % code.value[0]: code.name for code in grpc.StatusCode}
_RESETS = {7: UNAVAILABLE, 8: CANCELLED, 11: "RESOURCE_EXHAUSTED"}  # HTTP/2's codes as gRPC's; any other is INTERNAL


@dataclass(frozen=True)
class Load:
    """What came of a run."""

    seconds: float
    latencies: np.ndarray  # seconds, one a request that was answered
    headlines: int
    late: float = 0.0  # seconds by which the generator itself began a request too late, at most
    statuses: Counter[str] = field(default_factory=Counter)  # how the requests ended
    due: np.ndarray | None = None  # of an open loop: when each that was answered was to begin, by time.perf_counter()

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds


def percentiles(seconds: np.ndarray | list[float]) -> dict[str, float]:
    """Percentiles of latencies in milliseconds, by their heads in a table."""
    return {f"p{q:g} ms": float(np.percentile(seconds, q)) * 1e3 for q in (50, 90, 99, 99.9)}


def closed_loop(
    target: str,
    requests: Sequence[bytes],
    headlines: int,
    clients: int,
    seconds: float,
    connections: int | None = None,
    method: bytes = wire.PREDICT,
) -> Load:
    """Clients of which each sends its next request as soon as it has the answer; `headlines` are in every request.

    They share `connections`, on which the server may refuse what is beyond its limit; each has its own if that is None.
    Raises BrokenError if a call ends otherwise than answered or UNAVAILABLE.
    """
    messages = cycle([wire.framed(request) for request in requests])
    shared = [Connection(target, method) for _ in range(connections or clients)]
    latencies: list[float] = []
    statuses: Counter[str] = Counter()
    begin = now = time.perf_counter()
    for _, client in zip(range(clients), cycle(shared)):
        client.begin(Call(next(messages), time.perf_counter()))
    while now < begin + seconds:
        for client in wait(shared, PATIENCE):
            for call in client.answers():
                now = time.perf_counter()
                statuses[call.status] += 1
                if call.status == OK:
                    latencies.append(now - call.due)
                elif call.status != UNAVAILABLE or not connections:
                    raise BrokenError(f"a call ended as {call.status}")
                client.begin(Call(next(messages), now))
    for client in shared:
        client.close()
    return Load(now - begin, np.array(latencies), len(latencies) * headlines, statuses=statuses)


def open_loop(
    target: str,
    requests: Sequence[bytes],
    headlines: int,
    rate: float,
    connections: int,
    seconds: float,
    *,
    deadline: float | None = None,
    settle: float = 0.0,
) -> Load:
    """Requests that come as a Poisson process, `rate` a second in the mean, whether or not the server keeps up.

    A latency counts from the time at which its request was due, so that a server that falls behind cannot hide it. With a
    `deadline` in seconds a request ends when its time is up, as in a gRPC client, and how each ended is counted; without one,
    BrokenError is raised if a call fails. What comes in the first `settle` seconds is load like the rest but is not counted.
    """
    rng = random.Random(0)
    due = deque(np.cumsum([rng.expovariate(rate) for _ in range(round(rate * (settle + seconds)))]).tolist())
    messages = cycle([wire.framed(request) for request in requests])
    clients = [Connection(target) for _ in range(connections)]
    turns = cycle(clients)
    expiring: deque[tuple[Connection, Call]] = deque()
    inside = 0
    latencies: list[float] = []
    times: list[float] = []
    statuses: Counter[str] = Counter()
    late = 0.0
    begin = time.perf_counter()

    def end(call: Call, now: float) -> None:
        if deadline is None and call.status != OK:
            raise BrokenError(f"a call ended as {call.status}")
        if call.due >= begin + settle:
            statuses[call.status] += 1
            if call.status == OK:
                latencies.append(now - call.due)
                times.append(call.due)

    while due or inside:
        next_due = begin + due[0] if due else math.inf
        next_end = expiring[0][1].deadline if expiring else math.inf
        pause = min(next_due, next_end, time.perf_counter() + PATIENCE) - time.perf_counter()
        for client in wait(clients, pause, required=not (due or expiring)):
            for call in client.answers():
                inside -= 1
                end(call, time.perf_counter())
        now = time.perf_counter()
        while due and begin + due[0] <= now:
            at = begin + due.popleft()
            late = max(late, now - at)
            client = next(turns)
            call = Call(next(messages), at, math.inf if deadline is None else at + deadline)
            client.begin(call)
            inside += 1
            if deadline is not None:
                expiring.append((client, call))
        while expiring and (expiring[0][1].status or expiring[0][1].deadline <= now):
            client, call = expiring.popleft()
            if not call.status:
                client.cancel(call, DEADLINE_EXCEEDED)
                inside -= 1
                end(call, now)
    for client in clients:
        client.close()
    return Load(seconds, np.array(latencies), len(latencies) * headlines, late, statuses, np.array(times))


@dataclass(slots=True, eq=False)
class Call:
    """A call of a `Connection`."""

    message: bytes  # framed; for a stream the first one
    due: float  # when it was to begin, by time.perf_counter()
    deadline: float = math.inf  # likewise
    streaming: bool = False  # more messages may follow, in both directions
    stream: int = 0  # HTTP/2's number; 0: it has not been sent
    status: str = ""  # gRPC's; empty: it has not ended
    received: bytes = b""  # of its answers, what was not taken

    def take(self) -> Iterator[bytes]:
        """The messages that are complete, each once."""
        while len(self.received) >= 5:
            end = 5 + int.from_bytes(self.received[1:5], "big")
            if end > len(self.received):
                return
            message, self.received = self.received[5:end], self.received[end:]
            yield message


class Connection:
    """An HTTP/2 connection to a server, with calls of one method.

    As in a gRPC client, calls beyond the server's limit of streams wait here, first come, first served, messages go out as fast
    as its windows let them, and whoever's time is up is reset.
    """

    def __init__(self, target: str, path: bytes = wire.PREDICT) -> None:
        host, _, port = target.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unsent = bytearray(wire.OPENING)
        # The first request's headers enter the server's table, so that later ones name them by a byte each.
        named = [
            (b"\x40\x0cgrpc-timeout", _STREAM_TIMEOUT if path == wire.PREDICT_STREAM else _TIMEOUT),
            (b"\x41", target.encode()),  # :authority
            (b"\x44", path),  # :path
            (b"\x5f", b"application/grpc"),  # content-type
            (b"\x40\x02te", b"trailers"),
        ]
        common = b"\x83\x86"  # :method POST, :scheme http
        self._first_headers = common + b"".join(name + bytes([len(value)]) + value for name, value in named)
        self._headers = common + bytes(0x80 | (62 + i) for i in range(len(named) - 1))
        self._timeout = bytes([0x80 | (62 + len(named) - 1)])  # the one that all calls without a deadline have
        self._timeout_name = bytes([0x0F, 62 + len(named) - 1 - 0x0F])  # of a value that does not enter the table
        self._stream = -1
        self._received = b""
        self._calls: dict[int, Call] = {}  # by stream
        self._waiting: deque[Call] = deque()
        self._limit = 0  # streams; known from the server's settings on
        self._window = wire.WINDOW_BYTES  # of messages that the server takes yet
        self._first_window = wire.WINDOW_BYTES  # the same for a new stream
        self._windows: dict[int, int] = {}  # the same by stream
        self._messages: dict[int, bytes] = {}  # what waits for windows, by stream
        self._flush()
        while not self._limit:
            list(self.answers())
        self.socket.setblocking(False)

    def fileno(self) -> int:
        """The socket's, for select."""
        return self.socket.fileno()

    @property
    def writes(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._unsent)

    @property
    def inside(self) -> int:
        """Calls that were sent and have not ended."""
        return len(self._calls)

    def begin(self, call: Call) -> None:
        """Send a call, or let it wait for its turn."""
        self._waiting.append(call)
        self._begin_waiting()
        self._flush()

    def write(self, call: Call, message: bytes) -> None:
        """Send another framed message of a streaming call."""
        self._messages[call.stream] = self._messages.get(call.stream, b"") + message
        self._send_messages()
        self._flush()

    def cancel(self, call: Call, status: str = CANCELLED) -> None:
        """End a call at once."""
        call.status = status
        if call.stream:
            self._forget(call.stream)
            self._unsent += wire.frame(wire.RESET, 0, call.stream, wire.CANCEL)
            self._begin_waiting()
            self._flush()

    def answers(self) -> Iterator[Call]:
        """What the server has sent: each call that has ended, and each streaming one that has received something."""
        self._flush()
        try:
            received = self.socket.recv(1 << 18)
        except BlockingIOError:
            return
        if not received:
            raise BrokenError("the server closed a connection")
        received = self._received + received
        at = 0
        while len(received) >= at + 9:
            end = at + 9 + int.from_bytes(received[at : at + 3], "big")
            if end > len(received):
                break
            kind, flags = received[at + 3], received[at + 4]
            number = int.from_bytes(received[at + 5 : at + 9], "big")
            payload = received[at + 9 : end]
            at = end
            call = self._calls.get(number)
            if kind == wire.DATA and call:
                call.received += payload
                if call.streaming:
                    yield call
            elif kind == wire.HEADERS and flags & wire.END_STREAM and call:
                found = wire.STATUS.search(payload)
                call.status = _STATUSES[found[1]] if found else "UNKNOWN"
            elif kind == wire.RESET and call:
                call.status = _RESETS.get(int.from_bytes(payload, "big"), "INTERNAL")
            elif kind == wire.WINDOW:
                self._widen(number, int.from_bytes(payload, "big"))
            elif kind == wire.SETTINGS and not flags & wire.ACK:
                self._set(payload)
                self._unsent += wire.frame(wire.SETTINGS, wire.ACK, 0)
            elif kind == wire.PING and not flags & wire.ACK:
                self._unsent += wire.frame(wire.PING, wire.ACK, 0, payload)
            elif kind == wire.GOAWAY:
                raise BrokenError(f"the server ended a connection: {payload!r}")
            if call and call.status:
                self._forget(number)
                self._begin_waiting()
                yield call
        self._received = received[at:]
        self._send_messages()
        self._flush()

    def close(self) -> None:
        """Close the connection, whatever is under way."""
        self.socket.close()

    def _begin_waiting(self) -> None:
        while self._waiting and len(self._calls) < self._limit:
            call = self._waiting.popleft()
            timeout = self._timeout
            if call.deadline < math.inf:
                left = round((call.deadline - time.perf_counter()) * 1e6)
                if call.status or left <= 0:  # it ends, or has ended, here
                    continue
                value = b"%du" % left
                timeout = self._timeout_name + bytes([len(value)]) + value
            self._stream += 2
            call.stream = self._stream
            self._calls[self._stream] = call
            headers = self._headers + timeout
            if self._first_headers:
                headers, self._first_headers = self._first_headers, b""
            self._unsent += wire.frame(wire.HEADERS, wire.END_HEADERS, self._stream, headers)
            size = len(call.message)
            if not self._messages and not call.streaming and size <= min(wire.FRAME_BYTES, self._window, self._first_window):
                self._window -= size
                self._unsent += wire.frame(wire.DATA, wire.END_STREAM, self._stream, call.message)
            else:
                self._windows[self._stream] = self._first_window
                self._messages[self._stream] = call.message
                self._send_messages()

    def _send_messages(self) -> None:
        """Send of what waits as much as the windows let through."""
        for number in list(self._messages):
            message = self._messages[number]
            room = min(self._window, self._windows[number], len(message))
            if room <= 0:
                continue
            done = room == len(message)
            for start in range(0, room, wire.FRAME_BYTES):
                end = min(start + wire.FRAME_BYTES, room)
                last = done and end == room and not self._calls[number].streaming
                self._unsent += wire.frame(wire.DATA, wire.END_STREAM if last else 0, number, message[start:end])
            self._window -= room
            self._windows[number] -= room
            if done:
                del self._messages[number]
            else:
                self._messages[number] = message[room:]
            if not self._window:
                return

    def _forget(self, stream: int) -> None:
        del self._calls[stream]
        self._windows.pop(stream, None)
        self._messages.pop(stream, None)

    def _widen(self, stream: int, by: int) -> None:
        if not stream:
            self._window += by
        elif stream in self._windows:
            self._windows[stream] += by

    def _set(self, settings: bytes) -> None:
        values = dict(struct.iter_unpack(">HI", settings))
        self._limit = values.get(wire.MAX_CONCURRENT_STREAMS, self._limit or wire.WIDE)
        first_window = values.get(wire.INITIAL_WINDOW_SIZE, self._first_window)
        for stream in self._windows:
            self._windows[stream] += first_window - self._first_window
        self._first_window = first_window

    def _flush(self) -> None:
        if self._unsent:
            with suppress(BlockingIOError):
                del self._unsent[: self.socket.send(self._unsent)]


def wait(connections: Collection[Connection], seconds: float, *, required: bool = True) -> list[Connection]:
    """The connections that can go on, after at most so many seconds. Raises BrokenError if one is `required` and none can."""
    # select alone waits to the microsecond; epoll and event loops round up to a millisecond.
    writers = [connection for connection in connections if connection.writes]
    readable, writable, _ = select.select(connections, writers, (), max(0.0, seconds))
    if required and not (readable or writable):
        raise BrokenError(f"the server has not answered for {seconds:.0f} s")
    return list({*readable, *writable})
