"""A real server as a process of its own, for everything here that measures or tries one."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

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


def serving(models: Path, *flags: str) -> AbstractContextManager[ServerProcess]:
    """`python -m service serve` on free ports, from when a version is live until it is stopped in the end."""
    if not any(models.glob("*/saved_model.pb")):
        raise SystemExit(f"{models} holds no version: train one, or name another directory with --models")
    return started(serve(models, *flags))


def serve(models: Path, *flags: str) -> list[str]:
    """The command for a server on free ports that stops without a drain; flags change that."""
    command = [sys.executable, "-m", "service", "serve", "--models", str(models), "--port", "0", "--http-port", "0"]
    return [*command, "--drain-seconds", "0", *flags]


@contextmanager
def started(command: Sequence[str]) -> Iterator[ServerProcess]:
    """Start a server, wait until its log tells of a version and its ports, and stop it in the end."""
    process = spawn(command)
    assert process.stderr is not None
    try:
        for record in records(process):
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
        process.wait(60)


def spawn(command: Sequence[str]) -> subprocess.Popen[str]:
    """Start a server and wait for nothing."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "protos")])}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def records(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """What a server logs from now on, until it ends."""
    assert process.stderr is not None
    for line in process.stderr:
        with suppress(ValueError):  # libraries write in their own form
            yield json.loads(line)


def environment(name: str, requirements: Sequence[str]) -> str:
    """The Python of a virtual environment with these packages, which is made where it is not there yet."""
    directory = ROOT / ".benchmarks" / name
    python = str(directory / "bin" / "python")
    installed = directory / "requirements.txt"
    wanted = "\n".join(requirements)
    if not installed.exists() or installed.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", directory], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements], check=True)
        installed.write_text(wanted)
    return python


def real_headlines(rows: int | None = None) -> list[tuple[str, datetime, str]]:
    """Text, time and outlet of the first rows of the real data; all of them where `rows` is none."""
    if not REAL_DATA.exists():
        raise SystemExit(f"{REAL_DATA} is missing; name the real data in HEADLINES_REAL_DATA")
    with gzip.open(REAL_DATA, "rt", encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        return [(row["headline"], datetime.fromisoformat(row["posted_at"]), row["outlet"]) for row in islice(reader, rows)]
