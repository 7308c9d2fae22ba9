"""Files scored on Ray clusters, some of which lose a node: the scores are those of this machine alone, byte for byte.

To be run alone: on a busy machine Ray gives up on nodes that are slow to start.
"""

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray_cluster
from object_store import object_store
from pyarrow import fs
from ray_cluster import PYTHON, SUBNET, Cluster, without_ray

from harness.process import PATIENCE, ROOT

SHARDS = 41
ROWS = 10_000  # of a shard, which takes a tenth of a second or more
WORDS = ["city", "votes", "on", "new", "park", "the", "market", "wins", "council", "zebra"]
MARKED = "Zanzibar"  # in every headline, and nowhere else
LIMIT = 300  # seconds for a job, which takes some ten

pytestmark = [
    pytest.mark.interop_all,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not shutil.which(PYTHON), reason="Ray is not there: make interop-all"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Parquet of SHARDS row groups."""
    path = tmp_path_factory.mktemp("data") / "headlines.parquet"
    choose = random.Random(1).choices
    headlines = [f"{MARKED} {' '.join(choose(WORDS, k=12))}" for _ in range(SHARDS * ROWS)]
    pq.write_table(pa.table({"headline": headlines}), path, row_group_size=ROWS)
    return path


def score(models, data, out, *flags):
    command = ["-m", "headlines", "score", "--models", models, "--data", data, "--out", out]
    return [*command, "--engine", "litert", "--posted-at", "2026-03-01T18:30:00Z", *flags]


def on_ray(models, data, out, workers=2):
    return score(models, data, out, "--on", "ray", "--workers", workers)


def run(command, **variables):
    command, variables = list(map(str, command)), without_ray() | variables
    return subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)


def files(out):
    """What a reader of the directory sees, and what no job may leave there."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != ".lock"}


def parts_of(found):
    return [content for name, content in sorted(found.items()) if name.startswith("part-")]


@pytest.fixture(scope="module")
def expected(models, data, tmp_path_factory):
    """The files of a job on this machine alone."""
    out = tmp_path_factory.mktemp("expected") / "out"
    done = run([PYTHON, *score(models, data, out)])
    assert done.returncode == 0, done.stderr
    found = files(out)
    assert "_SUCCESS" in found
    assert len(found) == SHARDS + 2
    return found


def cluster_of(directory, nodes):
    if reason := ray_cluster.missing():
        pytest.skip(reason)
    return Cluster(directory, nodes)


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory):
    """Two nodes, for the tests that lose none."""
    with cluster_of(tmp_path_factory.mktemp("nodes"), 2) as cluster:
        yield cluster


