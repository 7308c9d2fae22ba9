"""The commands that make model versions: `fit`, `inspect`, `evaluate` and `synthesize`."""

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
from headlines.commands.flags import Parse, day_or_moment, moment, number, one_of, path, text, whole, yes_or_no
from headlines.commands.progress import busy
from service import errors
from service.posts import columns, flags
from training.settings import MAX_BAD_SHARE, MIN_AGE, Reading, Settings

logger = logging.getLogger("training")

_DAY = 86_400
_NOT_PUBLISHED = 3  # exit code


def _command(help_: str, flags: Sequence[Flag], do: Callable[[Given], int | None]) -> Command:
    """A command whose errors end it with a sentence."""

    def run(given: Given) -> int:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold what the terminal's encoding has not
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
        for sentence in registry.unknown_variables(os.environ):
            logger.warning("%s", sentence)
        try:
            return do(given) or 0
        except errors.UsageError as error:
            raise UsageError(str(error)) from error
        except errors.HeadlinesError as error:
            raise CommandError(str(error)) from error
        except ModuleNotFoundError as error:
            raise UsageError(registry.not_installed(str(error.name), "training")) from error
        except OSError as error:  # a full disk names no file
            file = error.filename or given.get("models") or given.get("out") or "standard output"
            raise CommandError(f"{file}: {error.strerror or error}") from error
        except KeyboardInterrupt:
            console.note("interrupted")
            raise
        except Exception as error:
            tensorflow = sys.modules.get("tensorflow")
            if tensorflow and isinstance(error, tensorflow.errors.OpError):  # such as a GPU that others have filled
                reason = str(error).strip().splitlines()[0]
                raise CommandError(f"TensorFlow cannot go on: {type(error).__name__}: {reason}") from error
            raise

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


def _fit(given: Given) -> int:
    from training import job

    names = {field.name for field in dataclasses.fields(Settings)}
    settings = Settings(**{name: value for name, value in given.items() if name in names})
    fitted = job.fit(
        given["data"],
        given["models"],
        settings,
        reading=_reading(given),
        publish=given.get("publish", "always"),
        tensorboard=given.get("tensorboard"),
    )
    from training import evaluate

    print(evaluate.table(fitted.evaluation))
    made_up = " It learned from made-up data and knows nothing of real headlines." if fitted.synthetic else ""
    if fitted.comparison:
        print(fitted.comparison.describe())
    if fitted.version is None or fitted.path is None:
        print(f"Nothing is published: that it is not worse is not certain (--publish better).{made_up}")
        return _NOT_PUBLISHED
    print(f"Version {fitted.version} is in {fitted.path}; {fitted.path / 'report' / 'index.html'} shows it.{made_up}")
    return 0


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


def _inspect(given: Given) -> None:
    with busy("reading posts"):
        from training import dataset, inspect

        posts = dataset.read(given["data"], _reading(given), checked=False)
        found = inspect.inspect(posts, popular_above=given.get("popular_above", "auto"), models=given.get("models"))
    if given.get("json"):
        print(json.dumps(found.facts, allow_nan=False, indent=1))
    else:
        print("\n".join(inspect.describe(found)))
        if given.get("show"):
            print("\n".join(("", *inspect.show(posts))))
    if found.problems:
        raise errors.DataError("a fit would end, for what is said above")


def _reading(given: Given) -> Reading:
    return Reading(
        **flags.given_format(given),
        engagement=given.get("engagement", ()),
        empty_counts=given.get("empty_counts", "bad"),
        bad_counts=given.get("bad_counts", "end"),
        keep_retweets=given.get("keep_retweets", False),
        keep_replies=given.get("keep_replies", False),
        since=given["since"].timestamp() if "since" in given else None,
        min_age=given.get("min_age", MIN_AGE / _DAY) * _DAY,
        collected_at=given["collected_at"].timestamp() if "collected_at" in given else None,
        max_bad_share=given.get("max_bad_share", MAX_BAD_SHARE),
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
    choices: Sequence[str] = field.metadata.get("choices", ())
    parse: Parse = one_of(*choices) if choices else {"int": whole(0), "float": number()}.get(str(field.type), text)
    return Flag(
        name=field.name,
        parse=parse,
        help=field.metadata["help"],
        default=field.default,
        metavar=field.metadata.get("metavar", "|".join(choices)),
    )


_POSTS = 20_000
_POSTS_FILES = Flag(
    name="data",
    parse=text,
    help="past posts: CSV, JSON, Parquet or Excel files, directories, patterns, s3://, or - for standard input; may be given"
    " more than once",
    metavar="FILE",
    required=True,
    several=True,
)
_MODELS = Flag(name="models", parse=path, help="the directory of model versions", metavar="DIR", required=True)
_READING = (
    *flags.FLAGS,
    Flag(
        name="engagement",
        parse=columns.parse_counts,
        help="the counts that are added, such as likes,retweets,replies",
        default="retweets and likes",
        metavar="COUNTS",
    ),
    Flag(
        name="empty_counts",
        parse=one_of("bad", "zero"),
        help="what an empty count is: zero, or bad, so that the row is left out",
        default="bad",
        metavar="bad|zero",
    ),
    Flag(
        name="bad_counts",
        parse=one_of("end", "skip"),
        help="what a count that cannot be read does: end the job, or skip the row",
        default="end",
        metavar="end|skip",
    ),
    Flag(name="keep_retweets", parse=yes_or_no, help="learn also from retweets of others' posts", default=False),
    Flag(name="keep_replies", parse=yes_or_no, help="learn also from replies to others", default=False),
    Flag(name="since", parse=day_or_moment, help="earlier posts are left out", metavar="DATE"),
    Flag(
        name="min_age",
        parse=number("a number of days, 0 or greater", 0, 36_500),
        help="younger posts are left out; they have not yet earned what they will",
        default=MIN_AGE / _DAY,
        metavar="DAYS",
    ),
    Flag(name="collected_at", parse=moment, help="when the counts were read", default="the newest post's time", metavar="ISO"),
    Flag(
        name="max_bad_share",
        parse=number("a share between 0 and 1, such as 0.01 for 1 %", 0, 1),
        help="the share of bad rows that may be skipped",
        default=MAX_BAD_SHARE,
        metavar="SHARE",
    ),
)
_DATA = (_POSTS_FILES, _MODELS, *_READING)

COMMANDS = {
    "fit": _command(
        "train on past posts, evaluate on the latest, export the next version",
        (
            *_DATA,
            *map(_setting, dataclasses.fields(Settings)),
            Flag(
                name="publish",
                parse=one_of("always", "better"),
                help="always, or only a version that is not worse than the highest one there, for certain; else exit code 3",
                default="always",
                metavar="always|better",
            ),
            Flag(name="tensorboard", parse=path, help="write learning curves for TensorBoard here", metavar="DIR"),
        ),
        _fit,
    ),
    "inspect": _command(
        "say what would be trained on, and what of it may mislead; exit code 1 if fit would end",
        (
            _POSTS_FILES,
            dataclasses.replace(_MODELS, required=False, help="compare with the newest version in this directory"),
            *_READING,
            next(_setting(field) for field in dataclasses.fields(Settings) if field.name == "popular_above"),
            Flag(name="json", parse=yes_or_no, help="print one JSON object", default=False),
            Flag(name="show", parse=yes_or_no, help="print three posts as they were understood", default=False),
        ),
        _inspect,
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
FIT, INSPECT, EVALUATE, SYNTHESIZE = (COMMANDS[name] for name in ("fit", "inspect", "evaluate", "synthesize"))
