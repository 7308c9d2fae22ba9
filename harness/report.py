"""How the programs read flags, and how they end: one way to fail."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from service.errors import HeadlinesError, UsageError


class BrokenError(Exception):
    """A promise is broken, or whether it holds could not be measured; each argument says what was seen."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help is a module's docstring as it stands."""
    spec = sys.modules["__main__"].__spec__
    return argparse.ArgumentParser(
        prog=f"python -m {spec.name.removesuffix('.__main__')}" if spec else None,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def models_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with --models, the directory of the version that is tried."""
    found = parser(description)
    found.add_argument("--models", type=Path, default=Path("models"))
    return found


def run(main: Callable[[], None]) -> None:
    """Run a program: exit code 1 and a line for each broken promise, 2 if a flag or variable is wrong."""
    try:
        main()
    except BrokenError as error:
        for problem, count in Counter(error.args).items():
            print(f"BROKEN: {problem}" + (f" ({count} times)" if count > 1 else ""))
        sys.exit(1)
    except HeadlinesError as error:
        print(error, file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)


def require_none(problems: Iterable[str]) -> None:
    """Raise BrokenError if there are any broken promises."""
    if seen := tuple(problems):
        raise BrokenError(*seen)