@contextmanager
def started(command):
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_shards(out, count, process):
    """Wait until this many shards are there, in the middle of the job."""
    until = time.monotonic() + LIMIT
    while (found := len(list(out.glob("part-*")))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    assert found < SHARDS


def assert_fails(done, code, sentence):
    assert done.returncode == code, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("headlines score: ")
    assert sentence in last


def assert_unmarked(directory):
    """Nothing below a directory holds a headline."""
    seen = 0
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert MARKED.encode() not in path.read_bytes(), path
            seen += 1
    assert seen > 10  # Ray has left its logs


@pytest.mark.parametrize("workers", [2, 8])
def test_a_cluster_writes_what_this_machine_alone_writes(workers, two_nodes, models, data, expected, tmp_path):
    """Also if there are fewer CPUs than workers."""
    out = tmp_path / "out"
    done = run(two_nodes.command(*on_ray(models, data, out, workers)))
    assert done.returncode == 0, done.stderr
    assert files(out) == expected
    assert ("--workers: 6 of 8 wait until the cluster has more CPUs than 2" in done.stderr) == (workers == 8)
    for node in two_nodes.nodes:
        assert_unmarked(node.directory)


@pytest.mark.parametrize("after", [2, 8, 15])
@pytest.mark.parametrize("nodes", [2, 3])
def test_a_node_is_lost(nodes, after, models, data, expected, tmp_path):
    out = tmp_path / "out"
    with cluster_of(tmp_path / "nodes", nodes) as cluster:
        with started(cluster.command(*on_ray(models, data, out, nodes))) as job:
            wait_for_shards(out, after, job)
            cluster.lose(-1)
            _, said = job.communicate(timeout=LIMIT)
        assert job.returncode == 0, said
        assert files(out) == expected


def test_the_driver_is_killed_and_started_again(two_nodes, models, data, expected, tmp_path):
    out = tmp_path / "out"
    command = two_nodes.command(*on_ray(models, data, out))
    with started(command) as job:
        wait_for_shards(out, 12, job)
        job.kill()
        job.communicate(timeout=LIMIT)
    assert not (out / "_SUCCESS").exists()
    done = run(command)
    assert done.returncode == 0, done.stderr
    assert f"of {SHARDS} shards are there already" in done.stderr
    assert files(out) == expected


def test_a_shard_that_cannot_be_read_is_named_and_the_others_are_done(two_nodes, models, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for name in ("a", "b"):
        pq.write_table(pa.table({"headline": [f"{MARKED} wins"] * 400}), data / f"{name}.parquet", row_group_size=100)
    found = pq.ParquetFile(data / "b.parquet").metadata.row_group(2).column(0)
    with (data / "b.parquet").open("r+b") as file:
        file.seek(found.dictionary_page_offset or found.data_page_offset)
        file.write(b"\xff" * 16)
    done = run(two_nodes.command(*on_ray(models, data, out)))
    assert done.returncode == 1, done.stderr
    assert "headlines score: 1 shards could not be read:" in done.stderr
    assert "b.parquet: cannot be read" in done.stderr
    assert "row 201" in done.stderr
    assert len(list(out.glob("part-*"))) == 7
    assert not (out / "_SUCCESS").exists()
    for node in two_nodes.nodes:
        assert_unmarked(node.directory)


@pytest.mark.parametrize("absent", ["models", "data", "out", "program"])
def test_a_node_that_lacks_something_is_named(absent, models, data, tmp_path):
    """The job's driver has it: it is on the first node, and all CPUs are on the second."""
    models, data = shutil.copytree(models, tmp_path / "models"), shutil.copytree(data.parent, tmp_path / "data")
    out = tmp_path / "out"
    out.mkdir()
    hidden, sentence = {
        "models": (models, f"on the node {SUBNET}.2: --models: {models} holds no version 1; "),
        "data": (data, f"on the node {SUBNET}.2: {data / 'headlines.parquet'}: cannot be read: No such file"),
        "out": (out, f", which the node {SUBNET}.2 has written; all nodes need the same directory"),
        "program": (ROOT / "service", f"ip={SUBNET}.2"),
    }[absent]
    with cluster_of(tmp_path / "nodes", 1) as cluster:
        cluster.add(hidden=hidden)
        done = run(cluster.command(*on_ray(models, data, out)))
    assert_fails(done, 1, sentence)
    assert not (out / "_SUCCESS").exists()


def test_a_cluster_that_cannot_be_joined_is_named(two_nodes, models, data, tmp_path):
    command = on_ray(models, data, tmp_path / "out")

    def assert_refused(sentence, address, *others):
        program = others or ("-m", "headlines")
        done = run(two_nodes.nodes[0].inside("env", f"RAY_ADDRESS={address}", PYTHON, *program, *command[2:]))
        assert_fails(done, 2, f"--on ray: the cluster of RAY_ADDRESS {address} cannot be joined: {sentence}")

    assert_refused("Connection refused", f"{SUBNET}.1:1")
    assert_refused("", f"{SUBNET}.99:6379")
    assert_refused("", "nonsense")
    other = "import sys, ray; ray.__version__ = '2.1'; from headlines.__main__ import main; sys.exit(main())"
    assert_refused("Version mismatch: The cluster was started with: Ray: 2.60.0", f"{SUBNET}.1:6379", "-c", other)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        done = run([PYTHON, *command], RAY_ADDRESS=address, RAY_NUM_REDIS_GET_RETRIES="1")  # which takes 40 seconds, not 80
    assert_fails(done, 2, "is it Ray, is this one of its nodes, and is its token known here?")
    assert list((tmp_path / "out").glob("[!.]*")) == []


def test_objects_are_read_and_written_by_all_nodes(models, data, expected, tmp_path):
    with cluster_of(tmp_path / "nodes", 2) as cluster, object_store(cluster.join_this_machine()) as address:
        options = f"?endpoint_override={address}&scheme=http&region=us-east-1&allow_bucket_creation=true"
        source, out = [f"s3://some:secret@newsroom/{name}{options}" for name in ("headlines.parquet", "scores")]
        store, path = fs.FileSystem.from_uri(source)
        store.create_dir("newsroom")
        fs.copy_files(str(data), path, fs.LocalFileSystem(), store)

        def objects():
            found = store.get_file_info(fs.FileSelector("newsroom/scores", allow_not_found=True))
            return {info.base_name: info.path for info in found}

        with started(cluster.command(*on_ray(models, source, out))) as job:
            until = time.monotonic() + LIMIT
            while len(objects()) < 6:
                assert job.poll() is None, job.communicate()
                assert time.monotonic() < until
                time.sleep(0.05)
            assert len(objects()) < SHARDS
            cluster.lose(-1)
            _, said = job.communicate(timeout=LIMIT)
        assert job.returncode == 0, said
        found = {name: store.open_input_file(path).read() for name, path in objects().items()}
    assert "_SUCCESS" in found
    # The names hold that of the input, which is another; the bytes do not.
    assert [found[name] for name in sorted(found) if name.startswith("part-")] == parts_of(expected)


@pytest.fixture
def temporary():
    """A directory with a short path, as the paths of Ray's sockets need."""
    directory = Path(tempfile.mkdtemp(prefix="ray-"))
    yield directory
    shutil.rmtree(directory)


def processes_of(directory):
    """The command lines that name a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended
        if os.fsencode(directory) in line:
            found.append(line)
    return found


def assert_none_is_left(directory):
    until = time.monotonic() + PATIENCE
    while left := processes_of(directory):
        assert time.monotonic() < until, left
        time.sleep(0.1)


def test_a_ray_of_its_own_reports_to_nobody_and_leaves_nothing_behind(models, data, expected, tmp_path, temporary):
    out, home = tmp_path / "out", tmp_path / "home"
    home.mkdir()
    done = run([PYTHON, *on_ray(models, data, out)], RAY_TMPDIR=str(temporary), HOME=str(home))
    assert done.returncode == 0, done.stderr
    assert files(out) == expected
    assert_none_is_left(temporary)
    assert_unmarked(temporary)
    [log] = temporary.glob("ray/session_2*/logs/dashboard.log")
    assert "http server disabled" in log.read_text()
    assert "Usage reporting is disabled" in log.read_text()
    assert list(home.iterdir()) == []


def test_a_ray_of_its_own_ends_with_a_job_that_is_killed(models, data, tmp_path, temporary):
    command = list(map(str, [PYTHON, *on_ray(models, data, tmp_path / "out")]))
    variables = without_ray() | {"RAY_TMPDIR": str(temporary), "HOME": str(tmp_path)}
    with subprocess.Popen(command, env=variables, cwd=ROOT, stderr=subprocess.DEVNULL) as job:
        wait_for_shards(tmp_path / "out", 3, job)
        assert processes_of(temporary)
        job.kill()
    assert_none_is_left(temporary)


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from ray_cluster import Cluster
cluster = Cluster(Path(sys.argv[2]))
cluster.join_this_machine()
print(os.getpid(), *(node.init for node in cluster.nodes), flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(bool(ray_cluster.missing()), reason=ray_cluster.missing())
def test_a_cluster_ends_with_the_process_that_made_it(tmp_path):
    killed = run([sys.executable, "-c", KILLED, Path(__file__).parent, tmp_path / "nodes"])
    assert killed.returncode == -9, killed.stderr
    maker, *nodes = killed.stdout.split()
    until = time.monotonic() + PATIENCE
    while any(Path("/proc", node).exists() for node in nodes):
        assert time.monotonic() < until
        time.sleep(0.1)
    while f"ray{maker}" in run(["ip", "link"]).stdout:
        assert time.monotonic() < until
        time.sleep(0.1)
