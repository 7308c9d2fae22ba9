"""A post is popular by one rule, which says what it is compared with; what has nothing to be compared with has no label."""

import numpy as np
import pytest

from service.errors import DataError
from service.model.labels import ABOVE_MEDIAN, ABOVE_OUTLET_MEDIAN, ABOVE_STORY_MEAN, Label
from training import dataset, features, labels
from training.settings import Reading

DAY = 86_400
FIRST = 1_456_272_000
OUTLET = Label(ABOVE_OUTLET_MEDIAN, ("likes",), window_days=28, least_posts=20)


def read(tmp_path, rows, header="headline,posted_at,outlet,likes"):
    """A data set of rows whose second cell is seconds after a moment; all are old enough."""
    path = tmp_path / "posts.csv"
    lines = [",".join([str(row[0]), f"{np.datetime64(FIRST + int(row[1]), 's')}Z", *map(str, row[2:])]) + "\n" for row in rows]
    path.write_text(header + "\n" + "".join(lines))
    return dataset.read([path], Reading(min_age=0))


def slow_medians(posts, window, least):
    """The rule as it is said, one post at a time."""
    found = np.full(len(posts), np.nan)
    for row in range(len(posts)):
        age = posts.posted_at[row] - posts.posted_at
        before = posts.engagement[(posts.outlet == posts.outlet[row]) & (age > 0) & (age <= window)]
        if len(before) >= least and (posts.outlet[row] >= 0 or not posts.outlets):
            found[row] = np.median(before)
    return found


@pytest.mark.parametrize("outlets", [["cnn", "bbc"], ["cnn", "bbc", ""], [""]])
def test_a_post_is_compared_with_its_own_outlets_of_the_weeks_before(tmp_path, outlets):
    random = np.random.default_rng(0)
    rows = [
        (f"Headline {i}", random.integers(80 * DAY) // 3600 * 3600, outlets[i % len(outlets)], random.integers(30))
        for i in range(700)
    ]
    posts = read(tmp_path, rows)
    expected = slow_medians(posts, 28 * DAY, 20)
    labelled = labels.apply(posts, OUTLET)
    known = ~np.isnan(expected)

    assert 0 < known.sum() < len(posts)
    assert np.array_equal(labelled.posts.posted_at, posts.posted_at[known])
    assert labelled.posts.texts(range(len(labelled.posts))) == posts.texts(np.flatnonzero(known))
    assert np.array_equal(labelled.popular, posts.engagement[known] > expected[known])
    assert labelled.posts.dropped["few_before"] == (~known).sum()
    # What is above the median is above half of the posts that it was compared with.
    assert labelled.success.min() > 0
    assert labelled.success.max() < 1
    assert (labelled.success[labelled.popular == 1] >= 0.5).all()
    assert (labelled.success[labelled.popular == 0] <= 0.6).all()  # beyond one half by as many as equal the median


def test_posts_of_the_same_moment_and_older_than_the_window_are_not_compared_with(tmp_path):
    before = [(f"Old {i}", i, "cnn", 100) for i in range(20)]
    within = [(f"New {i}", 28 * DAY + 20 + i, "cnn", 10) for i in range(20)]
    same = [(f"Same {i}", 29 * DAY, "cnn", 20 + i) for i in range(3)]
    labelled = labels.apply(read(tmp_path, [*before, *within, *same]), OUTLET)

    assert labelled.posts.texts(range(len(labelled.posts))) == ["Same 0", "Same 1", "Same 2"]
    assert labelled.popular.tolist() == [1, 1, 1]


def test_a_story_is_compared_by_rate_and_stays_in_one_part(tmp_path):
    header = "headline,posted_at,story,likes,impressions"
    random = np.random.default_rng(0)
    rows = []
    for story in range(300):
        for wording in range(1 + story % 4):
            # The last wording of a story comes a week later, when other stories have begun.
            moment = story * 3600 + (7 * DAY if wording == 2 else 0)
            rows.append((f"Wording {story} {wording}", moment, f"s{story}", random.integers(90), 100 + random.integers(90)))
    posts = read(tmp_path, rows, header)
    labelled = labels.apply(posts, Label(ABOVE_STORY_MEAN, ("likes",), per_impression=True))

    assert labelled.posts.dropped["no_story"] == 75
    rate = (labelled.posts.engagement + 0.5) / (labelled.posts.impressions + 1)
    for story in np.unique(labelled.posts.story):
        rows = np.flatnonzero(labelled.posts.story == story)
        assert (np.diff(rows) == 1).all()
        for row in rows:
            assert labelled.popular[row] == (rate[row] > rate[rows[rows != row]].mean())
            assert labelled.popular[row] == (labelled.success[row] > 0)
    built = features.build(posts, popular_above="story")
    assert built.label == Label(ABOVE_STORY_MEAN, ("likes",), per_impression=True)
    stories = [set(built.posts.story[start:end].tolist()) for start, end in zip((0, *built.ends), built.ends, strict=False)]
    assert not stories[0] & stories[1]
    assert not stories[1] & stories[2]


def test_without_impressions_a_story_is_compared_by_engagement(tmp_path):
    posts = read(tmp_path, [("One", 0, "s", 3), ("Two", 0, "s", 5), ("Three", 1, "", 9)], "headline,posted_at,story,likes")
    labelled = labels.apply(posts, Label(ABOVE_STORY_MEAN, ("likes",)))
    assert dict(zip(labelled.posts.texts([0, 1]), labelled.popular.tolist(), strict=True)) == {"One": 0.0, "Two": 1.0}


def test_the_same_words_in_two_stories_are_two_posts(tmp_path):
    header = "headline,posted_at,story,likes"
    posts = read(tmp_path, [("Same", 0, "a", 3), ("Same", 1, "b", 5), ("Same", 2, "b", 5)], header)
    assert (len(posts), posts.dropped) == (2, {"duplicate": 1})


def test_the_rule_follows_from_the_posts_unless_it_is_asked_for(tmp_path):
    with_outlet = read(tmp_path, [("One", 0, "cnn", 3)])
    assert labels.choose("auto", with_outlet) == ABOVE_OUTLET_MEDIAN
    assert labels.choose("median", with_outlet) == ABOVE_MEDIAN
    with pytest.raises(DataError, match=r"no file has a column story.*--column names one"):
        labels.choose("story", with_outlet)
    without = read(tmp_path, [("One", 0, "", 3)])
    assert labels.choose("auto", without) == ABOVE_MEDIAN
    assert labels.choose("outlet", without) == ABOVE_OUTLET_MEDIAN


def test_accounts_that_post_seldom_are_told_what_to_do(tmp_path):
    posts = read(tmp_path, [(f"Headline {i}", i * 2 * DAY, f"outlet{i % 3}", i % 7) for i in range(900)])
    with pytest.raises(DataError, match=r"900 posts have fewer than 20 .*--popular-above median"):
        features.build(posts)
    assert len(features.build(posts, popular_above="median").posts) == 900


def test_the_label_does_not_drift_as_an_account_grows(tmp_path):
    random = np.random.default_rng(0)
    rows = [
        (f"Headline {i}", i * 3600, ("cnn", "bbc")[i % 2], int(random.lognormal(5 + i / 1600 * (i % 2)))) for i in range(2_000)
    ]
    posts = read(tmp_path, rows)
    by_median, by_outlet = (features.build(posts, popular_above=rule).evaluation for rule in ("median", "outlet"))
    for outlet in (0, 1):
        assert abs(by_outlet.labels[by_outlet.outlet == outlet].mean() - 0.5) < 0.2
    assert by_median.labels[by_median.outlet == 0].mean() > 0.75
