"""What the user says of how files are written, for every command that reads posts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headlines.commands import Flag, Given, UsageError
from headlines.commands.flags import yes_or_no
from service.posts import columns


@dataclass(frozen=True, kw_only=True)
class Format:
    """How files of posts are written, so far as it is not found by itself. The commands' help says more of each."""

    columns: Mapping[str, str] = field(default_factory=dict)  # the user's names of columns, by need
    time_zone: str = ""  # of times without a zone, as the tz database names it
    time_format: str = ""  # strptime's
    encoding: str = ""  # of text without a byte-order mark; empty: UTF-8


def given_format(given: Given) -> dict[str, Any]:
    """The fields of Format that flags give. Raises UsageError if two of them disagree."""
    if given.get("assume_utc") and given.get("time_zone", "UTC") != "UTC":
        raise UsageError(f"--assume-utc and --time-zone {given['time_zone']} cannot both be right; give one of them")
    named: dict[str, str] = {}
    for need, name in given.get("column", ()):
        if named.setdefault(need, name) != name:
            raise UsageError(f"--column names two columns for {need}, {named[need]!r} and {name!r}; give one of them")
    return {
        "columns": named,
        "time_zone": "UTC" if given.get("assume_utc") else given.get("time_zone", ""),
        "time_format": given.get("time_format", ""),
        "encoding": given.get("encoding", ""),
    }


def _encoding(given: str) -> str:
    """The name of an encoding of text."""
    try:
        b"a".decode(given)  # unlike codecs.lookup, refuses what does not decode to text
    except (LookupError, ValueError):
        raise ValueError("must be an encoding's name, such as utf-8, windows-1252 or utf-16-le") from None
    return given


def _zone(given: str) -> str:
    """A time zone's name."""
    from service.posts import times  # which takes numpy

    times.zone(given)
    return given


def _time_format(given: str) -> str:
    """A format of strptime."""
    from service.posts import times

    return times.check_format(given)


FLAGS = (
    Flag(
        name="column",
        parse=columns.parse_column,
        help="which column holds what, such as headline='Tweet text'; may be given more than once, for "
        + ", ".join(columns.NEEDS),
        metavar="NEED=NAME",
        default="as the exporter names them",
        several=True,
    ),
    Flag(
        name="time_zone",
        parse=_zone,
        help="of times without a zone, such as America/New_York; an abbreviation such as EST must be right for its date in it",
        metavar="ZONE",
    ),
    Flag(name="assume_utc", parse=yes_or_no, help="the same as --time-zone UTC", default=False),
    Flag(
        name="time_format",
        parse=_time_format,
        help="how times are written, in strptime's terms, such as '%d/%m/%Y %H:%M'",
        default="found by the first time of a file",
    ),
    Flag(name="encoding", parse=_encoding, help="of text files without a byte-order mark", default="utf-8"),
)
