"""A real server as a process of its own, for everything here that measures or tries one."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REAL_DATA = Path(os.environ.get("HEADLINES_REAL_DATA", ROOT.parent / "shared" / "data" / "headlines.csv.gz"))


@dataclass(frozen=True)
class ServerProcess:
    """A server that says SERVING."""

    process: subprocess.Popen[str]
    port: int
    http_port: int

    @property
    def target(self) -> str:
        """Its gRPC address."""
        return f"127.0.0.1:{self.port}"

    @property
    def cpu_seconds(self) -> float:
        """CPU time that it has used, user and system."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def resident_bytes(self) -> int:
        """Memory that it holds now."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def serving(models: Path, *flags: str) -> Iterator[ServerProcess]:
    """Start `python -m service serve` on free ports, wait until a version is live, and stop it in the end."""
    command = [sys.executable, "-m", "service", "serve", "--models", str(models), "--port", "0", "--http-port", "0"]
    process = subprocess.Popen([*command, "--drain-seconds", "0", *flags], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            try:
                record = json.loads(line)
            except ValueError:  # libraries write in their own form
                continue
            if "version" in record and "port" in record:
                break
            if record["level"] != "info":
                print(record["message"], file=sys.stderr)
        else:
            raise SystemExit(f"the server ended with {process.wait()}")
        yield ServerProcess(process, record["port"], record["http_port"])
    finally:
        process.send_signal(signal.SIGTERM)
        process.stderr.close()
        process.wait(30)


def real_headlines(rows: int | None = None) -> list[tuple[str, datetime, str]]:
    """Text, time and outlet of the first rows of the real data; all of them where `rows` is none."""
    if not REAL_DATA.exists():
        raise SystemExit(f"{REAL_DATA} is missing; name the real data in HEADLINES_REAL_DATA")
    with gzip.open(REAL_DATA, "rt", encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        return [(row["headline"], datetime.fromisoformat(row["posted_at"]), row["outlet"]) for row in islice(reader, rows)]
