"""The made-up data: repeatable, said to be made-up, and with a signal that can be learnt."""

import csv
import gzip

import numpy as np
import pytest
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from service.errors import UsageError
from training import dataset, features, synthesize


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The default data set and the AUC that its true probabilities reach."""
    path = tmp_path_factory.mktemp("data") / "made-up.csv.gz"
    return path, synthesize.synthesize(path)


def test_it_has_twenty_thousand_posts_of_eight_outlets_and_says_that_they_are_made_up(whole):
    path, _ = whole
    posts = dataset.read([path])
    with gzip.open(path, "rt") as file:
        rows = list(csv.DictReader(file))

    assert (posts.read, posts.bad) == (20_000, 0)
    assert posts.synthetic
    assert len(posts.outlets) == 8
    assert all(name.startswith("madeup") for name in posts.outlets)
    assert all(5 <= len(row["headline"].split()) <= 15 for row in rows)
    assert {row["synthetic"] for row in rows} == {"true"}


def test_words_follow_zipfs_law_and_some_come_late(whole):
    posts = dataset.read([whole[0]])
    counts = np.sort(np.bincount(posts.ids))[::-1]
    made = features.build(posts)
    seen = np.bincount(posts.ids[: posts.offsets[made.ends[0]]], minlength=len(posts.words))
    latest = np.bincount(posts.ids[posts.offsets[made.ends[0]] :], minlength=len(posts.words))
    slope = np.polyfit(np.log(np.arange(10, 1_000)), np.log(counts[10:1_000]), 1)[0]

    assert slope == pytest.approx(-1, abs=0.15)
    # In the fifth of the rows after the training part: used three times or more, and never seen before.
    assert 5 <= ((seen == 0) & (latest >= 3)).sum() <= 60


def test_a_linear_model_comes_near_the_auc_of_the_true_probabilities(whole):
    path, true_auc = whole
    made = features.build(dataset.read([path]))

    def inputs(part):
        rows = np.repeat(np.arange(len(part)), np.diff(part.offsets))
        bag = csr_matrix((np.ones(len(rows)), (rows, part.ids)), (len(part), len(made.vocabulary)))
        return hstack([bag, part.aux]).tocsr()

    model = LogisticRegression(C=0.1, max_iter=200).fit(inputs(made.training), made.training.labels)
    auc = roc_auc_score(made.evaluation.labels, model.decision_function(inputs(made.evaluation)))
    outlet_auc = roc_auc_score(made.evaluation.labels, made.evaluation.aux[:, 4])

    assert true_auc - 0.02 < auc < true_auc + 0.01
    assert outlet_auc < true_auc - 0.1  # the outlet alone is not enough


def test_a_seed_makes_the_same_bytes_and_another_one_others(tmp_path):
    one, same, other = (tmp_path / f"{name}.csv.gz" for name in ("one", "same", "other"))
    auc = synthesize.synthesize(one, 1_000, seed=3)

    assert synthesize.synthesize(same, 1_000, seed=3) == auc
    assert one.read_bytes() == same.read_bytes()
    assert synthesize.synthesize(other, 1_000, seed=4) != auc
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("name", "posts", "sentence"),
    [
        ("data.parquet", 1_000, r"--out .*data\.parquet: the name must end in \.csv or \.csv\.gz"),
        ("data.csv", 999, "--posts 999: must be at least 1000"),
        ("missing/data.csv", 1_000, "--out .*: cannot be written: there is no directory"),
    ],
)
def test_a_wrong_flag_is_named(tmp_path, name, posts, sentence):
    with pytest.raises(UsageError, match=sentence):
        synthesize.synthesize(tmp_path / name, posts)
