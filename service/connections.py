"""How many connections a process can hold: each takes a file descriptor, and models, logs and probes need some as well."""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

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


def count_open(port: int) -> int | None:
    """How many TCP connections to this local port this process holds, whoever opened them; None if it cannot see its files.

    gRPC does not say. The kernel's list of all connections takes 10 ms to read, however few there are.
    """
    try:
        descriptors = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:  # no Linux, or no descriptor left
        return None
    return sum(_port(_LIBC.getpeername, it) is not None and _port(_LIBC.getsockname, it) == port for it in descriptors)


def _port(of: Callable[..., int], descriptor: int) -> int | None:
    """The port at one end of a connection; None if the descriptor is no such end."""
    address, length = ctypes.create_string_buffer(128), ctypes.c_uint(128)
    if of(descriptor, address, ctypes.byref(length)) != 0:
        return None
    family, port = address.raw[:2], address.raw[2:4]
    return int.from_bytes(port, "big") if int.from_bytes(family, sys.byteorder) in _IP else None
