"""Training on a disk that fills up: one clear error, nothing half-made, nothing lost.

    unshare --map-root-user --mount sh -c
        'mount -t tmpfs -o size=200m tmpfs /mnt && python -m tests.resilience.full_disk --disk /mnt'

The real command trains on made-up data, with its models on the small disk that --disk names, and something else fills that
disk up to some megabytes as soon as the job has come to a certain point. It must end with 1 and a sentence that says why, and
leave no version, nothing half-made, and the state that was saved last. With room again it must end with the bits of a job
that always had room.

It ends with 1 if a promise is broken.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from harness import report
from harness.report import BrokenError
from tests.resilience.killed_training import Job, Result

# What the log says when the disk fills up, and the MB that are left. A state takes 83 MB; an export 26 MB for its weights,
# 6 MB for the compiled form and as much meanwhile.
MOMENTS = (("rows read", 20), ("epoch 1,", 20), ("evaluating", 0), ("evaluating", 15), ("evaluating", 27))


def run(job: Job, ballast: Path, moment: str, megabytes: int, reference: Result, table: report.Table) -> None:
    """Let the disk fill up at a moment and look at what the job makes of it, then and with room again."""
    job.start()
    while moment not in job.said:
        if job.wait(0.01) is not None:
            raise BrokenError(f"the job ended before its time:\n{job.said}")
    disk = os.statvfs(ballast.parent)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - megabytes * 10**6)
    code, said = job.wait(), job.said
    left = sorted(path.relative_to(job.models) for path in job.models.rglob("*") if path.is_file())
    error = said.strip().splitlines()[-1]
    table.row(moment, megabytes, code, error.removeprefix("python -m "))
    if code != 1 or "No space left" not in error or "Traceback" in said or job.results():
        raise BrokenError(f"that was not one clear error:\n{said}")
    if unexpected := [path for path in left if path.name not in ("lock", ".lock", "state.npz")]:
        raise BrokenError(f"the job left {', '.join(map(str, unexpected))}")
    ballast.unlink()
    job.finish(reference)
    table.row("", None, None, f"{', '.join(map(str, left)) or 'nothing'} left; with room again the same bits")


def main() -> None:
    """Read the flags, fill the disk, and tell."""
    parser = report.parser(__doc__)
    parser.add_argument("--disk", type=Path, required=True, help="an empty directory on a disk of 190 to 220 MB")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        always = Job(Path(directory), Path(directory) / "models")
        always.start()
        always.wait()
        (reference,) = always.results()
        table = report.Table("full from", {"MB": "", "exit": "", "the last line": "<"})
        for i, (moment, megabytes) in enumerate(MOMENTS):
            models = args.disk / str(i)
            run(Job(Path(directory), models), args.disk / "ballast", moment, megabytes, reference, table)
            shutil.rmtree(models)


if __name__ == "__main__":
    report.run(main)
