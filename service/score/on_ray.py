"""The shards of a job on a Ray cluster.

Ray Data passes descriptions of shards to actors that hold the model, and what they say back; headlines stay in the files.
Models, inputs and OUT must have the same paths on every node. A shard that was on a node that is lost is scored again
by another; its file is the same bytes, whoever writes it.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

from service.errors import UsageError
from service.score.outputs import OutputError
from service.score.workers import Task, Worker


class _Actor:
    def __init__(self, worker: Worker) -> None:
        self._score = worker.start()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        problem = error = ""
        try:
            problem = self._score(pickle.loads(batch["task"][0]))
        except Exception as failed:
            error = f"{type(failed).__name__}: {failed}"
        return {"problem": [problem], "error": [error]}


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
        own = {} if "RAY_ADDRESS" in os.environ else {"include_dashboard": False}
        ray.init(log_to_driver=False, **own)
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
    for row in done.iter_rows():
        if row["error"]:
            raise OutputError(f"a shard failed: {row['error']}; what is done stays done")
        yield row["problem"]
