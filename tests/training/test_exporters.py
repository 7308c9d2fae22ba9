"""The same posts in the shape of five exporters become the same numbers, so a fit of them has the same weights."""

import csv
import gzip
from datetime import datetime

import numpy as np
import pytest
from exporters import PRECISION, WRITERS, plain

from training import dataset, features, synthesize
from training.settings import Reading


@pytest.fixture(scope="module")
def posts(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "made-up.csv.gz"
    synthesize.synthesize(path, 3_000)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    counts = ("retweets", "likes")
    moments = [int(datetime.fromisoformat(row["posted_at"]).timestamp()) for row in rows]
    return [row | {"posted_at": at} | {name: int(row[name]) for name in counts} for row, at in zip(rows, moments, strict=True)]


@pytest.mark.parametrize("exporter", WRITERS)
def test_an_export_becomes_what_a_plain_file_of_its_precision_becomes(tmp_path, posts, exporter):
    flags = WRITERS[exporter](tmp_path / "export", posts)
    plain(tmp_path / "plain.csv", posts, PRECISION.get(exporter, 1))
    read = dataset.read([tmp_path / "export"], Reading(**flags))
    expected = dataset.read([tmp_path / "plain.csv"])

    assert read.files[0].plan.exporter == exporter
    assert read.files[0].plan.unused == ()
    assert (len(read), read.bad, read.dropped) == (len(expected), 0, expected.dropped)
    assert read.texts(range(len(read))) == expected.texts(range(len(expected)))
    made, wanted = features.build(read), features.build(expected)
    assert (made.vocabulary, made.outlet_levels, made.label) == (wanted.vocabulary, wanted.outlet_levels, wanted.label)
    for part in ("training", "validation", "evaluation"):
        for column in ("ids", "offsets", "aux", "labels", "posted_at"):
            assert np.array_equal(getattr(getattr(made, part), column), getattr(getattr(wanted, part), column))
