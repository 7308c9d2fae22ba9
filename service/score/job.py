"""A job: a directory of scores, shard by shard, that can be killed at any moment and started again.

OUT/
├── _MANIFEST.json      what is scored, how, and by which version; the job begins with it
├── part-*.parquet      the scores of a shard, complete from the moment that its name is there
├── _SUCCESS            all shards are there
└── .tmp-*, .lock       work in progress

Readers of directories (Spark, Arrow, DuckDB) pass over names that begin with `_` or `.`.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq

from service.errors import reason
from service.model import engines
from service.posts import sources
from service.score import manifest, on_ray, outputs, scorer, workers
from service.score.manifest import Options
from service.score.outputs import Output, OutputError
from service.score.scorer import Summary
from service.score.workers import Task, Worker

SUCCESS = "_SUCCESS"

_log = logging.getLogger(__name__)

_NAMED = 5  # problems that the end of a job names


@dataclass(frozen=True)
class Done:
    """How a job ended."""

    rows: int
    problems: Counter[str]  # rows without a score by what is wrong
    first: dict[str, str]  # FILE:LINE of the first of each
    failed: Sequence[str]  # a sentence on each shard that cannot be read
    version: int
    out: str


def run(options: Options, progress: Callable[[int, int], None] = lambda done, of: None) -> Done:  # noqa: ARG005
    """Score what is not scored yet. `progress` is told how many shards are done, of how many.

    Raises UsageError, DataError, VersionError and OutputError, which say in a sentence what is wrong.
    """
    out = outputs.output(options.out)
    try:
        with out.for_one_job():
            return _run(out, options, progress)
    except OSError as error:
        raise OutputError(f"{error.filename or out.name}: {reason(error)}; what is done stays done") from error


def _run(out: Output, options: Options, progress: Callable[[int, int], None]) -> Done:
    begun = manifest.read(out)
    found = workers.find(options.models, options.version or (begun.version if begun else None))
    engine = engines.choose(options.engine)  # type: ignore[arg-type]
    if options.on:
        on_ray.connect()  # before the inputs are looked at, which may take long
    here = contextlib.nullcontext(None) if options.on else workers.processes(options.workers, options.models, found, engine)
    with here as pool:
        inputs = {source.name: source for source in sources.expand(options.data)}
        if begun is None:
            begun = manifest.begin(out, options, inputs, found, engine.name)
        else:
            manifest.check_same(begun, out, options, inputs, found, engine.name)
        tasks = [
            Task(inputs[input_.name], input_, shard, manifest.part(input_, shard))
            for input_ in begun.inputs
            for shard in input_.shards
        ]
        names = out.names()
        left = [task for task in tasks if task.name not in names]
        if len(left) < len(tasks):
            _log.info("%d of %d shards are there already", len(tasks) - len(left), len(tasks))
        worker = Worker(
            options.models.absolute(), begun.version, begun.digest, begun.engine, out, options.written, begun.posted_at
        )
        problems = on_ray.run(left, worker, options.workers) if pool is None else workers.run(left, worker, pool)
        failed = []
        progress(len(tasks) - len(left), len(tasks))
        for i, problem in enumerate(problems, len(tasks) - len(left) + 1):
            if problem:
                failed.append(problem)
                _log.error("%s", problem)
            progress(i, len(tasks))
    for input_ in begun.inputs:
        manifest.check_unchanged(inputs[input_.name], input_)
    if manifest.read(out) != begun:  # where there is no lock
        raise OutputError(f"{out.name}: another job has begun in it; empty it and start again")
    names = out.names()
    scored = [task for task in tasks if task.name in names]
    if lost := len(tasks) - len(scored) - len(failed):
        raise OutputError(f"{out.name}: lacks the scores of {lost} shards that were done; do all nodes have the same --out?")
    done = _summary(out, scored, failed, begun.version)
    if not failed:
        out.write(SUCCESS, b"")
    return done


def _summary(out: Output, scored: Sequence[Task], failed: Sequence[str], version: int) -> Done:
    rows, problems, first = 0, Counter[str](), dict[str, str]()
    for task in scored:
        with out.open(task.name) as file:
            found = Summary.decode(pq.read_metadata(file).metadata[scorer.SUMMARY])
        rows += found.rows
        problems += found.problems
        for problem, line in found.first.items():
            first.setdefault(problem, f"{task.source.name}:{line}")
    return Done(rows, problems, first, failed, version, out.name)


def describe(done: Done) -> list[str]:
    """What a job has done, for people."""
    lines = [
        f"{done.rows - done.problems.total():,} headlines are scored by version {done.version}; {done.out} holds the scores."
    ]
    for problem, rows in done.problems.most_common(_NAMED):
        lines.append(f"{rows:,} without a score: {problem}, first at {done.first[problem]}")
    if len(done.problems) > _NAMED:
        lines.append(f"and {len(done.problems) - _NAMED} more kinds; the column problem has them all")
    return lines
