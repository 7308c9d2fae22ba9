"""Files scored by the nodes of a Ray cluster: the same bytes as by this machine alone, whatever is killed.

To be run alone: on a busy machine a node of Ray gives up after 15 seconds.
"""

import csv
import io
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray_cluster
from object_store import object_store
from pyarrow import fs

from harness.process import environment

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".tools" / "ray" / "bin" / "python"
SHARDS = 30
ROWS = 3000  # of a shard: time enough to kill somebody meanwhile
SECRET = "unpublished-zebra"
PATIENCE = 300  # seconds

pytestmark = [
    pytest.mark.interop_all,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not PYTHON.exists(), reason="Ray is not there: make interop-all"),
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="network namespaces need root and iproute2"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Small files, each of them a shard."""
    directory = tmp_path_factory.mktemp("data")
    choose = random.Random(7).choice
    words = ["city", "votes", "on", "new", "park", "market", "council", "zebra", SECRET]
    for number in range(SHARDS):
        with (directory / f"{number:02}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["headline", "outlet", "posted_at"])
            for _ in range(ROWS):
                text = " ".join(choose(words) for _ in range(10))
                writer.writerow([text, choose(["gazette", ""]), "2016-05-01T12:00:00Z"])
    return directory


def command(models, data, out, *flags):
    job = ["-m", "headlines", "score", "--models", models, "--engine", "litert", "--data", data, "--out", out]
    return [PYTHON, *job, "--posted-at", "2016-05-01T12:00Z", *flags]


def parts(out):
    return {path.name: path.read_bytes() for path in out.glob("part-*")}


@pytest.fixture(scope="module")
def local(models, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("scores") / "local"
    subprocess.run(command(models, data, out), check=True, timeout=PATIENCE, capture_output=True)
    assert len(parts(out)) == SHARDS
    return parts(out)


def end(job):
    said, _ = job.communicate(timeout=PATIENCE)
    assert job.returncode == 0, said
    return said


def wait_for(out, shards, job):
    until = time.monotonic() + PATIENCE
    while len(list(out.glob("part-*"))) < shards:
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}


@pytest.mark.parametrize(("nodes", "after"), [(2, None), (2, 2), (2, 8), (2, 15), (3, 5)])
def test_a_node_that_is_lost_costs_no_row(models, data, local, tmp_path, nodes, after):
    out = tmp_path / "out"
    with ray_cluster.cluster(PYTHON, nodes) as cluster:
        job = cluster.start(command(models, data, out, "--on", "ray", "--workers", nodes), **PIPES)
        if after is not None:
            wait_for(out, after, job)
            assert len(parts(out)) < SHARDS
            cluster.kill(nodes - 1)
        end(job)
        assert parts(out) == local
        assert (out / "_SUCCESS").exists()
        assert found(SECRET.encode(), cluster.temporary) == []


def found(secret, directory):
    """The files that hold it."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert len(files) > 20
    return [str(path) for path in files if secret in path.read_bytes()]


def test_a_driver_that_is_killed_is_started_again(models, data, local, tmp_path):
    out = tmp_path / "out"
    with ray_cluster.cluster(PYTHON, 2) as cluster:
        first = cluster.start(command(models, data, out, "--on", "ray", "--workers", 2), **PIPES)
        wait_for(out, 12, first)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        assert len(parts(out)) < SHARDS
        assert "shards are there already" in end(
            cluster.start(command(models, data, out, "--on", "ray", "--workers", 2), **PIPES)
        )
    assert parts(out) == local


def test_what_nodes_do_not_have_is_said_in_a_sentence(models, data, tmp_path):
    mine, kept = shutil.copytree(data, tmp_path / "data"), shutil.copytree(models, tmp_path / "models")
    (mine / "00.parquet").write_bytes(damaged())
    with ray_cluster.cluster(PYTHON, 2) as cluster:
        # A shard that cannot be read, by more workers than there are CPUs.
        many = cluster.start(command(kept, mine, tmp_path / "many", "--on", "ray", "--workers", 16), **PIPES)
        said, _ = many.communicate(timeout=PATIENCE)
        assert many.returncode == 1
        assert "1 shards could not be read:\n  " in said
        assert "00.parquet: cannot be read" in said.splitlines()[-1]
        assert len(parts(tmp_path / "many")) == SHARDS
        # A version that the nodes do not find.
        job = cluster.start(command(kept, data, tmp_path / "gone", "--on", "ray", "--workers", 2), **PIPES)
        while not (tmp_path / "gone" / "_MANIFEST.json").exists():
            time.sleep(0.01)
        shutil.rmtree(kept / "1")
        said, _ = job.communicate(timeout=PATIENCE)
        assert job.returncode == 1
        [last] = said.splitlines()[-1:]
        assert f": --models: {kept} holds no version 1; what is done stays done" in last
        assert ray_cluster.SUBNET in last


def damaged():
    """A Parquet file whose only row group is damaged."""
    file = io.BytesIO()
    pq.write_table(pa.table({"headline": [f"new park {i}" for i in range(1000)]}), file, compression="snappy")
    content = bytearray(file.getvalue())
    content[8:200] = bytes(192)
    return bytes(content)


def test_objects_are_read_and_written_by_all_nodes(models, data, local):
    with ray_cluster.cluster(PYTHON, 2) as cluster, object_store(cluster.host) as address:
        options = f"?endpoint_override={address}&scheme=http&region=us-east-1&allow_bucket_creation=true"
        source, scores = [f"s3://some:secret@newsroom/{name}{options}" for name in ("posts", "scores")]
        system, path = fs.FileSystem.from_uri(source)
        system.create_dir("newsroom")
        fs.copy_files(str(data), path, fs.LocalFileSystem(), system)
        job = cluster.start(command(models, source, scores, "--on", "ray", "--workers", 2), **PIPES)
        until = time.monotonic() + PATIENCE
        while len(listed(system)) < 5:
            assert job.poll() is None, job.communicate()
            assert time.monotonic() < until
            time.sleep(0.05)
        cluster.kill(1)
        end(job)
        assert "newsroom/scores/_SUCCESS" in [it.path for it in system.get_file_info(fs.FileSelector("newsroom/scores"))]
        # The names hold those of the inputs, which are others; the bytes do not.
        assert sorted(system.open_input_file(name).read() for name in listed(system)) == sorted(local.values())


def listed(system):
    found = system.get_file_info(fs.FileSelector("newsroom/scores", allow_not_found=True))
    return [it.path for it in found if it.base_name.startswith("part-")]


def test_without_a_cluster_it_makes_one_of_this_machine(models, data, local, tmp_path):
    variables = environment(HOME=str(tmp_path))  # where Ray keeps a token
    variables.pop("RAY_ADDRESS", None)
    job = subprocess.Popen(command(models, data, tmp_path / "out", "--on", "ray", "--workers", "2"), env=variables, **PIPES)
    end(job)
    assert parts(tmp_path / "out") == local


def test_an_address_where_there_is_no_cluster(models, data, tmp_path):
    variables = environment(RAY_ADDRESS="127.0.0.1:9")
    job = subprocess.Popen(command(models, data, tmp_path / "out", "--on", "ray"), env=variables, **PIPES)
    said, _ = job.communicate(timeout=PATIENCE)
    assert job.returncode == 2
    assert "headlines score: " in said.splitlines()[-1]
    assert "Traceback" not in said
