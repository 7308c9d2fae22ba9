"""How the programs read flags, print figures, and end: one way to fail."""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure over the runs that have it: those in which it is not NaN."""
    values = {name: [run[name] for run in runs if not math.isnan(run[name])] for name in runs[0]}
    return {name: statistics.median(some or [math.nan]) for name, some in values.items()}


class Table:
    """A table that is printed row by row: a name, then figures that are aligned below their heads."""

    def __init__(self, name: str, columns: Mapping[str, str], width: int = 12) -> None:
        """`columns` are heads, each with the format of its figures, or "<" for text; `width` is that of the names."""
        self._columns = columns
        self._width = width
        self._print(name, columns)

    def row(self, name: object, *figures: object) -> None:
        """Print a row; a figure that is None or NaN, or missing at the end, is left blank."""
        cells = zip(self._columns.values(), figures, strict=False)
        self._print(name, ("" if it is None or it != it else format(it, spec) for spec, it in cells))

    def _print(self, name: object, cells: Iterable[str]) -> None:
        line = f"{name!s:{self._width}}"
        for (head, spec), cell in zip(self._columns.items(), cells, strict=False):
            line += f"  {cell}" if spec == "<" else f"{cell:>{max(9, len(head) + 2)}}"
        print(line.rstrip(), flush=True)
