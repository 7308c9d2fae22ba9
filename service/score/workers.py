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

from service.errors import DataError, UsageError, VersionError, reason
from service.model import artifact, engines
from service.model.version import Version
from service.posts.flags import Format
from service.posts.sources import Source
from service.score import scorer
from service.score.manifest import Options, check_unchanged
from service.score.outputs import Output, OutputError
from service.score.shards import Input, Shard


@dataclass(frozen=True)
class Task:
    """A shard to score."""

    source: Source
    input: Input
    shard: Shard
    name: str


def load(models: Path, number: int | None, engine: str) -> tuple[Version, str]:
    """A version and the engine's name. Raises VersionError, naming it, and UsageError if there is none."""
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
    chosen = engines.choose(engine)  # type: ignore[arg-type]
    try:
        version = Version.load(artifact.read(models / str(number)), chosen)
    except VersionError as error:
        raise VersionError(f"version {number}: {error}") from error
    gc.freeze()  # the vocabulary lives as long as the process: to look through it again and again costs 5 %
    return version, chosen.name


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
    version, _ = load(models, number, engine)
    if version.digest != digest:
        raise VersionError(f"version {number}: is another one than when the job began")
    return version


def run(
    tasks: Sequence[Task], worker: Worker, version: Version, options: Options, pool: ProcessPoolExecutor | None
) -> Iterator[str]:
    """For each shard, as it is done, why it cannot be read; empty if it was. Raises OutputError and DataError."""
    if options.on == "ray" and tasks:
        from service.score import on_ray

        yield from on_ray.run(tasks, worker, options.workers)
    elif pool is None or len(tasks) < 2 or any(task.input.size < 0 for task in tasks):
        yield from map(worker.start(version), tasks)
    else:
        try:
            for future in as_completed([pool.submit(_score_here, worker, task) for task in tasks]):
                yield future.result()
        except BrokenProcessPool:
            raise OutputError(
                "a worker process ended; was it killed, or was there too little memory? Start the job again to go on"
            ) from None


@contextmanager
def processes(options: Options, version: Version, engine: str) -> Iterator[ProcessPoolExecutor | None]:
    """The processes of --workers, which load the version while this one looks at the inputs."""
    if options.workers == 1 or options.on:
        yield None
        return
    arguments = options.models.absolute(), version.number, version.digest, engine
    pool = ProcessPoolExecutor(options.workers, get_context("spawn"), _start_worker, arguments)
    try:
        for _ in range(options.workers):
            pool.submit(int)  # a process starts when there is something to do
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


_here: Version  # in a worker


def _start_worker(models: Path, number: int, digest: str, engine: str) -> None:
    global _here
    parent = parent_process()
    assert parent  # it was spawned

    def end_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    _here = _load_again(models, number, digest, engine)


def _score_here(worker: Worker, task: Task) -> str:
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
