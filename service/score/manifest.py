"""What a job scores, how and by which version: written when it begins, compared when it goes on."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from service.errors import DataError, UsageError, reason
from service.model.artifact import Artifact
from service.posts.flags import Format
from service.posts.sources import Source
from service.score import scorer, shards
from service.score.outputs import Output
from service.score.shards import Input, Shard

MANIFEST = "_MANIFEST.json"

_log = logging.getLogger(__name__)

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a job is asked for."""

    models: Path
    data: Sequence[str]
    out: str  # a directory, or a URI such as s3://bucket/scores
    version: int | None = None  # None: the highest that is not withdrawn
    engine: str = "auto"
    posted_at: float | None = None  # seconds since 1970-01-01 UTC, for rows without a time; None: the job's start
    written: Format = field(default_factory=Format)
    workers: int = 1  # processes, or actors of Ray
    on: str = ""  # ray: a cluster's nodes; empty: this machine
    shard_bytes: int = shards.SHARD_BYTES


class Manifest(msgspec.Struct, frozen=True):
    """The job, as `_MANIFEST.json` holds it."""

    format: int
    version: int
    digest: str  # of the version
    engine: str
    posted_at: float  # seconds since 1970-01-01 UTC, for rows without a time
    written: dict[str, Any]  # Format
    batch: int  # rows
    inputs: list[Input]


def read(out: Output) -> Manifest | None:
    """The manifest of the job that began in a directory; None if that is empty. Raises UsageError and DataError."""
    try:
        data = out.read(MANIFEST)
    except FileNotFoundError:
        if others := out.names():
            raise UsageError(
                f"--out: {out.name} holds {min(others)} but no {MANIFEST}, so it is no job's; name an empty directory"
            ) from None
        return None
    where = f"{out.name}/{MANIFEST}"
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as error:
        raise DataError(f"{where}: is damaged or of another version of this program ({error})") from None
    if (manifest.format, manifest.batch) != (_FORMAT, scorer.BATCH):
        raise DataError(f"{where}: is of another version of this program; go on with that, or name another --out")
    return manifest


def begin(out: Output, options: Options, inputs: dict[str, Source], version: Artifact, engine: str) -> Manifest:
    """Cut the inputs and write the manifest. Raises DataError and UsageError."""
    cut = []
    for source in inputs.values():
        _log.info("looking at %s", source.name)
        cut.append(shards.cut(source, options.written, options.shard_bytes))
        _log.info("%s: %s; %s", source.name, cut[-1].format, _taken(cut[-1]))
    posted_at = time.time() if options.posted_at is None else options.posted_at
    written = msgspec.to_builtins(options.written)
    manifest = Manifest(_FORMAT, version.number, version.digest, engine, posted_at, written, scorer.BATCH, cut)
    if out.names():  # where there is no lock
        raise UsageError(f"--out: another job has begun in {out.name}")
    out.write(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    return manifest


def check_same(
    manifest: Manifest, out: Output, options: Options, inputs: dict[str, Source], version: Artifact, engine: str
) -> None:
    """Raise UsageError if a job is to go on with other options, and DataError if an input has changed."""
    where = f"{out.name}/{MANIFEST} began this job"
    wanted: dict[str, tuple[object, object]] = {
        "--version": (version.digest, manifest.digest),
        "--engine": (engine, manifest.engine),
    }
    if options.posted_at is not None:
        wanted["--posted-at"] = (options.posted_at, manifest.posted_at)
    for key, value in msgspec.to_builtins(options.written).items():
        wanted[f"--{key.replace('_', '-')}"] = (value, manifest.written.get(key))
    wanted["--data"] = (sorted(inputs), sorted(input_.name for input_ in manifest.inputs))
    for flag, (now, then) in wanted.items():
        if now != then:
            raise UsageError(f"{flag}: {where} with another value; give the same one, or another --out")
    for input_ in manifest.inputs:
        if inputs[input_.name].state()[0] < 0:
            raise UsageError(f"{input_.name}: cannot be gone on with, since it can be read but once; name an empty --out")
        check_unchanged(inputs[input_.name], input_)


def check_unchanged(source: Source, input_: Input) -> None:
    """Raise DataError if an input is not what it was when the job began."""
    try:
        state = source.state()
    except OSError as error:
        raise DataError(f"{source.name}: cannot be read: {reason(error)}") from None
    if state != (input_.size, input_.modified):
        raise DataError(
            f"{source.name}: has changed since the job began, so that its scores would be of two files; name another --out"
        )


def part(input_: Input, shard: Shard) -> str:
    """The name of a shard's scores."""
    of = hashlib.sha256(f"{input_.name}\0{input_.size}\0{input_.modified}".encode("utf-8", "surrogateescape"))
    return f"part-{of.hexdigest()[:16]}-{shard.first_row:012d}.parquet"


def _taken(input_: Input) -> str:
    taken = {"headline": " or ".join(input_.headline), "posted_at": " + ".join(input_.posted_at), "outlet": input_.outlet}
    said = [need if need == name else f"{need} = {name}" for need, name in taken.items() if name]
    said += [f"no {need}" for need, name in taken.items() if not name]
    return ", ".join(said)
