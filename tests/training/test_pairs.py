"""Of two posts of one account or story, the better one should have the higher score: how often, and from which gap on."""

import numpy as np
import pytest

from service.model.labels import ABOVE_MEDIAN, ABOVE_OUTLET_MEDIAN, ABOVE_STORY_MEAN, Label
from training import dataset, pairs
from training.pairs import Pairs
from training.resampling import Sample
from training.settings import Reading

OUTLET = Label(ABOVE_OUTLET_MEDIAN, ("likes",), window_days=28, least_posts=20)
STORY = Label(ABOVE_STORY_MEAN, ("likes",), per_impression=True)


@pytest.fixture(scope="module")
def posts(tmp_path_factory):
    """Ninety posts an hour apart, of two outlets or none, thirty stories, with equal counts among them."""
    path = tmp_path_factory.mktemp("data") / "posts.csv"
    random = np.random.default_rng(0)
    rows = [
        f"Headline {i},{np.datetime64(1_456_272_000 + 3600 * i, 's')}Z,{('cnn', 'bbc', '')[i % 3]},s{i // 3},"
        f"{random.integers(5)},{random.integers(1, 9)}\n"
        for i in range(90)
    ]
    path.write_text("headline,posted_at,outlet,story,likes,impressions\n" + "".join(rows))
    return dataset.read([path], Reading(min_age=0))


def expected_pairs(posts, group, outcome):
    """Each post with the next ones of its group, as it is said."""
    found = set()
    for i in range(len(posts)):
        later = [j for j in range(i + 1, len(posts)) if group[j] == group[i] >= 0][: pairs.NEIGHBOURS]
        found |= {(i, j) if outcome[i] > outcome[j] else (j, i) for j in later if outcome[i] != outcome[j]}
    return found


@pytest.mark.parametrize("label", [OUTLET, STORY, Label(ABOVE_MEDIAN, ("likes",), threshold=3.0)])
def test_a_post_is_paired_with_the_next_of_its_account_or_story(posts, label):
    rate = (posts.engagement + 0.5) / (posts.impressions + 1)
    group, outcome = (posts.story, rate) if label is STORY else (posts.outlet, posts.engagement)
    found = Pairs.of(posts, slice(0, 90), label)
    assert set(zip(found.better.tolist(), found.worse.tolist(), strict=True)) == expected_pairs(posts, group, outcome)
    assert len(found) == len(expected_pairs(posts, group, outcome)) > 20
    later = Pairs.of(posts, slice(60, 90), label)
    assert later.better.max() < 30


def test_the_share_in_the_right_order_is_counted_and_ties_count_half(posts):
    found = Pairs.of(posts, slice(0, 90), OUTLET)
    scores = np.random.default_rng(1).integers(4, size=90) / 4
    sample = Sample(np.zeros(90), posts.posted_at, np.random.default_rng(0))
    right = [
        1.0 if scores[better] > scores[worse] else 0.5 if scores[better] == scores[worse] else 0.0
        for better, worse in zip(found.better, found.worse, strict=True)
    ]
    accuracy = found.accuracy(sample, scores)
    assert accuracy[0] == pytest.approx(np.mean(right))
    assert len(accuracy) == 1001
    # A resample that holds a block twice and another not at all counts their pairs so.
    weights = sample.weights[1]
    weight = weights[sample.block[found.better]] * weights[sample.block[found.worse]]
    assert accuracy[1] == pytest.approx(np.average(right, weights=weight))
    bins = found.by_gap(sample, scores)
    assert sum(it.pairs for it in bins) == len(found)
    assert sum(it.pairs * it.accuracy.value for it in bins) / len(found) == pytest.approx(np.mean(right))
    assert bins[0].accuracy.value == 0.5


def test_the_gap_that_tells_is_where_enough_pairs_are_in_the_right_order():
    random = np.random.default_rng(0)
    better, worse = np.arange(20_000), np.arange(20_000, 40_000)
    gap = random.random(20_000)
    is_right = random.random(20_000) < 0.5 + gap / 2  # right in 60 % from a gap of .2 on
    scores = np.concatenate([np.where(is_right, gap, 0.0), np.where(is_right, 0.0, gap)])
    assert Pairs(better, worse).telling_gap(scores) == pytest.approx(0.2, abs=0.05)
    assert Pairs(better[:999], worse[:999]).telling_gap(scores) is None
    by_chance = np.where(random.random(20_000) < 0.5, gap, 0.0)
    assert Pairs(better, worse).telling_gap(np.concatenate([by_chance, gap - by_chance])) > 0.9


def test_where_no_post_has_an_outlet_all_are_one_accounts(tmp_path):
    path = tmp_path / "posts.csv"
    rows = "".join(f"Headline {i},{np.datetime64(1_456_272_000 + i, 's')}Z,{i}\n" for i in range(40))
    path.write_text("headline,posted_at,likes\n" + rows)
    posts = dataset.read([path], Reading(min_age=0))
    found = Pairs.of(posts, slice(0, 40), OUTLET)
    assert len(found) == sum(min(25, 39 - i) for i in range(40))
    assert (found.better > found.worse).all()
    assert len(Pairs.of(posts, slice(0, 0), OUTLET)) == 0
