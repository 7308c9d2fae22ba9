"""The report on a model version: a page for people, report/index.html, and its figures for programs, report/figures.json.

The page holds its pictures and styles and asks for nothing from anywhere. The pictures take their colours from the page's
style sheet, so that they follow it into the dark.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import matplotlib as mpl
import matplotlib.style
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from service.model.artifact import REPORT, ModelInfo
from training import card
from training.comparison import Comparison
from training.dataset import LEFT_OUT, Dataset
from training.evaluate import LEAST_OF_A_CLASS, METRICS, MODELS, Bin, Evaluation
from training.pairs import TELLING

if TYPE_CHECKING:  # training.fit loads TensorFlow
    from training.fit import Epoch

OUTLETS = 40  # that the page lists at most
_NUMBER = "a version that has no number yet"

_BAD = "whose time, headline or counts could not be used"

# Matplotlib writes these colours into the SVG, and they become the style sheet's.
_COLOURS = {
    "#010101": "--ink",
    "#020202": "--muted",
    "#030303": "--line",
    "#040404": "--main",
    "#050505": "--aux",
    "#060606": "--baseline",
    "#070707": "--truth",
}
_INK, _MUTED, _LINE, _MAIN, _AUX, _BASELINE, _TRUTH = _COLOURS
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",  # the same figures give the same bytes
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _LINE,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "lines.linewidth": 1.8,
}


def write(
    directory: Path,
    evaluation: Evaluation,
    info: ModelInfo,
    dataset: Dataset,
    history: Sequence[Epoch] = (),
    comparison: Comparison | None = None,
) -> None:
    """Write the report of a version into `directory`/report.

    `dataset` is the one that was evaluated, whose files hold the headlines to show. `history` is the fit's, if this is
    its report, and `comparison` that with the version before it. The version's number is added by `write_number`.

    Raises OSError if the directory cannot be written, and DataError if a file of the data is no longer what it was.
    """
    folder = directory / REPORT
    folder.mkdir(parents=True, exist_ok=True)
    fields = dataclasses.asdict(evaluation)
    (folder / "figures.json").write_text(json.dumps(fields, allow_nan=False, indent=1) + "\n", "utf-8")
    page = _page(evaluation, info, dataset, history, comparison)
    # A headline may hold half a surrogate pair, which has no place in UTF-8.
    (folder / "index.html").write_bytes(page.encode("utf-8", "replace"))


def write_number(directory: Path, number: int) -> None:
    """Write the version's number into its report, once it is known."""
    page = directory / REPORT / "index.html"
    page.write_bytes(page.read_bytes().replace(_NUMBER.encode(), f"version {number}".encode()))


def _page(
    evaluation: Evaluation, info: ModelInfo, dataset: Dataset, history: Sequence[Epoch], comparison: Comparison | None
) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        date=_date, minute=_minute, percent=_percent, thousands=_thousands, figure=_figure, difference=_difference
    )
    template = environment.from_string(Path(__file__).with_name("report.html").read_text("utf-8"))
    rows = [extreme.row for extremes in evaluation.extremes.values() for extreme in extremes]
    with mpl.style.context(["default", _STYLE]):  # whatever the user's matplotlibrc says
        pictures = _pictures(evaluation, history)
    return template.render(
        evaluation=evaluation,
        info=info,
        number=_NUMBER,
        lead=card.lead(evaluation),
        sentences=card.sentences(evaluation),
        upper_bound=card.UPPER_BOUND,
        about_time=card.about_time(info),
        about_teacher=card.about_teacher(info),
        comparison=comparison.describe() if comparison else "",
        files=[(Path(file.name).name, file.format, file.rows) for file in dataset.files],
        telling=TELLING,
        models=MODELS,
        metrics=METRICS,
        least=LEAST_OF_A_CLASS,
        pictures=pictures,
        read=dataset.read,
        left_out=_left_out(dataset),
        outlets=list(evaluation.outlets.items())[:OUTLETS],
        headlines=dict(zip(rows, dataset.texts(rows), strict=True)),
    )


def _left_out(dataset: Dataset) -> dict[str, int]:
    """Rows by the reason for which they are left out, in words."""
    return ({_BAD: dataset.bad} if dataset.bad else {}) | {LEFT_OUT[reason]: rows for reason, rows in dataset.dropped.items()}


