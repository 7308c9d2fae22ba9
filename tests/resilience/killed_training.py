"""Training that cannot lose work: the real command, started twice at once and killed with -9 at random moments.

    python -m tests.resilience.killed_training [--kills 20] [--chain 3] [--seed 0]

Three jobs on made-up data run at once to begin with, two of them the same and one with another seed. One of the two is
refused, and the others make two versions. Then the first job is done over and over and killed at moments spread over its whole
duration: half of the kills are single ones, the others come in chains of --chain lives, each going on from the one before.
After each kill every visible version is complete; at last the job is started again and ends with the very bits of the one
that nobody disturbed: weights, compiled form, examples and evaluation. It leaves nothing else, in MODELS or in TMPDIR.

It ends with 1 if a promise is broken. Twenty kills take 7 minutes on two cores.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

from harness import report
from harness.process import ROOT
from harness.report import BrokenError
from service.model import artifact

POSTS = 3000
EPOCHS = 4
# The time; a random number; the graph's functions, whose names number all that was traced before. What the graph answers is
# in the examples.
VARYING = {artifact.INFO, "fingerprint.pb", "saved_model.pb"}
# Beside versions, a few bytes in MODELS; and in TMPDIR a few kilobytes of code that TensorFlow removes unless it is killed.
KEPT = re.compile(r"\d+|\.embeddings-.*|\.lock|\.last_version|__autograph_generated_file.*\.py|__pycache__")

Result = tuple[dict[str, str], artifact.ModelInfo]


class Job:
    """`training fit` on made-up data, one process at a time."""

    _numbers = count()

    def __init__(self, directory: Path, models: Path, *flags: str) -> None:
        self.models = models
        self._log = directory / f"{next(self._numbers)}.log"
        self._temporary = directory / "temporary"
        self._temporary.mkdir(exist_ok=True)
        self._environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(self._temporary)}
        data = directory / "made-up.csv"
        if not data.exists():
            self._run("synthesize", "--out", str(data), "--posts", str(POSTS))
            self.wait()
        self._arguments = ["fit", "--data", str(data), "--models", str(models), "--epochs", str(EPOCHS), *flags]

    def start(self) -> None:
        """Begin, or begin again."""
        self._run(*self._arguments)

    def kill(self) -> None:
        """End it as a machine ends that loses its power."""
        self._process.kill()
        self._process.wait()

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit code; None if it goes on for longer."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    @property
    def said(self) -> str:
        """What it has said so far."""
        return self._log.read_text()

    @property
    def stage(self) -> str:
        """What it is doing."""
        if "evaluating on" in self.said:
            if not list(self.models.glob(".fit-*")):
                return "after the export"
            return "export" if list(self.models.glob(".tmp-*")) else "evaluation"
        if epochs := re.findall(r"epoch (\d+)[, ]", self.said):
            return f"epoch {int(epochs[-1]) + 1}"
        return "imports, tracing" if "rows read" in self.said else "reading"

    def results(self) -> list[Result]:
        """The visible versions, which must be complete; of each what must be the same whatever happened."""
        versions = [artifact.read(self.models / str(number)) for number in artifact.versions(self.models)]
        return [
            (
                {name: hashlib.sha256(data).hexdigest() for name, data in version.files.items() if name not in VARYING},
                replace(version.info, created_at=artifact.Time(0.0)),
            )
            for version in versions
        ]

    def finish(self, reference: Result) -> int:
        """Start it and wait for its end, which must be as if nothing had happened; how many versions there are then."""
        self.start()
        if self.wait():
            raise BrokenError(f"started again, the job failed:\n{self.said}")
        results = self.results()
        if not results or any(result != reference for result in results):
            raise BrokenError(f"{self.models}: not what the undisturbed job made")
        left = [*self.models.iterdir(), *self._temporary.iterdir()]
        if left := [path for path in left if not KEPT.fullmatch(path.name)]:
            raise BrokenError(f"the job left {', '.join(map(str, left))}")
        return len(results)

    def _run(self, *arguments: str) -> None:
        with self._log.open("w") as log:
            command = [sys.executable, "-m", "training", *arguments]
            self._process = subprocess.Popen(command, cwd=ROOT, env=self._environment, stdout=log, stderr=log)


def run_together(directory: Path) -> Result:
    """Let the same job run twice and another beside it, all at once; what the first comes to."""
    models = directory / "together"
    jobs = [Job(directory, models), Job(directory, models), Job(directory, models, "--seed", "1")]
    for job in jobs:
        job.start()
    codes = [job.wait() for job in jobs]
    results = jobs[0].results()
    print(f"the same job twice and another, all at once: exit codes {codes}, {len(results)} versions", flush=True)
    refused = jobs[codes[0] == 0].said.strip().splitlines()[-1]
    if {codes[0], codes[1]} != {0, 1} or codes[2] != 0 or len(results) != 2 or "already running" not in refused:
        raise BrokenError(f"one of two should have been refused; it said: {refused}")
    (first,) = (result for result in results if result[1].settings["seed"] == 0)
    return first


def run_killed(job: Job, moments: list[float], reference: Result, rng: random.Random) -> None:
    """Kill the job at each of these moments, in seconds from its start, without letting it end in between; then let it end."""
    shutil.rmtree(job.models, ignore_errors=True)
    for life, moment in enumerate(moments, 1):
        job.start()
        while job.wait(moment) == 0:  # it had less to do than the first
            moment *= rng.random()
            job.start()
        stage = job.stage
        job.kill()
        results = job.results()
        saved = len(list(job.models.glob(".fit-*/state.npz")))
        print(f"{life:6d} of {len(moments)}{moment:10.2f}   {stage:18}{saved:6d}{len(results):10d}", end="", flush=True)
        if any(result != reference for result in results):
            raise BrokenError(f"{job.models}: not what the undisturbed job made")
        print("" if life < len(moments) else f"{job.finish(reference):14d}, the same bits", flush=True)


def main() -> None:
    """Read the flags, run, kill, and tell."""
    parser = report.parser(__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--chain", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as directory:
        reference = run_together(Path(directory))
        job = Job(Path(directory), Path(directory) / "models")
        began = time.monotonic()
        job.finish(reference)
        duration = time.monotonic() - began
        print(f"undisturbed: {duration:.1f} s, the same bits\n")
        print(f"{'kill':>11}{'second':>10}   {'killed in':18}{'state':>6}{'versions':>10}{'versions in the end':>21}")
        moments = [duration * (i + rng.random()) / args.kills for i in range(args.kills)]
        rng.shuffle(moments)
        while moments:
            length = 1 if len(moments) > args.kills / 2 else args.chain
            run_killed(job, moments[:length], reference, rng)
            moments = moments[length:]


if __name__ == "__main__":
    report.run(main)
