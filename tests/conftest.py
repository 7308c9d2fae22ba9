"""A model version, and a server as a process that serves it."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from harness import process
from harness.process import ROOT, ServerProcess, environment

# Tests compute on the CPU, also on a machine with a GPU: cuDNN with TF32 differs by 1e-4 from what they expect.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

# A shell ignores Ctrl-C for what it runs in the background, and nohup ignores SIGHUP. Every program of a test would do so too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

LONGEST = 1200  # seconds; no test may ask for more


def pytest_collection_modifyitems(items):
    """Every test has a time limit: a mark may raise it, but not remove it (0 would)."""
    for item in items:
        if mark := item.get_closest_marker("timeout"):
            seconds = (*mark.args, mark.kwargs.get("timeout"))[0]
            if not seconds or not 0 < seconds <= LONGEST:
                raise pytest.UsageError(f"{item.nodeid}: its time limit is {seconds}; it must be from 1 to {LONGEST} seconds")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A directory with version 1, which knows a few words and was never trained. It is shared: copy it before you change it."""
    directory = tmp_path_factory.mktemp("models") / "models"
    made = subprocess.run(
        [sys.executable, ROOT / "tests" / "untrained_version.py", directory],
        env=environment(CUDA_VISIBLE_DEVICES=""),
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return directory


@pytest.fixture
def serve():
    """Start a server as a process and wait until its ports are open: `with serve(models, "--engine", "litert") as server:`."""

    @contextmanager
    def start(directory, *flags, **variables):
        with ServerProcess(process.serve(directory, *flags), **variables) as server:
            server.set_ports(server.wait_for("listening"))
            yield server

    return start
