"""Posts and scores in an object store."""

import csv
import io
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from object_store import object_store
from pyarrow import fs

from harness.process import environment

ROOT = Path(__file__).parents[2]
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
    with object_store() as address:
        yield address


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


def score(models, data, out):
    """A job of two workers, each input a shard."""
    command = [sys.executable, "-m", "headlines", "score", "--models", models, "--engine", "litert", "--workers", "2"]
    return subprocess.Popen(
        [*command, "--posted-at", "2016-05-01T00:00Z", "--data", data, "--out", out],
        env=environment() | ACCESS,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(job):
    said, _ = job.communicate(timeout=300)
    assert job.returncode == 0, said
    return said


def scores(system, path):
    parts = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return [pq.read_table(part.path, filesystem=system) for part in parts if part.base_name.startswith("part-")]


def test_a_job_that_is_killed_leaves_whole_objects_and_goes_on(endpoint, models, tmp_path):
    put(endpoint, "newsroom")
    for number in range(12):
        file = tmp_path / "posts" / f"{number}.csv"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(posts(1000 * number, 60))
        put(endpoint, f"newsroom/posts/{file.name}", file.read_bytes())
    end(score(models, tmp_path / "posts", tmp_path / "scores"))

    options = f"?endpoint_override={endpoint}&scheme=http&region=us-east-1"
    uris = [f"s3://some:secret@newsroom/{name}{options}" for name in ("posts", "scores")]
    system, path = fs.FileSystem.from_uri(uris[1])
    job = score(models, *uris)
    until = time.monotonic() + 120
    while len(scores(system, path)) < 3:  # what is listed can be read
        assert job.poll() is None or len(scores(system, path)) == 12, job.stdout.read()
        assert time.monotonic() < until
    job.kill()
    job.communicate()
    said = end(score(models, *uris))
    assert "s3://newsroom/scores holds the scores" in said
    assert "secret" not in said

    order = [("headline", "ascending")]
    local = pa.concat_tables(scores(fs.LocalFileSystem(), str(tmp_path / "scores"))).sort_by(order)
    assert len(local) == 720
    assert pa.concat_tables(scores(system, path)).sort_by(order).equals(local)
    assert "12 of 12 shards are there already" in end(score(models, *uris))
    assert (
        "there is no bucket elsewhere" in score(models, uris[0], f"s3://elsewhere/scores{options}").communicate(timeout=300)[0]
    )
