"""Volumes that go away, links that are switched, files that cannot be read: what is live, and what is said of it."""

import asyncio
import errno
import hashlib
import logging
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_repository import WordCounter, publish, states

from service.errors import Unreadable
from service.model import artifact
from service.model.preprocessing import Headline
from service.repository import Repository, State
from service.repository.attempt import Attempt

NOBODY = 65534
ON_OPEN = []  # functions that are called with each path that is opened, and may raise OSError


def _audit(event, arguments):
    if ON_OPEN and event == "open":
        for function in ON_OPEN:
            function(str(arguments[0]))


sys.addaudithook(_audit)


@contextmanager
def on_open(function):
    ON_OPEN.append(function)
    try:
        yield
    finally:
        ON_OPEN.remove(function)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def models():
    """A directory that any user can get to, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        yield Path(directory) / "models"


@pytest.fixture
def attempts():
    return []


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def repository(models, attempts, clock):
    return Repository(models, WordCounter(), on_load=lambda passed, _: attempts.append(passed), clock=clock)


@contextmanager
def unprivileged():
    """Be bound by files' modes, as root is not."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def mounted(directory):
    """A file system of its own at `directory`."""
    command = ["mount", "-t", "tmpfs", "tmpfs", str(directory)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only a privileged user may mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=False, capture_output=True)


def umount(directory):
    subprocess.run(["umount", str(directory)], check=True)


def errors(repository):
    return {state.number: state.error for state in repository.states if state.error}


def problems(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# One bad entry does not stop the scan of the others


async def test_entries_that_cannot_be_read_fail_by_name_and_hide_no_other(models, repository, caplog):
    publish(models)
    (models / "latest").symlink_to("latest")
    (models / "9").symlink_to("9")
    (models / "8").symlink_to("nowhere")
    (models / "7").mkdir()
    (models / "6").symlink_to("README")
    (models / "README").touch()
    os.mkfifo(models / "5")
    shutil.copytree(models / "1", models / "4")
    shutil.rmtree(models / "4" / "assets")
    (models / "4" / "assets").symlink_to("assets")
    for _ in range(3):
        await repository.scan()
    assert states(repository) == {1: State.LIVE, **dict.fromkeys((9, 8, 7, 6, 4), State.FAILED)}
    assert "SHA256SUMS: cannot be read: Too many levels of symbolic links" in errors(repository)[9]
    assert "SHA256SUMS: is missing" in errors(repository)[8]
    assert "vocabulary.txt: cannot be read: Too many levels" in errors(repository)[4]
    assert [sum(f"version {number} " in it for it in problems(caplog)) for number in (9, 8, 7, 6, 4)] == [1] * 5
    shutil.copytree(models / "1", models / "10")
    await repository.scan()
    assert repository.live.number == 10
    shutil.rmtree(models / "10")
    await repository.scan()
    assert repository.live.number == 1


async def test_a_report_is_no_part_of_a_version(models, repository, attempts):
    publish(models)
    report = models / "1" / "report"
    report.mkdir()
    (report / "index.html").symlink_to("index.html")
    await repository.scan()
    (report / "more.html").touch()
    await repository.scan()
    assert (repository.live.number, attempts) == (1, [True])


async def test_what_lies_beside_the_versions_and_below_the_live_one_is_not_looked_into(models, repository):
    publish(models)
    publish(models)
    await repository.scan()
    for directory in (models / "data", models / "2" / "report", models / "2" / "more"):
        (directory / "deep").mkdir(parents=True)
    opened = []
    with on_open(opened.append):
        await repository.scan()
    assert [path for path in opened if str(models) in path] == [str(models)]


@pytest.mark.parametrize(
    ("place", "mode"),
    [
        ("2", 0o000),
        ("2", 0o644),
        ("2/assets.extra", 0o000),
        ("2/assets.extra", 0o644),
        (f"2/{artifact.CHECKSUMS}", 0o000),
        (f"2/{artifact.CPU_MODEL}", 0o000),
    ],
)
async def test_a_version_without_permission_fails_by_name_and_is_live_as_soon_as_it_has_it(models, repository, place, mode):
    publish(models)
    publish(models, "0.5")
    before = (models / place).stat().st_mode
    (models / place).chmod(mode)
    try:
        with unprivileged():
            await repository.scan()
        assert states(repository) == {2: State.FAILED, 1: State.LIVE}
        assert "cannot be read: Permission denied" in errors(repository)[2]
    finally:
        (models / place).chmod(before)
    with unprivileged():
        await repository.scan()
    assert states(repository) == {2: State.LIVE, 1: State.RETIRED}


async def test_publishing_passes_over_links_that_lead_to_themselves(models):
    publish(models)
    (models / "7").symlink_to("7")
    (models / "latest").symlink_to("latest")
    assert publish(models) == 8
    assert artifact.versions(models) == [8, 7, 1]


# What may pass is tried again


async def test_a_version_is_live_at_the_next_poll_after_descriptors_ran_out(models, repository, attempts):
    publish(models)
    with no_descriptors():
        await repository.scan()  # not even MODELS can be opened
    assert "Too many open files" in repository.problem
    await repository.scan()
    publish(models)
    with on_open(failing(errno.EMFILE, "saved_model.pb")):
        for _ in range(5):
            await repository.scan()
    assert (states(repository), attempts) == ({2: State.FAILED, 1: State.LIVE}, [True, False])
    await repository.scan()
    assert states(repository) == {2: State.LIVE, 1: State.RETIRED}


@contextmanager
def no_descriptors():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def failing(number, *names):
    def fail(path):
        if path.endswith(names):
            raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ETIMEDOUT])
