"""A training job as functions: what `headlines fit` and `headlines evaluate` run, for notebooks and schedulers.

from training import job

fitted = job.fit(["posts.csv"], "models")
print(fitted.version, fitted.evaluation.figures["main_auc"])
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING

from service.errors import DataError, UsageError, VersionError
from training import libraries
from training.progress import busy
from training.settings import AS_GIVEN, Reading, Settings

# The rest is imported by the functions: TensorFlow takes seconds, and what is wrong with the data is said without it.
if TYPE_CHECKING:
    from service.model import artifact
    from service.model.preprocessing import Headline
    from training.dataset import Dataset
    from training.evaluate import Evaluation
    from training.features import Features
    from training.fit import Fit

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


@dataclass(frozen=True)
class Fitted:
    """A version that a fit has published."""

    version: int
    path: Path
    synthetic: bool  # trained on made-up data
    evaluation: Evaluation


@dataclass(frozen=True)
class Evaluated:
    """How a version does on posts."""

    version: int
    evaluation: Evaluation


def fit(
    data: Sequence[Path | str],
    models: Path | str,
    settings: Settings | None = None,
    *,
    reading: Reading = AS_GIVEN,
    tensorboard: Path | None = None,
) -> Fitted:
    """Train on past posts, evaluate on the latest of them, and publish the next version in `models`.

    A job that was interrupted resumes from its last checkpoint. Raises DataError if the data cannot be trained on, and
    UsageError if `models` is not writable or the settings make the weights overflow.
    """
    models = Path(models)
    settings = settings or Settings()
    _check_writable(models)
    with busy("loading libraries"):
        from training import dataset, inspect

    with busy("reading posts"):
        posts = dataset.read(data, reading)
        found = inspect.inspect(posts, seed=settings.seed, models=models)
    for sentence in found.warnings:
        logger.warning("%s", sentence)
    if found.features is None:
        raise DataError(found.problems[0])
    built = found.features

    libraries.prepare()
    from training import evaluate as evaluation_
    from training import fit as fit_
    from training.checkpoint import open_checkpoint
    from training.network import Network

    with open_checkpoint(models, fit_.digest(built, settings)) as checkpoint:
        fitted = fit_.fit(built, settings, checkpoint, tensorboard=tensorboard)
        parts = {"training": built.training, "validation": built.validation, "evaluation": built.evaluation}
        logger.info("evaluating on the latest posts")
        with busy("evaluating on the latest posts"):
            evaluation = evaluation_.evaluate(parts, Network(fitted.model).predict, posts, intercepts=fitted.intercepts)
        logger.info("exporting the model")
        with busy("exporting the model"):
            version = _publish(models, settings, posts, built, fitted, evaluation)
    return Fitted(version, models / str(version), posts.synthetic, evaluation)


def evaluate(
    data: Sequence[Path | str],
    models: Path | str,
    *,
    version: int | None = None,
    all_posts: bool = False,
    reading: Reading = AS_GIVEN,
) -> Evaluated:
    """Evaluate a version, by default the highest, on posts later than its validation part, or on `all_posts`.

    Raises VersionError if there is no such version, and DataError if no post is left or the data count something else.
    """
    with busy("loading libraries"):
        import numpy as np

        from service.model import artifact
        from training import cautions, dataset, features

    models = Path(models)
    numbers = artifact.versions(models)
    number = version or max(numbers, default=0)
    if number not in numbers:
        raise VersionError(f"{models} holds no version{f' {number}' if number else ''}; it holds {numbers or 'none'}")
    loaded = artifact.read(models / str(number))
    with busy("reading posts"):
        posts = dataset.read(data, reading, rules=loaded.info.preprocessing)
    for sentence in cautions.of_reading(posts, time.time()):
        logger.warning("%s", sentence)
    label = loaded.info.label
    if posts.counts != label.counts:
        raise DataError(f"the data count {' + '.join(posts.counts)}, but version {number} learned {' + '.join(label.counts)}")
    first = 0 if all_posts else int(np.searchsorted(posts.posted_at, loaded.info.parts["validation"].last, side="right"))
    if first == len(posts):
        raise DataError(
            f"none of the {len(posts)} posts is later than what version {number} was made from; --all scores them all"
        )
    later = features.encode(
        posts, slice(first, None), loaded.vocabulary, loaded.info.outlet_levels, label.threshold, loaded.info.frozen
    )

    libraries.prepare()
    from training import evaluate as evaluation_
    from training import export
    from training.network import Network

    network = Network(export.restore(loaded.path, loaded.info.settings["merge"]))
    with busy("evaluating"):
        evaluation = evaluation_.evaluate({"evaluation": later}, network.predict, posts, first_row=first)
    return Evaluated(number, evaluation)


def _check_writable(models: Path) -> None:
    """Raise UsageError if no version can be published in `models`: now, and not when the training is done."""
    directory = next(path for path in (models, *models.absolute().parents) if path.exists())
    if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
        raise UsageError(f"--models {models}: {directory} is not a directory that can be written to")


def _publish(models: Path, settings: Settings, posts: Dataset, built: Features, fitted: Fit, evaluation: Evaluation) -> int:
    """Export the model with its report as the next version, and return the version's number."""
    from service.model import artifact
    from service.model.preprocessing import Preprocessor
    from training import export, report
    from training.publish import new_version

    info = _describe(posts, built, settings, evaluation.figures)
    with new_version(models) as staging:
        export.export(staging.path, fitted.model)
        preprocessor = Preprocessor(built.vocabulary, built.outlet_levels, frozen=built.frozen)
        examples = export.examples(staging.path, preprocessor, _example_headlines(posts, built))
        artifact.write(staging.path, artifact.Contents(info, built.vocabulary, examples))
        report.write(staging.path, evaluation, info, posts, fitted.history)
    assert staging.version  # published, since the block did not raise
    return staging.version


def _describe(posts: Dataset, built: Features, settings: Settings, figures: Mapping[str, float]) -> artifact.ModelInfo:
    from service.model import artifact

    parts = {"training": built.training, "validation": built.validation, "evaluation": built.evaluation}
    return artifact.ModelInfo(
        created_at=artifact.Time(time.time()),
        synthetic=posts.synthetic,
        vocabulary_size=len(built.vocabulary),
        outlet_levels=built.outlet_levels,
        frozen=built.frozen,
        label=artifact.Label("above_median", built.threshold, posts.counts),
        parts={
            name: artifact.Part(
                rows=len(part),
                positive_share=float(part.labels.mean(dtype=float)),
                first=artifact.Time(part.posted_at[0]),
                last=artifact.Time(part.posted_at[-1]),
            )
            for name, part in parts.items()
        },
        settings=dataclasses.asdict(settings),
        evaluation=figures,
        libraries={name: installed(name) for name in LIBRARIES},
        data_checksum=posts.checksum,
    )


def _example_headlines(posts: Dataset, built: Features) -> list[Headline]:
    """Headlines for the server to reproduce: real ones of the validation part and hostile ones."""
    from service.model.preprocessing import Headline

    start, end = built.ends[:2]
    rows = [start + i * (end - start) // EXAMPLES for i in range(EXAMPLES)]
    outlets = [*posts.outlets, ""]  # the last is for index -1: none
    real = [
        Headline(text, float(posts.posted_at[row]), outlets[posts.outlet[row]])
        for row, text in zip(rows, posts.texts(rows), strict=True)
    ]
    return [*real, *(Headline(text, real[0].posted_at, "an outlet that is not known") for text in HOSTILE_HEADLINES)]
