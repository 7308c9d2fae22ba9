"""Builds what the network sees from rows: labels, word ids, auxiliary features, in parts cut by time.

The outlet level is a smoothed target encoding of the outlet. A label's threshold, vocabulary and target encoding are fitted on
the training part alone. Word ids and auxiliary features equal what `Preprocessor(vocabulary, outlet_levels).encode` computes
for the same headlines, except for the training part's outlet levels, which are out of fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from service.errors import DataError
from service.model.labels import ABOVE_MEDIAN, ABOVE_OUTLET_MEDIAN, ABOVE_STORY_MEAN, Label
from service.model.preprocessing import (
    AUX_FEATURES,
    FIRST_WORD,
    SEQUENCE_LENGTH,
    TIME_FEATURES,
    UNKNOWN,
    VOCABULARY_HEAD,
    time_features,
)
from training import labels
from training.dataset import FEW_BEFORE, Dataset
from training.labels import Labelled
from training.settings import PopularAbove

VOCABULARY_SIZE = 10_000
SHARES = (0.8, 0.9, 1.0)  # where training, validation and evaluation end

# Parts of a tenth are 50 rows then. The standard error of an AUC on them is .08: fewer rows cannot tell a signal from chance.
MINIMUM_ROWS = 500
MINIMUM_CLASS_SHARE = 0.05
SMOOTHING = 10.0  # posts at the mean that every outlet is given, so that a few lucky posts do not make a level
ENCODING_FOLDS = 5
OUTLET_DROPOUT = 0.1  # share of the training rows whose outlet is hidden

_LEVEL = AUX_FEATURES.index("outlet_level")


@dataclass(frozen=True, eq=False)
class Examples:
    """The rows of one part in order of time, as the network sees them."""

    ids: npt.NDArray[np.int32] = field(repr=False)  # row i's word ids are ids[offsets[i]:offsets[i + 1]], 1 to 100 of them
    offsets: npt.NDArray[np.int64] = field(repr=False)  # [rows + 1]
    aux: npt.NDArray[np.float32] = field(repr=False)  # [rows, 5], in the order of AUX_FEATURES
    labels: npt.NDArray[np.float32]  # [rows], 1: popular
    targets: npt.NDArray[np.float32]  # [rows], 0 to 1: what is learned; the labels, unless a teacher softens them
    posted_at: npt.NDArray[np.float64]  # [rows], seconds since 1970-01-01 UTC
    outlet: npt.NDArray[np.int32]  # [rows], index into the data set's outlets; -1: none

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Features:
    """Everything that a fit needs."""

    vocabulary: Sequence[str] = field(repr=False)  # vocabulary[i] is the word with id i, VOCABULARY_HEAD first
    outlet_levels: Mapping[str, float]  # standardised, by outlet key
    frozen: Mapping[str, float]  # features that stand still, and where: the training part's mean; none if the times have hours
    label: Label
    posts: Dataset = field(repr=False)  # those that have a label
    success: npt.NDArray[np.float64] = field(repr=False)  # [rows of posts], as in Labelled
    ends: tuple[int, int, int]  # the rows of `posts` where training, validation and evaluation end
    training: Examples
    validation: Examples
    evaluation: Examples


def build(
    dataset: Dataset,
    *,
    popular_above: PopularAbove = "auto",
    shares: tuple[float, float, float] = SHARES,
    seed: int = 0,
) -> Features:
    """Build the features of parts cut by time, which end at the given shares of the posts that have a label.

    In the training part the outlet levels are out of fold and some are dropped (see `_encode_out_of_fold`); `seed` decides the
    folds and the dropout. If the last two shares are equal, as in a fold that is scored on its validation part, the evaluation
    part is empty. Time features are frozen if the posts' times have no hours.

    Raises DataError, with the counts, if the rows cannot be trained on.
    """
    rule = labels.choose(popular_above, dataset)
    _check_rows(dataset, rule)
    if rule == ABOVE_MEDIAN:
        label = Label(rule, dataset.counts, threshold=float(np.median(dataset.engagement[: cut(dataset.posted_at, shares[0])])))
    elif rule == ABOVE_OUTLET_MEDIAN:
        label = Label(rule, dataset.counts, window_days=labels.WINDOW_DAYS, least_posts=labels.LEAST_POSTS)
    else:
        label = Label(rule, dataset.counts, per_impression=bool(np.isfinite(dataset.impressions).any()))
    labelled = labels.apply(dataset, label)
    posts = labelled.posts
    _check_rows(posts, rule)
    begins = labels.story_begins(posts) if rule == ABOVE_STORY_MEAN else posts.posted_at
    ends = (cut(begins, shares[0]), cut(begins, shares[1]), cut(begins, shares[2]))
    parts = {"training": slice(0, ends[0]), "validation": slice(ends[0], ends[1]), "evaluation": slice(ends[1], ends[2])}
    if shares[1] == shares[2]:
        del parts["evaluation"]
    _check_parts(posts, parts)
    _check_classes(labelled, parts, label)

    training = parts["training"]
    vocabulary = choose_words(posts, training)
    outlet, logs = posts.outlet[training], np.log1p(posts.engagement[training])
    encoding = _fit_target_encoding(outlet, logs, len(posts.outlets))
    known = np.unique(outlet[outlet >= 0]).tolist()
    outlet_levels = {posts.outlets[i]: float(encoding.standardise(encoding.levels[i])) for i in known}
    encoded = [
        encode(labelled, slice(start, end), vocabulary, outlet_levels, {}) for start, end in zip((0, *ends), ends, strict=False)
    ]
    aux = encoded[0].aux.copy()
    aux[:, _LEVEL] = _encode_out_of_fold(outlet, logs, encoding, np.random.default_rng(seed))
    built = Features(
        vocabulary=vocabulary,
        outlet_levels=outlet_levels,
        frozen={},
        label=label,
        posts=posts,
        success=labelled.success,
        ends=ends,
        training=replace(encoded[0], aux=aux),
        validation=encoded[1],
        evaluation=encoded[2],
    )
    return built if posts.hours else freeze_times(built)


def freeze_times(features: Features) -> Features:
    """The same with the time features of all rows at their mean over the training part."""
    aux = np.array([*map(time_features, features.training.posted_at.tolist())], np.float64)
    frozen = {name: float(np.float32(mean)) for name, mean in zip(TIME_FEATURES, aux.mean(axis=0), strict=True)}
    return replace(
        features,
        frozen=frozen,
        training=_frozen(features.training, frozen),
        validation=_frozen(features.validation, frozen),
        evaluation=_frozen(features.evaluation, frozen),
    )


def _frozen(examples: Examples, frozen: Mapping[str, float]) -> Examples:
    aux = examples.aux.copy()
    for name, value in frozen.items():
        aux[:, AUX_FEATURES.index(name)] = value
    return replace(examples, aux=aux)


def _check_rows(dataset: Dataset, rule: str) -> None:
    if len(dataset) < MINIMUM_ROWS:
        reasons = {"bad": dataset.bad, **dataset.dropped}
        left_out = ", ".join(f"{rows} {reason.replace('_', ' ')}" for reason, rows in reasons.items() if rows)
        young, alone = dataset.dropped.get("too_young", 0), dataset.dropped.get(FEW_BEFORE, 0)
        if young > dataset.read / 10:
            hint = (
                "; a post is too young within --min-age days of --collected-at, which is the newest post's time unless you say"
                " when the counts were read"
            )
        elif rule == ABOVE_OUTLET_MEDIAN and alone > dataset.read / 10:
            hint = (
                f"; {alone} posts have fewer than {labels.LEAST_POSTS} of the same outlet in the {labels.WINDOW_DAYS:.0f} days"
                " before them to be compared with; --popular-above median compares the posts of all outlets"
            )
        else:
            hint = "; weeks of posts are needed, better months"
        raise DataError(
            f"{len(dataset)} posts are too few to train and judge a model, which takes at least {MINIMUM_ROWS}"
            f" ({dataset.read} rows read; left out: {left_out or 'none'}){hint}"
        )


def _check_parts(dataset: Dataset, parts: Mapping[str, slice]) -> None:
    if any(rows.start == rows.stop for rows in parts.values()):
        counts = ", ".join(f"{rows.stop - rows.start} {name}" for name, rows in parts.items())
        raise DataError(
            f"the {len(dataset)} rows stand at {len(np.unique(dataset.posted_at))} moments, which cannot be cut into"
            f" parts by time ({counts} rows)"
        )


def _check_classes(labelled: Labelled, parts: Mapping[str, slice], label: Label) -> None:
    for name, rows in parts.items():
        popular, total = int(labelled.popular[rows].sum()), rows.stop - rows.start
        if not MINIMUM_CLASS_SHARE <= popular / total <= 1 - MINIMUM_CLASS_SHARE:
            raise DataError(
                f"the {name} part has {popular} popular posts of {total}: each class needs at least {MINIMUM_CLASS_SHARE:.0%}"
                f" (popular: {label.describe()})"
            )


class _TargetEncoding(NamedTuple):
    """Smoothed target encoding of outlets, fitted on the training part."""

    levels: npt.NDArray[np.float64]  # [outlets], before they are standardised
    mean: float  # of log(1 + engagement) over all training rows, towards which levels are smoothed
    centre: float  # mean level of the training rows
    scale: float  # 1 / standard deviation of the training rows' levels

    def standardise(self, levels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Levels with mean 0 and standard deviation 1 over the training rows."""
        return (levels - self.centre) * self.scale


