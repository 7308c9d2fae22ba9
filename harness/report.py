"""How the programs read flags, and how they end: one way to fail."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from pathlib import Path


class BrokenError(Exception):
    """A promise is broken; says what was seen."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help is a module's docstring as it stands."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def models_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with --models, the directory of the version that is tried."""
    found = parser(description)
    found.add_argument("--models", type=Path, default=Path("models"))
    return found


def end(problems: Iterable[str]) -> None:
    """Print each broken promise once; if there is one, end the program with exit code 1."""
    for problem, count in (counted := Counter(problems)).items():
        print(f"BROKEN: {problem}" + (f" ({count} times)" if count > 1 else ""))
    if counted:
        raise SystemExit(1)
