"""Flags that are environment variables as well: HEADLINES_ and the flag's name.

A flag goes before its variable, a variable before the default, and an empty variable counts as not set. Importable without
anything that has to be installed.
"""

from __future__ import annotations

import argparse
import difflib
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from service.errors import UsageError

_PREFIX = "HEADLINES_"
# The variables of `headlines serve` and `headlines predict`, which training may not import; and of the benchmarks.
_ELSEWHERE = """
    drain_seconds engine grace_seconds handshake_seconds host http_host http_port json log_format log_level
    max_connection_age max_connections max_headlines max_message_bytes max_metadata_bytes max_streams max_text_bytes
    max_version_bytes message_memory_bytes model_name models outlet poll_seconds port posted_at queue_headlines real_data
    reflection target timeout tls tls_ca tls_certificate tls_client_ca tls_client_certificate tls_client_key tls_key
    tls_server_name token_file tokens verbose version
""".split()  # noqa: SIM905
# What Kubernetes sets for each service whose name begins with `headlines`.
_LINK = re.compile(r"HEADLINES_(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT_\d+_(TCP|UDP|SCTP)\w*)")
_LINK_VALUES = ("tcp://", "udp://", "sctp://")

Parse = Callable[[str], Any]  # raises ValueError that says what would be right


@dataclass(frozen=True)
class _Flag:
    name: str
    parse: Parse
    default: Any
    required: bool
    several: bool

    @property
    def variable(self) -> str:
        return _PREFIX + _attribute(self.name).upper()

    def read(self, given: Any, environment: Mapping[str, str]) -> Any:  # noqa: ANN401
        source = self.name
        if given is None:
            source, given = self.variable, environment.get(self.variable) or None
            if given is not None and self.several:
                given = given.split(os.pathsep)
        if given is None:
            if self.required:
                raise UsageError(f"{self.name} ({self.variable}): is missing")
            return self.default
        if isinstance(given, bool):
            return given
        return [self._parse(part, source) for part in given] if self.several else self._parse(given, source)

    def _parse(self, text: str, source: str) -> Any:  # noqa: ANN401
        try:
            return self.parse(text)
        except ValueError as error:
            raise UsageError(f"{source}: {error}, not {text!r}") from None


class _Once(argparse.Action):
    """Stores a value, and refuses a second one, which would silently replace the first."""

    def __call__(self, parser: object, namespace: argparse.Namespace, values: Any, option_string: str | None = None) -> None:  # noqa: ANN401, ARG002
        if getattr(namespace, self.dest) is not None:
            raise argparse.ArgumentError(self, "is given twice")
        setattr(namespace, self.dest, values)


def add(
    parser: argparse.ArgumentParser,
    name: str,
    parse: Parse,
    help_: str,
    *,
    default: Any = None,  # noqa: ANN401
    shown: str = "",
    required: bool = False,
    several: bool = False,
    metavar: str | None = None,
) -> None:
    """Add a flag. `shown` is its default in words; with `several` it may be repeated and takes one value or more each time."""
    flag = _Flag(name, parse, default, required, several)
    parser.set_defaults(flags=[*(parser.get_default("flags") or ()), flag])
    said = "required" if required else f"default {shown or default}"
    help_ = f"{help_} ({said}; {flag.variable})".replace("%", "%%")
    if parse is yes_or_no:
        parser.add_argument(name, action=argparse.BooleanOptionalAction, default=None, help=help_)
    elif several:
        parser.add_argument(name, action="extend", nargs="+", metavar=metavar, help=help_)
    else:
        parser.add_argument(name, action=_Once, metavar=metavar, help=help_)


def read(arguments: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """Replace what was given by what it means; raises UsageError that names the flag or variable that is wrong."""
    for flag in arguments.flags:
        attribute = _attribute(flag.name)
        setattr(arguments, attribute, flag.read(getattr(arguments, attribute), environment))


def unknown(environment: Mapping[str, str], parsers: Mapping[str, argparse.ArgumentParser]) -> list[str]:
    """A sentence on each variable that begins as this program's do and is none of them."""
    flags = [flag for parser in parsers.values() for flag in parser.get_default("flags")]
    known = {flag.variable.removeprefix(_PREFIX) for flag in flags} | {name.upper() for name in _ELSEWHERE}
    sentences = []
    for name, value in sorted(environment.items()):
        is_link = _LINK.fullmatch(name) or value.startswith(_LINK_VALUES)
        own = name.removeprefix(_PREFIX)
        if own != name and own not in known and not is_link:
            near = difflib.get_close_matches(own, sorted(known), 1)
            hint = f"; did you mean {_PREFIX}{near[0]}?" if near else ""
            sentences.append(f"{name} is not a variable of this program{hint}")
    return sentences


def text(value: str) -> str:
    """Any text but an empty one."""
    if not value.strip():
        raise ValueError("must not be empty")
    return value


def path(value: str) -> Path:
    """A path."""
    return Path(text(value))


def yes_or_no(value: str) -> bool:
    """A boolean."""
    if value.strip().lower() not in {"true", "false", "1", "0", "yes", "no", "on", "off"}:
        raise ValueError("must be true or false")
    return value.strip().lower() in {"true", "1", "yes", "on"}


def whole(least: int, most: int = sys.maxsize) -> Parse:
    """A whole number within bounds, both inclusive."""
    bound = f", at most {most}" if most < sys.maxsize else ""

    def parse(value: str) -> int:
        number = int(value) if re.fullmatch("[0-9]{1,18}", value.strip(), re.ASCII) else -1
        if not least <= number <= most:
            raise ValueError(f"must be a whole number, {least} or greater{bound}")
        return number

    return parse


def number(right: str = "a number", least: float = -math.inf, most: float = math.inf) -> Parse:
    """A finite number within bounds, both inclusive; `right` says what would be right."""

    def parse(value: str) -> float:
        try:
            found = float(value)
        except ValueError:
            found = math.nan
        if not (math.isfinite(found) and least <= found <= most):
            raise ValueError(f"must be {right}")
        return found

    return parse


def one_of(*names: str) -> Parse:
    """One of some words."""

    def parse(value: str) -> str:
        if value not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return value

    return parse


def moment(value: str) -> float:
    """A time with its zone, as seconds since 1970-01-01 UTC."""
    try:
        found = datetime.fromisoformat(value.strip())
        if found.tzinfo is None:
            raise ValueError
        return found.timestamp()
    except (ValueError, OverflowError):
        raise ValueError("must be a time with its zone, such as 2016-03-01T18:30Z") from None


def at_least(value: str) -> tuple[str, float]:
    """NAME=VALUE: a figure and the least that it may be."""
    name, _, bound = value.partition("=")
    try:
        least = float(bound)
    except ValueError:
        least = math.nan
    if not name.strip() or not math.isfinite(least):
        raise ValueError("must be a figure's name, = and a number, such as main_auc=0.7")
    return name.strip(), least


def _attribute(name: str) -> str:
    return name.removeprefix("--").replace("-", "_")
