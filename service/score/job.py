"""A job: a directory of scores, shard by shard, that can be killed at any moment and started again.

OUT/
├── _MANIFEST.json      what is scored, how, and by which version; the job begins with it
├── part-*.parquet      the scores of a shard, complete from the moment that its name is there
├── _SUCCESS            all shards are there
└── .tmp-*, .lock       work in progress

Readers of directories (Spark, Arrow, DuckDB) pass over names that begin with `_` or `.`.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import msgspec
import pyarrow.parquet as pq

from service.errors import DataError, HeadlinesError, UsageError, VersionError
from service.model import artifact, engines
from service.model.version import Version
from service.posts import sources
from service.posts.flags import Format
from service.posts.sources import Source
from service.score import scorer, shards
from service.score.scorer import Summary
from service.score.shards import Input, Shard

MANIFEST, SUCCESS = "_MANIFEST.json", "_SUCCESS"

_log = logging.getLogger(__name__)

_FORMAT = 1
_TEMPORARY = ".tmp-"
_LOCK = ".lock"
_NAMED = 5  # problems that the end of a job names


class OutputError(HeadlinesError):
    """The scores cannot be written."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a job is asked for."""

    models: Path
    data: Sequence[str]
    out: Path
    version: int | None = None  # None: the highest that is not withdrawn
    engine: str = "auto"
    posted_at: float | None = None  # seconds since 1970-01-01 UTC, for rows without a time; None: the job's start
    written: Format = field(default_factory=Format)
    workers: int = 1  # processes, or actors of Ray
    on: str = ""  # ray: a cluster's nodes; empty: this machine
    shard_bytes: int = shards.SHARD_BYTES


class _Manifest(msgspec.Struct, frozen=True):
    format: int
    version: int
    digest: str  # of the version
    engine: str
    posted_at: float
    written: dict[str, Any]  # Format
    batch: int  # rows
    inputs: list[Input]


@dataclass(frozen=True)
class Done:
    """How a job ended."""

    rows: int
    problems: Counter[str]  # rows without a score by what is wrong
    first: dict[str, str]  # FILE:LINE of the first of each
    failed: Sequence[str]  # a sentence on each shard that cannot be read
    version: int


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
        raise UsageError(f"--models: {models} cannot be read: {error.strerror}") from None
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


def run(options: Options, progress: Callable[[int, int], None] = lambda done, of: None) -> Done:  # noqa: ARG005
    """Score what is not scored yet. `progress` is told how many shards are done, of how many.

    Raises UsageError, DataError, VersionError and OutputError, which say in a sentence what is wrong.
    """
    with _directory(options.out):
        version, engine = load(options.models, options.version or _begun_version(options.out), options.engine)
        with _processes(options, version, engine) as pool:
            manifest, found = _begin(options, version, engine)
            tasks = [
                Task(found[input_.name], input_, shard, _part(input_, shard))
                for input_ in manifest.inputs
                for shard in input_.shards
            ]
            names = {path.name for path in options.out.iterdir()}
            left = [task for task in tasks if task.name not in names]
            if len(left) < len(tasks):
                _log.info("%d of %d shards are there already", len(tasks) - len(left), len(tasks))
            failed = []
            progress(len(tasks) - len(left), len(tasks))
            worker = Worker(
                options.models.absolute(),
                manifest.version,
                manifest.digest,
                manifest.engine,
                options.out.absolute(),
                options.written,
                manifest.posted_at,
            )
            for i, problem in enumerate(_run_tasks(left, worker, version, options, pool), len(tasks) - len(left) + 1):
                if problem:
                    failed.append(problem)
                    _log.error("%s", problem)
                progress(i, len(tasks))
            for input_ in manifest.inputs:
                _check_unchanged(found[input_.name], input_)
            done = _summary(options.out, tasks, failed, manifest.version)
            if not failed:
                _write(options.out, SUCCESS, b"")
            return done


@contextmanager
def _directory(out: Path) -> Iterator[None]:
    """The directory for one job at a time."""
    import fcntl

    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / _LOCK).open("wb")
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"--out: {out} is not a directory") from None
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"--out: another job is writing to {out}") from None
        try:
            for path in out.glob(f"{_TEMPORARY}*"):
                path.unlink()  # of a job that was killed
            yield
        except OSError as error:
            raise OutputError(f"{error.filename or out}: {error.strerror}; what is done stays done") from error


def _begun_version(out: Path) -> int | None:
    manifest = _read_manifest(out)
    return manifest.version if manifest else None


def _read_manifest(out: Path) -> _Manifest | None:
    try:
        data = (out / MANIFEST).read_bytes()
    except FileNotFoundError:
        if others := [path.name for path in out.iterdir() if not path.name.startswith(".")]:
            raise UsageError(
                f"--out: {out} holds {min(others)} but no {MANIFEST}, so it is no job's; name an empty directory"
            ) from None
        return None
    try:
        manifest = msgspec.json.decode(data, type=_Manifest)
    except msgspec.DecodeError as error:
        raise DataError(f"{out / MANIFEST}: is damaged or of another version of this program ({error})") from None
    if (manifest.format, manifest.batch) != (_FORMAT, scorer.BATCH):
        raise DataError(f"{out / MANIFEST}: is of another version of this program; go on with that, or name another --out")
    return manifest


