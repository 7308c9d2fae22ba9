"""One model version on disk: what training writes and the service reads.

MODELS/
├── 7/                                  one version, complete from the moment that its name is there
│   ├── saved_model.pb  variables/  fingerprint.pb
│   ├── assets/vocabulary.txt
│   ├── assets.extra/{model.json, examples.json, cpu.tflite, SHA256SUMS}
│   └── report/                         for people; not covered by SHA256SUMS
├── 7.withdrawn                         an empty file: version 7 must not be served
├── .last_version                       the highest number ever given
├── .lock                               held while a version is begun or given its number
└── .tmp-*/                             versions in the making

A file is read once; those bytes are checked, and those bytes are what is loaded.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, TypeVar

import msgspec

from service.errors import Unreadable, VersionError
from service.model import labels, throttle
from service.model.labels import Label
from service.model.preprocessing import (
    AUX_FEATURES,
    FIRST_WORD,
    NEWEST_RULES,
    RULES,
    SEQUENCE_LENGTH,
    TIME_FEATURES,
    VOCABULARY_HEAD,
    Headline,
    is_time,
)

FORMAT = 2  # of new versions
FROZEN_SINCE = 2  # the first format with frozen features
VOCABULARY = "assets/vocabulary.txt"
INFO = "assets.extra/model.json"
EXAMPLES = "assets.extra/examples.json"
CPU_MODEL = "assets.extra/cpu.tflite"
CHECKSUMS = "assets.extra/SHA256SUMS"
REPORT = "report"

_STEP = 1 << 20  # bytes whose checksum is taken at a time: less than a millisecond
_MOST_CHECKSUMS = 1 << 20  # bytes of SHA256SUMS, read at every poll; a version of eight files has less than 1 kB
_MOST_REPORT = 5 << 20  # bytes of all its files
_LONGEST_PROBLEM = 500  # characters of what is wrong inside a file, which may quote it
_HIGHEST_LEVEL = 1e6  # in deviations: n posts allow the square root of n, and float32 holds what the network makes of this

_CHECKSUM_LINE = re.compile(r"([0-9a-f]{64})  ([^\\\0]+)")

_Kind = TypeVar("_Kind")


class Time(float):
    """Seconds since 1970-01-01 UTC, between the years 1 and 9999; in a file as ISO 8601 writes it."""


@dataclass(frozen=True)
class Teacher:
    """What the network learned from beside the labels."""

    model: str  # "ridge"
    share: float  # of the targets
    encoder_sha256: str | None = None  # of the sentence encoder's weights; none: it had no embeddings


@dataclass(frozen=True)
class Part:
    """A part of the data, cut by time."""

    rows: int
    positive_share: float
    first: Time
    last: Time


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """model.json: where a version comes from and what it expects."""

    format: int = FORMAT
    preprocessing: int = NEWEST_RULES
    created_at: Time
    synthetic: bool  # trained on made-up data
    sequence_length: int = SEQUENCE_LENGTH
    vocabulary_size: int  # lines of vocabulary.txt
    aux_features: tuple[str, ...] = AUX_FEATURES
    outlet_levels: Mapping[str, float]  # outlet keys and standardised levels
    # The values that stand in for all of TIME_FEATURES, whatever the posting time is; empty: none.
    frozen: Mapping[str, float] = field(default_factory=dict)
    # How much main_output's AUC falls on the validation part if the time features are permuted: "auc", the "high" end of its
    # one-sided 95 % interval, and the "rows"; empty if that was not looked at.
    time_worth: Mapping[str, float] = field(default_factory=dict)
    label: Label
    teacher: Teacher | None = None
    parts: Mapping[str, Part]  # training, validation, evaluation
    settings: Mapping[str, Any]  # of the training job
    evaluation: Mapping[str, float]  # figures on the latest part; what is undefined is absent
    libraries: Mapping[str, str]  # name and version
    data_checksum: str


@dataclass(frozen=True)
class _LabelRule:
    rule: Any = None


@dataclass(frozen=True)
class _Compatibility:
    """What of model.json decides whether the rest can be understood."""

    format: Any
    preprocessing: Any
    sequence_length: Any
    aux_features: Any
    label: _LabelRule = field(default_factory=_LabelRule)


class Example(NamedTuple):
    """A headline and what the exported model made of it, for the server to reproduce."""

    headline: Headline
    ids: list[int]
    aux: list[float]
    main_output: float
    aux_output: float


@dataclass(frozen=True)
class _ExampleRow:
    """An Example as examples.json has it."""

    headline: str
    posted_at: Time
    outlet: str
    ids: list[int]
    aux: list[float]
    main_output: float
    aux_output: float


@dataclass(frozen=True)
class Artifact:
    """A version as it was read: every byte checked against SHA256SUMS."""

    path: Path
    number: int
    digest: str  # hex SHA-256 of SHA256SUMS' bytes
    files: Mapping[str, bytes] = field(repr=False)  # by path relative to the version's directory
    info: ModelInfo = field(repr=False)
    vocabulary: Sequence[str] = field(repr=False)
    examples: Sequence[Example] = field(repr=False)


def versions(models: Path) -> list[int]:
    """The numbers of the versions in `models`, highest first; none if there is no such directory."""
    try:
        with os.scandir(models) as entries:
            return sorted(filter(None, map(version_number, entries)), reverse=True)
    except FileNotFoundError:
        return []


def version_number(entry: os.DirEntry[str]) -> int | None:
    """The version that an entry of MODELS is, if it is one.

    A link counts wherever it leads: one that leads nowhere or to itself is a version that cannot be read.
    """
    if not re.fullmatch("[1-9][0-9]{0,17}", entry.name):
        return None
    try:
        is_version = entry.is_symlink() or entry.is_dir()
    except OSError:  # a file system that does not say what its entries are
        is_version = True
    return int(entry.name) if is_version else None


def checksums(directory: Path) -> tuple[bytes, dict[str, str]]:
    """A version's SHA256SUMS, and the checksum of each file by its path. Raises VersionError."""
    content = _read_file(directory, CHECKSUMS, _MOST_CHECKSUMS, f"is larger than {_MOST_CHECKSUMS >> 20} MiB")
    sums: dict[str, str] = {}
    for line in _text(content, CHECKSUMS).removesuffix("\n").split("\n"):
        match = _CHECKSUM_LINE.fullmatch(line)
        path = PurePosixPath(match[2] if match else "")
        if not match or path.is_absolute() or ".." in path.parts or str(path) != match[2]:
            raise VersionError(f"{CHECKSUMS}: a line is not a checksum and a path inside the version, as sha256sum writes them")
        if sums.setdefault(match[2], match[1]) != match[1]:
            raise VersionError(f"{CHECKSUMS}: has two checksums for {match[2]}")
    return content, sums


