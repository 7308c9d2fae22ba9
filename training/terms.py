"""Words and pairs of neighbouring words as TF-IDF, for linear models."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.feature_extraction.text import TfidfTransformer

from training.dataset import Dataset


def tfidf(posts: Dataset, rows_of: Mapping[str, slice]) -> dict[str, sparse.csr_array] | None:
    """A matrix [rows, terms] of each part, fitted on "training": terms that two of its rows have. None without any."""
    row, term = _terms(posts, rows_of["training"])
    terms, column = np.unique(term, return_inverse=True)
    rows = rows_of["training"].stop - rows_of["training"].start
    counts = sparse.csr_array((np.ones(len(row)), (row, column)), (rows, len(terms)))
    terms = terms[np.bincount(counts.indices, minlength=len(terms)) >= 2]
    if not len(terms):
        return None

    def count(part: slice) -> sparse.csr_array:
        row, term = _terms(posts, part)
        known = np.isin(term, terms)
        cells = row[known], np.searchsorted(terms, term[known])
        return sparse.csr_array((np.ones(len(cells[0])), cells), (part.stop - part.start, len(terms)))

    counted = {name: count(part) for name, part in rows_of.items()}
    transformer = TfidfTransformer(sublinear_tf=True).fit(counted["training"])
    return {name: transformer.transform(counts) for name, counts in counted.items()}


def _terms(dataset: Dataset, rows: slice) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Single words and pairs of neighbours, a number each, and the row of each, counted from the first of `rows`."""
    offsets = dataset.offsets[rows.start : rows.stop + 1]
    words = dataset.ids[offsets[0] : offsets[-1]].astype(np.int64)
    row = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    neighbours = row[1:] == row[:-1]
    pairs = (words[:-1] + 1) * len(dataset.words) + words[1:]
    return np.concatenate([row, row[1:][neighbours]]), np.concatenate([words, pairs[neighbours]])
