"""What a nightly job publishes: fits over a moving window of the data, each with --publish better.

    python -m benchmarks.nightly
    python -m benchmarks.nightly --data posts.csv.gz --nights 10 --days 30 --step 3

Each night sees the posts of the `--days` before it, as a newsroom's export would hold them, and compares what it has fitted
with the highest version published before. The last night ends where the latest tenth of the data begins.
"""

from __future__ import annotations

import logging
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from harness import report
from harness.requests import REAL_DATA
from training.settings import Reading, Settings

_DAY = 86_400.0


def main() -> None:
    """Fit night after night and print what was published, and why."""
    parser = report.parser(__doc__)
    parser.add_argument("--data", type=Path, nargs="+", action="extend", metavar="FILE", help="the real data by default")
    parser.add_argument("--nights", type=int, default=10)
    parser.add_argument("--days", type=float, default=45, help="of posts that each night sees")
    parser.add_argument("--step", type=float, default=1, help="days between two nights")
    parser.add_argument("--teacher", default="auto", help="as headlines fit has it")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    from training import dataset, job

    files = [str(path) for path in args.data or [REAL_DATA]]
    moments = dataset.read(files).posted_at
    last = float(moments[int(0.9 * len(moments))])
    table = report.Table(
        "", {"new": ".4f", "before": ".4f", "difference": "+.4f", "low": "+.4f", "high": "+.4f", "published": ".0f"}, width=10
    )
    with tempfile.TemporaryDirectory() as models:
        for night in range(args.nights):
            now = last - (args.nights - 1 - night) * args.step * _DAY
            reading = Reading(since=now - args.days * _DAY, collected_at=now)
            settings = Settings(teacher=args.teacher)
            fitted = job.fit(files, models, settings, reading=reading, publish="better")
            found = fitted.comparison
            difference = found.difference if found else None
            table.row(
                f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d}",
                fitted.evaluation.figures["main_auc"] if found is None or found.new_auc is None else found.new_auc,
                found.old_auc if found else None,
                difference.value if difference else None,
                difference.low if difference else None,
                difference.high if difference else None,
                fitted.version or np.nan,
            )


if __name__ == "__main__":
    report.run(main)
