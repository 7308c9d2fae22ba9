"""Publishing: a version gets the next number and becomes visible atomically.

with new_version(models) as staging:
    export(staging.path, model)
    artifact.write(staging.path, contents)
print(staging.version)
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from service.errors import VersionError
from service.model import artifact


class Staging:
    """A version that is not published yet."""

    def __init__(self, path: Path) -> None:
        self.path = path  # write its files here
        self.version: int | None = None  # its number, when it is published
        self.on_number: Callable[[int], None] = lambda _: None  # called when its number is known, before it is published


@contextmanager
def new_version(models: Path) -> Iterator[Staging]:
    """Publish a new version atomically.

    What the block writes below `staging.path` becomes visible as MODELS/<next number> when the block ends. If the block raises,
    it is removed. A number is never used twice. What a killed process left behind is removed first.
    """
    models.mkdir(parents=True, exist_ok=True)
    with ExitStack() as work:
        with _lock(models / ".lock"):
            _remove_abandoned(models)
            directory = Path(tempfile.mkdtemp(prefix=".tmp-", dir=models))
            work.callback(shutil.rmtree, directory, ignore_errors=True)
            work.enter_context(_lock(directory / "lock"))
        staging = Staging(directory / "version")
        staging.path.mkdir()
        yield staging
        for root, _, names in os.walk(staging.path):
            for name in [*names, "."]:
                _fsync(Path(root) / name)
        with _lock(models / ".lock"):
            number = max([_last_version(models), *artifact.versions(models)]) + 1
            staging.on_number(number)
            replace_file(models / ".last_version", f"{number}\n".encode())
            staging.path.rename(models / str(number))
            _fsync(models)
        staging.version = number


def replace_file(path: Path, data: bytes) -> None:
    """Write a file atomically: a new file, flushed to the disk, is renamed over the old one."""
    temporary = path.with_name(f".{path.name.removeprefix('.')}.{os.getpid()}.new")
    try:
        temporary.write_bytes(data)
        _fsync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync(path.parent)


def _last_version(models: Path) -> int:
    try:
        return int((models / ".last_version").read_text("ascii"))
    except FileNotFoundError:
        return 0
    except ValueError as error:
        raise VersionError(f"{models / '.last_version'}: holds no number; it must be the highest version ever given") from error


def _remove_abandoned(models: Path) -> None:
    """Remove what killed processes left. The caller holds MODELS/.lock, so no other process is creating a directory now."""
    for file in models.glob(".last_version.*.new"):
        file.unlink(missing_ok=True)
    for work in models.glob(".tmp-*"):
        if not _is_locked(work / "lock"):  # a process holds the lock of its staging directory for as long as it lives
            shutil.rmtree(work, ignore_errors=True)


def _is_locked(path: Path) -> bool:
    try:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # held, or somebody else's
        return True
    return False


@contextmanager
def _lock(path: Path) -> Iterator[IO[bytes]]:
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
