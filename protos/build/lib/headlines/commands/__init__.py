"""What the command `headlines` is made of.

Its subcommands are `Command`s: those of this package, and those that other distributions name by an entry point in the group
`headlines.commands`. Importable without anything that has to be installed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headlines.commands.errors import CommandError, UsageError
from headlines.commands.flags import Flag, Given

__all__ = ["Command", "CommandError", "Flag", "Given", "UsageError"]


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    return parser.parse_args(arguments)


@dataclass(frozen=True, kw_only=True)
class Command:
    """A subcommand."""

    help: str
    flags: Sequence[Flag]
    # Does it and returns the exit code. Raises CommandError; UsageError if what is given makes no sense together.
    run: Callable[[Given], int]
    # Parses the arguments, of which the flags are known to the parser. Raises UsageError.
    parse: Callable[[argparse.ArgumentParser, Sequence[str]], argparse.Namespace] = _parse
    is_server: bool = False  # it handles stop signals and logs warnings by itself
