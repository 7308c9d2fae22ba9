"""The shards of a job on a Ray cluster.

Ray Data passes descriptions of shards to actors that hold the model, and what they say back; headlines stay in the files.
Models, inputs and OUT must have the same paths on every node. A shard that was on a node that is lost is scored again
by another; its file is the same bytes, whoever writes it.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from service.errors import HeadlinesError, UsageError
from service.score.outputs import OutputError
from service.score.workers import Task, Worker

_log = logging.getLogger(__name__)

_PATIENCE = 10.0  # seconds for the cluster's head to take a connection
_STAYS = "; what is done stays done"


class _Actor:
    """Scores shards on a node. What goes wrong is told in its answers: Ray would make a traceback of it."""

    def __init__(self, worker: Worker) -> None:
        import ray

        self._node = ray.util.get_node_ip_address()
        self._score: Callable[[Task], str] | None = None
        self._error = ""
        try:
            self._score = worker.start()
        except Exception as error:
            self._error = _told(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        task: Task = pickle.loads(batch["task"][0])
        problem, error = "", self._error
        if self._score:
            try:
                problem = self._score(task)
            except Exception as failed:
                error = _told(failed)
        return {"node": [self._node], "part": [task.name], "problem": [problem], "error": [error]}


def _told(error: Exception) -> str:
    kind = "" if isinstance(error, HeadlinesError) else f"{type(error).__name__}: "
    return f"{kind}{error}".removesuffix(_STAYS)


def connect() -> None:
    """Join the cluster of RAY_ADDRESS, else start one of this machine alone. Raises UsageError."""
    address = os.environ.get("RAY_ADDRESS") or "local"
    if "://" in address:
        raise UsageError(
            f"RAY_ADDRESS: {address} is an address of Ray Client, which Ray Data does not work with; run this on a node of the"
            " cluster with RAY_ADDRESS=auto, as `ray job submit` does"
        )
    # Ray asks its environment before anything else is set. Who wants statistics or the dashboard, says so.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # What listens and is no Ray is asked so many times, for 40 seconds each; by itself Ray asks 20 times.
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.WARNING}
    failed = f"--on ray: the cluster of RAY_ADDRESS {address} cannot be joined"
    if address == "local":
        options["include_dashboard"] = False
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex())  # or Ray writes one to the home directory
        failed = "--on ray: Ray does not start on this machine"
    import ray

    if ray.is_initialized():
        return
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():  # where Ray would wait for a listener for minutes
        try:
            socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()
        except OSError as error:
            raise UsageError(f"{failed}: {error.strerror or error}") from None
    try:
        ray.init(**options)
    except ConnectionError as error:
        raise UsageError(f"{failed}: {error}; is it Ray, is this one of its nodes, and is its token known here?") from error
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UsageError(f"{failed}: {' '.join(str(error).split())}") from error
    _log.info("Ray %s; nodes: %d, CPUs: %d", ray.__version__, sum(node["Alive"] for node in ray.nodes()), _cpus(ray))


def _cpus(ray: Any) -> int:  # noqa: ANN401
    return int(ray.cluster_resources().get("CPU", 0))


def _without_traceback(error: Exception) -> str:
    """What Ray says, and the last line of the traceback that may follow."""
    first, *more = re.sub(r"\x1b\[\d*m", "", str(error)).strip().splitlines() or [type(error).__name__]
    return f"{first}: {more[-1].strip()}" if more else first


def run(tasks: Sequence[Task], worker: Worker, actors: int) -> Iterator[str]:
    """For each shard, as it is done, why it cannot be read; empty if it was. Raises OutputError and UsageError.

    `connect` comes first.
    """
    if not tasks:
        return
    if once := [task.source.name for task in tasks if task.input.size < 0]:
        raise UsageError(f"{once[0]}: can be read but once, which no other node can; write it to a file that all nodes have")
    import ray
    import ray.data

    if (cpus := _cpus(ray)) < actors:
        _log.warning("--workers: %d of %d wait until the cluster has more CPUs than %d", actors - cpus, actors, cpus)
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # the file has the tracebacks, too
            handler.setLevel(logging.CRITICAL)
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
    nodes = set[str]()  # whose files are seen here
    try:
        for row in done.iter_rows():
            if row["error"]:
                raise OutputError(f"on the node {row['node']}: {row['error']}{_STAYS}")
            if not row["problem"] and row["node"] not in nodes:
                _check_shared(worker, row["part"], row["node"])
                nodes.add(row["node"])
            yield row["problem"]
    except ray.exceptions.RayError as error:  # such as of a cluster that has gone
        raise OutputError(f"Ray: {_without_traceback(error)}{_STAYS}") from error


def _check_shared(worker: Worker, part: str, node: str) -> None:
    try:
        worker.out.open(part).close()
    except FileNotFoundError:
        raise OutputError(
            f"--out: {worker.out.name} lacks {part}, which the node {node} has written; all nodes need the same directory"
        ) from None
