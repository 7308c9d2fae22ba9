"""What the network sees equals what the service will make of the same headlines, and what cannot be trained on is refused."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from service.errors import DataError
from service.model.preprocessing import TIME_FEATURES, UNKNOWN, Headline, Preprocessor, time_features
from service.model.preprocessing.rules_2 import words
from training import dataset, features, labels, synthesize
from training.settings import Reading

DAY = 86_400.0
REAL = Path(os.environ.get("HEADLINES_REAL_DATA") or Path(__file__).parents[2].parent / "shared" / "data" / "headlines.csv.gz")


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "made-up.csv"
    synthesize.synthesize(path, 3_000)
    return dataset.read([path])


def build(tmp_path, rows):
    """A data set of rows (headline, seconds after a moment, outlet, likes), each old enough."""
    path = tmp_path / "posts.csv"
    lines = [
        f"{headline},{np.datetime64(1_456_272_000 + int(seconds), 's')}Z,{outlet},{likes}\n"
        for headline, seconds, outlet, likes in rows
    ]
    path.write_text("headline,posted_at,outlet,likes\n" + "".join(lines))
    return dataset.read([path], Reading(min_age=0))


def by_median(posts, **options):
    """Features with labels that all posts have."""
    return features.build(posts, popular_above="median", **options)


def parts(made):
    return made.training, made.validation, made.evaluation


def check_equal_to_service(posts, made):
    texts = posts.texts(range(len(posts)))
    headlines = [
        Headline(text, moment, posts.outlets[outlet] if outlet >= 0 else "")
        for text, moment, outlet in zip(texts, posts.posted_at.tolist(), posts.outlet.tolist(), strict=True)
    ]
    served = Preprocessor(made.vocabulary, made.outlet_levels).encode(headlines)
    aux = np.concatenate([part.aux for part in parts(made)])

    assert np.array_equal(np.concatenate([part.ids for part in parts(made)]), served.ids)
    assert np.array_equal(np.concatenate([np.diff(part.offsets) for part in parts(made)]), served.lengths)
    assert np.array_equal(aux[:, :4], served.aux[:, :4])
    assert np.array_equal(aux[made.ends[0] :], served.aux[made.ends[0] :])


def test_real_headlines_are_the_same_numbers_as_in_the_service():
    if not REAL.exists():
        pytest.skip(f"no real data: neither HEADLINES_REAL_DATA nor {REAL.name} beside the repository")
    posts = dataset.read([REAL])
    made = by_median(posts)

    check_equal_to_service(posts, made)
    assert len(made.vocabulary) == 10_000
    assert [len(part) for part in parts(made)] == pytest.approx([len(posts) * share for share in (0.8, 0.1, 0.1)], abs=5)


def test_odd_headlines_are_the_same_numbers_as_in_the_service(tmp_path):
    odd = ["!!!", "word " * 150, "Don’t 東京 café", "never seen again", "🔥"]
    rows = [(f"{odd[i % 5]} {i if i % 5 not in (0, 4) else '?' * i}", i, ["cnn", "", "bbc"][i % 3], i % 7) for i in range(900)]
    posts = build(tmp_path, rows)
    made = by_median(posts)

    check_equal_to_service(posts, made)
    assert max(np.diff(made.training.offsets)) == 100
    assert made.training.ids[0] == UNKNOWN


def test_all_words_are_there_before_the_cut_and_beyond_the_vocabulary(made_up):
    texts = made_up.texts(range(0, len(made_up), 100))
    for row, text in zip(range(0, len(made_up), 100), texts, strict=True):
        ids = made_up.ids[made_up.offsets[row] : made_up.offsets[row + 1]]
        assert [made_up.words[i] for i in ids] == words(text)


def test_parts_are_cut_by_time_and_no_moment_is_in_two(tmp_path):
    moments = np.sort(np.random.default_rng(0).integers(60, size=1_000))
    made = by_median(build(tmp_path, [(f"Headline {i}", moment, "", i % 5) for i, moment in enumerate(moments)]))
    training, validation, evaluation = parts(made)

    assert training.posted_at.max() < validation.posted_at.min()
    assert validation.posted_at.max() < evaluation.posted_at.min()
    assert [len(part) for part in parts(made)] == pytest.approx([800, 100, 100], abs=20)
    assert made.ends == (len(training), len(training) + len(validation), 1_000)


@pytest.mark.parametrize("shares", [(0.5, 0.6, 0.6), (0.7, 0.8, 0.8)])
def test_a_fold_trains_on_the_first_rows_and_scores_the_next_tenth(made_up, shares):
    made = by_median(made_up, shares=shares)

    assert made.ends[:2] == pytest.approx([len(made_up) * share for share in shares[:2]], abs=2)
    assert len(made.evaluation) == 0
    assert made.label.threshold == np.median(made_up.engagement[: made.ends[0]])


def test_popular_is_above_the_median_of_the_training_part_alone(made_up):
    made = by_median(made_up)
    end = made.ends[0]

    assert made.label.threshold == np.median(made_up.engagement[:end])
    popular = np.concatenate([part.labels for part in parts(made)])
    assert np.array_equal(popular, made_up.engagement > made.label.threshold)
    assert popular.dtype == np.float32


def test_the_vocabulary_is_the_training_parts_words_seen_twice_the_commonest_first(made_up):
    made = by_median(made_up)
    counts = Counter(word for text in made_up.texts(range(made.ends[0])) for word in words(text))
    expected = sorted((word for word, count in counts.items() if count >= 2), key=lambda word: (-counts[word], word))

    assert made.vocabulary == ["", "[UNK]", *expected]


def test_outlet_levels_are_smoothed_and_standardised_over_the_training_rows(made_up):
    made = by_median(made_up)
    end = made.ends[0]
    logs, outlet = np.log1p(made_up.engagement[:end]), made_up.outlet[:end]
    levels = np.array([(logs[outlet == i].sum() + 10 * logs.mean()) / ((outlet == i).sum() + 10) for i in range(8)])
    expected = (levels - levels[outlet].mean()) / levels[outlet].std()

    assert [made.outlet_levels[name] for name in made_up.outlets] == pytest.approx(expected)


def test_training_levels_come_from_other_rows_and_a_tenth_is_hidden(made_up):
    made = by_median(made_up)
    end = made.ends[0]
    level, outlet = made.training.aux[:, 4], made_up.outlet[:end]

    assert (level == 0).sum() == round(end / 10)
    assert all(len(set(level[(outlet == i) & (level != 0)].tolist())) == features.ENCODING_FOLDS for i in range(8))
    # Each fold's level misses the rows of the fold, so the rows' engagement and their level lean away from each other.
    of_outlet = np.array([made.outlet_levels[name] for name in made_up.outlets])[outlet]
    shown = level != 0
    assert np.corrcoef((level - of_outlet)[shown], np.log1p(made_up.engagement[:end])[shown])[0, 1] < 0


def test_a_seed_makes_the_levels_repeatable(made_up):
    one, same, other = (by_median(made_up, seed=seed).training.aux for seed in (1, 1, 2))

    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("outlet", ["", "cnn"])
def test_where_all_outlets_have_one_level_it_is_zero(tmp_path, outlet):
    made = by_median(build(tmp_path, [(f"Headline {i}", i, outlet, (i * 37) % 100) for i in range(600)]))

    assert all((part.aux[:, 4] == 0).all() for part in parts(made))
    assert set(made.outlet_levels.values()) <= {0.0}


def test_an_outlet_that_training_has_not_seen_has_level_zero(tmp_path):
    rows = [(f"Headline {i}", i, "late" if i >= 580 else f"outlet{i % 3}", (i * 37) % 100 + i % 3 * 50) for i in range(600)]
    made = by_median(build(tmp_path, rows))

    assert "late" in made.posts.outlets
    assert "late" not in made.outlet_levels
    assert (made.evaluation.aux[-20:, 4] == 0).all()
    assert (made.validation.aux[:, 4] != 0).all()


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            [("Headline 1", 1, "", 1)] * 3,
            r"1 posts are too few .* at least 500 \(3 rows read; left out: 2 duplicate\); weeks of posts",
        ),
        (
            [(f"Headline {i}", 0, "", i) for i in range(600)],
            "600 rows stand at 1 moments.*600 training, 0 validation",
        ),
        (
            [(f"Headline {i}", i, "", 5) for i in range(600)],
            "the training part has 0 popular posts .*of 480: each class needs at least 5%",
        ),
        ([(f"Headline {i}", i, "", i) for i in range(600)], "the validation part has 60 popular posts .*of 60"),
    ],
    ids=["too few", "one moment", "one class", "one class in a part"],
)
def test_what_cannot_be_trained_on_is_refused_with_the_counts(tmp_path, rows, sentence):
    with pytest.raises(DataError, match=sentence):
        by_median(build(tmp_path, rows))


def test_rows_are_encoded_for_a_model_that_exists(made_up):
    made = by_median(made_up)
    labelled = labels.apply(made_up, made.label)
    later = features.encode(labelled, slice(made.ends[1], None), made.vocabulary, made.outlet_levels, {})

    assert np.array_equal(later.ids, made.evaluation.ids)
    assert np.array_equal(later.aux, made.evaluation.aux)
    assert len(features.encode(labelled, slice(0, 0), made.vocabulary, made.outlet_levels, {})) == 0


def test_times_without_hours_freeze_the_time_features_at_the_training_parts_mean(tmp_path):
    random = np.random.default_rng(0)
    days = [f"2016-{1 + i // 28:02}-{1 + i % 28:02}" for i in sorted(random.integers(0, 84, 600))]
    path = tmp_path / "posts.csv"
    rows = [f"Headline {random.integers(50)} of {i},{day},cnn,{random.integers(1000)}\n" for i, day in enumerate(days)]
    path.write_text("headline,posted_at,outlet,likes\n" + "".join(rows))
    posts = dataset.read([path], Reading(min_age=0))
    made = by_median(posts)

    assert not posts.hours
    assert made.frozen.keys() == set(TIME_FEATURES)
    expected = np.mean([time_features(it) for it in posts.posted_at[: made.ends[0]]], axis=0)
    assert [made.frozen[name] for name in TIME_FEATURES] == pytest.approx(expected, abs=1e-6)
    served = Preprocessor(made.vocabulary, made.outlet_levels, frozen=made.frozen)
    for part in (made.training, made.validation, made.evaluation):
        encoded = served.encode([Headline("x", 1e9)]).aux[0, :4]
        assert (part.aux[:, :4] == encoded).all()
