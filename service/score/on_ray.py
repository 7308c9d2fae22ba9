"""The shards of a job on a Ray cluster.

Ray Data passes descriptions of shards to actors that hold the model, and what they say back; headlines stay in the files.
Models, inputs and OUT must have the same paths on every node. A shard that was on a node that is lost is scored again
by another; its file is the same bytes, whoever writes it.
"""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from service.errors import HeadlinesError, UsageError
from service.score.outputs import OutputError
from service.score.workers import Task, Worker

_PATIENCE = 10.0  # seconds for the cluster's head to take a connection


class _Actor:
    """Scores shards on a node. What goes wrong is told in its answers: Ray would make a traceback of it."""

    def __init__(self, worker: Worker) -> None:
        self._score: Callable[[Task], str] | None = None
        try:
            self._score = worker.start()
        except Exception as error:
            self._error = _told(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self._score is None:
            return {"problem": [""], "error": [self._error]}
        problem = error = ""
        try:
            problem = self._score(pickle.loads(batch["task"][0]))
        except Exception as failed:
            error = _told(failed)
        return {"problem": [problem], "error": [error]}


def _told(error: Exception) -> str:
    import ray

    kind = "" if isinstance(error, HeadlinesError) else f"{type(error).__name__}: "
    return f"the node {ray.util.get_node_ip_address()}: {kind}{error}"


def _connect(ray: Any) -> None:  # noqa: ANN401
    """Connect to the cluster of RAY_ADDRESS, or start one. Raises UsageError."""
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        if host and port.isdecimal():  # which Ray would try for minutes
            socket.create_connection((host, int(port)), _PATIENCE).close()
        ray.init(log_to_driver=False, **({} if address else {"include_dashboard": False}))
    except (OSError, RuntimeError, ValueError) as error:
        where = f"RAY_ADDRESS {address}" if address else "a Ray of this machine's own"
        raise UsageError(f"--on ray: there is no cluster at {where}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def run(tasks: Sequence[Task], worker: Worker, actors: int) -> Iterator[str]:
    """For each shard, as it is done, why it cannot be read; empty if it was. Raises OutputError and UsageError.

    The cluster is that of RAY_ADDRESS, else one of this machine alone.
    """
    if not tasks:
        return
    if once := [task.source.name for task in tasks if task.input.size < 0]:
        raise UsageError(f"{once[0]}: can be read but once, which no other node can; write it to a file that all nodes have")
    # Ray asks its environment before anything else is set. Who wants statistics or the dashboard, says so.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data

    if not ray.is_initialized():
        _connect(ray)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # One block a shard, which the driver holds: a task that made blocks would need a CPU that the actors may have taken.
    described = ray.data.from_items([{"task": pickle.dumps(task)} for task in tasks], override_num_blocks=len(tasks))
    done = described.map_batches(
        _Actor,
        fn_constructor_args=(worker,),
        batch_size=1,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(tasks))),
    )
    try:
        for row in done.iter_rows():
            if row["error"]:
                raise OutputError(f"{row['error']}; what is done stays done")
            yield row["problem"]
    except ray.exceptions.RayError as error:  # such as of a cluster that has gone
        raise OutputError(f"Ray: {type(error).__name__}: {_first_line(error)}; what is done stays done") from error
