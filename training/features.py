"""Builds what the network sees from rows: labels, word ids, auxiliary features, in parts cut by time.

The outlet level is a smoothed target encoding of the outlet. Threshold, vocabulary and target encoding are fitted on the
training part alone. Word ids and auxiliary features equal what `Preprocessor(vocabulary, outlet_levels).encode` computes for
the same headlines, except for the training part's outlet levels, which are out of fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from service.errors import DataError
from service.model.preprocessing import AUX_FEATURES, FIRST_WORD, SEQUENCE_LENGTH, UNKNOWN, VOCABULARY_HEAD, time_features
from training.dataset import Dataset

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
    outlets: Sequence[str]  # the data set's, also those that the training part has not
    threshold: float  # popular: engagement above it
    ends: tuple[int, int, int]  # the data set's rows where training, validation and evaluation end
    training: Examples
    validation: Examples
    evaluation: Examples


def build(dataset: Dataset, *, shares: tuple[float, float, float] = SHARES, seed: int = 0) -> Features:
    """Build the features of parts cut by time, which end at the given shares of the rows.

    In the training part the outlet levels are out of fold and some are dropped (see `_encode_out_of_fold`); `seed` decides the
    folds and the dropout. If the last two shares are equal, as in a fold that is scored on its validation part, the evaluation
    part is empty.

    Raises DataError, with the counts, if the rows cannot be trained on.
    """
    _check_rows(dataset)
    ends = (cut(dataset.posted_at, shares[0]), cut(dataset.posted_at, shares[1]), cut(dataset.posted_at, shares[2]))
    parts = {"training": slice(0, ends[0]), "validation": slice(ends[0], ends[1]), "evaluation": slice(ends[1], ends[2])}
    if shares[1] == shares[2]:
        del parts["evaluation"]
    _check_parts(dataset, parts)
    training = parts["training"]
    threshold = float(np.median(dataset.engagement[training]))
    _check_classes(dataset, parts, threshold)

    vocabulary = choose_words(dataset, training)
    outlet, logs = dataset.outlet[training], np.log1p(dataset.engagement[training])
    encoding = _fit_target_encoding(outlet, logs, len(dataset.outlets))
    known = np.unique(outlet[outlet >= 0]).tolist()
    outlet_levels = {dataset.outlets[i]: float(encoding.standardise(encoding.levels[i])) for i in known}
    frozen = {} if dataset.hours else _mean_times(dataset.posted_at[training])
    encoded = [
        encode(dataset, slice(start, end), vocabulary, outlet_levels, threshold, frozen)
        for start, end in zip((0, *ends), ends, strict=False)
    ]
    aux = encoded[0].aux.copy()
    aux[:, _LEVEL] = _encode_out_of_fold(outlet, logs, encoding, np.random.default_rng(seed))
    return Features(
        vocabulary=vocabulary,
        outlet_levels=outlet_levels,
        frozen=frozen,
        outlets=dataset.outlets,
        threshold=threshold,
        ends=ends,
        training=replace(encoded[0], aux=aux),
        validation=encoded[1],
        evaluation=encoded[2],
    )


def _check_rows(dataset: Dataset) -> None:
    if len(dataset) < MINIMUM_ROWS:
        reasons = {"bad": dataset.bad, **dataset.dropped}
        left_out = ", ".join(f"{rows} {reason.replace('_', ' ')}" for reason, rows in reasons.items() if rows)
        young = dataset.dropped.get("too_young", 0)
        hint = (
            "; a post is too young within --min-age days of --collected-at, which is the newest post's time unless you say when"
            " the counts were read"
            if young > dataset.read / 10
            else "; weeks of posts are needed, better months"
        )
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


def _check_classes(dataset: Dataset, parts: Mapping[str, slice], threshold: float) -> None:
    for name, rows in parts.items():
        popular, total = int((dataset.engagement[rows] > threshold).sum()), rows.stop - rows.start
        if not MINIMUM_CLASS_SHARE <= popular / total <= 1 - MINIMUM_CLASS_SHARE:
            raise DataError(
                f"the {name} part has {popular} popular posts (engagement above {threshold:g}, the training part's median)"
                f" of {total}: each class needs at least {MINIMUM_CLASS_SHARE:.0%}"
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


def _mean_times(posted_at: npt.NDArray[np.float64]) -> dict[str, float]:
    """The mean of each time feature, as float32 holds it."""
    aux = np.array([*map(time_features, posted_at.tolist())], np.float64)
    return {name: float(np.float32(mean)) for name, mean in zip(AUX_FEATURES[:_LEVEL], aux.mean(axis=0), strict=True)}


def encode(
    dataset: Dataset,
    rows: slice,
    vocabulary: Sequence[str],
    outlet_levels: Mapping[str, float],
    threshold: float,
    frozen: Mapping[str, float],
) -> Examples:
    """Encode rows of a data set as a served model with this vocabulary, these outlet levels and this threshold sees them.

    `frozen` gives the features that stand still, whatever the time.
    """
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
    labels = (dataset.engagement[rows] > threshold).astype(np.float32)
    return Examples(ids, offsets, aux, labels, posted_at, outlet)


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
