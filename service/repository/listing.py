"""A directory of model versions as it looks from outside: what is there, and whether it has changed.

Nothing here reads a model. An entry that cannot be looked at hides no other one, and directories that are no versions are
never descended into, so that a scan costs the same whatever lies beside the versions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from service.errors import VersionError
from service.model import artifact, throttle

Fingerprint = tuple[tuple[str | int, ...], ...]  # of each file that SHA256SUMS lists, and itself: its path and what stat says

_NAMES = 10  # of what was passed over that are shown
_LONGEST_NAME = 40  # characters
_PROBLEMS = 3  # of failed versions that are shown
_LONGEST_PROBLEM = 200  # characters
_LONGEST = 1000  # characters of an explanation
_PEEK = 100  # entries of a directory in which versions are looked for that lie one level too deep


@dataclass(frozen=True)
class Listing:
    """What one look at MODELS found."""

    device: int  # the file system's number
    versions: tuple[int, ...]  # highest first; also those that cannot be read
    dangling: frozenset[int]  # versions that are links to what does not exist
    withdrawn: frozenset[int]  # by a file such as 7.withdrawn
    passed_over: tuple[str, ...]  # names that are no versions, without those that begin with a dot; not all
    parent: str  # the directory that MODELS is in, if MODELS itself looks like a version; or empty
    nested: str  # the name of a directory that holds versions, if MODELS holds none; or empty

    def holds(self, number: int) -> bool:
        """Whether the version is there, readable or not."""
        return number in self.versions and number not in self.dangling


def look(models: Path) -> Listing:
    """List the versions in `models`. Raises OSError if the directory itself cannot be read."""
    directory = os.open(models, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        device = os.fstat(directory).st_dev
        versions, dangling, withdrawn, passed_over = [], set(), set(), []
        is_version = False
        with os.scandir(directory) as entries:
            for entry in entries:
                if number := artifact.version_number(entry):
                    versions.append(number)
                    if entry.is_symlink() and _leads_nowhere(entry.name, directory):
                        dangling.add(number)
                elif match := re.fullmatch(r"([1-9][0-9]{0,17})\.withdrawn", entry.name):
                    withdrawn.add(int(match[1]))
                elif not entry.name.startswith("."):
                    is_version |= entry.name in {"saved_model.pb", "assets.extra"}
                    passed_over.append(entry.name)
                throttle.pause()
    finally:
        os.close(directory)
    passed_over.sort()
    return Listing(
        device,
        tuple(sorted(versions, reverse=True)),
        frozenset(dangling),
        frozenset(withdrawn),
        tuple(passed_over[: _NAMES + 1]),
        str(models.resolve().parent) if is_version else "",
        "" if versions or is_version else _nested(models, passed_over[:_NAMES]),
    )


def fingerprint(directory: Path, before: Fingerprint = ()) -> Fingerprint:
    """What changes when a version does, without reading its files; `before` is what this returned the last time.

    Links are followed, so that one that is switched shows. What cannot be looked at is the error's number.
    """
    listed = _stat(directory, artifact.CHECKSUMS)
    if len(before) > 1 and before[0] == listed:
        names = [str(name) for name, *_ in before[1:]]
    else:
        try:
            names = list(artifact.checksums(directory)[1])
        except VersionError:
            names = []
    found = [listed]
    for name in names:
        found.append(_stat(directory, name))
        throttle.pause()
    return tuple(found)


def explain(models: Path, listing: Listing, pinned: int | None, problems: Mapping[int, str]) -> str:
    """Why none of these versions is served, and what would be right, in one line; `problems` are by version."""
    said = []
    if listing.parent:
        said.append(f"it is itself a model version; name its parent, --models {listing.parent}")
    if pinned is not None and not problems:
        there = ", ".join(map(str, listing.versions[:_NAMES])) or "none"
        said.append(f"version {pinned}, which --version asks for, is not there; versions that are there: {there}")
    said += [f"version {number}: {problem[:_LONGEST_PROBLEM]}" for number, problem in islice(problems.items(), _PROBLEMS)]
    if len(problems) > _PROBLEMS:
        said.append(f"and {len(problems) - _PROBLEMS} more that failed")
    if listing.passed_over and not listing.parent:
        names = ", ".join(name[:_LONGEST_NAME] for name in listing.passed_over[:_NAMES])
        more = " and more" if len(listing.passed_over) > _NAMES else ""
        said.append(f"passed over, since only whole numbers name versions: {names}{more}")
    if listing.nested:
        said.append(f"{listing.nested} holds versions; name it, --models {models / listing.nested}")
    if not said:
        said.append("it is empty; is its volume mounted? `headlines fit --models` writes versions there")
    return _bounded(f"no model version is served; looked in {models} for directories such as {models / '1'}: {'; '.join(said)}")


def explain_error(models: Path, error: OSError) -> str:
    """Why `models` cannot be read, and what would be right, in one line."""
    if isinstance(error, FileNotFoundError):
        problem = "does not exist; create it, mount its volume, or name another directory with --models"
    elif isinstance(error, NotADirectoryError):
        problem = "is not a directory; name the directory of model versions with --models"
    else:
        problem = f"cannot be read by user {os.geteuid()}: {error.strerror or error}"
    return _bounded(f"{models} {problem}")


def _leads_nowhere(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def _nested(models: Path, names: list[str]) -> str:
    for name in names:
        try:
            with os.scandir(models / name) as entries:
                if any(map(artifact.version_number, islice(entries, _PEEK))):
                    return name
        except OSError:  # a file, or not for us
            continue
    return ""


def _stat(directory: Path, name: str) -> tuple[str | int, ...]:
    try:
        found = (directory / name).stat()
    except OSError as error:
        return name, error.errno or 0
    return name, found.st_dev, found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _bounded(text: str) -> str:
    """One line that can be printed: names of files may hold anything."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:_LONGEST]
