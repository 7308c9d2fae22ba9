"""A server of objects that speaks S3's protocol; `make interop` installs it."""

import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

SERVER = Path(__file__).parents[2] / ".tools" / "s3" / "bin" / "moto_server"


@contextmanager
def object_store(host="127.0.0.1"):
    """Its HOST:PORT, while it runs; the test is skipped if it is not installed."""
    if not SERVER.exists():
        pytest.skip(f"{SERVER.name} is not there: make interop")
    with socket.socket() as free:
        free.bind((host, 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([SERVER, "-H", host, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://{host}:{port}/moto-api/", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < until
                time.sleep(0.2)
        yield f"{host}:{port}"
    finally:
        server.kill()
        server.wait()
