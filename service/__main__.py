"""The commands: `python -m service serve` answers predictions, the others ask a server.

Only what the chosen command needs is imported: all but `serve` work on the base install.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from service import signals

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_COMMANDS = {
    "serve": "answer predictions over gRPC",
    "predict": "ask a server for predictions",
    "model": "show what a server serves, and how good it is",
    "outlets": "list the outlets that a server's model knows",
    "healthcheck": "ask the server on this machine whether it is ready",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code, which is 2 where a flag or variable is wrong and 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # Before all else is imported: a signal that comes meanwhile must not be lost.
    mask = signals.block() if arguments[:1] == ["serve"] else signals.unblock()
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return 130  # as a shell reports it
    finally:
        signals.restore(mask)


def _run(arguments: Sequence[str]) -> int:
    import argparse

    from service.errors import CommandError, UsageError

    parser = argparse.ArgumentParser(
        prog="headlines",
        description="Predicts how popular news headlines will be.",
        epilog="Exit codes: 0 done, 1 failed, 2 a wrong flag or variable. `headlines COMMAND --help` says more.",
    )
    parser.add_argument("--version", action="store_true", help="print the versions of this program, Python and libraries")
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(_COMMANDS))
    parsers = {
        name: commands.add_parser(name, help=text, description=text, allow_abbrev=False) for name, text in _COMMANDS.items()
    }
    if not arguments:
        parser.print_help(sys.stderr)
        return 2
    if arguments[0] == "help":
        arguments = [*arguments[1:], "--help"]
    name = arguments[0]
    try:
        if name == "--version":
            return _print_versions()
        if name == "serve":
            return _serve(parser, parsers[name], arguments)
        if name == "healthcheck":
            return _healthcheck(parser, parsers[name], arguments)
        if name in parsers:
            return _ask(name, parsers[name], arguments[1:])
    except (UsageError, CommandError) as error:
        from service import console

        if str(error):
            console.note(f"headlines {name}: {error}")
        return 2 if isinstance(error, UsageError) else 1
    parser.parse_args(arguments)  # help, or what is wrong
    return 2


def _print_versions() -> int:
    from service import build

    print(build.describe(build.versions()))
    return 0


def _serve(parser: argparse.ArgumentParser, command: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    import logging

    from service import log, settings
    from service.errors import UsageError

    settings.add_arguments(command)
    parsed = parser.parse_args(arguments)
    chosen = settings.read(parsed, os.environ)
    log.set_up(chosen.log_level, chosen.log_format)
    try:
        stop_signals = signals.StopSignals(log.close)
        for warning in settings.warnings(parsed, os.environ):
            logging.getLogger(__name__).warning("%s", warning)
        try:
            from service import server
        except ModuleNotFoundError as error:
            raise UsageError(
                f"{error.name} is not installed; in a checkout of this project: pip install '.[service]'"
            ) from error
        server.run(chosen, stop_signals)
    finally:
        log.close()


def _ask(name: str, command: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # else it writes of its own what the error says in a sentence
    from service import description, predict

    if name == "predict":
        predict.add_arguments(command)
        return predict.run(predict.parse(command, arguments))
    description.add_arguments(command)
    run = description.show_model if name == "model" else description.list_outlets
    return run(command.parse_args(arguments))


def _healthcheck(parser: argparse.ArgumentParser, command: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    from service import healthcheck

    healthcheck.add_arguments(command)
    return healthcheck.run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
