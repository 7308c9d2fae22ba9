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
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.errors import DataError, HeadlinesError, UsageError, VersionError
from training import flags, libraries
from training.progress import busy
from training.settings import MAX_BAD_SHARE, MERGES, MIN_AGE, Settings

# Everything else is imported by the commands: a wrong flag is an error at once, and a missing extra a sentence.
if TYPE_CHECKING:
    from service.model import artifact
    from service.model.preprocessing import Headline
    from training.dataset import Dataset
    from training.features import Features

LIBRARIES = ("tensorflow", "keras", "numpy", "scikit-learn")
EXAMPLES = 32  # real headlines in examples.json, beside the made-up ones below
# What real headlines seldom show: no word, an unknown outlet, other scripts, more words than are read.
HOSTILE_HEADLINES = (
    "!!!",
    "東京 は Ａ１ \u2018rock\u2019n\u2019roll\u2019",
    "a\u0301 \u202eabc\u0000def",
    " ".join(["word"] * 120),
)

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


def _read(args: argparse.Namespace) -> Dataset:
    from training import dataset

    return dataset.read(
        args.data,
        min_age=args.min_age * 86_400,
        collected_at=args.collected_at,
        assume_utc=args.assume_utc,
        max_bad_share=args.max_bad_share,
    )


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
    settings = Settings(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Settings)})
    _check_writable(args.models)
    with busy("loading libraries"):
        from service.model import artifact
        from service.model.preprocessing import Preprocessor
        from training import features

    posts = _read(args)
    made = features.make(posts, seed=settings.seed)

    # TensorFlow takes seconds to import, and what is wrong with flags and data is told without it.
    libraries.prepare()
    from training import evaluate, export, fit, report
    from training.checkpoint import open_checkpoint
    from training.network import Network

    with open_checkpoint(args.models, fit.digest(made, settings)) as checkpoint:
        fitted = fit.fit(made, settings, checkpoint, tensorboard=args.tensorboard)
        parts = {"training": made.training, "validation": made.validation, "evaluation": made.evaluation}
        logger.info("evaluating on the latest posts")
        with busy("evaluating on the latest posts"):
            evaluation = evaluate.evaluate(parts, Network(fitted.model).predict, posts, intercepts=fitted.intercepts)
        info = _describe(posts, made, settings, evaluation.figures)
        logger.info("exporting the model")
        with busy("exporting the model"), artifact.publish(args.models) as staging:
            export.export(staging.path, fitted.model)
            artifact.write_vocabulary(staging.path, made.vocabulary)
            artifact.write_info(staging.path, info)
            preprocessor = Preprocessor(made.vocabulary, made.outlet_levels)
            artifact.write_examples(staging.path, export.examples(staging.path, preprocessor, _examples(posts, made)))
            report.write(staging.path, evaluation, info, posts, fitted.history)
    print(evaluate.table(evaluation))
    made_up = " It learned from made-up data and knows nothing of real headlines." if posts.synthetic else ""
    directory = args.models / str(staging.version)
    print(f"Version {staging.version} is in {directory}; {directory / artifact.REPORT / 'index.html'} shows it.{made_up}")


def _check_writable(models: Path) -> None:
    """Raise UsageError where no version can be made in `models`: now, and not when the training is done."""
    directory = next(path for path in (models, *models.absolute().parents) if path.exists())
    if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
        raise UsageError(f"--models {models}: {directory} is not a directory that can be written to")


def _describe(posts: Dataset, made: Features, settings: Settings, figures: Mapping[str, float]) -> artifact.ModelInfo:
    from service.model import artifact

    parts = {"training": made.training, "validation": made.validation, "evaluation": made.evaluation}
    return artifact.ModelInfo(
        created_at=time.time(),
        synthetic=posts.synthetic,
        vocabulary_size=len(made.vocabulary),
        outlet_levels=made.outlet_levels,
        label=artifact.Label("above_median", made.threshold, posts.counts),
        parts={
            name: artifact.Part(
                rows=len(part),
                positive_share=float(part.labels.mean(dtype=float)),
                first=float(part.posted_at[0]),
                last=float(part.posted_at[-1]),
            )
            for name, part in parts.items()
        },
        settings=dataclasses.asdict(settings),
        evaluation=figures,
        libraries={name: installed(name) for name in LIBRARIES},
        data_checksum=posts.checksum,
    )


def _examples(posts: Dataset, made: Features) -> list[Headline]:
    """Headlines for the server to reproduce: real ones of the validation part and hostile ones."""
    from service.model.preprocessing import Headline

    start, end = made.ends[:2]
    rows = [start + i * (end - start) // EXAMPLES for i in range(EXAMPLES)]
    outlets = [*posts.outlets, ""]  # the last is for index -1: none
    real = [
        Headline(text, float(posts.posted_at[row]), outlets[posts.outlet[row]])
        for row, text in zip(rows, posts.texts(rows), strict=True)
    ]
    return [*real, *(Headline(text, real[0].posted_at, "an outlet that is not known") for text in HOSTILE_HEADLINES)]


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
        import numpy as np

        from service.model import artifact
        from training import evaluate, features

    for name, _ in args.fail_below or ():
        if name not in evaluate.FIGURES:
            raise UsageError(f"--fail-below: there is no figure {name!r}; there are {', '.join(evaluate.FIGURES)}")
    numbers = artifact.versions(args.models)
    number = args.version or max(numbers, default=0)
    if number not in numbers:
        raise VersionError(f"{args.models} holds no version{f' {number}' if number else ''}; it holds {numbers or 'none'}")
    read = artifact.read(args.models / str(number))
    posts = _read(args)
    label = read.info.label
    if posts.counts != label.counts:
        raise DataError(f"the data count {' + '.join(posts.counts)}, but version {number} learned {' + '.join(label.counts)}")
    first = 0 if args.all else int(np.searchsorted(posts.posted_at, read.info.parts["validation"].last, side="right"))
    if first == len(posts):
        raise DataError(
            f"none of the {len(posts)} posts is later than what version {number} was made from; --all scores them all"
        )
    later = features.encode(posts, slice(first, None), read.vocabulary, read.info.outlet_levels, label.threshold)

    libraries.prepare()
    from training import export
    from training.network import Network

    network = Network(export.restore(read.path, read.info.settings["merge"]))
    with busy("evaluating"):
        evaluation = evaluate.evaluate({"evaluation": later}, network.predict, posts, first_row=first)
    if args.json:
        print(json.dumps({"version": number, "figures": evaluation.figures}, allow_nan=False))
    else:
        print(evaluate.table(evaluation))
    _check_figures(evaluation.figures, args.fail_below or ())


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