def read(directory: Path, most_bytes: int = sys.maxsize) -> Artifact:
    """Read a version's directory whole.

    Raises VersionError, naming the file, if anything is missing, damaged, or of a format that this program does not know,
    and before anything is read if the files have more than `most_bytes` together. Raises Unreadable, a VersionError, if
    another try may succeed.
    """
    content, sums = checksums(directory)
    sizes = {name: _size(directory, name) for name in sums}
    if (total := sum(sizes.values())) > most_bytes:
        largest = max(sizes, key=lambda name: sizes[name])
        raise VersionError(
            f"{largest}: has {sizes[largest]:,} bytes, and the version {total:,} in all; "
            f"--max-version-bytes allows {most_bytes:,}"
        )
    files: dict[str, bytes] = {}
    for name, checksum in sums.items():
        data = files[name] = _read_file(directory, name, sizes[name], "grew while it was read")
        throttle.pause()
        if _checksum(data) != checksum:
            raise VersionError(f"{name}: its SHA-256 is not the one in {CHECKSUMS}; the file is damaged or incomplete")
    for name in ("saved_model.pb", VOCABULARY, INFO, EXAMPLES, CPU_MODEL):
        if name not in files:
            raise VersionError(f"{CHECKSUMS}: does not list {name}, which every version has")
    info = _parse_info(files[INFO])
    vocabulary = _text(files[VOCABULARY], VOCABULARY).removesuffix("\n").split("\n")
    if tuple(vocabulary[:FIRST_WORD]) != VOCABULARY_HEAD or len(vocabulary) != info.vocabulary_size:
        raise VersionError(f"{VOCABULARY}: must be an empty line, [UNK] and words, {info.vocabulary_size} lines in all")
    if not directory.name.isdecimal():
        raise VersionError(f"{directory.name}: a version's directory is named by its number")
    digest = hashlib.sha256(content).hexdigest()
    return Artifact(directory, int(directory.name), digest, files, info, vocabulary, _parse_examples(files[EXAMPLES]))


