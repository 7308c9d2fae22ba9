"""Posts in an object store: read by Arrow from a server that speaks S3's protocol; `make interop` installs it."""

import csv
import io
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVER = ROOT / ".tools" / "s3" / "bin" / "moto_server"
ACCESS = {"AWS_ACCESS_KEY_ID": "made", "AWS_SECRET_ACCESS_KEY": "up", "AWS_EC2_METADATA_DISABLED": "true"}
READ = """
import logging, sys
from training import dataset
from training.settings import Reading
logging.basicConfig(stream=sys.stdout)
posts = dataset.read(sys.argv[1:], Reading(min_age=0))
print(len(posts), posts.outlets, posts.engagement.sum())
"""

pytestmark = pytest.mark.interop


def posts(first, rows):
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["headline", "posted_at", "likes"])
    writer.writerows([f"Post {first + i}", f"2016-05-01T00:00:{i:02}Z", 1] for i in range(rows))
    return text.getvalue().encode()


@pytest.fixture
def endpoint():
    if not SERVER.exists():
        pytest.skip(f"{SERVER.name} is not there: make interop")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    host, port = address.split(":")
    server = subprocess.Popen([SERVER, "-H", host, "-p", port], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://{address}/moto-api/", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < until
                time.sleep(0.2)
        yield address
    finally:
        server.kill()
        server.wait()


def put(address, name, content=b""):
    headers = {"Content-Type": "text/csv"}  # a form, urllib's default, would be parsed
    request = urllib.request.Request(f"http://{address}/{name}", content, headers, method="PUT")
    urllib.request.urlopen(request, timeout=30).close()


def read(*names):
    done = subprocess.run(
        [sys.executable, "-c", READ, *names],
        env=os.environ | ACCESS,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.stdout + done.stderr


def test_objects_and_all_below_a_prefix_are_read(endpoint):
    put(endpoint, "newsroom")
    put(endpoint, "newsroom/posts/outlet%3Dcnn/part-0.csv", posts(0, 5))
    put(endpoint, "newsroom/posts/outlet%3Dbbc/part-0.csv", posts(5, 3))
    put(endpoint, "newsroom/posts/_SUCCESS")
    options = f"?endpoint_override={endpoint}&scheme=http&region=us-east-1"
    assert "8 ['bbc', 'cnn'] 8.0" in read(f"s3://newsroom/posts{options}")
    assert "5 [] 5.0" in read(f"s3://newsroom/posts/outlet=cnn{options}")  # what is below what is named gives columns
    assert "5 [] 5.0" in read(f"s3://newsroom/posts/outlet=cnn/part-0.csv{options}")
    assert "cannot be read: there is no such object" in read(f"s3://newsroom/nothing{options}")
    assert "s3://elsewhere/x" in (said := read(f"s3://elsewhere/x{options}"))
    assert "cannot be read" in said
