"""Which version is live: finds new ones on disk, tries them beside the one that serves, and swaps.

Versions are tried from the highest number down, and the first that passes is live. One that fails never goes live; it is
tried again when a name, size or time in its directory changes, since it may still have been on its way in.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections.abc import Callable, Container
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from service import artifact, pace
from service.engines import Engine
from service.errors import VersionError
from service.version import Version

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

Fingerprint = tuple[tuple[str, int, int], ...]  # path, size and time of each file


class State(enum.Enum):
    """What became of a version."""

    LOADING = "loading"
    LIVE = "live"
    FAILED = "failed"
    RETIRED = "retired"  # was live and made room for another


@dataclass(frozen=True, slots=True)
class VersionState:
    """What became of one version in the directory."""

    number: int
    state: State
    digest: str = ""  # empty where it was not read whole
    error: str = ""  # why it is not live


class Repository:
    """The versions in one directory, one of them live.

    `live` is replaced on the event loop's thread, so whoever reads it there holds a version that stays whole for as long as it
    is used: a version that is no longer live ends with its last user.
    """

    def __init__(
        self,
        models: Path,
        engine: Engine,
        *,
        pinned: int | None = None,
        poll_seconds: float = 2.0,
        on_load: Callable[[bool, float], None] = lambda passed, seconds: None,  # noqa: ARG005
        on_live: Callable[[Version | None], None] = lambda version: None,  # noqa: ARG005
    ) -> None:
        """Watch `models`, every `poll_seconds`; `pinned` is the one version that may go live.

        `on_load` hears of each attempt, whether it passed and the seconds it took; `on_live` of each change of `live`.
        """
        self.live: Version | None = None
        self.engine = engine
        self._models = models
        self._pinned = pinned
        self._poll_seconds = poll_seconds
        self._on_load = on_load
        self._on_live = on_live
        self._states: dict[int, VersionState] = {}
        self._tried: dict[int, Fingerprint] = {}
        self._unreadable = False
        self._loader = ThreadPoolExecutor(1, "loader", initializer=pace.give_way)

    @property
    def states(self) -> list[VersionState]:
        """Every version that was tried and is still there, highest first."""
        return [self._states[number] for number in sorted(self._states, reverse=True)]

    async def run(self) -> None:
        """Scan for ever. What it raises is a fault of its own, and whoever runs it must watch it."""
        while True:
            await self.scan()
            await asyncio.sleep(self._poll_seconds)

    async def scan(self) -> None:
        """Look once, and make the best version live."""
        try:
            found = await self._aside(_look, self._models)
        except OSError as error:
            # A volume that is away for a while is no reason to stop answering.
            if not self._unreadable:
                logger.warning("%s cannot be read: %s", self._models, error.strerror)
            self._unreadable = True
            return
        self._unreadable = False
        if self._pinned is not None:
            found = {number: fingerprint for number, fingerprint in found.items() if number == self._pinned}
        self._forget(found)
        for number, fingerprint in found.items():
            if self._tried.get(number) != fingerprint:
                self._tried[number] = fingerprint
                if await self._try(number):
                    return
            if self.live and self.live.number == number:
                return
            if self._states[number].state is State.RETIRED and await self._try(number):  # the newer one was taken away
                return
        if self.live:
            logger.warning(
                "version %d was taken away and no other passes", self.live.number, extra={"version": self.live.number}
            )
            self._set_live(None)

    def _forget(self, found: Container[int]) -> None:
        for number in [number for number in self._states if number not in found]:
            del self._tried[number], self._states[number]

    async def _try(self, number: int) -> bool:
        """Load a version and make it live if it passes."""
        live = self.live if self.live and self.live.number == number else None
        if not live:
            self._states[number] = VersionState(number, State.LOADING)
        began = time.monotonic()
        digest = ""
        try:
            read = await self._aside(artifact.read, self._models / str(number))
            digest = read.digest
            if live and live.digest == digest:
                return True
            version = await self._aside(Version.load, read, self.engine)
        except Exception as error:
            if isinstance(error, VersionError):
                problem = str(error)
                logger.error("version %d cannot go live: %s", number, problem, extra={"version": number})
            else:
                problem = f"an unexpected {type(error).__name__}; the log says more"
                logger.exception("version %d cannot go live", number, extra={"version": number})
            self._on_load(False, time.monotonic() - began)
            if live:
                self._states[number] = VersionState(number, State.LIVE, live.digest, f"on disk now, but not served: {problem}")
            else:
                self._states[number] = VersionState(number, State.FAILED, digest, problem)
            return False
        seconds = time.monotonic() - began
        self._on_load(True, seconds)
        logger.info(
            "version %d is live after %.2f s", number, seconds, extra={"version": number, "digest": digest, "seconds": seconds}
        )
        self._set_live(version)
        return True

    async def _aside(self, function: Callable[..., Result], *args: object) -> Result:
        """Call a function in another thread, which gives way to callers where there are any."""
        return await asyncio.get_running_loop().run_in_executor(self._loader if self.live else None, function, *args)

    def _set_live(self, version: Version | None) -> None:
        old = self.live
        if old and old.number in self._states:
            self._states[old.number] = VersionState(old.number, State.RETIRED, old.digest)
        if version:
            self._states[version.number] = VersionState(version.number, State.LIVE, version.digest)
        self.live = version
        self._on_live(version)


def _look(models: Path) -> dict[int, Fingerprint]:
    """The versions on disk, highest first, and what their directories look like from outside. Raises OSError."""
    models.stat()  # a directory that is missing is not the same as one that holds no version
    found = {}
    for number in artifact.versions(models):
        entries = []
        for path in sorted((models / str(number)).rglob("*")):
            with suppress(FileNotFoundError):  # it was moved just now; the next scan sees it
                status = path.stat()
                entries.append((str(path), status.st_size, status.st_mtime_ns))
        pace.rest()
        found[number] = tuple(entries)
    return found
