"""Time and peak memory of reading posts and making features, without TensorFlow, on copies of a file made distinct.

    python -m benchmarks.data_memory [posts.csv.gz] [--copies 1 10]

Each copy's headlines end in a word of their own, so that no row is a repetition; times and outlets stay, so that all copies
of a row are tied in them, the costliest case.
"""

import argparse
import csv
import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.requests import REAL_DATA

_MEASURE = """
import json, resource, sys, time
from pathlib import Path
from training import dataset, features
begin = time.perf_counter()
posts = dataset.read([Path(sys.argv[1])])
features.build(posts)
seconds = time.perf_counter() - begin
assert "tensorflow" not in sys.modules
unit = 1024 if sys.platform == "darwin" else 1
print(json.dumps([posts.read, len(posts), seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit / 1024]))
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "data", type=Path, nargs="?", default=REAL_DATA, help="a .csv.gz file with a headline column; the real data by default"
    )
    parser.add_argument("--copies", type=int, nargs="+", action="extend", help="1 and 10 by default")
    options = parser.parse_args()

    print(f"{'rows read':>10} {'rows used':>10} {'seconds':>8} {'peak MB':>8}")
    for copies in options.copies or (1, 10):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "copies.csv.gz"
            _multiply(options.data, path, copies)
            root = Path(__file__).parent.parent
            run = subprocess.run(
                [sys.executable, "-c", _MEASURE, str(path)],
                stdout=subprocess.PIPE,
                check=True,
                env=os.environ | {"PYTHONPATH": str(root)},
            )
        read, used, seconds, peak = json.loads(run.stdout)
        print(f"{read:>10,} {used:>10,} {seconds:>8.1f} {peak:>8.0f}", flush=True)


def _multiply(source: Path, target: Path, copies: int) -> None:
    with gzip.open(target, "wt", encoding="utf-8", newline="", compresslevel=1) as out:
        writer = csv.writer(out)
        for copy in range(copies):
            with gzip.open(source, "rt", encoding="utf-8", newline="") as file:
                reader = csv.reader(file)
                header = next(reader)
                headline = header.index("headline")
                if copy == 0:
                    writer.writerow(header)
                for row in reader:
                    if copy:
                        row[headline] += f" copy{copy}"
                    writer.writerow(row)


if __name__ == "__main__":
    main()
