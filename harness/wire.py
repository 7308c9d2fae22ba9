"""HTTP/2 and gRPC on a plain socket, right or wrong: frames as in RFC 9113, headers as in RFC 7541.

    connection = Connection(port)
    connection.send(OPENING + begin(1, head()) + body(1, framed(message)))
    connection.wait(1.0)
    connection.endings   # {1: "status 0"}

Connection is for tests.resilience.fuzz.server, whose calls and connections no gRPC library would make; harness.load has one of
its own, which keeps to the rules.
"""

from __future__ import annotations

import re
import select
import socket
import struct
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, ACK = 1, 4, 1
HEADER_TABLE_SIZE, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 3, 4  # settings
CANCEL = (8).to_bytes(4, "big")  # a reset's reason
FRAME_BYTES = 16_384  # of a frame's payload, at most
WINDOW_BYTES = 65_535  # that either side may send before it is told more
WIDE = (1 << 31) - 1  # the widest window, which no run comes near
PREDICT = b"/headlines.v1.PopularityService/Predict"
EXPLAIN = b"/headlines.v1.PopularityService/Explain"
PREDICT_STREAM = b"/headlines.v1.PopularityService/PredictStream"
STATUS = re.compile(rb"grpc-status[\x01\x02](\d+)")  # in trailers that are not compressed
TOKEN = b"token-of-the-fuzzer"
BY_HANDLER = "INTERNAL BY A HANDLER"
_INTERNAL = b"internal error "  # of the text that a handler's own INTERNAL has
PATIENCE = 5.0  # seconds for what takes moments

Head = list[tuple[bytes, bytes]]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def framed(message: bytes, flag: int = 0, length: int | None = None) -> bytes:
    """A gRPC message, with a true length or another."""
    return bytes((flag,)) + ((len(message) if length is None else length) & 0xFFFFFFFF).to_bytes(4, "big") + message


def literal(text: bytes) -> bytes:
    """A string for a header block, not compressed."""
    if len(text) < 127:
        return bytes((len(text),)) + text
    left, out = len(text) - 127, b"\x7f"
    while left > 127:
        out, left = out + bytes((left & 127 | 128,)), left >> 7
    return out + bytes((left,)) + text


def block(head: Head) -> bytes:
    """A header block that leaves the tables of both sides as they are."""
    return b"".join(b"\x00" + literal(name) + literal(value) for name, value in head)


def head(path: bytes = PREDICT, timeout: bytes = b"2S", **more: bytes) -> Head:
    """What a good call begins with."""
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": path,
        b":authority": b"localhost",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
        b"grpc-timeout": timeout,
        b"authorization": b"Bearer " + TOKEN,
    }
    return list((fields | {name.replace("_", "-").encode(): value for name, value in more.items()}).items())


def begin(stream: int, fields: Head, flags: int = END_HEADERS) -> bytes:
    """The frames of a header block."""
    data = block(fields)
    first, *rest = _cut(data)
    frames = [frame(HEADERS, flags & (END_STREAM if rest else 0xFF), stream, first)]
    frames += [frame(CONTINUATION, END_HEADERS if i == len(rest) - 1 else 0, stream, it) for i, it in enumerate(rest)]
    return b"".join(frames)


def body(stream: int, data: bytes, flags: int = END_STREAM) -> bytes:
    """The frames of a call's messages."""
    *parts, last = _cut(data)
    return b"".join(frame(DATA, 0, stream, it) for it in parts) + frame(DATA, flags, stream, last)


def _cut(data: bytes) -> list[bytes]:
    return [data[i : i + FRAME_BYTES] for i in range(0, len(data) or 1, FRAME_BYTES)]


# Without a table the server spells each header out, so that nothing has to be kept to read a status.
OPENING = (
    PREFACE
    + frame(SETTINGS, 0, 0, struct.pack(">HIHI", HEADER_TABLE_SIZE, 0, INITIAL_WINDOW_SIZE, WIDE))
    + frame(WINDOW, 0, 0, (WIDE - WINDOW_BYTES).to_bytes(4, "big"))
)