@pytest.mark.parametrize("name", [artifact.CHECKSUMS, artifact.CPU_MODEL, artifact.VOCABULARY])
async def test_an_error_of_the_moment_is_no_verdict(models, repository, attempts, caplog, number, name):
    publish(models)
    with on_open(failing(number, name)):
        for _ in range(5):
            await repository.scan()
    assert (states(repository), attempts) == ({1: State.FAILED}, [False])
    assert sum("version 1 cannot go live" in it for it in problems(caplog)) == 1
    await repository.scan()
    assert states(repository) == {1: State.LIVE}


async def test_the_place_where_reading_failed_is_tried_before_the_whole(models, repository, attempts, monkeypatch):
    publish(models)
    bad = True
    size = (models / "1" / artifact.VOCABULARY).stat().st_size

    class Disk:
        """A file whose bytes after the first cannot be read."""

        def __init__(self, file):
            self._file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._file.close()

        def seek(self, offset):
            self._file.seek(offset)

        def read(self, count):
            if bad and self._file.tell() and os.fstat(self._file.fileno()).st_size == size:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return self._file.read(min(count, size - 1))

    fdopen = os.fdopen
    monkeypatch.setattr(os, "fdopen", lambda *args, **options: Disk(fdopen(*args, **options)))
    for _ in range(5):
        await repository.scan()
    assert (attempts, errors(repository)) == ([False], {1: f"{artifact.VOCABULARY}: cannot be read: Input/output error"})
    bad = False
    await repository.scan()
    assert attempts == [False, True]


def test_loads_that_fail_though_a_byte_can_be_read_wait_longer_each_time():
    for error, waits in (
        (Unreadable("", artifact.CPU_MODEL, 7), [0, 2, 4, 8, 16, 32, 60, 60]),
        (OSError(errno.EMFILE, ""), [2, 4, 8, 16, 32, 60, 60]),
    ):
        attempt = Attempt(())
        now = 100.0
        for wait in waits:
            attempt.failed(error, now, 0)
            assert not attempt.is_due(now + wait - 1, 0)
            assert attempt.is_due(now + wait, 0)
            now += wait


async def test_what_does_not_fit_into_memory_waits_for_a_change_or_a_smaller_live_version(models, repository, attempts, clock):
    publish(models)
    publish(models, "0.5")
    await repository.scan()
    publish(models, "large")
    for _ in range(5):
        await repository.scan()
        clock.now += 100
    assert attempts == [True, False]
    assert "not enough memory" in errors(repository)[3]
    (models / "2.withdrawn").touch()
    (models / "1.withdrawn").touch()
    await repository.scan()
    await repository.scan()
    assert attempts == [True, False, False]
    assert repository.live is None


