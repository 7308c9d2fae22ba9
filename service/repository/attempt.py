"""When a version that could not be loaded is worth another try."""

from __future__ import annotations

import math
from collections.abc import Iterable

from service.errors import Unreadable, VersionError
from service.repository.listing import Fingerprint

FIRST_WAIT = 2.0  # seconds after a load that failed, doubled with each further one
LONGEST_WAIT = 60.0


class Attempt:
    """The tries to load one version while its directory looks the same.

    What is wrong with a file's content stays wrong until the file changes. What the system refused may pass: after a read error
    a byte of each file is read at each poll, and the version is loaded as soon as that succeeds again. What cannot be tried so
    cheaply waits, longer each time. What did not fit into memory is tried again beside a smaller live version.
    """

    def __init__(self, fingerprint: Fingerprint, logged: Iterable[str] = ()) -> None:
        self.fingerprint = fingerprint
        self.logged = set(logged)  # why it failed, also before its directory changed; each is worth one line in the log
        self.read_error: tuple[str, int] | None = None  # the file that could not be read, and the offset in it
        self.blocked = False  # it still could not be read at the last poll
        self._failures = 0
        self._retry_at = math.inf  # by the clock of the repository
        self._too_large_beside = 0  # bytes of the version that was live when memory ran out

    def failed(self, error: Exception, now: float, live_bytes: int) -> None:
        """The version could not be loaded, beside a live one of so many bytes."""
        self._failures += 1
        self.read_error = (error.file, error.offset) if isinstance(error, Unreadable) else None
        self.blocked = False
        self._too_large_beside = live_bytes if isinstance(error, MemoryError) else 0
        if isinstance(error, MemoryError) or (isinstance(error, VersionError) and not self.read_error):
            self._retry_at = math.inf
            return
        # After the first read error the next poll's byte alone decides; more mean that the byte says too little.
        waits = self._failures - (1 if self.read_error else 0)
        self._retry_at = now + (min(FIRST_WAIT * 2 ** min(waits - 1, 10), LONGEST_WAIT) if waits else 0.0)

    def is_due(self, now: float, live_bytes: int) -> bool:
        """Whether it is time to load the version again though its directory looks the same."""
        return now >= self._retry_at or live_bytes < self._too_large_beside
