"""A cold start and an idle server: seconds until SERVING, and the memory that is held once the page is there, too.

    python -m benchmarks.startup [--models models] [--runs 5]

Medians, beside the time that `import tensorflow` takes in the same run.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

from harness import report
from harness.process import PATIENCE, serving

SERVERS = {
    "litert": ("--engine", "litert"),
    "litert, --no-web": ("--engine", "litert", "--no-web"),
    "tensorflow": ("--engine", "tensorflow"),
}


def main() -> None:
    """Measure and print a table."""
    parser = report.models_parser(__doc__)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ("import tensorflow", *SERVERS)}
    with_tensorflow = {}
    for _ in range(args.runs):
        for name, measured in runs.items():
            began = time.perf_counter()
            if name == "import tensorflow":
                subprocess.run([sys.executable, "-c", name], check=True, capture_output=True)
                measured.append({"s": time.perf_counter() - began})
                continue
            with serving(args.models, *SERVERS[name]) as server:
                seconds = time.perf_counter() - began
                if server.web_port:
                    with urlopen(f"http://127.0.0.1:{server.web_port}/", timeout=PATIENCE) as page:
                        page.read()
                measured.append({"s": seconds, "MB": server.resident_bytes / 1e6})
                maps = Path(f"/proc/{server.process.pid}/maps").read_text()
                with_tensorflow[name] = "yes" if "tensorflow" in maps else "no"
    table = report.Table("", {"s": ".2f", "MB": ".0f", "TensorFlow in the process": "<"}, width=20)
    for name, measured in runs.items():
        table.row(name, *report.medians(measured).values(), with_tensorflow.get(name))


if __name__ == "__main__":
    report.run(main)
