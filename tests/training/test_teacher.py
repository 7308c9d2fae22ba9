"""The teacher knows more than the network, and grades no row that it has learned from."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from training import dataset, features, synthesize, teacher


@pytest.fixture(scope="module", params=["outlet", "median"])
def made(tmp_path_factory, request):
    path = tmp_path_factory.mktemp("data") / "made-up.csv"
    synthesize.synthesize(path, 4_000)
    return features.build(dataset.read([path]), popular_above=request.param)


def embeddings(made, seed=0):
    """Two numbers a headline: one knows how well it did, nearly; the other nothing."""
    success = made.success[: made.ends[1]]
    noise = np.random.default_rng(seed).normal(size=(len(success), 2))
    return np.column_stack([(success - success.mean()) / success.std() + noise[:, 0], noise[:, 1]]).astype(np.float16)


def test_targets_lie_between_rank_and_teacher(made):
    whole, half = (teacher.teach(made, share) for share in (1.0, 0.5))
    for taught, own in ((half.training, made.training), (half.validation, made.validation)):
        assert np.array_equal(taught.labels, own.labels)
        assert ((taught.targets > 0) & (taught.targets < 1)).all()
    ranks = teacher.ranks(made)["training"]
    np.testing.assert_allclose(half.training.targets, (whole.training.targets + ranks) / 2, atol=1e-6)
    assert 0 < ranks.min() < 0.05 < 0.95 < ranks.max() < 1
    assert (ranks[made.training.labels == 1] >= 0.5 - 1e-3).all()
    # Calibrated: its mean is the share of popular posts that it was calibrated on.
    assert whole.training.targets.mean() == pytest.approx(made.training.labels.mean(), abs=1e-3)
    assert whole.evaluation is made.evaluation


def test_the_teacher_learns_from_words_and_from_embeddings(made):
    without, with_embeddings = (teacher.teach(made, 1.0, given) for given in (None, embeddings(made)))
    for part in ("training", "validation"):
        labels = getattr(made, part).labels
        of_words, of_both = (roc_auc_score(labels, getattr(taught, part).targets) for taught in (without, with_embeddings))
        assert of_words > 0.65
        assert of_both > of_words + 0.02


def test_no_row_is_graded_by_a_teacher_that_has_learned_it(made):
    """What is dealt out by chance cannot be foreseen, and a teacher that had learned the row would."""
    random = np.random.default_rng(0)
    end = made.ends[0]
    shuffled = made.success.copy()
    shuffled[:end] = random.permutation(shuffled[:end])
    graded = teacher.teach(replace(made, success=shuffled), 1.0).training.targets
    assert abs(np.corrcoef(graded, shuffled[:end])[0, 1]) < 0.1


def test_the_same_posts_give_the_same_targets(made):
    one, same = (teacher.teach(made, 0.8, embeddings(made)).training.targets for _ in range(2))
    assert np.array_equal(one, same)


def test_its_ridge_regression_is_scikit_learns():
    random = np.random.default_rng(0)
    terms = sparse.random_array((300, 80), density=0.05, format="csr", rng=random)
    dense = random.normal(size=(300, 6)).astype(np.float32) + 3
    wanted = random.random(300)
    inputs = teacher._Inputs(terms, dense)
    expected = Ridge(alpha=teacher.PENALTY).fit(sparse.hstack([terms, dense]).toarray(), wanted)
    found = teacher._Ridge(inputs, wanted, np.ones(300)).predict(inputs)
    np.testing.assert_allclose(found, expected.predict(sparse.hstack([terms, dense]).toarray()), atol=2e-3)
    used = (np.arange(300) < 200).astype(float)
    whole = sparse.hstack([terms, dense]).toarray()
    expected = Ridge(alpha=teacher.PENALTY).fit(whole[:200], wanted[:200])
    np.testing.assert_allclose(teacher._Ridge(inputs, wanted, used).predict(inputs), expected.predict(whole), atol=4e-3)


def test_posts_whose_words_are_all_different_are_taught_by_the_rest(made):
    posts = made.posts
    unlike = replace(posts, ids=np.arange(len(posts.ids), dtype=np.int32), words=[""] * len(posts.ids))
    taught = teacher.teach(replace(made, posts=unlike), 1.0)
    assert np.isfinite(taught.training.targets).all()
