"""Flags that are environment variables as well: HEADLINES_ and the flag's name.

A flag takes precedence over its variable, and a variable over the default. An empty variable counts as not set, and so do those
that Kubernetes sets for a service called `headlines` (HEADLINES_PORT=tcp://...).
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

from headlines.commands.errors import UsageError

_PREFIX = "HEADLINES_"
_NO_FLAG = {"HEADLINES_REAL_DATA"}  # where tests and benchmarks find posts
_YES, _NO = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
_LINKS = ("tcp://", "udp://", "sctp://")  # how Kubernetes and Docker write another service's address
# Variables that they set for a service called `headlines` or `headlines-...`.
_LINK_NAMES = re.compile(r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)", re.ASCII)

Parse = Callable[[str], Any]  # raises ValueError that says what would be right


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A flag and its variable."""

    name: str  # in Python's form, such as http_port
    parse: Parse
    help: str
    default: Any = None  # shown in the help; whoever uses the value knows it
    metavar: str = ""  # by default the last word of the name
    required: bool = False
    several: bool = False  # may be given more than once, and takes one value or more each time

    @property
    def flag(self) -> str:
        """Such as --http-port."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Such as HEADLINES_HTTP_PORT."""
        return _PREFIX + self.name.upper()

    def __str__(self) -> str:
        """Both names, as messages begin with them."""
        return f"{self.flag} ({self.variable})"


class Given(dict[str, Any]):
    """What flags and variables say, by the flags' names in Python's form; what neither says is absent."""

    operands: Sequence[str] = ()  # the arguments that are no flags
    warnings: Sequence[str] = ()


def both_names(name: str) -> str:
    """The flag and the variable of this name, as messages begin with them."""
    return str(Flag(name=name, parse=text, help=""))


def add(parser: argparse.ArgumentParser, flags: Iterable[Flag]) -> None:
    """Add flags to a parser. Their values stay text until `read`."""
    for flag in flags:
        default = "required" if flag.required else f"default {_show(flag.default)}"
        help_ = f"{flag.help} ({default}; {flag.variable})".replace("%", "%%")
        if flag.parse is yes_or_no:
            parser.add_argument(flag.flag, action=argparse.BooleanOptionalAction, default=None, help=help_)
            continue
        metavar = flag.metavar or flag.name.rsplit("_", 1)[-1].upper()
        action, nargs = ("extend", "+") if flag.several else ("append", None)
        parser.add_argument(flag.flag, action=action, nargs=nargs, metavar=metavar, help=help_)


def read(arguments: argparse.Namespace, environment: Mapping[str, str], flags: Iterable[Flag]) -> Given:
    """What is given. Raises UsageError that names the flag or variable that is wrong, or what is required and missing."""
    given, warnings = Given(), []
    given.operands = getattr(arguments, "operands", ())
    for flag in flags:
        value = getattr(arguments, flag.name)
        if isinstance(value, bool):
            given[flag.name] = value
        elif value is not None:
            if not flag.several and len(set(value)) > 1:
                warnings.append(f"{flag.flag} is given {len(value)} times; the last one counts: {value[-1]!r}")
            texts = value if flag.several else value[-1:]
            given[flag.name] = _parse(flag, texts, flag.flag, flag.variable)
        elif (value := environment.get(flag.variable)) and not _is_link(flag.variable, value):
            texts = value.split(os.pathsep) if flag.several else [value]
            given[flag.name] = _parse(flag, texts, flag.variable, flag.flag)
        elif flag.required:
            raise UsageError(f"{flag}: is missing; {flag.help}")
    given.warnings = warnings
    return given


def _parse(flag: Flag, texts: Sequence[str], source: str, other: str) -> Any:  # noqa: ANN401
    values = []
    for given in texts:
        try:
            values.append(flag.parse(given.strip()))
        except ValueError as error:
            raise UsageError(f"{source} ({other}): {error}, not {given!r}") from None
    return values if flag.several else values[0]


def unknown(environment: Mapping[str, str], flags: Iterable[Flag]) -> list[str]:
    """A sentence on each variable that begins as those of these flags and is none of them."""
    from difflib import get_close_matches  # here: few commands need it

    known = {flag.variable for flag in flags} | _NO_FLAG
    sentences = []
    for variable, value in sorted(environment.items()):
        if variable.startswith(_PREFIX) and value and variable not in known and not _is_link(variable, value):
            near = get_close_matches(variable, sorted(known), 1, cutoff=0.85)
            hint = f"did you mean {near[0]}?" if near else "`headlines COMMAND --help` lists them"
            sentences.append(f"{variable} is not a variable of this program; {hint}")
    return sentences


def _is_link(variable: str, value: str) -> bool:
    """Whether Kubernetes or Docker set the variable for a service, and not a person."""
    if variable.endswith("PORT") and value.startswith(_LINKS):
        return True
    return bool(_LINK_NAMES.fullmatch(variable.removeprefix(_PREFIX)))


def _show(default: Any) -> str:  # noqa: ANN401
    if default is None:
        return "none"
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"{default:g}" if isinstance(default, float) else str(default)


def text(given: str) -> str:
    """Any text but an empty one."""
    if not given:
        raise ValueError("must not be empty")
    return given


def path(given: str) -> Path:
    """A path."""
    return Path(text(given))


def yes_or_no(given: str) -> bool:
    """A boolean, which has a flag without a value."""
    if given.lower() not in _YES + _NO:
        raise ValueError("must be true or false (or 1, yes, on, 0, no, off)")
    return given.lower() in _YES


def whole(least: int, most: int = sys.maxsize) -> Parse:
    """A whole number within bounds, both inclusive."""
    bound = f", at most {most}" if most < sys.maxsize else ""

    def parse(given: str) -> int:
        number = int(given) if re.fullmatch("[0-9]{1,18}", given, re.ASCII) else -1
        if not least <= number <= most:
            raise ValueError(f"must be a whole number, {least} or greater{bound}")
        return number

    return parse


def number(right: str = "a number", least: float = -math.inf, most: float = math.inf) -> Parse:
    """A finite number within bounds, both inclusive; `right` says what would be right."""

    def parse(given: str) -> float:
        try:
            found = float(given)
        except ValueError:
            found = math.nan
        if not (math.isfinite(found) and least <= found <= most):
            raise ValueError(f"must be {right}")
        return found

    return parse


def seconds(least: float) -> Parse:
    """A number of seconds."""
    return number(f"a number of seconds, {least:g} or greater", least)


def one_of(*names: str) -> Parse:
    """One of some words."""

    def parse(given: str) -> str:
        if given not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return given

    return parse


def moment(given: str) -> datetime:
    """A time with its zone."""
    right = "must be a time with its zone, such as 2026-03-01T18:30Z"
    try:
        found = datetime.fromisoformat(given)
        found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(right) from None
    if found.tzinfo is None:
        raise ValueError(f"{right}; add Z for UTC, or an offset such as +01:00")
    return found


def day_or_moment(given: str) -> datetime:
    """A day, which begins at midnight UTC, or a time with its zone."""
    try:
        return datetime.combine(date.fromisoformat(given), time(), UTC)
    except ValueError:
        return moment(given)
