"""What scores shards: this process, others of this machine, or actors of a Ray cluster."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection, get_context, parent_process
from pathlib import Path

from headlines.commands import native
from service.errors import DataError, UsageError, VersionError, reason
from service.model import artifact, engines
from service.model.artifact import Artifact
from service.model.engines import Engine
from service.model.version import Version
from service.posts.flags import Format
from service.posts.sources import Source
from service.score import scorer
from service.score.manifest import check_unchanged
from service.score.outputs import Output, OutputError
from service.score.shards import Input, Shard


@dataclass(frozen=True)
class Task:
    """A shard to score."""

    source: Source
    input: Input
    shard: Shard
    name: str


def find(models: Path, number: int | None) -> Artifact:
    """A version's files, checked. Raises VersionError, naming it, and UsageError if there is none."""
    try:
        numbers = artifact.versions(models)
    except OSError as error:
        raise UsageError(f"--models: {models} cannot be read: {reason(error)}") from None
    if number is None:
        number = next((it for it in numbers if not (models / f"{it}.withdrawn").exists()), None)
    if number is None or number not in numbers:
        wanted = f"no version {number}" if number else "no version"
        has = f"; it has {', '.join(map(str, numbers))}" if numbers else ""
        raise UsageError(f"--models: {models} holds {wanted}{has}")
    try:
        return artifact.read(models / str(number))
    except VersionError as error:
        raise VersionError(f"version {number}: {error}") from error


def load(found: Artifact, engine: Engine) -> Version:
    """A version that is ready to score. Raises VersionError, naming it."""
    try:
        with native.without_log():
            version = Version.load(found, engine)
    except (VersionError, OSError) as error:  # an engine's own: its GPU may be full
        raise VersionError(f"version {found.number}: {reason(error) if isinstance(error, OSError) else error}") from error
    gc.freeze()  # the vocabulary lives as long as the process: to look through it again and again costs 5 %
    return version


@dataclass(frozen=True)
class Worker:
    """What a process needs to score shards of a job."""

    models: Path
    version: int
    digest: str  # of the version
    engine: str
    out: Output
    written: Format
    posted_at: float

    def start(self, version: Version | None = None) -> Callable[[Task], str]:
        """What scores a shard, and returns why it cannot be read, or nothing. Without `version`, it is loaded."""
        if version is None:
            version = _load_again(self.models, self.version, self.digest, self.engine)
        return partial(_score, version, self.out, self.written, self.posted_at)


def _load_again(models: Path, number: int, digest: str, engine: str) -> Version:
    found = find(models, number)
    if found.digest != digest:
        raise VersionError(f"version {number}: is another one than when the job began")
    return load(found, engines.choose(engine))  # type: ignore[arg-type]


def run(tasks: Sequence[Task], worker: Worker, pool: ProcessPoolExecutor | Version) -> Iterator[str]:
    """For each shard, as it is done, why it cannot be read; empty if it was. Raises OutputError, DataError and VersionError."""
    if isinstance(pool, Version):
        yield from map(worker.start(pool), tasks)
        return
    once = [task for task in tasks if task.input.size < 0]  # what can be read but once, which other processes do not have
    try:
        for future in as_completed([pool.submit(_score_here, worker, task) for task in tasks if task.input.size >= 0]):
            yield future.result()
        if once:
            yield from map(worker.start(), once)
    except BrokenProcessPool:
        raise OutputError(
            "a worker process ended; was it killed, or was there too little memory? Start the job again to go on"
        ) from None


@contextmanager
def processes(number: int, models: Path, found: Artifact, engine: Engine) -> Iterator[ProcessPoolExecutor | Version]:
    """So many processes, which load the version while this one looks at the inputs; for one, the version in this process."""
    if number == 1:
        yield load(found, engine)
        return
    arguments = models.absolute(), found.number, found.digest, engine.name
    pool = ProcessPoolExecutor(number, get_context("spawn"), _start_worker, arguments)
    try:
        for _ in range(number):
            pool.submit(int)  # a process starts when there is something to do
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


_here: Version | VersionError | UsageError  # in a worker


def _start_worker(models: Path, number: int, digest: str, engine: str) -> None:
    global _here
    parent = parent_process()
    assert parent  # it was spawned

    def end_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        _here = _load_again(models, number, digest, engine)
    except (VersionError, UsageError) as error:
        _here = type(error)(str(error))


def _score_here(worker: Worker, task: Task) -> str:
    if isinstance(_here, Exception):
        raise _here
    return worker.start(_here)(task)


def _score(version: Version, out: Output, written: Format, posted_at: float, task: Task) -> str:
    """Score a shard; returns why it cannot be read, or nothing. Raises OutputError, and DataError if the input has changed."""
    check_unchanged(task.source, task.input)
    try:
        with out.create(task.name) as file:
            try:
                scorer.score(version, task.source, task.input, task.shard, written, posted_at, file)
            except DataError as error:
                raise _UnreadableError(str(error)) from None
            check_unchanged(task.source, task.input)
    except _UnreadableError as error:
        where = "" if task.shard.end < 0 else f" (the shard of row {task.shard.first_row + 1} on)"
        return f"{error}{where}"
    except OSError as error:
        raise OutputError(f"{out.name}: cannot be written: {reason(error)}; what is done stays done") from None
    return ""


class _UnreadableError(Exception):
    """A shard cannot be read, so that nothing is to be written for it."""
