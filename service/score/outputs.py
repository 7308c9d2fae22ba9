"""Where scores are written: a directory of this machine, or what is below a URI in an object store.

A file has its name from the moment that it is complete, whatever happens while it is written.
"""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast
from uuid import uuid4

from service.errors import HeadlinesError, UsageError
from service.posts.sources import bare

_TEMPORARY = ".tmp-"
_LOCK = ".lock"
_SPOOLED = 64 << 20  # bytes of a file for an object store that stay in memory
_PIECE = 8 << 20  # bytes that are sent at once


class OutputError(HeadlinesError):
    """The scores cannot be written."""


class Output(ABC):
    """A directory. Its methods raise OSError."""

    name: str  # as messages name it

    @abstractmethod
    def for_one_job(self) -> AbstractContextManager[None]:
        """The directory, made ready, for one job at a time. Raises UsageError and OutputError."""

    @abstractmethod
    def names(self) -> set[str]:
        """The names of the files in it that do not begin with a dot."""

    @abstractmethod
    def open(self, name: str) -> IO[bytes]:
        """A file, to read it. Raises FileNotFoundError."""

    @abstractmethod
    def create(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A file to write, which gets its name at the end of the context; none if that is left by an exception."""

    def read(self, name: str) -> bytes:
        """What a file holds. Raises FileNotFoundError."""
        with self.open(name) as file:
            return file.read()

    def write(self, name: str, data: bytes) -> None:
        """Write a file."""
        with self.create(name) as file:
            file.write(data)


def output(name: str) -> Output:
    """What `--out` names. Raises UsageError."""
    if "://" not in name or Path(name).exists():
        return _Directory(Path(name).absolute(), name)
    from pyarrow import ArrowException, fs

    try:
        system, path = fs.FileSystem.from_uri(name)
    except (ArrowException, OSError, ValueError) as error:
        raise UsageError(f"--out: {bare(name)} cannot be written: {error}") from None
    if isinstance(system, fs.LocalFileSystem):
        return _Directory(Path(path), path)
    return _Objects(system, path.rstrip("/"), bare(name))


class _Directory(Output):
    def __init__(self, path: Path, name: str) -> None:
        self._path, self.name = path, name

    @contextmanager
    def for_one_job(self) -> Iterator[None]:
        import fcntl

        try:
            self._path.mkdir(parents=True, exist_ok=True)
            lock = (self._path / _LOCK).open("wb")
        except (FileExistsError, NotADirectoryError):
            raise UsageError(f"--out: {self.name} is not a directory") from None
        except OSError as error:
            raise OutputError(f"--out: {self.name} cannot be written: {error.strerror}") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"--out: another job is writing to {self.name}") from None
            self._remove_unfinished()  # of a job that was killed
            yield
            self._remove_unfinished()  # of a node that was lost

    def _remove_unfinished(self) -> None:
        for path in self._path.glob(f"{_TEMPORARY}*"):
            path.unlink(missing_ok=True)

    def names(self) -> set[str]:
        return {path.name for path in self._path.iterdir() if not path.name.startswith(".")}

    def open(self, name: str) -> IO[bytes]:
        return (self._path / name).open("rb")

    @contextmanager
    def create(self, name: str) -> Iterator[IO[bytes]]:
        temporary = self._path / f"{_TEMPORARY}{uuid4().hex}-{name}"
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self._path / name)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


class _Objects(Output):
    """An object store has no lock and no rename, and an object is there once it was sent as a whole."""

    def __init__(self, system: Any, path: str, name: str) -> None:  # noqa: ANN401
        self._system, self._path, self.name = system, path, name

    @contextmanager
    def for_one_job(self) -> Iterator[None]:
        from pyarrow import fs

        bucket = self._path.partition("/")[0]
        try:
            there = not bucket or self._system.get_file_info(bucket).type != fs.FileType.NotFound
        except OSError as error:
            raise OutputError(f"--out: {self.name} cannot be written: {error}") from None
        if not there:
            raise UsageError(f"--out: there is no bucket {bucket}")
        yield

    def names(self) -> set[str]:
        from pyarrow import fs

        found = self._system.get_file_info(fs.FileSelector(self._path, allow_not_found=True))
        return {info.base_name for info in found if info.is_file and not info.base_name.startswith(".")}

    def open(self, name: str) -> IO[bytes]:
        return cast("IO[bytes]", self._system.open_input_file(f"{self._path}/{name}"))

    @contextmanager
    def create(self, name: str) -> Iterator[IO[bytes]]:
        # Not written to the store at once: Arrow closes a stream also after an exception, and closing makes the object.
        with tempfile.SpooledTemporaryFile(_SPOOLED) as kept:
            yield cast("IO[bytes]", kept)
            kept.seek(0)
            with self._system.open_output_stream(f"{self._path}/{name}") as stream:
                while piece := kept.read(_PIECE):
                    stream.write(piece)
