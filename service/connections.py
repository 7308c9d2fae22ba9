"""How many connections a process can hold: each takes a file descriptor, and models, logs and probes need some as well."""

from __future__ import annotations

import ctypes
import resource
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from service.errors import UsageError

_LIBC = ctypes.CDLL(None)
_IP = (socket.AF_INET, socket.AF_INET6)

_DEFAULT = 4096  # 60 MB when all are open
_OWN = 64  # descriptors for the process itself, which has 20 to 40 open, and for the files of a version while it is loaded


def grpc_capacity(wanted: int | None, http: int) -> int:
    """How many connections the gRPC port may have beside `http` of the HTTP port, with the limit of open files raised to fit.

    Raises UsageError if `wanted` does not fit, or none does.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    kept = _OWN + http
    needed = (wanted or _DEFAULT) + kept
    if 0 <= soft < needed:
        with suppress(OSError, ValueError):  # forbidden: then what there is must do
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed if hard < 0 else min(needed, hard), hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    capacity = needed - kept if soft < 0 else min(needed, soft) - kept
    if capacity < (wanted or 1):
        raise UsageError(
            f"--max-connections (HEADLINES_MAX_CONNECTIONS): {wanted or 1} with {kept} for the server itself are more than the "
            f"limit of open files (ulimit -Hn), {soft}; raise that"
            + (f", or ask for at most {capacity}" if capacity > 0 else "")
        )
    return capacity


def listeners(host: str) -> int:
    """How many addresses gRPC listens on for a host, such as 2 for a localhost of IPv4 and IPv6: it bounds each by itself."""
    try:
        return len({address for *_, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)})
    except (OSError, UnicodeError):  # no such host, which opening the port reports
        return 1


def count_open(port: int) -> int | None:
    """How many TCP connections to this local port this process holds, whoever opened them; None if it cannot see its files.

    gRPC does not say. The kernel's list of all connections takes 10 ms to read, however few there are.
    """
    try:
        descriptors = [int(it.name) for it in Path("/proc/self/fd").iterdir()]
    except OSError:  # no Linux, or no descriptor left
        return None
    address, end = ctypes.create_string_buffer(128), port.to_bytes(2, "big")
    own, peer = (partial(_has_address, of, address) for of in (_LIBC.getsockname, _LIBC.getpeername))
    return sum(own(it) and address.raw[2:4] == end and peer(it) for it in descriptors)


def _has_address(of: Callable[..., int], address: ctypes.Array[ctypes.c_char], descriptor: int) -> bool:
    """Whether a descriptor has an IP address at this end, which is written to `address`."""
    done = of(descriptor, address, ctypes.byref(ctypes.c_uint(len(address)))) == 0
    return done and int.from_bytes(address.raw[:2], sys.byteorder) in _IP