class Connection:
    """A client's side of one connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.endings: dict[int, str] = {}  # how calls ended, by stream
        self.ended = ""  # how the connection ended
        self.alive = False  # a ping was answered
        self.windows = {0: WINDOW_BYTES}  # bytes that may be sent: on the connection and on streams
        self.first_window = WINDOW_BYTES
        self._received = b""
        self._replies = b""  # not sent yet, so that they do not stand in the middle of something

    def send(self, data: bytes) -> None:
        """Send; read only if the server takes nothing more until somebody reads."""
        self.socket.setblocking(False)
        left = memoryview(data)
        while left and not self.ended:
            readable, writable, _ = select.select([self.socket], [self.socket], (), PATIENCE)
            if writable:
                try:
                    left = left[self.socket.send(left) :]
                except OSError:
                    self._read()
                    self.ended = self.ended or "cut off"
            elif readable:
                self._read()
            else:
                self.ended = "reads no further"

    def send_flowing(self, stream: int, data: bytes, ends: bool = True) -> None:
        """Send a call's messages as fast as the server lets, until all is sent or the call has ended."""
        at = 0
        until = time.monotonic() + PATIENCE
        while at < len(data) and not self.ended and stream not in self.endings and time.monotonic() < until:
            self.wait(0)
            room = min(self.windows[0], self.windows.setdefault(stream, self.first_window), FRAME_BYTES, len(data) - at)
            if room <= 0:
                self.wait(0.05)
                continue
            self.windows[0] -= room
            self.windows[stream] -= room
            self.send(frame(DATA, END_STREAM if ends and at + room == len(data) else 0, stream, data[at : at + room]))
            at += room
            until = time.monotonic() + PATIENCE

    def wait(self, seconds: float) -> None:
        """Read what comes, for so long at most."""
        if not self.ended and select.select([self.socket], (), (), seconds)[0]:
            self._read()
            replies, self._replies = self._replies, b""
            self.send(replies)

    def _read(self) -> None:
        try:
            new = self.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            self.ended = self.ended or "cut off"
            return
        if not new:
            self.ended = self.ended or "closed"
        data = self._received + new
        at = 0
        while len(data) >= at + 9 and len(data) >= (end := at + 9 + int.from_bytes(data[at : at + 3], "big")):
            self._take(data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + 9], "big"), data[at + 9 : end])
            at = end
        self._received = data[at:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == HEADERS and flags & END_STREAM:
            self.endings.setdefault(stream, _ending(payload))
        elif kind == DATA and _INTERNAL in payload:  # in the answer to one message of a stream
            self.endings.setdefault(stream, BY_HANDLER)
        elif kind == RESET:
            self.endings.setdefault(stream, f"reset {int.from_bytes(payload, 'big')}")
        elif kind == GOAWAY and int.from_bytes(payload[4:8], "big"):
            self.ended = f"GOAWAY {int.from_bytes(payload[4:8], 'big')}"
        elif kind == PING and flags & ACK:
            self.alive = True
        elif kind == WINDOW:
            self.windows[stream] = self.windows.get(stream, self.first_window) + int.from_bytes(payload, "big")
        elif kind == SETTINGS and not flags & ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == INITIAL_WINDOW_SIZE:  # also of streams that are open
                    self.windows = {it: left + (value - self.first_window if it else 0) for it, left in self.windows.items()}
                    self.first_window = value
            self._replies += frame(SETTINGS, ACK, 0)


def _ending(trailers: bytes) -> str:
    if _INTERNAL in trailers:
        return BY_HANDLER
    status = STATUS.search(trailers)
    http = re.search(rb":status\x03([0-9]+)", trailers)
    return f"status {status[1].decode()}" if status else f"HTTP {http[1].decode()}" if http else "no status"
