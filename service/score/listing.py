"""A short list of headlines to standard output, best first: a table for people, CSV or JSON Lines for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from headlines.commands import console
from service.errors import UsageError
from service.model.version import Prediction, Version
from service.posts import sources
from service.posts.flags import Format
from service.score import scorer, shards

MOST = 100_000  # rows

_GROUP = "group"  # the column whose rows are compared with one another alone


class Row(NamedTuple):
    """A row of the input with its scores."""

    group: str
    cells: dict[str, Any]  # by the input's columns
    headline: str
    prediction: Prediction | None
    problem: str  # why there is none; empty: there is one

    @property
    def best(self) -> float:
        """The number to use; -1 if there is none."""
        return self.prediction.best if self.prediction else -1.0


def read(version: Version, data: Sequence[str], written: Format, posted_at: float) -> tuple[list[str], list[Row]]:
    """The columns of these files, and their rows with scores: best first, those of a group together.

    Raises DataError and UsageError.
    """
    rows: list[Row] = []
    names: dict[str, None] = {}
    for source in sources.expand(data):
        input_ = shards.cut(source, written)
        names |= dict.fromkeys(input_.names)
        for shard in input_.shards:
            for batch in scorer.batches(source, input_, shard, written, posted_at):
                if len(rows) + len(batch.problems) > MOST:
                    raise UsageError(f"more than {MOST:,} rows are too many for a list; name a directory with --out")
                rows += _rows(version, batch, input_.names)
    order: dict[str, int] = {}
    for row in rows:
        order.setdefault(row.group, len(order))
    return list(names), sorted(rows, key=lambda row: (order[row.group], -row.best))


def _rows(version: Version, batch: scorer.Batch, names: Sequence[str]) -> Iterator[Row]:
    own = batch.own.to_pydict() if hasattr(batch.own, "to_pydict") else dict(zip(names, batch.own, strict=True))
    predictions = iter(version.predict(batch.headlines).rows())
    headlines = iter(batch.headlines)
    group = next((name for name in names if name.strip().lower() == _GROUP), None)
    for i, problem in enumerate(batch.problems):
        cells = {name: own[name][i] for name in names}
        prediction, text = (None, "") if problem else (next(predictions), next(headlines)[0])
        yield Row("" if group is None else str(cells[group] or ""), cells, text, prediction, problem)


def _scores(row: Row, version: int) -> dict[str, Any]:
    found = row.prediction
    if found is None:
        return dict.fromkeys(shards.SCORES) | {"problem": row.problem}
    return {**found._asdict(), "best": row.best, "model_version": version, "problem": None}


def lines_of_csv(columns: Sequence[str], rows: Sequence[Row], version: int) -> Iterator[str]:
    """A header and a line for each row, without line ends."""
    names = [*columns, *shards.SCORES]
    yield _csv_line(names)
    for row in rows:
        cells = {**row.cells, **_scores(row, version)}
        yield _csv_line(["" if (cell := cells.get(name)) is None else _cell(cell) for name in names])


def _cell(cell: object) -> str:
    if isinstance(cell, bool):
        return str(cell).lower()
    return f"{cell:.6f}" if isinstance(cell, float) else str(cell)


def _csv_line(cells: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return out.getvalue()


def lines_of_json(rows: Sequence[Row], version: int) -> Iterator[str]:
    """An object for each row."""
    for row in rows:
        yield json.dumps({**row.cells, **_scores(row, version)}, default=str)


def table(rows: Sequence[Row], version: Version, width: int | None) -> Iterator[str]:
    """A table for people, and what it means."""
    group: str | None = None
    for row in rows:
        if row.group != group:
            if group is not None:
                yield ""
            if row.group:
                yield console.printable(row.group)
            yield "   best  unknown words  headline"
            group = row.group
        if row.prediction is None:
            yield f"      -                 {row.problem}"
            continue
        count, unknown = row.prediction.word_count, row.prediction.unknown_word_count
        words = f"{unknown} of {count}" if count else "no words"
        line = f"{'!' if unknown == count else ' '} {row.best * 100:>4.0f}%  {words:>13}  "
        yield line + console.cut(console.printable(row.headline), width and max(width - len(line), 10))
    yield ""
    scored = [row.prediction for row in rows if row.prediction]
    yield f"best: the chance that the post becomes popular; popular: {version.info.label.describe()}."
    known = sum(prediction.outlet_known for prediction in scored)
    if known < len(scored):
        yield f"{len(scored) - known} of {len(scored)} are judged by their words alone: the model does not know their outlet."
    if any(prediction.unknown_word_count == prediction.word_count for prediction in scored):
        yield "!: the model knows no word of this headline; the number means nothing."
    kind = "main" if known == len(scored) else "aux"
    gap = version.info.evaluation.get(f"{kind}_pair_gap")
    if gap is not None and len(scored) > 1:
        yield f"Headlines less than {gap * 100:.0f} points apart are about the same."
    synthetic = ", which was trained on made-up posts" if version.info.synthetic else ""
    yield f"Model version {version.number}{synthetic}."
