"""What an interrupted fit needs to go on where it stopped.

MODELS/.fit-<digest of data and settings>/
├── lock           held while the job runs
└── state.npz      written whole after each epoch
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from service.errors import DataError

State = Mapping[str, npt.NDArray[np.generic]]

_PREFIX = ".fit-"
_log = logging.getLogger(__name__)


class Checkpoint:
    """Where one job keeps its state between epochs; `open_checkpoint` makes it."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "state.npz"

    def load(self) -> State | None:
        """The state last saved; None where there is none, or where it is damaged, which is logged."""
        try:
            with self._path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}  # a zip archive: its CRCs are checked
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            _log.warning("the state of the interrupted fit in %s is damaged (%s); starting afresh", self._path, error)
            return None

    def save(self, state: State) -> None:
        """Replace the state by this one: it is written whole or, where that fails, not at all."""
        unfinished = self._path.with_suffix(".new")
        try:
            with unfinished.open("wb") as file:
                np.savez(file, allow_pickle=False, **state)
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

    Raises DataError where the same job runs already.
    """
    models.mkdir(parents=True, exist_ok=True)
    directory = models / (_PREFIX + digest)
    for other in sorted(models.glob(_PREFIX + "*")):
        if other != directory:
            _log.warning("%s is of another fit, with other data or settings, that has not ended; this one starts afresh", other)
    lock = _lock(directory)
    try:
        yield Checkpoint(directory)
        # Renamed first, so that nobody meets half of it or puts a new lock into it.
        removed = models / (".tmp-fit-" + digest)
        shutil.rmtree(removed, ignore_errors=True)  # of a process that was killed at this very place
        directory.rename(removed)
        shutil.rmtree(removed)
    finally:
        lock.close()


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
