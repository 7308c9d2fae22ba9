"""Time and peak memory of reading posts and making features, without TensorFlow, on copies of a file made distinct.

    python -m benchmarks.data_memory [posts.csv.gz] [--copies 1 10] [--formats csv.gz csv jsonl json columns.json parquet]

The time is the process's own (CPU), so that other work on the machine matters less. Each copy's headlines end in a word of
their own, so that no row is a repetition; times and outlets stay, so that all copies of a row are tied in them, the costliest
case.
"""

import csv
import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness import report
from harness.requests import REAL_DATA

_MEASURE = """
import json, re, resource, sys, time
from pathlib import Path
from training import dataset, features
begin = time.process_time()
posts = dataset.read([Path(sys.argv[1])])
features.build(posts)
seconds = time.process_time() - begin
assert "tensorflow" not in sys.modules
status = Path("/proc/self/status")
if status.exists():  # ru_maxrss begins with that of the process that started this one
    peak = int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]) / 1024
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / 1024
print(json.dumps([posts.read, len(posts), seconds, peak]))
"""


def main() -> None:
    """Print the table."""
    parser = report.parser(__doc__)
    parser.add_argument(
        "data", type=Path, nargs="?", default=REAL_DATA, help="a .csv.gz file with a headline column; the real data by default"
    )
    parser.add_argument("--copies", type=int, nargs="+", action="extend", help="1 and 10 by default")
    parser.add_argument("--formats", nargs="+", choices=_FORMATS, default=["csv.gz"], help="csv.gz by default")
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent, help="the checkout that is measured")
    options = parser.parse_args()

    table = report.Table("format", {"rows read": ",", "rows used": ",", "seconds": ".1f", "peak MB": ".0f"})
    for copies in options.copies or (1, 10):
        for form in options.formats:
            with tempfile.TemporaryDirectory() as directory:
                path = Path(directory) / "copies.csv.gz"
                _multiply(options.data, path, copies)
                if convert := _FORMATS[form]:
                    path = convert(path, path.with_name(f"copies.{form}"))
                run = subprocess.run(
                    [sys.executable, "-c", _MEASURE, str(path)],
                    stdout=subprocess.PIPE,
                    check=True,
                    env=os.environ | {"PYTHONPATH": f"{options.root}{os.pathsep}{options.root / 'protos'}"},
                )
            table.row(form, *json.loads(run.stdout))


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


def _rows(source: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(source, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row | {name: int(row[name]) for name in ("retweets", "likes")}


def _as_csv(source: Path, target: Path) -> Path:
    target.write_bytes(gzip.decompress(source.read_bytes()))
    return target


def _as_lines(source: Path, target: Path) -> Path:
    with target.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in _rows(source))
    return target


def _as_array(source: Path, target: Path) -> Path:
    target.write_text(json.dumps(list(_rows(source))), "utf-8")
    return target


def _as_columns(source: Path, target: Path) -> Path:
    rows = list(_rows(source))
    target.write_text(json.dumps({name: {str(i): row[name] for i, row in enumerate(rows)} for name in rows[0]}), "utf-8")
    return target


def _as_parquet(source: Path, target: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(_rows(source))), target)
    return target


_FORMATS: dict[str, Callable[[Path, Path], Path] | None] = {
    "csv.gz": None,
    "csv": _as_csv,
    "jsonl": _as_lines,
    "json": _as_array,
    "columns.json": _as_columns,
    "parquet": _as_parquet,
}

if __name__ == "__main__":
    report.run(main)