@pytest.mark.parametrize(("fault", "told"), [("bug", "an unexpected ZeroDivisionError"), ("no room", "a GPU's memory is full")])
async def test_a_fault_that_may_be_the_moment_s_is_tried_again_later(models, repository, attempts, clock, fault, told):
    publish(models, fault)
    for _ in range(7):
        await repository.scan()
        clock.now += 1
    assert attempts == [False] * 3  # after 2 s and 4 more
    assert states(repository) == {1: State.FAILED}
    assert told in errors(repository)[1]


async def test_a_directory_that_is_moved_away_while_it_loads_is_loaded_when_it_is_back(models, repository):
    publish(models)
    away = models.parent / "away"

    def move(path):
        if path.endswith(artifact.EXAMPLES) and not away.exists():
            (models / "1").rename(away)

    with on_open(move):
        await repository.scan()
    assert states(repository) == {1: State.FAILED}
    away.rename(models / "1")
    await repository.scan()
    assert states(repository) == {1: State.LIVE}


def twin(directory, other):
    """Copy a version with its times, and change the copy's answers without changing a size."""
    shutil.copytree(directory, other)
    file = other / artifact.CPU_MODEL
    times = [(path, path.stat()) for path in other.rglob("*")]
    examples = (other / artifact.EXAMPLES).read_text()
    file.write_bytes(file.read_bytes().replace(b"0.25", b"0.75"))
    (other / artifact.EXAMPLES).write_text(examples.replace(": 0.25", ": 0.75"))
    lines = []
    for line in (other / artifact.CHECKSUMS).read_text().splitlines():
        name = line.split("  ")[1]
        lines.append(f"{hashlib.sha256((other / name).read_bytes()).hexdigest()}  {name}\n")
    (other / artifact.CHECKSUMS).write_text("".join(lines))
    for path, status in times:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def answer(repository):
    return repository.live.predict([Headline("City", 0.0)]).aux_output[0]


@pytest.mark.parametrize("place", ["", "1", "1/assets.extra", "1/assets.extra/..data"])
async def test_a_link_that_is_switched_to_files_of_the_same_size_and_time_is_seen(models, repository, place):
    releases = models.parent / "releases"
    publish(releases / "a")
    twin(releases / "a" / "1", releases / "b" / "1")
    link = models / place
    if not place:
        link.symlink_to(releases / "a")
    elif place == "1":
        models.mkdir()
        link.symlink_to(releases / "a" / "1")
    else:
        shutil.copytree(releases / "a", models)
        shutil.rmtree(models / "1" / "assets.extra")
        if place.endswith("..data"):  # as Kubernetes does it: each file is a link through one that is switched
            (models / "1" / "assets.extra").mkdir()
            for file in (releases / "a" / "1" / "assets.extra").iterdir():
                (models / "1" / "assets.extra" / file.name).symlink_to(f"..data/{file.name}")
        link.symlink_to(releases / "a" / "1" / "assets.extra")
    await repository.scan()
    assert answer(repository) == 0.25
    new = models.parent / "new"
    new.symlink_to(str(link.readlink()).replace("releases/a", "releases/b"))
    new.rename(link)
    await repository.scan()
    assert answer(repository) == 0.75


async def test_a_version_that_is_too_large_fails_by_name_before_it_is_read(models):
    repository = Repository(models, WordCounter(), max_version_bytes=1 << 20)
    publish(models)
    publish(models)
    os.truncate(models / "2" / artifact.CPU_MODEL, 3 << 30)
    opened = []
    with on_open(opened.append):
        await repository.scan()
    assert states(repository) == {2: State.FAILED, 1: State.LIVE}
    assert f"{artifact.CPU_MODEL}: has 3,221,225,472 bytes" in errors(repository)[2]
    assert {path for path in opened if "/2/" in path} == {str(models / "2" / artifact.CHECKSUMS)}


# The live version outlives its directory


async def missing(repository, *words):
    await repository.scan()
    assert (states(repository)[repository.live.number], repository.directory_missing) == (State.LIVE, True)
    error = errors(repository)[repository.live.number]
    assert all(word in error for word in ("since 2", *words)), error
    return error


