"""A server as a process of its own, for everything that tests, measures or tries one."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from harness.report import BrokenError
from service.errors import UsageError
from service.model import artifact

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 120  # seconds for what takes moments; only what fails waits so long


def environment(**variables: str) -> dict[str, str]:
    """The environment of a process that runs this checkout: without HEADLINES_ variables but those that are named."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "protos"), *filter(None, [os.environ.get("PYTHONPATH")])])
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HEADLINES_")}
    return {**plain, "PYTHONPATH": path, **variables}


class ServerProcess:
    """A command as a process, with its log as it comes; perhaps one that may open few files.

    `port`, `http_port` and `web_port` are set by whoever knows them.
    """

    port: int
    http_port: int
    web_port: int

    def __init__(self, command: Sequence[str], *, open_files: int | None = None, **variables: str) -> None:
        limited = ["sh", "-c", 'ulimit -n "$0" && exec "$@"', str(open_files)] if open_files else []
        self.process = subprocess.Popen(
            [*limited, *command],
            cwd=ROOT,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._new: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line)
            self._new.put(line)
        self._new.put(None)

    def read_until(self, words: str) -> str:
        """The log's next line with these words. Raises BrokenError if it does not come."""
        with suppress(queue.Empty):
            while line := self._new.get(timeout=PATIENCE):
                if words in line:
                    return line
        raise BrokenError(f"the process did not log {words!r}; its exit code is {self.process.poll()}:\n{self.output}")

    def wait_for(self, message: str) -> dict[str, Any]:
        """The log's next record whose message holds these words. Raises as `read_until`."""
        while True:
            line = self.read_until("")
            if line.startswith("{") and message in (record := json.loads(line))["message"]:
                found: dict[str, Any] = record
                return found

    def records(self) -> Iterator[dict[str, Any]]:
        """The log's records from now on, until the process ends."""
        while line := self._new.get():
            with suppress(ValueError):  # libraries write in their own form
                yield json.loads(line)

    def wait(self, seconds: float = PATIENCE) -> int:
        """The exit code, once it has ended. Raises subprocess.TimeoutExpired."""
        code = self.process.wait(seconds)
        self._reader.join()
        return code

    @property
    def output(self) -> str:
        """All that it has written."""
        return "".join(self.lines)

    def set_ports(self, record: Mapping[str, Any]) -> None:
        """Take the ports from the log's record that tells them; 0 where a server has none."""
        self.port, self.http_port, self.web_port = (record.get(it, 0) for it in ("port", "http_port", "web_port"))

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

    def get(self, path: str, timeout: float = PATIENCE) -> str:
        """What its HTTP port answers to a path. Raises OSError unless that is 200."""
        with urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=timeout) as answer:
            text: str = answer.read().decode()
            return text

    def samples(self) -> Iterator[Sample]:
        """Everything in /metrics."""
        return (it for family in text_string_to_metric_families(self.get("/metrics")) for it in family.samples)

    def metric(self, name: str, **labels: str) -> float:
        """The value in /metrics with this name and these labels."""
        for sample in self.samples():
            if sample.name == name and sample.labels == labels:
                return float(sample.value)
        raise BrokenError(f"/metrics has no {name} with labels {labels}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        assert self.process.stdout
        self.process.stdout.close()


def versions(models: Path) -> list[Path]:
    """The directories of versions, the highest number first. Raises UsageError if there is none."""
    if numbers := artifact.versions(models):
        return [models / str(number) for number in numbers]
    raise UsageError(f"{models} holds no version: train one, or name another directory with --models")


def serve(models: Path | str, *flags: object) -> list[str]:
    """The command for a server on free ports; flags change that."""
    command = [sys.executable, "-m", "service", "serve", "--models", str(models)]
    command += [part for port in ("--port", "--http-port", "--web-port") for part in (port, "0")]
    return [*command, *map(str, flags)]


def serving(models: Path, *flags: str, checkout: Path = ROOT) -> AbstractContextManager[ServerProcess]:
    """A server on free ports that stops without a drain, from when a version is live until it is stopped in the end.

    `checkout` may be one of another commit, which this Python runs with the libraries that are here.
    """
    versions(models)
    command = serve(models.absolute(), "--drain-seconds", "0", *flags)
    if checkout != ROOT:
        path = os.pathsep.join(map(str, (checkout.absolute(), checkout.absolute() / "protos")))
        command = ["env", "-C", str(checkout), f"PYTHONPATH={path}", *command]
    return started(command)


@contextmanager
def started(command: Sequence[str]) -> Iterator[ServerProcess]:
    """Start a server, wait until its log tells of a version and its ports, and stop it in the end."""
    with ServerProcess(command) as server:
        for record in server.records():
            if "version" in record and "port" in record:
                break
            if record["level"] != "info":
                print(record["message"], file=sys.stderr)
        else:
            raise BrokenError(f"the server ended with {server.wait()}")
        server.set_ports(record)
        yield server
        server.process.send_signal(signal.SIGTERM)
        server.wait(60)
