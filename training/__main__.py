"""The commands that make model versions.

    python -m training synthesize --out data/made-up.csv.gz
    python -m training fit --data posts.csv.gz --models models
    python -m training evaluate --data later-posts.csv --models models

Each flag is also an environment variable: HEADLINES_ and its name.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np

from service import artifact
from service.errors import DataError, HeadlinesError, UsageError, VersionError
from service.preprocessing import Headline, Preprocessor
from training import dataset, features, synthesize
from training.dataset import Dataset
from training.features import Features
from training.settings import MERGES, Settings

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
    _add_synthesize(commands)
    _add_fit(commands)
    _add_evaluate(commands)
    args = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its C++ tells of CPU features and missing GPUs
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for name in ("tensorflow", "absl"):  # they advise on how to write graphs
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        args.run(args)
    except UsageError as error:
        print(f"{parser.prog} {args.command}: {error}", file=sys.stderr)
        return 2
    except HeadlinesError as error:
        print(f"{parser.prog} {args.command}: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk names no file
        print(f"{parser.prog} {args.command}: {error.filename or args.models}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog} {args.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _add_synthesize(commands: Any) -> None:  # noqa: ANN401
    parser = commands.add_parser("synthesize", help="write a made-up data set with a known signal")
    _flag(parser, "--out", type=Path, required=True, metavar="FILE", help="the file to write")
    _flag(parser, "--posts", type=_positive, default=20_000, help="how many posts")
    _flag(parser, "--seed", type=int, default=0, help="another number makes another data set")
    parser.set_defaults(run=_synthesize)


def _synthesize(args: argparse.Namespace) -> None:
    auc = synthesize.synthesize(args.out, args.posts, args.seed)
    print(
        f"{args.posts} made-up posts in {args.out}\n"
        f"The probabilities that they were made with have a ROC-AUC of {auc:.4f} on the latest tenth: no model can do better."
    )


def _add_data(parser: argparse.ArgumentParser) -> None:
    _flag(
        parser, "--data", type=Path, nargs="+", required=True, metavar="FILE", help="past posts: .csv, .jsonl (.gz), .parquet"
    )
    _flag(parser, "--models", type=Path, required=True, metavar="DIR", help="the directory of model versions")
    _flag(
        parser,
        "--min-age",
        type=_days,
        default=dataset.MIN_AGE / 86_400,
        metavar="DAYS",
        help="younger posts are left out; they have not yet earned what they will",
    )
    _flag(
        parser,
        "--collected-at",
        type=_moment,
        default=None,
        metavar="ISO",
        help="when the counts were read (the newest post's time)",
    )
    _flag(parser, "--assume-utc", action="store_true", help="take times without a zone as UTC")
    _flag(
        parser,
        "--max-bad-share",
        type=float,
        default=dataset.MAX_BAD_SHARE,
        metavar="SHARE",
        help="the share of bad rows that may be skipped",
    )


def _read(args: argparse.Namespace) -> Dataset:
    return dataset.read(
        args.data,
        min_age=args.min_age * 86_400,
        collected_at=args.collected_at,
        assume_utc=args.assume_utc,
        max_bad_share=args.max_bad_share,
    )


def _add_fit(commands: Any) -> None:  # noqa: ANN401
    parser = commands.add_parser("fit", help="train on past posts, evaluate on the latest, export the next version")
    _add_data(parser)
    for field in dataclasses.fields(Settings):
        kind: Any = {"str": str, "int": int, "float": float}.get(str(field.type), str)
        choices = {"choices": MERGES} if field.name == "merge" else {}
        _flag(
            parser,
            "--" + field.name.replace("_", "-"),
            type=kind,
            default=field.default,
            help=field.metadata["help"],
            **choices,
        )
    _flag(parser, "--tensorboard", type=Path, default=None, metavar="DIR", help="write learning curves for TensorBoard here")
    parser.set_defaults(run=_fit)


def _fit(args: argparse.Namespace) -> None:
    settings = Settings(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Settings)})
    _check_writable(args.models)
    posts = _read(args)
    made = features.make(posts, seed=settings.seed)

    # TensorFlow takes seconds to import, and what is wrong with flags and data is told without it.
    from training import evaluate, export, fit, report
    from training.checkpoint import open_checkpoint
    from training.network import Network

    with open_checkpoint(args.models, fit.digest(made, settings)) as checkpoint:
        fitted = fit.fit(made, settings, checkpoint, tensorboard=args.tensorboard)
        logger.info("evaluating on the latest posts")
        parts = {"training": made.training, "validation": made.validation, "evaluation": made.evaluation}
        evaluation = evaluate.evaluate(parts, Network(fitted.model).predict, posts, intercepts=fitted.intercepts)
        info = _describe(posts, made, settings, evaluation.figures)
        with artifact.publish(args.models) as staging:
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
    start, end = made.ends[:2]
    rows = [start + i * (end - start) // EXAMPLES for i in range(EXAMPLES)]
    outlets = [*posts.outlets, ""]  # the last is for index -1: none
    real = [
        Headline(text, float(posts.posted_at[row]), outlets[posts.outlet[row]])
        for row, text in zip(rows, posts.texts(rows), strict=True)
    ]
    return [*real, *(Headline(text, real[0].posted_at, "an outlet that is not known") for text in HOSTILE_HEADLINES)]


def _add_evaluate(commands: Any) -> None:  # noqa: ANN401
    parser = commands.add_parser("evaluate", help="score a version on later posts")
    _add_data(parser)
    _flag(parser, "--version", type=_positive, default=None, metavar="N", help="the version (the highest)")
    _flag(parser, "--all", action="store_true", help="score also the posts that the version was made from")
    parser.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> None:
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

    from training import evaluate, export
    from training.network import Network

    network = Network(export.restore(read.path, read.info.settings["merge"]))
    print(evaluate.table(evaluate.evaluate({"evaluation": later}, network.predict, posts, first_row=first)))


def _flag(parser: argparse.ArgumentParser, name: str, **options: Any) -> None:  # noqa: ANN401
    """Add a flag whose default may come from the environment; what stands there is checked as the flag is."""
    value = os.environ.get("HEADLINES_" + name.removeprefix("--").replace("-", "_").upper())
    options["help"] = options["help"] + ("" if options.get("required") or "action" in options else " (default %(default)s)")
    if value:
        options["required"] = False
        if options.get("action") == "store_true":
            options["default"] = value.lower() in ("1", "true", "yes")
        elif "nargs" in options:
            options["default"] = [options["type"](part) for part in value.split(os.pathsep)]
        else:
            options["default"] = value
    parser.add_argument(name, **options)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 on")
    return value


def _days(text: str | float) -> float:
    value = float(text)
    if not 0 <= value < 36_500:
        raise argparse.ArgumentTypeError(f"{text} is not a number of days from 0 on")
    return value


def _moment(text: str) -> float:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text} has no zone; add one, such as Z")
    return moment.timestamp()


if __name__ == "__main__":
    sys.exit(main())
