"""The command `headlines`: `predict`, `model` and `outlets` ask a server; what else is installed adds its commands.

Only what the chosen command needs is imported.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from headlines.commands import Command


def main(arguments: Sequence[str] | None = None, commands: Mapping[str, Command] | None = None) -> int:
    """Run a subcommand, of `commands` or of those that are installed.

    Returns its exit code: 0, 1 if it failed, 2 if a flag or variable is wrong, 130 after Ctrl-C.
    """
    from headlines.commands import CommandError, console, registry

    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or [""]
    mask = None
    try:
        if name in {"", "-h", "--help"} or (name == "help" and not rest):
            return _print_help(sys.stdout if name else sys.stderr)
        if name == "--version":
            return _print_versions()
        if name == "help":
            name, rest = rest[0], ["--help"]
        command = (commands or {}).get(name) or registry.find(name)
        if not command.is_server:
            mask = _unblock_signals()
        return _run(name, command, rest)
    except CommandError as error:
        if str(error):
            console.note(f"{_program(name)}: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130  # as a shell reports it
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _run(name: str, command: Command, arguments: Sequence[str]) -> int:
    import argparse

    from headlines.commands import console, flags

    parser = argparse.ArgumentParser(prog=_program(name), description=command.help, allow_abbrev=False)
    flags.add(parser, command.flags)
    given = flags.read(command.parse(parser, arguments), os.environ, command.flags)
    if not command.is_server:
        for warning in given.warnings:
            console.note(f"{parser.prog}: {warning}")
    return command.run(given)


def _program(name: str) -> str:
    return f"headlines {name}" if name[:1] not in {"", "-"} else "headlines"


def _print_help(stream: TextIO) -> int:
    from headlines.commands import registry

    installed = registry.installed()
    lines = [
        "usage: headlines COMMAND ...",
        "",
        "Predicts how popular news headlines will be.",
        "",
        *(f"  {name:<12} {installed[name].help if name in installed else 'not installed'}" for name in registry.NAMES),
        *(f"  {name:<12} {command.help}" for name, command in installed.items() if name not in registry.NAMES),
        "",
        "`headlines COMMAND --help` says more, `headlines --version` what is installed.",
        "Exit codes: 0 done, 1 failed, 2 a wrong flag or variable.",
    ]
    print("\n".join(lines), file=stream)
    return 0 if stream is sys.stdout else 2


def _print_versions() -> int:
    from headlines.commands import versions

    print(versions.describe(versions.installed()))
    return 0


def _unblock_signals() -> set[int] | None:
    """Let the signals through that the image blocks for its server; returns the mask as it was."""
    if sys.platform == "win32":
        return None
    stops = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    if os.getpid() == 1:  # the kernel drops what it has no handler for
        for number in stops - {signal.SIGINT}:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    return set(signal.pthread_sigmask(signal.SIG_UNBLOCK, stops))


if __name__ == "__main__":
    sys.exit(main())
