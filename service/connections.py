"""How many connections a process can hold: each takes a file descriptor, and models, logs and probes need some as well."""

from __future__ import annotations

import logging
import re
import resource
from contextlib import suppress
from pathlib import Path

from service.errors import UsageError

logger = logging.getLogger(__name__)

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
    """How many TCP connections to this local port are open, as Linux lists them; None elsewhere."""
    # Established, or closed by the other side alone.
    of_port = re.compile(rb"^ *\d+: [0-9A-F]+:%04X [0-9A-F]+:[0-9A-F]+ (?:01|08) " % port, re.MULTILINE)
    found = None
    for table in ("tcp", "tcp6"):
        with suppress(OSError):  # no Linux, or no IPv6
            found = (found or 0) + len(of_port.findall(Path("/proc/self/net", table).read_bytes()))
    return found