def _begin(options: Options, version: Version, engine: str) -> tuple[_Manifest, dict[str, Source]]:
    """The job's manifest, written if there is none, and its inputs by name."""
    found = {source.name: source for source in sources.expand(options.data)}
    written = msgspec.to_builtins(options.written)
    manifest = _read_manifest(options.out)
    if manifest is None:
        posted_at = time.time() if options.posted_at is None else options.posted_at
        inputs = []
        for source in found.values():
            _log.info("looking at %s", source.name)
            inputs.append(shards.cut(source, options.written, options.shard_bytes))
            _log.info("%s: %s; %s", source.name, inputs[-1].format, _taken(inputs[-1]))
        manifest = _Manifest(_FORMAT, version.number, version.digest, engine, posted_at, written, scorer.BATCH, inputs)
        _write(options.out, MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        return manifest, found
    where = f"{options.out / MANIFEST} began this job"
    wanted: dict[str, tuple[object, object]] = {
        "--version": (version.digest, manifest.digest),
        "--engine": (engine, manifest.engine),
    }
    if options.posted_at is not None:
        wanted["--posted-at"] = (str(options.posted_at), str(manifest.posted_at))
    wanted |= {f"--{key.replace('_', '-')}": (value, manifest.written.get(key)) for key, value in written.items()}
    wanted["--data"] = (str(sorted(found)), str(sorted(input_.name for input_ in manifest.inputs)))
    for flag, (now, then) in wanted.items():
        if now != then:
            raise UsageError(f"{flag}: {where} with another value; give the same one, or another --out")
    for input_ in manifest.inputs:
        if found[input_.name].state()[0] < 0:
            raise UsageError(f"{input_.name}: cannot be gone on with, since it can be read but once; name an empty --out")
        _check_unchanged(found[input_.name], input_)
    return manifest, found


def _taken(input_: Input) -> str:
    taken = {"headline": " or ".join(input_.headline), "posted_at": " + ".join(input_.posted_at), "outlet": input_.outlet}
    said = [need if need == name else f"{need} = {name}" for need, name in taken.items() if name]
    said += [f"no {need}" for need, name in taken.items() if not name]
    return ", ".join(said)


def _check_unchanged(source: Source, input_: Input) -> None:
    """Raise DataError if an input is not what it was when the job began."""
    try:
        state = source.state()
    except OSError as error:
        raise DataError(f"{source.name}: cannot be read: {error.strerror}") from None
    if state != (input_.size, input_.modified):
        raise DataError(
            f"{source.name}: has changed since the job began, so that its scores would be of two files; name another --out"
        )


def _part(input_: Input, shard: Shard) -> str:
    """The name of a shard's scores."""
    of = hashlib.sha256(f"{input_.name}\0{input_.size}\0{input_.modified}".encode("utf-8", "surrogateescape"))
    return f"part-{of.hexdigest()[:16]}-{shard.first_row:012d}.parquet"


def _write(out: Path, name: str, data: bytes) -> None:
    temporary = out / f"{_TEMPORARY}{uuid4().hex}-{name}"
    with _create(temporary) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(out / name)


def _create(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


@dataclass(frozen=True)
class Worker:
    """What a process needs to score shards of a job."""

    models: Path
    version: int
    digest: str  # of the version
    engine: str
    out: Path
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


def _run_tasks(
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
def _processes(options: Options, version: Version, engine: str) -> Iterator[ProcessPoolExecutor | None]:
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


def _score(version: Version, out: Path, written: Format, posted_at: float, task: Task) -> str:
    """Score a shard; returns why it cannot be read, or nothing. Raises OutputError, and DataError if the input has changed."""
    _check_unchanged(task.source, task.input)
    temporary = out / f"{_TEMPORARY}{uuid4().hex}-{task.name}"
    try:
        with _create(temporary) as file:
            try:
                scorer.score(version, task.source, task.input, task.shard, written, posted_at, file)
            except DataError as error:
                problem = str(error)
                where = "" if task.shard.end < 0 else f" (the shard of row {task.shard.first_row + 1} on)"
                file.close()
                temporary.unlink()
                return problem + where
            file.flush()
            os.fsync(file.fileno())
        _check_unchanged(task.source, task.input)
        temporary.rename(out / task.name)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"{out}: cannot be written: {error.strerror}; what is done stays done") from None
    return ""


def _summary(out: Path, tasks: Sequence[Task], failed: Sequence[str], version: int) -> Done:
    rows, problems, first = 0, Counter[str](), dict[str, str]()
    for task in tasks:
        path = out / task.name
        if path.exists():
            found = Summary.decode(pq.read_metadata(path).metadata[scorer.SUMMARY])
            rows += found.rows
            problems += found.problems
            for problem, line in found.first.items():
                first.setdefault(problem, f"{task.source.name}:{line}")
    return Done(rows, problems, first, failed, version)


def describe(done: Done, out: Path) -> list[str]:
    """What a job has done, for people."""
    lines = [f"{done.rows - done.problems.total():,} headlines are scored by version {done.version}; {out} holds the scores."]
    for problem, rows in done.problems.most_common(_NAMED):
        lines.append(f"{rows:,} without a score: {problem}, first at {done.first[problem]}")
    if len(done.problems) > _NAMED:
        lines.append(f"and {len(done.problems) - _NAMED} more kinds; the column problem has them all")
    return lines
