"""What the network learns from instead of bare labels: how well posts did, and a model that sees more than the network does.

    >>> taught = teach(features, share=0.7, embeddings=encoder.embed(texts))
    >>> taught.training.targets[:3], taught.training.labels[:3]
    (array([0.27, 0.66, 0.41], dtype=float32), array([0., 1., 0.], dtype=float32))

The teacher is a ridge regression of how well a post did on its words, its time, its outlet and, with an encoder, the sentence
embedding of its headline: by itself, by its likeness to others, and by what each outlet's readers make of it. Its scores for
the training part are out of fold, in folds that are contiguous in time, so that it never grades what it has learned. They are
calibrated to probabilities. A network that is taught by them learns what language knows (Hinton, Vinyals and Dean, Distilling
the Knowledge in a Neural Network, 2015), and is served as small and as quick as one that is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, lsqr
from sklearn.decomposition import PCA
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression

from service.model.labels import ABOVE_OUTLET_MEDIAN
from training.features import Examples, Features
from training.terms import tfidf

# Chosen on the folds of 50 and 60 % of the shared posts, by the AUC of the teacher's own scores on the tenth that follows.
PENALTY = 5.0
LANDMARKS = 1500  # headlines to which others are likened
WIDTH_OF_LIKENESS = 1.0  # gamma of the Gaussian kernel on unit vectors
WEIGHT_OF_LIKENESS = 2.0
TOPICS = 64  # principal components of the embeddings, which each outlet weighs in its own way

FOLDS = 5
_SAMPLED = 20  # every so many rows, from which components and landmarks are taken
_MOST_CELLS = 200_000_000  # of the dense inputs, 4 bytes each: of more posts there are fewer landmarks
_TOLERANCE = 1e-4  # relative, of the solution
_MOST_STEPS = 500

Floats = npt.NDArray[np.float64]
Dense = npt.NDArray[np.float32]


def teach(features: Features, share: float, embeddings: npt.NDArray[np.float16] | None = None) -> Features:
    """The features with targets that are `share` the teacher's probability, and otherwise the rank of how well the post did.

    `embeddings` are those of the training and validation part's headlines, [rows, width].
    """
    ends = features.ends
    rows_of = {"training": slice(0, ends[0]), "validation": slice(ends[0], ends[1])}
    inputs = _inputs(features, rows_of, embeddings)
    success = ranks(features)
    wanted = success["training"]
    out_of_fold = np.empty(len(wanted))
    cuts = np.linspace(0, len(wanted), FOLDS + 1).astype(np.int64).tolist()
    for start, end in pairwise(cuts):
        others = np.ones(len(wanted))
        others[start:end] = 0
        out_of_fold[start:end] = _Ridge(inputs["training"], wanted, others).predict(inputs["training"])[start:end]
    calibration = LogisticRegression(C=math.inf).fit(out_of_fold[:, None], features.training.labels)
    whole = _Ridge(inputs["training"], wanted, np.ones(len(wanted))).predict(inputs["validation"])
    training, validation = (calibration.predict_proba(found[:, None])[:, 1] for found in (out_of_fold, whole))
    return replace(
        features,
        training=_soften(features.training, share * training + (1 - share) * success["training"]),
        validation=_soften(features.validation, share * validation + (1 - share) * success["validation"]),
    )


def ranks(features: Features) -> dict[str, Floats]:
    """How well each post did as a rank from 0 to 1 among the posts that its label compares it with, or the training part."""
    training, validation = features.success[: features.ends[0]], features.success[features.ends[0] : features.ends[1]]
    if features.label.rule == ABOVE_OUTLET_MEDIAN:
        return {"training": training, "validation": validation}
    ordered = np.sort(training)
    return {
        name: (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2 / len(ordered)
        for name, values in (("training", training), ("validation", validation))
    }


def _soften(examples: Examples, targets: Floats) -> Examples:
    return replace(examples, targets=targets.astype(np.float32))


class _Inputs:
    """A matrix of rows, half of it sparse and half of it dense."""

    def __init__(self, terms: sparse.csr_array, dense: npt.NDArray[np.float32]) -> None:
        self.terms = terms
        self.dense = dense
        self.shape = (len(dense), terms.shape[1] + dense.shape[1])

    def __matmul__(self, weights: Floats) -> Floats:
        terms = self.terms.shape[1]
        product: Floats = self.terms @ weights[:terms] + self.dense @ weights[terms:].astype(np.float32)
        return product

    def transposed(self, values: Floats) -> Floats:
        return np.concatenate([self.terms.T @ values, self.dense.T @ values.astype(np.float32)])


def _inputs(features: Features, rows_of: Mapping[str, slice], embeddings: npt.NDArray[np.float16] | None) -> dict[str, _Inputs]:
    terms = tfidf(features.posts, rows_of)
    parts = {"training": features.training, "validation": features.validation}
    outlets = {name: _one_hot(part.outlet, len(features.posts.outlets)) for name, part in parts.items()}
    if embeddings is None:
        return {
            name: _Inputs(sparse.hstack([*([terms[name]] if terms else []), outlets[name]], format="csr"), part.aux)
            for name, part in parts.items()
        }
    vectors = {name: embeddings[rows].astype(np.float32) for name, rows in rows_of.items()}
    sampled = vectors["training"][::_SAMPLED]
    size = min(TOPICS, *sampled.shape)
    topics = PCA(size, random_state=0).fit(sampled)
    landmarks = min(LANDMARKS, len(sampled), max(1, _MOST_CELLS // features.ends[1] - sampled.shape[1]))
    likeness = Nystroem(gamma=WIDTH_OF_LIKENESS, n_components=landmarks, random_state=0).fit(sampled)
    found = {}
    for name, part in parts.items():
        of_outlets = _each_with(outlets[name], topics.transform(vectors[name]))
        matrix = sparse.hstack([*([terms[name]] if terms else []), outlets[name], of_outlets], format="csr")
        like = WEIGHT_OF_LIKENESS * likeness.transform(vectors[name])
        found[name] = _Inputs(matrix, np.hstack([part.aux, vectors[name], like]).astype(np.float32))
    return found


def _one_hot(outlet: npt.NDArray[np.int32], outlets: int) -> sparse.csr_array:
    known = np.flatnonzero(outlet >= 0)
    return sparse.csr_array((np.ones(len(known)), (known, outlet[known])), (len(outlet), outlets))


def _each_with(outlet: sparse.csr_array, topics: Dense) -> sparse.csr_array:
    """The topics of each row in the columns of its outlet, [rows, outlets x topics]."""
    rows, width = outlet.nonzero()[0], topics.shape[1]
    columns = outlet.nonzero()[1][:, None] * width + np.arange(width)
    cells = np.repeat(rows, width), columns.ravel()
    return sparse.csr_array((topics[rows].ravel(), cells), (len(topics), outlet.shape[1] * width))


class _Ridge:
    """Least squares with a penalty on the weights but not on the intercept (Hoerl and Kennard, Ridge Regression, 1970)."""

    def __init__(self, inputs: _Inputs, wanted: Floats, used: Floats) -> None:
        """Fit to the rows that are `used`, 1 or 0 each. They are not copied, since they may take gigabytes."""
        self._mean = inputs.transposed(used) / used.sum()
        centred = LinearOperator(
            inputs.shape,
            matvec=lambda weights: used * (inputs @ weights.ravel() - self._mean @ weights.ravel()),
            rmatvec=lambda values: inputs.transposed(used * values.ravel()) - self._mean * (used @ values.ravel()),
            dtype=np.float64,
        )
        self._level = float(used @ wanted / used.sum())
        target, damp = used * (wanted - self._level), math.sqrt(PENALTY)
        self._weights: Floats = lsqr(centred, target, damp=damp, atol=_TOLERANCE, btol=_TOLERANCE, iter_lim=_MOST_STEPS)[0]

    def predict(self, inputs: _Inputs) -> Floats:
        found: Floats = inputs @ self._weights - self._mean @ self._weights + self._level
        return found