def read_report(directory: Path) -> dict[str, bytes]:
    """The files of a version's report by name; without what cannot be read, or is too large: nothing depends on a report."""
    files: dict[str, bytes] = {}
    with suppress(OSError):
        for path in sorted((directory / REPORT).iterdir()):
            if path.is_symlink():  # it may lead out of the version
                continue
            with suppress(VersionError):
                left = _MOST_REPORT - sum(map(len, files.values()))
                files[path.name] = _read_file(directory, f"{REPORT}/{path.name}", left, "is too large")
    return files


def probe(directory: Path, file: str, offset: int) -> None:
    """Raise VersionError if a version still cannot be read: read a byte of each file, and of `file` the one at `offset`."""
    for name in checksums(directory)[1]:
        try:
            with _open(directory, name) as opened:
                opened.seek(offset if name == file else 0)
                opened.read(1)
        except OSError as error:
            raise _unreadable(name, error) from error
        throttle.pause()


def _checksum(data: bytes) -> str:
    checksum = hashlib.sha256()
    for start in range(0, len(data), _STEP):
        checksum.update(memoryview(data)[start : start + _STEP])
        throttle.pause()
    return checksum.hexdigest()


@dataclass(frozen=True)
class Contents:
    """What describes an exported model: everything in a version but the model itself."""

    info: ModelInfo
    vocabulary: Sequence[str]  # vocabulary[i] is the word with id i
    examples: Sequence[Example]


def write(directory: Path, contents: Contents) -> None:
    """Complete a version's directory, which already holds the exported model. `read` is the counterpart."""
    _write(directory / VOCABULARY, "".join(word + "\n" for word in contents.vocabulary))
    rows = [_ExampleRow(it.headline.text, Time(it.headline.posted_at), it.headline.outlet, *it[1:]) for it in contents.examples]
    _write_json(directory / INFO, contents.info)
    _write_json(directory / EXAMPLES, rows)
    write_checksums(directory)


