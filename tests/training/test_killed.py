"""A job killed before any one of its file operations: nothing half-written is visible, and the same job then ends as usual.

Each life is a process of its own that kills itself from an audit hook. The job writes what `training fit` writes, in the same
order and by the same code, but small files; tests/resilience/killed_training.py kills the real one.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from service.model import artifact
from service.model.labels import Label
from service.model.preprocessing import Headline
from training.checkpoint import open_checkpoint
from training.publish import new_version

INFO = artifact.ModelInfo(
    created_at=artifact.Time(0.0),
    synthetic=True,
    vocabulary_size=2,
    outlet_levels={},
    label=Label("above_median", ("likes",), threshold=1.0),
    parts={},
    settings={},
    evaluation={},
    libraries={},
    data_checksum="",
)
EXAMPLES = [artifact.Example(Headline("News", 0.0, ""), [1], [0.0] * 5, 0.5, 0.5)]
OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "fcntl.flock"}
EPOCHS = 2


def job(models: Path) -> None:
    with open_checkpoint(models, "0a") as checkpoint:
        state = checkpoint.load() or {"weights": np.zeros(1000)}
        while state["weights"][0] < EPOCHS:
            state = {"weights": state["weights"] + 1}
            checkpoint.save(state)
        with new_version(models) as staging:
            (staging.path / "saved_model.pb").write_bytes(state["weights"].tobytes())
            (staging.path / artifact.CPU_MODEL).parent.mkdir()
            (staging.path / artifact.CPU_MODEL).write_bytes(b"tflite")
            artifact.write(staging.path, artifact.Contents(INFO, ["", "[UNK]"], EXAMPLES))


def live(models: Path, operations: int) -> int:
    """The job in a process that is killed before its file operation of this number; how it ended."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = operations

    def count(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in OPERATIONS and (event != "open" or str(models) in str(arguments[0])):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    try:
        job(models)
    finally:
        os._exit(0)


def check(models: Path) -> list[int]:
    """What is visible, which must be complete and right."""
    visible = artifact.versions(models)
    for number in visible:
        weights = np.frombuffer(artifact.read(models / str(number)).files["saved_model.pb"])
        assert (weights == EPOCHS).all(), (number, weights[0])
    return visible


def main(directory: Path) -> None:
    """Every number of operations until one is enough to end the job; prints how many there were."""
    operations, ended = 0, -signal.SIGKILL
    while ended:
        models = directory / str(operations)
        ended = live(models, operations)
        assert ended in (0, -signal.SIGKILL)
        before = check(models)
        assert live(models, sys.maxsize) == 0
        after = check(models)
        assert len(after) == len(before) + 1, (operations, before, after)
        left = sorted(path.name for path in models.iterdir())
        assert left == [".last_version", ".lock", *map(str, sorted(after))], (operations, left)
        operations += 1
    print(operations - 1)


def test_a_job_killed_before_any_file_operation_leaves_nothing_half_written_and_ends_when_started_again(tmp_path):
    done = subprocess.run(
        [sys.executable, __file__, tmp_path],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


if __name__ == "__main__":
    main(Path(sys.argv[1]))
