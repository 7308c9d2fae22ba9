"""What `headlines score` costs beside encoding and engine alone: CPU a headline, peak memory, and what workers gain.

    python -m benchmarks.scoring [--models models] [--rows 100000 1000000] [--runs 3]

The real headlines are repeated to make a plain CSV file. The floor encodes and computes batches of 1,024 of them, already in
memory, in a process of its own, and each run measures it beside the jobs; the table shows medians. CPU is user and system of a
job's processes, from start to end; the peak is that of its largest process.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import report
from harness.process import environment
from harness.requests import REAL_DATA

_FLOOR = """
import csv, sys, time
from datetime import datetime
from itertools import islice
from pathlib import Path
from service.model.preprocessing import Headline
from service.model import engines
from service.score import workers
version = workers.load(workers.find(Path(sys.argv[1]), None), engines.choose("litert"))
with open(sys.argv[2], newline="", encoding="utf-8") as file:
    rows = [
        Headline(text, datetime.fromisoformat(posted_at).timestamp(), outlet)
        for text, posted_at, outlet in islice(csv.reader(file), 1, 100_001)
    ]
began = time.process_time()
for i in range(0, len(rows), 1024):
    version.predict(rows[i : i + 1024])
print((time.process_time() - began) / len(rows) * 1e6)
"""


def main() -> None:
    """Print the table."""
    parser = report.models_parser(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()

    columns = {"CPU us a row": ".2f", "floor us": ".2f", "ratio": ".2f", "seconds": ".1f", "peak MB": ".0f"}
    table = report.Table("rows, workers", columns)
    with tempfile.TemporaryDirectory() as directory:
        for rows in options.rows:
            data = Path(directory) / f"{rows}.csv"
            _write(data, rows)
            for workers in options.workers:
                runs = []
                for run in range(options.runs):
                    floor = float(_run([sys.executable, "-c", _FLOOR, options.models, data]))
                    out = Path(directory) / f"out-{rows}-{workers}-{run}"
                    cpu, seconds, peak = _score(options.models, data, out, workers)
                    runs.append({"cpu": cpu / rows * 1e6, "floor": floor, "seconds": seconds, "peak": peak})
                median = report.medians(runs)
                table.row(
                    f"{rows:,}, {workers}",
                    median["cpu"],
                    median["floor"],
                    median["cpu"] / median["floor"],
                    median["seconds"],
                    median["peak"],
                )


def _write(path: Path, rows: int) -> None:
    with gzip.open(REAL_DATA, "rt", encoding="utf-8", newline="") as file:
        read = [(row["headline"], row["posted_at"], row["outlet"]) for row in csv.DictReader(file)]
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(("headline", "posted_at", "outlet"))
        writer.writerows(itertools.islice(itertools.cycle(read), rows))


def _run(command: list[object]) -> str:
    arguments = [str(part) for part in command]
    done = subprocess.run(
        arguments, env=environment(), check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    return done.stdout


def _score(models: Path, data: Path, out: Path, workers: int) -> tuple[float, float, float]:
    """CPU seconds, seconds and the peak in MB of a job."""
    command = ["-m", "headlines", "score", "--models", models, "--engine", "litert", "--data", data, "--out", out]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    # A process between, whose children are the job's alone.
    script = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=2);"
    script += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    peak = int(_run([sys.executable, "-c", script, sys.executable, *command, "--workers", workers]))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.monotonic() - began, peak * (1 if sys.platform == "darwin" else 1024) / 1e6


if __name__ == "__main__":
    report.run(main)
