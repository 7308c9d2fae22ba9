"""The commands: `python -m service serve` answers predictions, `python -m service predict` asks for them.

Only what the chosen command needs is imported: `predict` works on the base install.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from service.errors import UsageError

_COMMANDS = {"serve": "answer predictions over gRPC", "predict": "ask a server for predictions"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code, which is 2 where a flag or variable is wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="headlines",
        description="Predicts how popular news headlines will be.",
        epilog="Exit codes: 0 done, 1 failed, 2 a wrong flag or variable. `headlines COMMAND --help` says more.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(_COMMANDS))
    parsers = {
        name: commands.add_parser(name, help=text, description=text, allow_abbrev=False) for name, text in _COMMANDS.items()
    }
    try:
        if arguments[:1] == ["serve"]:
            return _serve(parser, parsers["serve"], arguments)
        if arguments[:1] == ["predict"]:
            return _predict(parser, parsers["predict"], arguments)
    except UsageError as error:
        print(f"headlines {arguments[0]}: {error}", file=sys.stderr)
        return 2
    parser.parse_args(arguments)  # help, or what is wrong
    return 2


def _serve(parser: argparse.ArgumentParser, command: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    from service import config, log

    config.add_arguments(command)
    settings = config.read(parser.parse_args(arguments), os.environ)
    log.set_up(settings.log_level)
    try:
        from service import server
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed; in a checkout of this project: pip install '.[service]'") from error
    server.run(settings)


def _predict(parser: argparse.ArgumentParser, command: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # else it writes of its own what the error says in a sentence
    from service import predict

    predict.add_arguments(command)
    return predict.run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