def write_checksums(directory: Path) -> None:
    """Write SHA256SUMS: it lists every file in the directory except itself and the report."""
    names = sorted(
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if path.is_file() and path.relative_to(directory).parts[0] != REPORT and path != directory / CHECKSUMS
    )
    lines = [f"{hashlib.sha256((directory / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    _write(directory / CHECKSUMS, "".join(lines))


def _write_json(path: Path, value: object) -> None:
    """Write a value as JSON. Raises ValueError if it holds what `read` would refuse, such as a number that is not finite."""
    encoded = msgspec.json.encode(value, enc_hook=_encode)
    msgspec.json.decode(encoded, type=list[_ExampleRow] if isinstance(value, list) else type(value), dec_hook=_decode)
    _write(path, msgspec.json.format(encoded, indent=1).decode() + "\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8", newline="\n")


def _encode(value: object) -> str:
    if isinstance(value, Time):
        return datetime.fromtimestamp(value, UTC).isoformat()
    raise NotImplementedError(type(value))


def _decode(kind: type, value: object) -> Time:
    if kind is not Time:
        raise NotImplementedError(kind)
    seconds = datetime.fromisoformat(value).timestamp() if isinstance(value, str) else math.nan
    if not is_time(seconds):
        raise ValueError("Expected a time between the years 1 and 9999, as ISO 8601 writes it")
    return Time(seconds)


def _read_file(directory: Path, name: str, most: int, too_large: str) -> bytes:
    """A file's content; VersionError says `too_large` of one with more than `most` bytes."""
    data = io.BytesIO()  # whose value is not copied
    try:
        with _open(directory, name) as file:
            while chunk := file.read(_STEP):
                if data.tell() + len(chunk) > most:
                    raise VersionError(f"{name}: {too_large}")
                data.write(chunk)
                throttle.pause()
    except OSError as error:
        raise _unreadable(name, error, data.tell()) from error
    return data.getvalue()


def _open(directory: Path, name: str) -> IO[bytes]:
    """Open a regular file without ever waiting for one that is a pipe or a device. Raises OSError and VersionError."""
    descriptor = os.open(directory / name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise VersionError(f"{name}: is not a regular file")
        return os.fdopen(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def _size(directory: Path, name: str) -> int:
    try:
        return (directory / name).stat().st_size
    except OSError as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: OSError, offset: int = 0) -> Unreadable:
    problem = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror or error}"
    return Unreadable(f"{name}: {problem}", name, offset)


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise VersionError(f"{name}: is not UTF-8") from error


def _parse(data: bytes, name: str, kind: type[_Kind]) -> _Kind:
    try:
        return msgspec.json.decode(data, type=kind, dec_hook=_decode)
    except (ValueError, RecursionError) as error:
        raise VersionError(f"{name}: {str(error)[:_LONGEST_PROBLEM]}") from error


def _parse_info(data: bytes) -> ModelInfo:
    found = _parse(data, INFO, _Compatibility)
    for key, known in (
        ("format", [*range(1, FORMAT + 1)]),
        ("preprocessing", [*RULES]),
        ("sequence_length", [SEQUENCE_LENGTH]),
        ("aux_features", [[*AUX_FEATURES]]),
    ):
        if (value := getattr(found, key)) not in known:
            raise _not_known(key, value, known)
    if (rule := found.label.rule) not in labels.RULES:
        raise _not_known("label.rule", rule, labels.RULES)
    info = _parse(data, INFO, ModelInfo)
    _check_frozen(info)
    if any(abs(level) > _HIGHEST_LEVEL for level in info.outlet_levels.values()):
        raise VersionError(f"{INFO}: 'outlet_levels' holds one beyond {_HIGHEST_LEVEL:g}, so it is not standardised")
    return info


def _not_known(key: str, value: object, known: Iterable[object]) -> VersionError:
    problem = f"{key!r} is {value!r}, and this program knows {' and '.join(map(repr, known))} alone"
    return VersionError(f"{INFO}: {problem[:_LONGEST_PROBLEM]}")


def _check_frozen(info: ModelInfo) -> None:
    """Raise VersionError unless all time features are frozen, each at what a sine or cosine may be, or nothing is."""
    if not info.frozen:
        return
    right = f"it holds {', '.join(TIME_FEATURES)}, or nothing"
    if info.format < FROZEN_SINCE:
        raise VersionError(f"{INFO}: 'frozen' is there, and format {info.format} has no frozen features")
    for name, value in info.frozen.items():
        if name not in TIME_FEATURES:
            raise VersionError(f"{INFO}: 'frozen' names {name[:_LONGEST_PROBLEM]!r}, which cannot be frozen; {right}")
        if not -1 <= value <= 1:
            raise VersionError(f"{INFO}: 'frozen.{name}' is {value!r}; it must be from -1 to 1, as sines and cosines are")
    for name in TIME_FEATURES:
        if name not in info.frozen:
            raise VersionError(f"{INFO}: 'frozen' lacks {name}; {right}")


def _parse_examples(data: bytes) -> list[Example]:
    rows = _parse(data, EXAMPLES, list[_ExampleRow])
    if not rows:
        raise VersionError(f"{EXAMPLES}: holds no example, so nothing shows that the model loads as it was trained")
    for i, row in enumerate(rows):
        if len(row.aux) != len(AUX_FEATURES):
            problem = f"'aux' holds {len(row.aux)} numbers, and there are {len(AUX_FEATURES)} features"
            raise VersionError(f"{EXAMPLES}: example {i}: {problem}")
    return [
        Example(Headline(row.headline, row.posted_at, row.outlet), row.ids, row.aux, row.main_output, row.aux_output)
        for row in rows
    ]