async def test_the_last_version_is_kept_in_memory_and_said_to_be(models, repository, caplog, clock, attempts):
    publish(models)
    await repository.scan()
    (models / "1").rename(models.parent / "away")
    error = await missing(repository, "its directory is missing", "lost with a restart")
    assert await missing(repository) == error
    assert len(problems(caplog)) == 1
    assert caplog.records[-1].levelno == logging.ERROR
    clock.now += 61
    await missing(repository)
    assert len(problems(caplog)) == 2
    (models.parent / "away").rename(models / "1")
    await repository.scan()
    assert (errors(repository), repository.directory_missing, attempts) == ({}, False, [True])


async def test_a_models_directory_that_is_gone_or_unreadable_takes_nothing_out_of_service(models, repository):
    publish(models)
    await repository.scan()
    models.rename(models.parent / "away")
    await missing(repository, "cannot be read: No such file or directory")
    models.touch()
    await missing(repository, "cannot be read: Not a directory")
    models.unlink()
    models.symlink_to("models")
    assert str(models) not in await missing(repository, "cannot be read: Too many levels")  # callers see it in GetModel
    models.unlink()
    models.mkdir()
    await missing(repository, "its directory is missing")
    models.rmdir()
    (models.parent / "away").rename(models)
    await repository.scan()
    assert (repository.live.number, errors(repository)) == (1, {})


async def test_a_link_that_leads_nowhere_is_a_directory_that_is_gone(models, repository):
    releases = models.parent / "releases"
    publish(releases)
    publish(releases, "0.5")
    models.mkdir()
    for number in ("1", "2"):
        (models / number).symlink_to(releases / number)
    await repository.scan()
    (releases / "2").rename(releases / "away")
    await repository.scan()
    assert repository.live.number == 1
    (releases / "1").rename(releases / "also")
    await missing(repository, "its directory is missing")
    (releases / "away").rename(releases / "2")
    await repository.scan()
    assert (repository.live.number, repository.directory_missing) == (2, False)


async def test_an_unmounted_volume_is_no_rollback_to_what_lies_below_its_mount_point(models, repository):
    publish(models)  # an old version, which was once written without the volume
    with mounted(models):
        publish(models)
        publish(models)
        shutil.rmtree(models / "1")
        await repository.scan()
        assert repository.live.number == 2
        umount(models)
        await missing(repository, "on another volume")
        assert repository.live.number == 2
        publish(models)
        publish(models)
    await repository.scan()
    assert (states(repository)[3], repository.directory_missing) == (State.LIVE, False)


async def test_a_version_s_own_volume_may_be_unmounted(models, repository):
    publish(models)
    publish(models, "0.5")
    (models / "2").rename(models.parent / "2")
    (models / "2").mkdir()
    with mounted(models / "2"):
        shutil.copytree(models.parent / "2", models / "2", dirs_exist_ok=True)
        await repository.scan()
        umount(models / "2")
        await repository.scan()
        assert repository.live.number == 2
        assert errors(repository)[2] == "on disk now, but not served: assets.extra/SHA256SUMS: is missing"
        assert repository.directory_missing


async def test_damage_of_the_live_version_that_is_undone_is_told_no_longer(models, repository):
    publish(models)
    await repository.scan()
    file = models / "1" / artifact.CPU_MODEL
    whole = file.read_bytes()
    file.write_bytes(b"")
    await repository.scan()
    assert repository.directory_missing
    file.write_bytes(whole)
    await repository.scan()
    assert (errors(repository), repository.directory_missing) == ({}, False)


# Withdrawing


async def test_a_version_is_withdrawn_by_a_file_and_comes_back_without_it(models, repository):
    publish(models)
    publish(models, "0.5")
    await repository.scan()
    (models / "2.withdrawn").touch()
    for _ in range(2):
        await repository.scan()
        assert states(repository) == {2: State.RETIRED, 1: State.LIVE}
        assert errors(repository) == {2: "withdrawn by the file 2.withdrawn"}
    (models / "1.withdrawn").touch()
    for _ in range(2):
        await repository.scan()
        assert (repository.live, states(repository)) == (None, {2: State.RETIRED, 1: State.RETIRED})
    assert "version 1: withdrawn by the file 1.withdrawn" in repository.problem
    (models / "2.withdrawn").unlink()
    await repository.scan()
    assert (repository.live.number, errors(repository)) == (2, {1: "withdrawn by the file 1.withdrawn"})


