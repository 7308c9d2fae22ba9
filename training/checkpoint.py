"""What an interrupted fit needs to go on where it stopped.

MODELS/.fit-<digest of data and settings>/
├── lock           held while the job runs
└── <phase>.npz    written whole after each epoch, and its SHA-256 behind it: a zip archive's own sums do not cover its lists
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from service.errors import DataError

State = Mapping[str, npt.NDArray[np.generic]]

_PREFIX = ".fit-"
_KEPT = 2  # interrupted fits of other data or settings whose state, some 83 MB each, stays
_DIGEST_BYTES = hashlib.sha256().digest_size
_log = logging.getLogger(__name__)


class Checkpoint:
    """Where one phase of a job keeps its state between epochs; `open_checkpoint` makes that of the first."""

    def __init__(self, directory: Path, phase: str = "state") -> None:
        self._path = directory / f"{phase}.npz"

    def phase(self, name: str) -> Checkpoint:
        """That of another phase of the same job."""
        return Checkpoint(self._path.parent, name)

    def load(self) -> State | None:
        """The state last saved; None if there is none, or if it is damaged, which is logged."""
        if not self.is_saved():
            return None
        data = self._path.read_bytes()
        archive, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if hashlib.sha256(archive).digest() != digest:
            _log.warning("the state of the interrupted fit in %s is damaged; starting afresh", self._path)
            return None
        with np.load(io.BytesIO(archive), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def is_saved(self) -> bool:
        """Whether there is a state, be it damaged or not."""
        return self._path.exists()

    def save(self, state: State) -> None:
        """Replace the state by this one: it is written whole or, if that fails, not at all."""
        unfinished = self._path.with_suffix(".new")
        try:
            with unfinished.open("w+b") as file:
                np.savez(file, allow_pickle=False, **state)
                file.seek(0)
                file.write(hashlib.file_digest(file, "sha256").digest())
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self._path)
        except OSError:  # a full disk, which this file shall not fill
            unfinished.unlink(missing_ok=True)
            raise
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


@contextmanager
def open_checkpoint(models: Path, digest: str) -> Iterator[Checkpoint]:
    """The checkpoint of the job with this digest, for this process alone; removed when the block ends without an error.

    So the block holds the fit and the export of its model: what fails before the export is complete can go on from here.
    A process that is killed between the two ends exports the same model again.

    Raises DataError if the same job runs already.
    """
    models.mkdir(parents=True, exist_ok=True)
    directory = models / (_PREFIX + digest)
    with closing(_lock(directory)):
        _bound_others(directory)
        checkpoint = Checkpoint(directory)
        try:
            yield checkpoint
        except BaseException:
            if checkpoint.is_saved():
                _log.info("%s keeps what was fitted; the same command goes on from there", directory)
            else:
                _remove(directory)
            raise
        _remove(directory)


def _bound_others(directory: Path) -> None:
    """Remove what fits of other data or settings left, but for the latest and those that are still running."""
    others = [other for other in directory.parent.glob(_PREFIX + "*") if other != directory]
    others.sort(key=_saved_at, reverse=True)
    for other in others[:_KEPT]:
        _log.warning("%s is of another fit, with other data or settings, that has not ended; this one starts afresh", other)
    for other in others[_KEPT:]:
        try:
            with closing(_lock(other)):
                _remove(other)
        except DataError:
            continue  # it is running
        except OSError as error:
            _log.warning("%s was left by an older fit and cannot be removed: %s", other, error.strerror)
        else:
            _log.warning("%s was left by an older fit, with other data or settings, and has been removed", other)


def _saved_at(directory: Path) -> float:
    """When a fit began or last replaced its state, in seconds since 1970-01-01 UTC; 0 if it has just been removed."""
    try:
        return directory.stat().st_mtime
    except OSError:
        return 0.0


def _remove(directory: Path) -> None:
    # Renamed first, so that nobody meets half of it or puts a new lock into it. What a kill leaves, the next export removes.
    removed = directory.with_name(".tmp" + directory.name.replace(".", "-", 1))
    shutil.rmtree(removed, ignore_errors=True)
    directory.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def _lock(directory: Path) -> IO[bytes]:
    path = directory / "lock"
    while True:
        directory.mkdir(exist_ok=True)
        try:
            lock = path.open("wb")
        except FileNotFoundError:
            continue  # a job that has just finished removed the directory
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock.fileno()).st_nlink:
                return lock
        except BlockingIOError:
            lock.close()
            raise DataError(f"the same fit, of this data with these settings, is already running (it holds {path})") from None
        lock.close()  # of a job that finished in between, and removed
