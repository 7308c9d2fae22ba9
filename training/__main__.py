"""The commands that make model versions.

    python -m training synthesize --out data/made-up.csv.gz
    python -m training fit --data posts.csv.gz --models models
    python -m training evaluate --data later-posts.csv --models models

Each flag is also an environment variable: HEADLINES_ and its name.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from service.errors import DataError, HeadlinesError, UsageError
from training import flags
from training.job import Reading
from training.progress import busy
from training.settings import MAX_BAD_SHARE, MERGES, MIN_AGE, Settings

logger = logging.getLogger("training")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code: 0, 1 with a sentence on what went wrong, 2 where a flag is wrong, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m training", description="Makes model versions from past posts.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="synthesize|fit|evaluate")
    parsers = {"synthesize": _add_synthesize(commands), "fit": _add_fit(commands), "evaluate": _add_evaluate(commands)}
    args = parser.parse_args(arguments)
    name = f"{parser.prog} {args.command}"
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold what the terminal's encoding has not
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        for sentence in flags.unknown(os.environ, parsers):
            logger.warning("%s", sentence)
        flags.read(args, os.environ)
        args.run(args)
    except UsageError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except HeadlinesError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(
            f"{name}: {error.name} is not installed; in a checkout of this project: pip install '.[training]'", file=sys.stderr
        )
        return 2
    except OSError as error:  # a full disk names no file
        print(
            f"{name}: {error.filename or getattr(args, 'models', None) or args.out}: {error.strerror or error}", file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return 0


def _add_command(commands: Any, name: str, help_: str) -> argparse.ArgumentParser:  # noqa: ANN401
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help_, description=help_, allow_abbrev=False)
    return parser


def _add_synthesize(commands: Any) -> argparse.ArgumentParser:  # noqa: ANN401
    parser = _add_command(commands, "synthesize", "write a made-up data set with a known signal")
    flags.add(parser, "--out", flags.path, "the file to write", required=True, metavar="FILE")
    flags.add(parser, "--posts", flags.whole(1), "how many posts", default=20_000)
    flags.add(parser, "--seed", flags.whole(0), "another number makes another data set", default=0)
    parser.set_defaults(run=_synthesize)
    return parser


def _synthesize(args: argparse.Namespace) -> None:
    with busy("making up posts"):
        from training import synthesize

        logger.info("making up %d posts", args.posts)
        auc = synthesize.synthesize(args.out, args.posts, args.seed)
    print(
        f"{args.posts} made-up posts in {args.out}\n"
        f"The probabilities that they were made with have a ROC-AUC of {auc:.4f} on the latest tenth: no model can do better."
    )


def _add_data(parser: argparse.ArgumentParser) -> None:
    flags.add(
        parser,
        "--data",
        flags.path,
        "past posts: .csv, .jsonl (.gz), .parquet; may be given more than once",
        required=True,
        several=True,
        metavar="FILE",
    )
    flags.add(parser, "--models", flags.path, "the directory of model versions", required=True, metavar="DIR")
    flags.add(
        parser,
        "--min-age",
        flags.number("a number of days, 0 or greater", 0, 36_500),
        "younger posts are left out; they have not yet earned what they will",
        default=MIN_AGE / 86_400,
        metavar="DAYS",
    )
    flags.add(
        parser,
        "--collected-at",
        flags.moment,
        "when the counts were read",
        shown="the newest post's time",
        metavar="ISO",
    )
    flags.add(parser, "--assume-utc", flags.yes_or_no, "take times without a zone as UTC", default=False, shown="no")
    flags.add(
        parser,
        "--max-bad-share",
        flags.number("a share between 0 and 1, such as 0.01 for 1 %", 0, 1),
        "the share of bad rows that may be skipped",
        default=MAX_BAD_SHARE,
        metavar="SHARE",
    )


def _reading(args: argparse.Namespace) -> Reading:
    return Reading(args.min_age * 86_400, args.collected_at, args.assume_utc, args.max_bad_share)


def _add_fit(commands: Any) -> argparse.ArgumentParser:  # noqa: ANN401
    parser = _add_command(commands, "fit", "train on past posts, evaluate on the latest, export the next version")
    _add_data(parser)
    for field in dataclasses.fields(Settings):
        parse = {"int": flags.whole(0), "float": flags.number()}.get(str(field.type), flags.one_of(*MERGES))
        flags.add(parser, "--" + field.name.replace("_", "-"), parse, field.metadata["help"], default=field.default)
    flags.add(parser, "--tensorboard", flags.path, "write learning curves for TensorBoard here", shown="none", metavar="DIR")
    parser.set_defaults(run=_fit)
    return parser


def _fit(args: argparse.Namespace) -> None:
    from training import job

    settings = Settings(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Settings)})
    fitted = job.fit(args.data, args.models, settings, reading=_reading(args), tensorboard=args.tensorboard)
    from training import evaluate

    print(evaluate.table(fitted.evaluation))
    made_up = " It learned from made-up data and knows nothing of real headlines." if fitted.synthetic else ""
    print(f"Version {fitted.version} is in {fitted.path}; {fitted.path / 'report' / 'index.html'} shows it.{made_up}")


def _add_evaluate(commands: Any) -> argparse.ArgumentParser:  # noqa: ANN401
    parser = _add_command(commands, "evaluate", "score a version on later posts")
    _add_data(parser)
    flags.add(parser, "--version", flags.whole(1), "the version", shown="the highest", metavar="N")
    flags.add(
        parser, "--all", flags.yes_or_no, "score also the posts that the version was made from", default=False, shown="no"
    )
    flags.add(parser, "--json", flags.yes_or_no, "print the figures as one JSON object", default=False, shown="no")
    flags.add(
        parser,
        "--fail-below",
        flags.at_least,
        "end with exit code 1 if a figure is below this, such as main_auc=0.7; may be given more than once",
        shown="none",
        several=True,
        metavar="FIGURE=NUMBER",
    )
    parser.set_defaults(run=_evaluate)
    return parser


def _evaluate(args: argparse.Namespace) -> None:
    with busy("loading libraries"):
        from training import evaluate, job

    for name, _ in args.fail_below or ():
        if name not in evaluate.FIGURES:
            raise UsageError(f"--fail-below: there is no figure {name!r}; there are {', '.join(evaluate.FIGURES)}")
    evaluated = job.evaluate(args.data, args.models, version=args.version, all_posts=args.all, reading=_reading(args))
    figures = evaluated.evaluation.figures
    if args.json:
        print(json.dumps({"version": evaluated.version, "figures": figures}, allow_nan=False))
    else:
        print(evaluate.table(evaluated.evaluation))
    _check_figures(figures, args.fail_below or ())


def _check_figures(figures: Mapping[str, float], least: Sequence[tuple[str, float]]) -> None:
    """Raise DataError that names each figure that is below its bound, or undefined on these posts."""
    failed = [
        f"{name} is {figures[name]:.4f}, below {bound:g}" if name in figures else f"{name} is undefined on these posts"
        for name, bound in least
        if not figures.get(name, -math.inf) >= bound
    ]
    if failed:
        raise DataError("; ".join(failed))


if __name__ == "__main__":
    sys.exit(main())
