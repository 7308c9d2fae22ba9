"""The commands: `python -m service serve` answers predictions, `python -m service predict` asks for them.

Each imports what it needs when it is run: `predict` needs the base install alone.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from service import config, predict
from service.errors import UsageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code, which is 2 where a flag or variable is wrong."""
    parser = argparse.ArgumentParser(prog="headlines", description="Predicts how popular news headlines will be.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="serve|predict")
    serve_parser = commands.add_parser("serve", help="answer predictions over gRPC", allow_abbrev=False)
    config.add_arguments(serve_parser)
    predict_parser = commands.add_parser("predict", help="ask a server for predictions", allow_abbrev=False)
    predict.add_arguments(predict_parser)
    parsed = parser.parse_args(arguments)
    try:
        return serve(parsed) if parsed.command == "serve" else predict.run(parsed)
    except UsageError as error:
        print(f"headlines {parsed.command}: {error}", file=sys.stderr)
        return 2


def serve(parsed: argparse.Namespace) -> int:
    """Serve until told to stop."""
    settings = config.read(parsed, os.environ)
    from service import log

    log.set_up(settings.log_level)
    try:
        from service import server
    except ModuleNotFoundError as error:
        raise UsageError(f"needs {error.name}; pip install 'headline-popularity[service]'") from error
    server.run(settings)


if __name__ == "__main__":
    sys.exit(main())
