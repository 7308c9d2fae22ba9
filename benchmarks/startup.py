"""A cold start and an idle server: seconds until SERVING, and the memory that is held then.

    python -m benchmarks.startup [--models models] [--runs 5]

Medians, beside the time that `import tensorflow` takes in the same run.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from harness import report
from harness.process import serving


def main() -> None:
    """Measure and print a table."""
    parser = report.models_parser(__doc__)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {"import tensorflow": [], "litert": [], "tensorflow": []}
    megabytes: dict[str, list[float]] = {"litert": [], "tensorflow": []}
    with_tensorflow = {}
    for _ in range(args.runs):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import tensorflow"], check=True, capture_output=True)
        seconds["import tensorflow"].append(time.perf_counter() - began)
        for engine, memory in megabytes.items():
            began = time.perf_counter()
            with serving(args.models, "--engine", engine) as server:
                seconds[engine].append(time.perf_counter() - began)
                memory.append(server.resident_bytes / 1e6)
                with_tensorflow[engine] = "tensorflow" in Path(f"/proc/{server.process.pid}/maps").read_text()
    print(f"{'':20}{'s':>8}{'MB':>8}  TensorFlow in the process")
    for name, values in seconds.items():
        row = f"{name:20}{statistics.median(values):8.2f}"
        if name in megabytes:
            row += f"{statistics.median(megabytes[name]):8.0f}  {'yes' if with_tensorflow[name] else 'no'}"
        print(row)


if __name__ == "__main__":
    report.run(main)