def _fit_target_encoding(outlet: npt.NDArray[np.int32], logs: npt.NDArray[np.float64], outlets: int) -> _TargetEncoding:
    """Fit on training rows: `outlet` [rows], -1: none; `logs` [rows] of log(1 + engagement)."""
    mean = logs.mean()
    levels = _smoothed_means(outlet, logs, outlets, mean)
    known = outlet >= 0
    of_rows = levels[outlet[known]] if known.any() else np.zeros(1)
    scale = 1 / of_rows.std() if np.ptp(of_rows) > 1e-9 else 0.0  # all alike: every level is 0, not a rounding error's
    return _TargetEncoding(levels, mean, of_rows.mean(), scale)


def _encode_out_of_fold(
    outlet: npt.NDArray[np.int32], logs: npt.NDArray[np.float64], encoding: _TargetEncoding, random: np.random.Generator
) -> npt.NDArray[np.float64]:
    """The training rows' standardised levels, [rows]: out of fold, with outlet dropout.

    A row's level is computed from the other folds, never from all rows but itself: the label could be read back from that. A
    random tenth of the levels is 0, so that the model knows what an absent outlet is.
    """
    levels = np.zeros(len(outlet))
    fold = random.permutation(len(outlet)) % ENCODING_FOLDS
    for i in range(ENCODING_FOLDS):
        inside, others = (outlet >= 0) & (fold == i), fold != i
        of_others = _smoothed_means(outlet[others], logs[others], len(encoding.levels), encoding.mean)
        levels[inside] = encoding.standardise(of_others[outlet[inside]])
    levels[random.permutation(len(outlet))[: round(OUTLET_DROPOUT * len(outlet))]] = 0
    return levels


