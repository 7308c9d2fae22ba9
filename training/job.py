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
from typing import TYPE_CHECKING, Literal

from headlines.commands.progress import busy
from service.errors import DataError, UsageError, VersionError
from training import libraries
from training.settings import AS_GIVEN, Reading, Settings

# The rest is imported by the functions: TensorFlow takes seconds, and what is wrong with the data is said without it.
if TYPE_CHECKING:
    from service.model import artifact
    from service.model.preprocessing import Headline
    from training.checkpoint import Checkpoint
    from training.comparison import Comparison
    from training.encoder import Embeddings
    from training.evaluate import Evaluation
    from training.features import Features
    from training.fit import Fit, Vectors

LIBRARIES = ("tensorflow", "keras", "numpy", "scikit-learn")
LEAST_TIME_WORTH = 0.003  # of AUC: hour and day are frozen if they are worth less, with 95 % certainty
LEAST_TIME_ROWS = 2000  # of the validation part, for that to be said
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
    """What a fit has made."""

    version: int | None  # None: it was not published
    path: Path | None
    synthetic: bool  # trained on made-up data
    evaluation: Evaluation
    comparison: Comparison | None  # with the highest version before it; None: there was none


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
    publish: Literal["always", "better"] = "always",
    tensorboard: Path | None = None,
) -> Fitted:
    """Train on past posts, evaluate on the latest of them, and publish the next version in `models`.

    With `publish` "better", only if it is at least as good as the highest version there; see `training.comparison`. A job that
    was interrupted resumes from its last checkpoint. Raises DataError if the data cannot be trained on, and UsageError if
    `models` is not writable, the teacher cannot be read or the settings make the weights overflow.
    """
    models = Path(models)
    settings = settings or Settings()
    _check_writable(models)
    _check_teacher(settings.teacher)
    with busy("loading libraries"):
        from training import dataset, inspect

    with busy("reading posts"):
        posts = dataset.read(data, reading)
        found = inspect.inspect(posts, seed=settings.seed, popular_above=settings.popular_above, models=models)
    for sentence in found.warnings:
        logger.warning("%s", sentence)
    if found.features is None:
        raise DataError(found.problems[0])
    built = found.features
    logger.info("popular: %s", built.label.describe())

    libraries.prepare()
    from training import comparison
    from training import evaluate as evaluation_
    from training import fit as fit_
    from training.checkpoint import open_checkpoint
    from training.network import Network

    lesson = Lesson.prepare(built, settings, models)
    with open_checkpoint(models, fit_.digest(built, settings, lesson.teacher)) as checkpoint:
        learned = learn(built, settings, lesson, checkpoint, tensorboard=tensorboard)
        built, fitted = learned.features, learned.fit
        predict = Network(fitted.model).predict
        parts = {"training": built.training, "validation": built.validation, "evaluation": built.evaluation}
        logger.info("evaluating on the latest posts")
        with busy("evaluating on the latest posts"):
            evaluation = evaluation_.evaluate(parts, predict, built.posts, built.label, calibration=fitted.calibration)
            compared = comparison.compare(built, predict, models)
        if publish == "better" and compared is not None and not compared.is_better:
            return Fitted(None, None, posts.synthetic, evaluation, compared)
        logger.info("exporting the model")
        with busy("exporting the model"):
            version = _publish(models, settings, learned, lesson, evaluation, compared)
    return Fitted(version, models / str(version), posts.synthetic, evaluation, compared)


@dataclass(frozen=True)
class Learned:
    """A fit, and what it was fitted to."""

    features: Features
    fit: Fit
    time_worth: Mapping[str, float]  # as in model.json


