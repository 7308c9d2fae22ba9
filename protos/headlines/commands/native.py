"""The log that libraries in C++ write to standard error by themselves, which tells no user of a command anything."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

# Of absl's log by C++, which libraries write before anybody can set a level, a line and what it says about that itself and
# one of LiteRT's. An error that absl logs of a GPU is that there is none.
_LINE = re.compile(rb"(WARNING: All log messages before absl|[IW]\d{4} |E\d{4} .*cuda_platform|INFO: Created TensorFlow Lite)")


@contextmanager
def without_log() -> Iterator[None]:
    """Hold back what is written to file descriptor 2, then let through all but native log lines."""
    if sys.stderr is None:
        yield
        return
    sys.stderr.flush()
    with _unnamed_file() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            for line in held:
                if not _LINE.match(line):
                    os.write(2, line)


def _unnamed_file() -> IO[bytes]:
    """A file in memory where there is such a thing: a container may have no directory that can be written to."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("stderr"), "w+b")
    return tempfile.TemporaryFile()
