"""One loaded model version: headlines in, predictions out, on the caller's own thread.

version = Version.load(artifact.read(Path("models/7")), engines.choose("auto"))
version.predict([Headline("City votes on new park", 1_464_000_000.0, "gazette")]).rows()
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from service.errors import VersionError
from service.model import throttle
from service.model.artifact import EXAMPLES, VOCABULARY, Artifact, ModelInfo, read_report
from service.model.engines import Engine, Model
from service.model.preprocessing import AUX_FEATURES, Fields, Preprocessor

OUTPUT_TOLERANCE = 1e-4
AUX_TOLERANCE = 1e-6

# GetModel lists this many outlets, so that its answer stays small whatever the data hold.
_LISTED_OUTLETS = 1000
_LONGEST_OUTLET = 200  # characters; no account has a longer name


class Prediction(NamedTuple):
    """The prediction for one headline."""

    main_output: float  # probability of being popular, from everything; not to be trusted if outlet_known is false
    aux_output: float  # the same from the words alone
    word_count: int  # before the cut at 100
    unknown_word_count: int
    outlet_known: bool

    @property
    def best(self) -> float:
        """The number to use."""
        return self.main_output if self.outlet_known else self.aux_output


PredictionFields: TypeAlias = tuple[float, float, int, int, bool]  # of a Prediction, or one

_prediction: Callable[[Iterable[Any]], Prediction] = partial(tuple.__new__, Prediction)  # as _make, which counts the fields


class Predictions(NamedTuple):
    """The predictions for a batch as columns, named as the fields of Prediction."""

    main_output: Sequence[float]
    aux_output: Sequence[float]
    word_count: Sequence[int]
    unknown_word_count: Sequence[int]
    outlet_known: Sequence[bool]

    def rows(self) -> list[Prediction]:
        """One Prediction for each headline."""
        return list(map(_prediction, zip(*self, strict=True)))


_predictions: Callable[[Iterable[Any]], Predictions] = partial(tuple.__new__, Predictions)


class Row(NamedTuple):
    """A headline as numbers."""

    ids: Sequence[int]  # of its words, 1 to 100
    aux: Sequence[float]  # in the order of AUX_FEATURES


class Outputs(NamedTuple):
    """What the network answers to a row."""

    main_output: float
    aux_output: float


@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """A model version that is ready to answer."""

    number: int
    digest: str
    info: ModelInfo = field(repr=False)
    preprocessor: Preprocessor = field(repr=False)
    model: Model = field(repr=False)
    loaded_at: float  # seconds since 1970-01-01 UTC
    outlets: Sequence[str] = field(repr=False)  # the known ones, sorted; the first 1,000 of them, and none with an absurd name
    report: Mapping[str, bytes] = field(repr=False)  # the files of the evaluation report by name; empty if there is none

    @classmethod
    def load(cls, artifact: Artifact, engine: Engine) -> Version:
        """Load a version, make it ready, and let it reproduce what training wrote down.

        Raises VersionError if it cannot be loaded or answers its own examples otherwise than the exported model did.
        """
        try:
            info = artifact.info
            preprocessor = Preprocessor(artifact.vocabulary, info.outlet_levels, info.preprocessing, info.frozen)
        except ValueError as error:
            raise VersionError(f"{VOCABULARY}: {error}") from error
        throttle.pause()
        model = engine.load(artifact)
        model.warm()
        throttle.pause()
        _reproduce(artifact, preprocessor, model)
        # Sorted here, off the event loop: a hundred thousand names take tens of milliseconds.
        names = (name for name in artifact.info.outlet_levels if len(name) <= _LONGEST_OUTLET)
        outlets = heapq.nsmallest(_LISTED_OUTLETS, names)
        report = read_report(artifact.path)
        return cls(artifact.number, artifact.digest, artifact.info, preprocessor, model, time.time(), outlets, report)

    def predict(self, headlines: Iterable[Fields]) -> Predictions:
        """Predict for headlines that are not blank, or tuples of their fields; columns are in their order.

        For one thread at a time.
        """
        ids, lengths, aux_input, words, unknown_words, outlets_known = self.preprocessor.encode(headlines)
        main, aux = self.model.predict(ids, lengths, aux_input).T.tolist()
        return _predictions((main, aux, words, unknown_words, outlets_known))

    def compute(self, rows: Sequence[Row]) -> list[Outputs]:
        """The outputs for rows that are numbers already, in their order. For one thread at a time."""
        lengths = np.array([len(ids) for ids, _ in rows], np.int32)
        ids = np.fromiter(chain.from_iterable(ids for ids, _ in rows), np.int32, int(lengths.sum()))
        aux = np.array([aux for _, aux in rows], np.float32).reshape(-1, len(AUX_FEATURES))
        return list(map(Outputs._make, self.model.predict(ids, lengths, aux).tolist()))


def _reproduce(artifact: Artifact, preprocessor: Preprocessor, model: Model) -> None:
    rows = preprocessor.encode(example.headline for example in artifact.examples)
    outputs = model.predict(rows.ids, rows.lengths, rows.aux)
    ends = np.cumsum(rows.lengths)
    for i, (example, end) in enumerate(zip(artifact.examples, ends, strict=True)):
        if example.ids != rows.ids[end - rows.lengths[i] : end].tolist():
            raise VersionError(f"{EXAMPLES}: example {i}: its words get other ids here than where the model was trained")
        if not np.allclose(rows.aux[i], example.aux, rtol=0, atol=AUX_TOLERANCE):
            raise VersionError(f"{EXAMPLES}: example {i}: its time and outlet become other numbers here than in training")
        expected = (example.main_output, example.aux_output)
        if not np.allclose(outputs[i], expected, rtol=0, atol=OUTPUT_TOLERANCE):
            raise VersionError(
                f"{EXAMPLES}: example {i}: the model answers {outputs[i].tolist()}, the exported one answered {list(expected)}"
            )
        throttle.pause()