def learn(
    built: Features,
    settings: Settings,
    lesson: Lesson,
    checkpoint: Checkpoint | None = None,
    *,
    tensorboard: Path | None = None,
) -> Learned:
    """Fit, and once more without the posting time if that turns out to be worth nothing on the validation part."""
    from training import evaluate as evaluation_
    from training import features
    from training import fit as fit_
    from training.network import Network

    fitted = fit_.fit(lesson.teach(built), settings, checkpoint, vectors=lesson.vectors, tensorboard=tensorboard)
    if built.frozen:
        return Learned(built, fitted, {})
    with busy("looking at what the posting time is worth"):
        worth = evaluation_.time_worth(built.validation, Network(fitted.model).predict, seed=settings.seed)
    if not worth:
        logger.info("the posting time stays: the validation part is too small to say what it is worth")
    elif worth["rows"] < LEAST_TIME_ROWS:
        logger.info(
            "the posting time stays: the validation part has %.0f posts, and %d are needed to say what it is worth",
            worth["rows"],
            LEAST_TIME_ROWS,
        )
    elif worth["high"] >= LEAST_TIME_WORTH:
        logger.info(
            "the posting time stays: it is worth %.4f of ROC-AUC on the validation part, perhaps %.4f",
            worth["auc"],
            worth["high"],
        )
    else:
        logger.info(
            "the posting time is worth %.4f of ROC-AUC on the validation part, less than %g for certain: fitting without it",
            worth["auc"],
            LEAST_TIME_WORTH,
        )
        built = features.freeze_times(built)
        phase = checkpoint.phase("without_time") if checkpoint else None
        fitted = fit_.fit(lesson.teach(built), settings, phase, vectors=lesson.vectors, tensorboard=tensorboard)
    return Learned(built, fitted, worth)


@dataclass(frozen=True)
class Lesson:
    """What the network learns from beside the labels."""

    share: float = 0.0  # 0: nothing
    embeddings: Embeddings | None = None  # of the training and validation part's headlines
    vectors: Vectors | None = None  # of the vocabulary's words
    teacher: artifact.Teacher | None = None  # as in model.json

    @classmethod
    def prepare(cls, built: Features, settings: Settings, models: Path) -> Lesson:
        """The lesson that the settings ask for; `models` keeps the embeddings for the next one."""
        from service.model import artifact
        from service.model.preprocessing import FIRST_WORD

        if settings.teacher == "none":
            return cls()
        from training import embeddings, encoder

        share = settings.teacher_share
        directory = encoder.find() if settings.teacher == "auto" else Path(settings.teacher)
        if directory is None:
            logger.info("teacher: ridge regression; no sentence encoder is installed, with which it would know more")
            return cls(share, teacher=artifact.Teacher("ridge", share))
        encoding = encoder.Encoder(directory)
        logger.info("teacher: ridge regression with the sentence encoder in %s", directory)
        embedded = embeddings.embed(encoding, built.posts.texts(range(built.ends[1])), models)
        vectors = encoding.vectors(built.vocabulary[FIRST_WORD:]) if settings.vector_scale else None
        return cls(share, embedded, vectors, artifact.Teacher("ridge", share, encoding.sha256))

    def teach(self, built: Features) -> Features:
        """The features with what the network shall learn as targets."""
        if self.teacher is None:
            return built
        from training import teacher

        with busy("fitting the teacher"):
            return teacher.teach(built, self.share, self.embeddings)


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
        from training import cautions, dataset, features, labels

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
    labelled = labels.apply(posts, label)
    without, posts = len(posts) - len(labelled.posts), labelled.posts
    if without:
        logger.info("%d posts have no label and are left out: %s", without, dataset.LEFT_OUT[labels.REASONS[label.rule]])
    if not len(posts):
        raise DataError(f"no post has a label by version {number}'s rule (popular: {label.describe()})")
    if all_posts:
        first = 0
    else:  # stories stand in the order of their first posts, so that the last post before the others may not be the last row
        before = np.flatnonzero(posts.posted_at <= loaded.info.parts["validation"].last)
        first = int(before[-1]) + 1 if len(before) else 0
    if first == len(posts):
        raise DataError(
            f"none of the {len(posts)} posts is later than what version {number} was made from; --all scores them all"
        )
    later = features.encode(labelled, slice(first, None), loaded.vocabulary, loaded.info.outlet_levels, loaded.info.frozen)

    libraries.prepare()
    from training import evaluate as evaluation_
    from training import export
    from training.network import Network

    network = Network(export.restore(loaded.path, loaded.info.settings["merge"]))
    with busy("evaluating"):
        evaluation = evaluation_.evaluate({"evaluation": later}, network.predict, posts, label, first_row=first)
    return Evaluated(number, evaluation)


