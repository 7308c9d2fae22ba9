"""`python -m service serve` is `headlines serve`, which keeps stop signals from the first line on."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from service import signals


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    mask = signals.block() if arguments[:1] == ["serve"] else None
    try:
        from headlines.__main__ import main
        from service.commands import COMMANDS

        return main(arguments, COMMANDS)
    finally:
        if mask is not None:
            signals.restore(mask)


if __name__ == "__main__":
    sys.exit(main())