async def test_a_version_that_is_withdrawn_beforehand_is_never_loaded(models, repository, attempts):
    publish(models)
    (models / "1.withdrawn").touch()
    await repository.scan()
    assert (attempts, states(repository)) == ([], {1: State.FAILED})


async def test_a_version_without_its_directory_and_a_pinned_one_can_be_withdrawn(models):
    for pinned in (None, 1):
        repository = Repository(models, WordCounter(), pinned=pinned)
        publish(models)
        await repository.scan()
        shutil.rmtree(models / "1")
        (models / "1.withdrawn").touch()
        await repository.scan()
        assert repository.live is None
        shutil.rmtree(models)


# Nothing to serve


@pytest.mark.parametrize(
    ("prepare", "pinned", "words"),
    [
        (lambda _: None, None, ["does not exist", "--models"]),
        (lambda models: models.touch(), None, ["is not a directory", "--models"]),
        (lambda models: models.mkdir(), None, ["it is empty", "volume"]),
        (lambda models: publish(models / "deep"), None, ["passed over", "deep holds versions; name it, --models"]),
        (lambda models: make(models, "v1", "007", "model-2", "0", "x" * 200), None, ["007", "model-2", "v1", "whole numbers"]),
        (lambda models: make(models, *map("v{}".format, range(50))), None, ["v0", "and more"]),
        (lambda models: make(models, "a\nb", "c\x1b[31m"), None, ["a?b", "c?[31m"]),
        (lambda models: make(models, *map(str, range(1, 20))), None, ["version 19: ", "SHA256SUMS: is missing", "16 more"]),
        (lambda models: publish(models), 9, ["version 9, which --version asks for, is not there", "there: 1"]),
        (lambda models: publish(models, "refused"), 1, ["version 1: cpu.tflite: is no model"]),
    ],
)
async def test_where_nothing_is_served_one_line_says_why_and_what_would_be_right(models, clock, caplog, prepare, pinned, words):
    prepare(models)
    repository = Repository(models, WordCounter(), pinned=pinned, clock=clock)
    assert "looking for" in repository.problem
    for _ in range(20):
        await repository.scan()
        clock.now += 2
    assert all(word in repository.problem for word in [*words, str(models)]), repository.problem
    assert len(repository.problem) <= 1000
    assert repository.problem.isprintable()
    assert problems(caplog).count(repository.problem) == 1
    clock.now += 30
    await repository.scan()
    assert problems(caplog).count(repository.problem) == 2


def make(models, *names):
    for name in names:
        (models / name).mkdir(parents=True)


async def test_a_version_in_place_of_its_parent_is_told_by_name(models):
    publish(models)
    repository = Repository(models / "1", WordCounter())
    await repository.scan()
    assert repository.problem.endswith(f"it is itself a model version; name its parent, --models {models}")


async def test_what_was_replaced_is_logged(models, repository, caplog):
    publish(models)
    await repository.scan()
    publish(models)
    with caplog.at_level(logging.INFO):
        await repository.scan()
    assert "in place of version 1" in caplog.text
    assert [record.replaced for record in caplog.records if hasattr(record, "replaced")] == [1]


async def test_a_volume_that_hangs_is_told_while_the_live_version_answers(models, repository, caplog, monkeypatch):
    publish(models)
    await repository.scan()
    monkeypatch.setattr("service.repository.repository.PATIENCE", 0.01)
    goes_on = threading.Event()
    with on_open(lambda path: path == str(models) and goes_on.wait(60)):
        scan = asyncio.create_task(repository.scan())
        async with asyncio.timeout(60):
            while not problems(caplog):
                await asyncio.sleep(0.001)
        assert answer(repository) == 0.25
        goes_on.set()
        await scan
    assert "has not answered" in problems(caplog)[0]
    assert errors(repository) == {}