def _check_writable(models: Path) -> None:
    """Raise UsageError if no version can be published in `models`: now, and not when the training is done."""
    directory = next(path for path in (models, *models.absolute().parents) if path.exists())
    if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
        raise UsageError(f"--models {models}: {directory} is not a directory that can be written to")


def _check_teacher(teacher: str) -> None:
    """Raise UsageError if there is no such directory: now, and not when the posts are read."""
    if teacher not in ("auto", "none") and not Path(teacher).is_dir():
        raise UsageError(f"--teacher {teacher}: is not a directory; it must be auto, none or one that holds a sentence encoder")


def _publish(
    models: Path,
    settings: Settings,
    learned: Learned,
    lesson: Lesson,
    evaluation: Evaluation,
    compared: Comparison | None,
) -> int:
    """Export the model with its report as the next version, and return the version's number."""
    from service.model import artifact
    from service.model.preprocessing import Preprocessor
    from training import card, export, report
    from training.publish import new_version

    built, fitted = learned.features, learned.fit
    info = _describe(learned, lesson, settings, evaluation.figures)
    with new_version(models) as staging:
        export.export(staging.path, fitted.model)
        preprocessor = Preprocessor(built.vocabulary, built.outlet_levels, frozen=built.frozen)
        examples = export.examples(staging.path, preprocessor, _example_headlines(built))
        card.write(staging.path, evaluation, info, compared)
        artifact.write(staging.path, artifact.Contents(info, built.vocabulary, examples))
        report.write(staging.path, evaluation, info, built.posts, fitted.history, compared)
        staging.on_number = lambda number: report.write_number(staging.path, number)
    assert staging.version  # published, since the block did not raise
    return staging.version


def _describe(learned: Learned, lesson: Lesson, settings: Settings, figures: Mapping[str, float]) -> artifact.ModelInfo:
    from service.model import artifact

    built, posts = learned.features, learned.features.posts

    parts = {"training": built.training, "validation": built.validation, "evaluation": built.evaluation}
    return artifact.ModelInfo(
        created_at=artifact.Time(time.time()),
        synthetic=posts.synthetic,
        vocabulary_size=len(built.vocabulary),
        outlet_levels=built.outlet_levels,
        frozen=built.frozen,
        time_worth=learned.time_worth,
        label=built.label,
        teacher=lesson.teacher,
        parts={
            name: artifact.Part(
                rows=len(part),
                positive_share=float(part.labels.mean(dtype=float)),
                first=artifact.Time(part.posted_at.min()),
                last=artifact.Time(part.posted_at.max()),
            )
            for name, part in parts.items()
        },
        settings=dataclasses.asdict(settings) | {"teacher": Path(settings.teacher).name},  # not a path of this machine
        evaluation=figures,
        libraries={name: installed(name) for name in LIBRARIES},
        data_checksum=posts.checksum,
    )


def _example_headlines(built: Features) -> list[Headline]:
    """Headlines for the server to reproduce: real ones of the validation part and hostile ones."""
    from service.model.preprocessing import Headline

    posts = built.posts
    start, end = built.ends[:2]
    rows = [start + i * (end - start) // EXAMPLES for i in range(EXAMPLES)]
    outlets = [*posts.outlets, ""]  # the last is for index -1: none
    real = [
        Headline(text, float(posts.posted_at[row]), outlets[posts.outlet[row]])
        for row, text in zip(rows, posts.texts(rows), strict=True)
    ]
    return [*real, *(Headline(text, real[0].posted_at, "an outlet that is not known") for text in HOSTILE_HEADLINES)]