def _pictures(evaluation: Evaluation, history: Sequence[Epoch]) -> dict[str, Markup]:
    pictures: dict[str, Markup] = {}
    if evaluation.models["main"].roc:
        with _picture(
            pictures, "roc", "Share of unpopular headlines above the cut", "Share of popular ones", height=3.6
        ) as axes:
            axes.plot([0, 1], [0, 1], color=_LINE, linewidth=1)
            for name, colour, line in (("baseline", _BASELINE, ":"), ("aux", _AUX, "--"), ("main", _MAIN, "-")):
                if name in evaluation.models:
                    axes.plot(*zip(*evaluation.models[name].roc, strict=True), line, color=colour)
            _percents(axes.xaxis, axes.yaxis)
            axes.set(xlim=(0, 1), ylim=(0, 1))
    for name, colour in (("main", _MAIN), ("aux", _AUX)):
        with _picture(pictures, f"calibration_{name}", "Score", "Share that became popular", height=3.6) as axes:
            axes.plot([0, 1], [0, 1], color=_LINE, linewidth=1)
            scores = evaluation.models[name]
            for bins, style in ((scores.before, "o:"), (scores.calibration, "o-")):
                axes.plot(
                    [b.score for b in bins],
                    [b.positive_share for b in bins],
                    style,
                    color=colour,
                    markersize=4,
                    markerfacecolor=colour if bins is scores.calibration else "none",
                )
            _percents(axes.xaxis, axes.yaxis)
            axes.set(xlim=(0, 1), ylim=(0, 1))
        if history:
            kept = min(range(len(history)), key=lambda number: history[number].validation.main)
            with _picture(pictures, f"learning_{name}", "Epoch", "Log loss") as axes:
                axes.axvline(kept + 1, color=_MUTED, linewidth=1)
                for losses, style in (([e.training for e in history], "o:"), ([e.validation for e in history], "o-")):
                    axes.plot(
                        range(1, len(losses) + 1), [getattr(loss, name) for loss in losses], style, color=colour, markersize=3
                    )
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    with _picture(pictures, "weeks", "Week beginning", "Share") as axes:
        # Not an axis of dates: one post dated to the year 1 is enough to push Matplotlib's out of its range.
        place = {monday: i for i, monday in enumerate(sorted(set().union(*evaluation.weeks.values())))}
        scored = [place[monday] for monday in evaluation.weeks[evaluation.part]]
        axes.axvspan(scored[0] - 0.5, scored[-1] + 0.5, color=_LINE, alpha=0.5, linewidth=0)
        for weeks in evaluation.weeks.values():
            _shares(axes, [place[monday] for monday in weeks], list(weeks.values()))
        ticks = np.unique(np.linspace(0, len(place) - 1, 4).astype(np.int64))
        axes.set_xticks(ticks, [list(place)[i] for i in ticks])
    if evaluation.pairs_by_gap["main"]:
        with _picture(pictures, "pairs", "Points between the two numbers", "Share in the right order", height=3.6) as axes:
            axes.axhline(0.5, color=_LINE, linewidth=1)
            axes.axhline(TELLING, color=_MUTED, linewidth=1, linestyle=":")
            for name, colour, line in (("aux", _AUX, "o--"), ("main", _MAIN, "o-")):
                gaps = evaluation.pairs_by_gap[name]
                middles = [50 * (it.low + it.high) for it in gaps]
                axes.plot(middles, [it.accuracy.value for it in gaps], line, color=colour, markersize=4)
                for middle, it in zip(middles, gaps, strict=True):
                    if name == "main" and it.accuracy.low is not None and it.accuracy.high is not None:
                        axes.plot([middle, middle], [it.accuracy.low, it.accuracy.high], color=colour, linewidth=1)
            _percents(axes.yaxis)
            axes.set(xlim=(0, 100), ylim=(min(0.4, axes.get_ylim()[0]), 1))
    with _picture(pictures, "hours", f"Hour of the day, {evaluation.zone}", "Share") as axes:
        _shares(axes, list(evaluation.hours), list(evaluation.hours.values()))
        axes.set_xticks(range(0, 25, 6))
    if evaluation.importance:
        with _picture(pictures, "importance", "ROC-AUC lost", "", height=3.6) as axes:
            for name, estimate in evaluation.importance.items():
                axes.barh(name, estimate.value, 0.4, color=_MAIN)
                if estimate.low is not None and estimate.high is not None:
                    axes.plot([estimate.low, estimate.high], [name, name], color=_INK, linewidth=1.2)
            axes.invert_yaxis()
            axes.grid(visible=False, axis="y")
    return pictures


def _shares(axes: Axes, x: Sequence[int], bins: Sequence[Bin]) -> None:
    axes.plot(x, [b.positive_share for b in bins], "s-", color=_TRUTH, markersize=4)
    axes.plot(x, [b.aux for b in bins], "o--", color=_AUX, markersize=3)
    axes.plot(x, [b.main for b in bins], "o-", color=_MAIN, markersize=3)
    _percents(axes.yaxis)
    axes.set_ylim(bottom=0)


@contextmanager
def _picture(pictures: dict[str, Markup], name: str, x: str, y: str, *, height: float = 2.8) -> Iterator[Axes]:
    """One pair of axes, which becomes `pictures[name]` as an SVG element. Narrow, so that a telephone need not shrink it."""
    figure = Figure(figsize=(4.4, height), layout="constrained")
    axes = figure.add_subplot(xlabel=x, ylabel=y)
    axes.set_axisbelow(True)
    yield axes
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = file.getvalue()
    svg = re.sub(' width="[^"]*" height="[^"]*"', f' role="img" aria-label="{name}"', svg[svg.index("<svg") :], count=1)
    for colour, variable in _COLOURS.items():
        svg = svg.replace(colour, f"var({variable})")
    pictures[name] = Markup(svg)  # drawn from numbers and words of our own alone, nothing that came with the data


def _percents(*axes: Axis) -> None:
    for axis in axes:
        axis.set_major_formatter(PercentFormatter(1, decimals=0))


def _date(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment.day} {moment:%B %Y}"


def _minute(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _thousands(number: float) -> str:
    return f"{number:,.0f}"


def _figure(value: float) -> str:
    return f"{value:.3f}"


def _difference(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")
