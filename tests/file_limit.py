"""A disk that is full, or nearly: no file may grow beyond some bytes. Needs no rights and no disk."""

import resource
from contextlib import contextmanager


@contextmanager
def largest_file(size):
    """Writing a file beyond `size` bytes fails in this process and those that it starts meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
