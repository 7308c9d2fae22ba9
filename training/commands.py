"""The commands that make model versions: `fit`, `evaluate` and `synthesize`."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from headlines.commands import Command, CommandError, Flag, Given, UsageError, console, registry
from headlines.commands.flags import Parse, moment, number, one_of, path, whole, yes_or_no
from service import errors
from training.job import Reading
from training.progress import busy
from training.settings import MAX_BAD_SHARE, MERGES, MIN_AGE, Settings

logger = logging.getLogger("training")

_DAY = 86_400


def _command(help_: str, flags: Sequence[Flag], do: Callable[[Given], None]) -> Command:
    """A command whose errors end it with a sentence."""

    def run(given: Given) -> int:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold what the terminal's encoding has not
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
        for sentence in registry.unknown_variables(os.environ):
            logger.warning("%s", sentence)
        try:
            do(given)
        except errors.UsageError as error:
            raise UsageError(str(error)) from error
        except errors.HeadlinesError as error:
            raise CommandError(str(error)) from error
        except ModuleNotFoundError as error:
            raise UsageError(registry.not_installed(str(error.name), "training")) from error
        except OSError as error:  # a full disk names no file
            file = error.filename or given.get("models") or given["out"]
            raise CommandError(f"{file}: {error.strerror or error}") from error
        except KeyboardInterrupt:
            console.note("interrupted")
            raise
        return 0

    return Command(help=help_, flags=flags, run=run)


def _synthesize(given: Given) -> None:
    with busy("making up posts"):
        from training import synthesize

        posts = given.get("posts", _POSTS)
        logger.info("making up %d posts", posts)
        auc = synthesize.synthesize(given["out"], posts, given.get("seed", 0))
    print(
        f"{posts} made-up posts in {given['out']}\n"
        f"The probabilities that they were made with have a ROC-AUC of {auc:.4f} on the latest tenth: no model can do better."
    )


def _fit(given: Given) -> None:
    from training import job

    names = {field.name for field in dataclasses.fields(Settings)}
    settings = Settings(**{name: value for name, value in given.items() if name in names})
    fitted = job.fit(given["data"], given["models"], settings, reading=_reading(given), tensorboard=given.get("tensorboard"))
    from training import evaluate

    print(evaluate.table(fitted.evaluation))
    made_up = " It learned from made-up data and knows nothing of real headlines." if fitted.synthetic else ""
    print(f"Version {fitted.version} is in {fitted.path}; {fitted.path / 'report' / 'index.html'} shows it.{made_up}")


def _evaluate(given: Given) -> None:
    with busy("loading libraries"):
        from training import evaluate, job

    least = given.get("fail_below", ())
    for name, _ in least:
        if name not in evaluate.FIGURES:
            raise UsageError(f"--fail-below: there is no figure {name!r}; there are {', '.join(evaluate.FIGURES)}")
    evaluated = job.evaluate(
        given["data"],
        given["models"],
        version=given.get("version"),
        all_posts=given.get("all", False),
        reading=_reading(given),
    )
    figures = evaluated.evaluation.figures
    if given.get("json"):
        print(json.dumps({"version": evaluated.version, "figures": figures}, allow_nan=False))
    else:
        print(evaluate.table(evaluated.evaluation))
    _check_figures(figures, least)


def _check_figures(figures: Mapping[str, float], least: Sequence[tuple[str, float]]) -> None:
    """Raise DataError that names each figure that is below its bound, or undefined on these posts."""
    failed = [
        f"{name} is {figures[name]:.4f}, below {bound:g}" if name in figures else f"{name} is undefined on these posts"
        for name, bound in least
        if not figures.get(name, -math.inf) >= bound
    ]
    if failed:
        raise errors.DataError("; ".join(failed))


def _reading(given: Given) -> Reading:
    return Reading(
        given.get("min_age", MIN_AGE / _DAY) * _DAY,
        given["collected_at"].timestamp() if "collected_at" in given else None,
        given.get("assume_utc", False),
        given.get("max_bad_share", MAX_BAD_SHARE),
    )


def _at_least(given: str) -> tuple[str, float]:
    """FIGURE=NUMBER: a figure and the least that it may be."""
    name, _, bound = given.partition("=")
    try:
        least = float(bound)
    except ValueError:
        least = math.nan
    if not name.strip() or not math.isfinite(least):
        raise ValueError("must be a figure's name, = and a number, such as main_auc=0.7")
    return name.strip(), least


def _setting(field: dataclasses.Field[object]) -> Flag:
    parse: Parse = {"int": whole(0), "float": number()}.get(str(field.type), one_of(*MERGES))
    return Flag(name=field.name, parse=parse, help=field.metadata["help"], default=field.default)


_POSTS = 20_000
_DATA = (
    Flag(
        name="data",
        parse=path,
        help="past posts: .csv, .jsonl (.gz), .parquet; may be given more than once",
        metavar="FILE",
        required=True,
        several=True,
    ),
    Flag(name="models", parse=path, help="the directory of model versions", metavar="DIR", required=True),
    Flag(
        name="min_age",
        parse=number("a number of days, 0 or greater", 0, 36_500),
        help="younger posts are left out; they have not yet earned what they will",
        default=MIN_AGE / _DAY,
        metavar="DAYS",
    ),
    Flag(name="collected_at", parse=moment, help="when the counts were read", default="the newest post's time", metavar="ISO"),
    Flag(name="assume_utc", parse=yes_or_no, help="take times without a zone as UTC", default=False),
    Flag(
        name="max_bad_share",
        parse=number("a share between 0 and 1, such as 0.01 for 1 %", 0, 1),
        help="the share of bad rows that may be skipped",
        default=MAX_BAD_SHARE,
        metavar="SHARE",
    ),
)

COMMANDS = {
    "fit": _command(
        "train on past posts, evaluate on the latest, export the next version",
        (
            *_DATA,
            *map(_setting, dataclasses.fields(Settings)),
            Flag(name="tensorboard", parse=path, help="write learning curves for TensorBoard here", metavar="DIR"),
        ),
        _fit,
    ),
    "evaluate": _command(
        "score a version on later posts",
        (
            *_DATA,
            Flag(name="version", parse=whole(1), help="the version", default="the highest", metavar="N"),
            Flag(name="all", parse=yes_or_no, help="score also the posts that the version was made from", default=False),
            Flag(name="json", parse=yes_or_no, help="print the figures as one JSON object", default=False),
            Flag(
                name="fail_below",
                parse=_at_least,
                help="end with exit code 1 if a figure is below this, such as main_auc=0.7; may be given more than once",
                metavar="FIGURE=NUMBER",
                several=True,
            ),
        ),
        _evaluate,
    ),
    "synthesize": _command(
        "write a made-up data set with a known signal",
        (
            Flag(name="out", parse=path, help="the file to write", metavar="FILE", required=True),
            Flag(name="posts", parse=whole(1), help="how many posts", default=_POSTS),
            Flag(name="seed", parse=whole(0), help="another number makes another data set", default=0),
        ),
        _synthesize,
    ),
}
FIT, EVALUATE, SYNTHESIZE = (COMMANDS[name] for name in ("fit", "evaluate", "synthesize"))
