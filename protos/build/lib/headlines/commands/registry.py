"""The subcommands that are installed, found by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module

from headlines.commands import Command, UsageError, flags

_GROUP = "headlines.commands"  # of entry points that name a Command
# Known without a look at what is installed, which takes a quarter of the start.
_OWN = {
    "predict": ("headlines.commands.predict", "PREDICT"),
    "model": ("headlines.commands.description", "MODEL"),
    "outlets": ("headlines.commands.description", "OUTLETS"),
}
# The commands that may be missing, and the extra that brings them.
_ELSEWHERE = {
    "serve": "service",
    "healthcheck": "service",
    "score": "score",
    "fit": "training",
    "inspect": "training",
    "evaluate": "training",
    "synthesize": "training",
}
NAMES = (*_OWN, *_ELSEWHERE)


def find(name: str) -> Command:
    """The command of this name. Raises UsageError that says how to install it, or which commands there are."""
    if name in _OWN:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # else gRPC writes on its own what an error says in a sentence
        module, attribute = _OWN[name]
        command: Command = getattr(import_module(module), attribute)
        return command
    if found := _installed(name).get(name):
        return found
    if name in _ELSEWHERE:
        raise UsageError(not_installed(f"the command {name}", _ELSEWHERE[name]))
    raise UsageError(f"there is no command {name!r}; there are {', '.join(NAMES)}")


def not_installed(what: str, extra: str) -> str:
    """A sentence on what is missing, with the command that installs it."""
    return f"{what} is not installed; in a checkout of this project: pip install ./protos '.[{extra}]'"


def installed() -> dict[str, Command]:
    """All commands that are installed, by name."""
    own = {}
    for name in _OWN:
        with suppress(ModuleNotFoundError):  # in a checkout alone, whose requirements are not installed
            own[name] = find(name)
    return own | _installed()


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """A sentence on each variable that begins as those of this program do and belongs to no command that is installed."""
    return flags.unknown(environment, [flag for command in installed().values() for flag in command.flags])


def _installed(name: str | None = None) -> dict[str, Command]:
    from importlib.metadata import entry_points

    commands = {}
    for entry in entry_points(group=_GROUP) if name is None else entry_points(group=_GROUP, name=name):
        try:
            commands[entry.name] = entry.load()
        except ModuleNotFoundError:  # its distribution is installed without this part, as in the image
            continue
    return commands
