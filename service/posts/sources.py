"""What `--data` names: files, directories, patterns, standard input and objects of a cloud's storage.

Directories are read as Spark and Hive write them: all files but empty ones and those whose names begin with `_` or `.`, and a
directory named `outlet=cnn` gives its files a column `outlet`.
"""

from __future__ import annotations

import glob
import io
import logging
import os
import shutil
import stat
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import unquote

from service.errors import DataError, reason

_log = logging.getLogger(__name__)

_SPOOLED = 64 << 20  # bytes of standard input that stay in memory
_HIDDEN = ("_", ".")  # what markers and unfinished files begin with
_TABLES = {"_delta_log": "Delta", "_hudi": "Hudi", ".hoodie": "Hudi"}  # whose directories hold rows that are no longer valid


@dataclass(frozen=True)
class Source:
    """A file that can be opened again and again."""

    name: str  # as messages name it
    open: Callable[[], IO[bytes]] = field(repr=False)  # seekable
    constants: Mapping[str, str] = field(default_factory=dict)  # columns that the directories' names hold
    identity: object = None  # equal for the same file under another name
    # Size in bytes and time of the last change in ns since 1970, as they are now. Raises OSError.
    state: Callable[[], tuple[int, int]] = field(repr=False, default=lambda: (-1, 0))


def expand(names: Sequence[str | Path]) -> list[Source]:
    """The files that these names stand for, in order, each once. Raises DataError, naming the one that stands for none."""
    found: dict[object, Source] = {}
    for name in names:
        for source in _expand(os.fspath(name)):
            known = found.setdefault(source.identity or source.name, source)
            if known is not source:
                _log.warning("%s: is named more than once (%s), and read once", known.name, source.name)
    if not found:
        raise DataError("no file is named")
    return list(found.values())


def _expand(name: str) -> list[Source]:
    if name == "-":
        return [_spool("standard input", sys.stdin.buffer)]
    if "://" in name and not Path(name).exists():
        return _remote(name)
    path = Path(name)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if glob.has_magic(name):
            matches = [Path(match) for match in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207 (absolute ones too)
            if not matches:
                raise DataError(f"{name}: matches no file") from None
            return [source for match in matches for source in _local(match)]
        raise DataError(f"{name}: cannot be read: No such file or directory") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):  # such as <(zcat posts.csv.gz), which can be read but once
        with path.open("rb") as file:
            return [_spool(name, file)]
    return _local(path)


def _local(path: Path) -> list[Source]:
    if not path.is_dir():
        return [_file(path, {})]
    sources = [_file(file, _constants(file.parent.relative_to(path).parts)) for file in _walk(path)]
    if not sources:
        raise DataError(f"{path}: is a directory without a file to read")
    return sources


def _walk(directory: Path) -> Iterator[Path]:
    try:
        entries = sorted(directory.iterdir())
    except OSError as error:
        raise DataError(f"{directory}: cannot be read: {reason(error)}") from None
    for entry in entries:
        if entry.name in _TABLES:
            kind = _TABLES[entry.name]
            raise DataError(
                f"{directory}: is a {kind} table, whose files hold rows that it no longer has; export it as Parquet"
            )
        if entry.name.startswith(_HIDDEN):
            continue
        if entry.is_dir():
            yield from _walk(entry)
        elif not _is_empty(entry):  # Spark writes a file for each task, whether it has rows or not
            yield entry


def _is_empty(path: Path) -> bool:
    try:
        found = path.stat()
        return stat.S_ISREG(found.st_mode) and found.st_size == 0
    except OSError:
        return False  # opening it says what is wrong


def _constants(parts: Sequence[str]) -> dict[str, str]:
    """The columns that directories such as `outlet=cnn` stand for."""
    pairs = [part.partition("=") for part in parts]
    return {unquote(key): "" if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value) for key, is_, value in pairs if is_}


def _file(path: Path, constants: Mapping[str, str]) -> Source:
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {reason(error)}") from None
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path}: is not a regular file")  # to open a pipe among others would wait for ever
    opened = _Local(path.absolute())
    return Source(str(path), opened, constants, (found.st_dev, found.st_ino), opened.state)


def _spool(name: str, file: IO[bytes]) -> Source:
    """A source of what can be read but once. It is kept in memory, and if it is large in an unnamed temporary file."""
    kept = tempfile.SpooledTemporaryFile(max_size=_SPOOLED)  # noqa: SIM115 (it lives as long as the source)
    shutil.copyfileobj(file, kept)

    def open_() -> IO[bytes]:
        kept.seek(0)
        return cast("IO[bytes]", _Kept(kept))

    source = Source(name, open_)
    weakref.finalize(source, kept.close)
    return source


class Adapter(io.RawIOBase):
    """What can be read, as Python's layers expect a file. Closing it leaves the other open."""

    def __init__(self, file: Any) -> None:  # noqa: ANN401
        self._file = file

    def readable(self) -> bool:  # noqa: D102
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401, D102
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Kept(Adapter):
    """A file that is read again and again."""

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._file.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        at: int = self._file.tell()
        return at


def bare(uri: str) -> str:
    """A URI without what may be secret: the keys before its host and its options."""
    scheme, _, rest = uri.partition("?")[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _remote(uri: str) -> list[Source]:
    """The objects below a URI, such as s3://bucket/posts/, by Arrow."""
    from pyarrow import ArrowException, fs

    name = bare(uri)
    try:
        system, path = fs.FileSystem.from_uri(uri)
        info = system.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            raise DataError(f"{name}: cannot be read: there is no such object")
        files = [info]
        if info.type == fs.FileType.Directory:
            files = sorted(
                (it for it in system.get_file_info(fs.FileSelector(path, recursive=True)) if it.is_file), key=lambda it: it.path
            )
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"{name}: cannot be read: {error}") from None
    scheme = uri.split("://", 1)[0]
    sources = []
    for file in files:
        parts = file.path[len(path) :].strip("/").split("/")
        if file.size and not any(part.startswith(_HIDDEN) for part in parts):
            opened = _Opening(system, file.path)
            sources.append(Source(f"{scheme}://{file.path}", opened, _constants(parts[:-1]), (scheme, file.path), opened.state))
    if not sources:
        raise DataError(f"{name}: holds no file to read")
    return sources


@dataclass(frozen=True)
class _Local:
    path: Path

    def __call__(self) -> IO[bytes]:
        return self.path.open("rb")

    def state(self) -> tuple[int, int]:
        found = self.path.stat()
        return found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class _Opening:
    system: Any
    path: str

    def __call__(self) -> IO[bytes]:
        return cast("IO[bytes]", self.system.open_input_file(self.path))

    def state(self) -> tuple[int, int]:
        found = self.system.get_file_info(self.path)
        return found.size or -1, found.mtime_ns or 0
