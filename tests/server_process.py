"""`python -m service serve` as a process."""

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENCE = 120  # seconds for what takes moments; only a test that fails waits so long


def environment(**variables):
    path = os.pathsep.join([str(ROOT), str(ROOT / "protos"), *filter(None, [os.environ.get("PYTHONPATH")])])
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HEADLINES_")}
    return {**plain, "PYTHONPATH": path, **variables}


class ServerProcess:
    """`python -m service serve` as a process, with its log as it comes; perhaps one that may open few files."""

    def __init__(self, *flags, open_files=None, **variables):
        limited = ["sh", "-c", 'ulimit -n "$0" && exec "$@"', str(open_files)] if open_files else []
        self.process = subprocess.Popen(
            [*limited, sys.executable, "-m", "service", "serve", *map(str, flags)],
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines = []
        self._new = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line)
            self._new.put(line)
        self._new.put(None)

    def wait_for(self, message):
        """The log's next record whose message holds these words, as a dict."""
        while line := self._new.get(timeout=PATIENCE):
            if line.startswith("{") and message in (record := json.loads(line))["message"]:
                return record
        raise AssertionError(f"the server ended before it logged {message!r}:\n{self.output}")

    def wait(self):
        """The exit code, once it has ended."""
        code = self.process.wait(PATIENCE)
        self._reader.join()
        return code

    @property
    def output(self):
        return "".join(self.lines)

    @property
    def target(self):
        return f"127.0.0.1:{self.port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()