def encode(
    labelled: Labelled,
    rows: slice,
    vocabulary: Sequence[str],
    outlet_levels: Mapping[str, float],
    frozen: Mapping[str, float],
) -> Examples:
    """Encode labelled posts as a served model with this vocabulary and these outlet levels sees them.

    `frozen` gives the features that stand still, whatever the time.
    """
    dataset = labelled.posts
    ids_by_word = {word: i for i, word in enumerate(vocabulary) if i >= FIRST_WORD}
    id_of = np.fromiter((ids_by_word.get(word, UNKNOWN) for word in dataset.words), np.int32, len(dataset.words))
    starts, all_lengths = dataset.offsets[:-1][rows], np.diff(dataset.offsets)[rows]
    # A row without a word is the one id UNKNOWN.
    lengths = np.clip(all_lengths, 1, SEQUENCE_LENGTH)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    ids = np.full(offsets[-1], UNKNOWN, np.int32)
    worded = np.repeat(all_lengths > 0, lengths)
    places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    ids[worded] = id_of[dataset.ids[places[worded]]]

    posted_at, outlet = dataset.posted_at[rows], dataset.outlet[rows]
    level_of = np.array([*(outlet_levels.get(name, 0.0) for name in dataset.outlets), 0.0])  # the last: no outlet
    aux = np.empty((len(outlet), len(AUX_FEATURES)), np.float32)
    aux[:, :_LEVEL] = np.fromiter(map(time_features, posted_at.tolist()), np.dtype((np.float32, _LEVEL)), len(outlet))
    for name, value in frozen.items():
        aux[:, AUX_FEATURES.index(name)] = value
    aux[:, _LEVEL] = level_of[outlet]
    popular = labelled.popular[rows]
    return Examples(ids, offsets, aux, popular, popular, posted_at, outlet)


def cut(posted_at: npt.NDArray[np.float64], share: float) -> int:
    """The row nearest to `share` of all rows before which time has moved on, so that no moment is in two parts.

    `posted_at` is sorted. Returns 0 or len(posted_at) if no moment ends in between.
    """
    wanted = share * len(posted_at)
    changes = np.concatenate(([0], np.flatnonzero(np.diff(posted_at)) + 1, [len(posted_at)]))
    return int(changes[np.argmin(np.abs(changes - wanted))])


def choose_words(dataset: Dataset, rows: slice) -> list[str]:
    """The vocabulary of these rows: words seen at least twice, the commonest first, ties by the word."""
    ids = dataset.ids[dataset.offsets[rows.start] : dataset.offsets[rows.stop]]
    seen = np.bincount(ids, minlength=len(dataset.words))
    order = np.argsort(-seen, kind="stable")[: VOCABULARY_SIZE - FIRST_WORD]  # dataset.words is sorted
    return [*VOCABULARY_HEAD, *(dataset.words[i] for i in order[seen[order] >= 2].tolist())]


def _smoothed_means(
    outlet: npt.NDArray[np.int32], logs: npt.NDArray[np.float64], outlets: int, mean: float
) -> npt.NDArray[np.float64]:
    """The mean of log(1 + engagement) of each outlet, [outlets], smoothed towards `mean`."""
    known = outlet >= 0
    sums = np.bincount(outlet[known], logs[known], outlets)
    posts = np.bincount(outlet[known], minlength=outlets)
    levels: npt.NDArray[np.float64] = (sums + SMOOTHING * mean) / (posts + SMOOTHING)
    return levels
