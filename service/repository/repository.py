"""Which version is live: finds new ones on disk, tries them beside the one that serves, and swaps.

Versions are tried from the highest number down, and the first that passes is live. One that fails never goes live; it is
tried again when a file of it changes, or when what kept it from being read has passed. The live one is kept when its directory
goes away and no other version passes; to take it out of service, add the file `<number>.withdrawn`.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from service.errors import VersionError
from service.model import artifact, throttle
from service.model.engines import Engine
from service.model.version import Version
from service.repository.attempt import Attempt
from service.repository.listing import Listing, explain, explain_error, fingerprint, look
from service.repository.reminder import Reminder

logger = logging.getLogger(__package__)

Result = TypeVar("Result")

PATIENCE = 30.0  # seconds after which a directory that does not answer is worth a line in the log


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
    digest: str = ""  # empty if it was not read whole
    error: str = ""  # why it is not live; of the live one: why it could not be loaded again


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
        max_version_bytes: int = 1 << 30,
        on_load: Callable[[bool, float], None] = lambda passed, seconds: None,  # noqa: ARG005
        on_live: Callable[[Version | None], None] = lambda version: None,  # noqa: ARG005
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Watch `models`, every `poll_seconds`; `pinned` is the one version that may go live.

        A version whose files have more than `max_version_bytes` together fails. `on_load` hears of each attempt, whether it
        passed and the seconds it took; `on_live` of each change of `live`.
        """
        self.live: Version | None = None
        self.label_change = ""  # what the version before the live one called popular, if that was something else
        self.problem = f"looking for model versions in {models}"  # why none is live, for an operator; empty while one is
        self.engine = engine
        self._models = models
        self._pinned = pinned
        self._poll_seconds = poll_seconds
        self._max_version_bytes = max_version_bytes
        self._on_load = on_load
        self._on_live = on_live
        self._clock = clock
        self._states: dict[int, VersionState] = {}
        self._attempts: dict[int, Attempt] = {}
        self._live_bytes = 0  # of the live version's files
        self._device = 0  # of MODELS when the live version was last seen there
        self._missing_since: datetime | None = None  # since when the live version's directory has not been seen
        self._reminder = Reminder(logger, clock)
        self._loader = ThreadPoolExecutor(1, "loader", initializer=throttle.enable)

    @property
    def states(self) -> list[VersionState]:
        """Every version that was tried and is still there or live, highest first."""
        return [self._states[number] for number in sorted(self._states, reverse=True)]

    @property
    def directory_missing(self) -> bool:
        """Whether the live version could not be loaded again: its directory is gone, unreadable or holds something else."""
        state = self._states.get(self.live.number) if self.live else None
        return bool(state and state.error)

    async def run(self) -> None:
        """Scan for ever. What it raises is a fault of its own, and whoever runs it must watch it."""
        while True:
            await self.scan()
            await asyncio.sleep(self._poll_seconds)

    async def scan(self) -> None:
        """Look once, and make the best version live."""
        try:
            listing = await self._ask(look, self._models)
        except OSError as error:
            if self.live:
                self._keep(self.live, f"the directory of versions cannot be read: {error.strerror or error}")
            else:
                self._say(explain_error(self._models, error))
            return
        self._readmit(listing)
        await self._choose(listing)
        self._forget(listing)
        self._withdraw(listing)
        if not self.live:
            problems = {it.number: it.error for it in self.states if it.error}
            self._say(explain(self._models, listing, self._pinned, problems))
        elif listing.holds(self.live.number):
            self._device = listing.device
            self._reminder.clear()
        else:
            other = ", and the directory of versions is on another volume" if listing.device != self._device else ""
            self._keep(self.live, f"its directory is missing{other}")

    def _readmit(self, listing: Listing) -> None:
        """Forget what was decided about versions that are withdrawn no longer, and about a live one that is back."""
        for state in self.states:
            if state.error == _withdrawn_by(state.number) and state.number not in listing.withdrawn:
                del self._states[state.number]
        if self._missing_since and self.live and listing.holds(self.live.number):
            self._missing_since = None
            self._attempts.pop(self.live.number, None)  # so that it is compared with what is served

    async def _choose(self, listing: Listing) -> None:
        """Make the highest version live that passes, if it is not live yet."""
        live = self.live
        withdrawn = live is not None and live.number in listing.withdrawn
        missing = live is not None and not listing.holds(live.number)
        # A volume that went away uncovers what lies below its mount point: older versions there are no rollback.
        uncovered = missing and not withdrawn and listing.device != self._device
        for number in listing.versions:
            if live and uncovered and number < live.number:
                break
            if number in listing.withdrawn or self._pinned not in (None, number):
                continue
            if live and missing and number == live.number:  # a link that leads nowhere
                continue
            if await self._is_due(number) and await self._try(number):
                break
            if self.live and self.live.number == number:
                break
        if self.live and self.live.number in listing.withdrawn:
            logger.warning("version %d is withdrawn and no other passes", self.live.number)
            self._set_live(None, 0)

    async def _is_due(self, number: int) -> bool:
        """Whether there is a reason to load a version: it is new, has changed, or what kept it away may have passed."""
        attempt = self._attempts.get(number)
        directory = self._models / str(number)
        seen = await self._ask(fingerprint, directory, attempt.fingerprint if attempt else ())
        if attempt is None or attempt.fingerprint != seen:
            self._attempts[number] = Attempt(seen, attempt.logged if attempt else ())
            return True
        if number not in self._states or self._states[number].state is State.RETIRED:  # the newer one was taken away
            return True
        if attempt.read_error:
            was_blocked = attempt.blocked
            try:
                await self._ask(artifact.probe, directory, *attempt.read_error)
            except VersionError:
                attempt.blocked = True
                return False
            if was_blocked:
                return True
        return attempt.is_due(self._clock(), self._live_bytes)

    async def _try(self, number: int) -> bool:
        """Load a version and make it live if it passes."""
        live = self.live if self.live and self.live.number == number else None
        # A version that failed stays so while it is tried again, rather than to change its state for each moment.
        if not live and (number not in self._states or self._states[number].state is State.RETIRED):
            self._states[number] = VersionState(number, State.LOADING)
            self.problem = "" if self.live else f"version {number} is being loaded"
        began = time.monotonic()
        digest = ""
        try:
            read = await self._aside(artifact.read, self._models / str(number), self._max_version_bytes)
            digest = read.digest
            if live and live.digest == digest:
                self._restored(live)
                return True
            version = await self._aside(Version.load, read, self.engine)
        except Exception as error:
            self._on_load(False, time.monotonic() - began)
            self._failed(number, digest, error, live)
            return False
        seconds = time.monotonic() - began
        self._passed(number)
        self._on_load(True, seconds)
        replaced = self.live.number if self.live else None
        logger.info(
            "version %d is live after %.2f s%s",
            number,
            seconds,
            f", in place of version {replaced}" if replaced else "",
            extra={"version": number, "digest": digest, "seconds": seconds, "replaced": replaced},
        )
        self._set_live(version, sum(map(len, read.files.values())))
        return True

    def _failed(self, number: int, digest: str, error: Exception, live: Version | None) -> None:
        """Note that a version could not be loaded, and log each reason once; `live` is the version if it is the live one."""
        problem = _describe(error)
        if live:
            self._states[number] = VersionState(number, State.LIVE, live.digest, f"on disk now, but not served: {problem}")
        else:
            self._states[number] = VersionState(number, State.FAILED, digest, problem)
        attempt = self._attempts[number]
        attempt.failed(error, self._clock(), self._live_bytes)
        if problem not in attempt.logged:
            attempt.logged.add(problem)
            what = "is live, and what is on disk now cannot be" if live else "cannot go live"
            unexpected = not isinstance(error, (VersionError, MemoryError))
            logger.error("version %d %s: %s", number, what, problem, exc_info=unexpected, extra={"version": number})

    def _keep(self, live: Version, why: str) -> None:
        """Say of the live version that its directory cannot be seen, and keep it."""
        self._missing_since = self._missing_since or datetime.now(UTC)
        since = self._missing_since.isoformat(timespec="seconds")
        error = f"{why} (since {since}); it is served from memory, and would be lost with a restart"
        self._states[live.number] = VersionState(live.number, State.LIVE, live.digest, error)
        self._reminder.say(logging.ERROR, f"version {live.number} of {self._models} is live, but {error}")

    def _restored(self, live: Version) -> None:
        """The live version's directory holds what is served."""
        if self.directory_missing:
            logger.info("version %d is on disk again as it is served", live.number, extra={"version": live.number})
        self._states[live.number] = VersionState(live.number, State.LIVE, live.digest)
        self._passed(live.number)

    def _passed(self, number: int) -> None:
        self._attempts[number] = Attempt(self._attempts[number].fingerprint)

    def _withdraw(self, listing: Listing) -> None:
        for number in listing.withdrawn.intersection(listing.versions):
            if self._pinned not in (None, number):
                continue
            before = self._states.get(number, VersionState(number, State.FAILED))
            if before.error != _withdrawn_by(number):
                logger.warning("version %d is %s", number, _withdrawn_by(number), extra={"version": number})
            state = State.RETIRED if before.state is State.RETIRED else State.FAILED
            self._states[number] = replace(before, state=state, error=_withdrawn_by(number))

    def _forget(self, listing: Listing) -> None:
        """Forget versions that are no longer there; of the live one only how its directory looked."""
        live = self.live.number if self.live else None
        self._attempts = {number: it for number, it in self._attempts.items() if number in listing.versions}
        self._states = {number: it for number, it in self._states.items() if number in (*listing.versions, live)}

    def _say(self, problem: str) -> None:
        self.problem = problem
        self._reminder.say(logging.WARNING, problem)

    async def _ask(self, function: Callable[..., Result], *args: object) -> Result:
        """Call a function that only looks at MODELS, and log if that takes long, as on a network volume that hangs."""
        answer = self._aside(function, *args)
        if not (await asyncio.wait([answer], timeout=PATIENCE))[0]:
            logger.warning("%s has not answered for %g s; still waiting for it", self._models, PATIENCE)
        return await answer

    def _aside(self, function: Callable[..., Result], *args: object) -> asyncio.Future[Result]:
        """Call a function in another thread, which yields to callers if there are any."""
        return asyncio.get_running_loop().run_in_executor(self._loader if self.live else None, function, *args)

    def _set_live(self, version: Version | None, size: int) -> None:
        old = self.live
        if old and old.number in self._states:
            self._states[old.number] = VersionState(old.number, State.RETIRED, old.digest)
        if version:
            self._states[version.number] = VersionState(version.number, State.LIVE, version.digest)
            self.problem = ""
            self.label_change = self._compare_labels(old, version) if old else ""
        self.live = version
        self._live_bytes = size
        self._missing_since = None
        self._on_live(version)

    def _compare_labels(self, old: Version, new: Version) -> str:
        """What the old version calls popular, if the new one's scores mean something else; that is also logged."""
        if new.info.label.means_the_same(old.info.label):
            return ""
        logger.warning(
            "version %d calls something else popular than version %d, so their scores cannot be compared: %s; before: %s",
            new.number,
            old.number,
            new.info.label.describe(),
            old.info.label.describe(),
            extra={"version": new.number},
        )
        return f"version {old.number}: {old.info.label.describe()}"


def _withdrawn_by(number: int) -> str:
    return f"withdrawn by the file {number}.withdrawn"


def _describe(error: Exception) -> str:
    if isinstance(error, VersionError):
        return str(error)
    if isinstance(error, MemoryError):
        return "there is not enough memory to load it"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}; it is tried again later"
    return f"an unexpected {type(error).__name__}; the log says more"
