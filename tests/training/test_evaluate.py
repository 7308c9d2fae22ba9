import math
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from scipy.special import expit, logit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from service.model.labels import ABOVE_MEDIAN, Label
from service.model.preprocessing.rules_2 import words
from training import dataset, features
from training.calibration import Calibration, intercept
from training.evaluate import METRICS, evaluate, table
from training.synthesize import synthesize

LABEL = Label(ABOVE_MEDIAN, ("retweets", "likes"), threshold=1.0)
CALIBRATION = (Calibration(1.0, 0.3), Calibration(0.5, -0.2))
REAL_DATA = Path(os.environ.get("HEADLINES_REAL_DATA", Path(__file__).parents[3] / "shared/data/headlines.csv.gz"))


@pytest.fixture(scope="module")
def posts(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "made-up.csv"
    synthesize(path, posts=6000)
    return dataset.read([path])


@pytest.fixture(scope="module")
def made(posts):
    return features.build(posts, popular_above="median")


@pytest.fixture(scope="module")
def parts(made):
    return {"training": made.training, "validation": made.validation, "evaluation": made.evaluation}


@pytest.fixture(scope="module")
def predict(made):
    """A model: logistic regressions on word counts, with aux features and without."""

    def counts(examples):
        row = np.repeat(np.arange(len(examples)), np.diff(examples.offsets))
        return sparse.csr_array((np.full(len(row), 0.3), (row, examples.ids)), (len(examples), len(made.vocabulary)))

    def both(examples):
        return sparse.hstack([counts(examples), examples.aux], format="csr")

    main = LogisticRegression(solver="newton-cg").fit(both(made.training), made.training.labels)
    aux = LogisticRegression(solver="newton-cg").fit(counts(made.training), made.training.labels)

    def scores(examples):
        logits = [main.decision_function(both(examples)), aux.decision_function(counts(examples))]
        return expit(np.column_stack(logits)).astype(np.float32)

    return scores


@pytest.fixture(scope="module")
def evaluation(parts, predict, posts):
    return evaluate(parts, predict, posts, LABEL, calibration=CALIBRATION)


def by_outlet(examples, scores, least=20):
    total = rows = 0
    for outlet in np.unique(examples.outlet[examples.outlet >= 0]):
        own = examples.outlet == outlet
        positives = examples.labels[own].sum()
        if min(positives, own.sum() - positives) >= least:
            total += own.sum() * roc_auc_score(examples.labels[own], scores[own])
            rows += own.sum()
    return total / rows


def calibration_error(labels, scores):
    edges = [-np.inf, *np.quantile(scores, np.arange(1, 10) / 10), np.inf]
    tenths = [(low <= scores) & (scores < high) for low, high in pairwise(edges)]
    return sum(abs(scores[rows].mean() - labels[rows].mean()) * rows.sum() for rows in tenths) / len(labels)


def test_figures_have_the_names_that_callers_read(evaluation):
    assert set(evaluation.figures) == {f"{model}_{metric}" for model in ("main", "aux", "baseline") for metric in METRICS} | {
        "main_pair_gap",
        "aux_pair_gap",
        "positive_share",
        "rows",
    }
    assert all(type(value) is float and math.isfinite(value) for value in evaluation.figures.values())


@pytest.mark.parametrize(("column", "output"), [(0, "main"), (1, "aux")])
def test_figures_are_scikit_learns(evaluation, parts, predict, column, output):
    examples = parts["evaluation"]
    scores = predict(examples)[:, column].astype(np.float64)
    expected = {
        "auc": roc_auc_score(examples.labels, scores),
        "auc_within_outlets": by_outlet(examples, scores),
        "log_loss": log_loss(examples.labels, scores),
        "accuracy": accuracy_score(examples.labels, scores > 0.5),
        "calibration_error": calibration_error(examples.labels, scores),
    }
    found = {metric: evaluation.figures[f"{output}_{metric}"] for metric in expected}
    assert found == pytest.approx(expected, abs=2e-6)
    assert evaluation.figures["rows"] == len(examples)
    assert evaluation.figures["positive_share"] == pytest.approx(examples.labels.mean())


def test_tied_scores_count_half_and_share_a_bin(parts, posts):
    def coarse(examples):
        level = (examples.aux[:, [4, 4]] > 0) * 0.5 + 0.25
        return level.astype(np.float32)

    examples = parts["evaluation"]
    found = evaluate({"evaluation": examples}, coarse, posts, LABEL, first_row=len(posts) - len(examples))
    assert found.figures["main_auc"] == pytest.approx(roc_auc_score(examples.labels, coarse(examples)[:, 0]))
    assert [b.score for b in found.models["main"].calibration] == [0.25, 0.75]


def test_intervals_are_those_of_a_bootstrap_over_half_days(evaluation, parts, predict):
    examples = parts["evaluation"]
    scores = predict(examples).astype(np.float64)
    half_day = examples.posted_at // 43_200
    blocks = [np.flatnonzero(half_day == i) for i in np.unique(half_day)]
    random = np.random.default_rng(1)
    resamples = []
    for _ in range(500):
        rows = np.concatenate([blocks[i] for i in random.integers(len(blocks), size=len(blocks))])
        labels, resampled = examples.labels[rows], scores[rows, 0]
        resamples.append([roc_auc_score(labels, resampled), -np.log(np.where(labels > 0.5, resampled, 1 - resampled)).mean()])
    lows, highs = np.quantile(resamples, [0.025, 0.975], axis=0)
    for metric, low, high in zip(("auc", "log_loss"), lows, highs, strict=True):
        estimate = evaluation.models["main"].estimates[metric]
        assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.15 * (high - low))
        assert estimate.low < estimate.value < estimate.high
    assert evaluation.blocks == len(blocks)


def test_models_are_compared_on_the_same_resamples(evaluation):
    """So that the interval of a difference is narrower than that of either figure."""
    auc = evaluation.models["main"].estimates["auc"]
    difference = evaluation.models["main"].less_baseline["auc"]
    assert difference.value == pytest.approx(auc.value - evaluation.figures["baseline_auc"])
    assert difference.high - difference.low < 0.7 * (auc.high - auc.low)


def test_the_same_seed_gives_the_same_evaluation(evaluation, parts, predict, posts):
    assert evaluate(parts, predict, posts, LABEL, calibration=CALIBRATION) == evaluation
    assert evaluate(parts, predict, posts, LABEL, calibration=CALIBRATION, seed=1) != evaluation


def test_the_baseline_is_a_logistic_regression_on_tfidf_of_the_headlines(evaluation, parts, posts):
    texts = posts.texts(range(len(posts)))
    ends = np.cumsum([len(examples) for examples in parts.values()])
    tfidf = TfidfVectorizer(
        tokenizer=words, token_pattern=None, lowercase=False, ngram_range=(1, 2), min_df=2, sublinear_tf=True
    )
    training = sparse.hstack([tfidf.fit_transform(texts[: ends[0]]), parts["training"].aux])
    later = sparse.hstack([tfidf.transform(texts[ends[1] :]), parts["evaluation"].aux])
    model = LogisticRegression(C=1, max_iter=1000).fit(training, parts["training"].labels)
    expected = roc_auc_score(parts["evaluation"].labels, model.decision_function(later))
    assert evaluation.figures["baseline_auc"] == pytest.approx(expected, abs=5e-4)


def test_the_outlet_alone_says_nothing_within_outlets(evaluation):
    assert evaluation.models["outlet"].estimates["auc_within_outlets"].value == 0.5
    assert evaluation.models["outlet"].estimates["auc"].value > 0.6
    assert evaluation.models["words"].estimates["auc"].value > 0.6


def test_before_it_was_calibrated(evaluation, parts, predict):
    examples = parts["evaluation"]
    scores = expit((logit(predict(examples).astype(np.float64)) - [0.3, -0.2]) / [1.0, 0.5])
    for column, output in enumerate(("main", "aux")):
        found = evaluation.models[output].calibration_error_before
        assert found == pytest.approx(calibration_error(examples.labels, scores[:, column]), abs=1e-6)


@pytest.mark.parametrize("share", [0.01, 0.44, 0.99])
def test_an_intercept_makes_the_mean_score_the_share(share):
    logits = np.random.default_rng(0).normal(3, 100, 1000)
    assert expit(logits + intercept(logits, share)).mean() == pytest.approx(share)


def test_what_the_model_does_not_look_at_has_no_importance(parts, posts):
    def outlet_alone(examples):
        return expit(examples.aux[:, [4, 4]])

    found = evaluate({"evaluation": parts["evaluation"]}, outlet_alone, posts, LABEL)
    assert {name: estimate.value for name, estimate in found.importance.items() if name != "outlet"} == {
        "words": 0,
        "hour": 0,
        "day": 0,
    }
    assert found.importance["outlet"].value == pytest.approx(found.figures["main_auc"] - 0.5, abs=0.03)
    assert found.models["main_without_outlet"].estimates["auc"].value == 0.5


def test_permuted_words_stay_whole_headlines(parts, posts):
    seen = []

    def record(examples):
        seen.append(sorted(tuple(examples.ids[a:b]) for a, b in pairwise(examples.offsets)))
        return np.full((len(examples), 2), 0.5, np.float32)

    evaluate({"evaluation": parts["evaluation"]}, record, posts, LABEL)
    assert len(seen) > 2
    assert all(headlines == seen[0] for headlines in seen)


def test_tables_add_up(evaluation, parts, posts):
    scored = parts["evaluation"]
    assert sum(b.rows for b in evaluation.hours.values()) == len(scored)
    assert sum(b.rows for b in evaluation.outlets.values()) == len(scored)
    for name, examples in parts.items():
        weeks = evaluation.weeks[name].values()
        assert sum(b.rows for b in weeks) == evaluation.parts[name].rows == len(examples)
        mean = sum(b.rows * b.main for b in weeks) / len(examples)
        assert mean == pytest.approx(evaluation.parts[name].main)
    assert next(iter(evaluation.weeks["training"])) == "2024-01-01"  # a Monday, where the made-up posts begin
    assert set(evaluation.outlets) == set(posts.outlets)


def test_the_surest_rows_are_rows_of_the_data_set(evaluation, parts, posts, made):
    first = len(posts) - len(parts["evaluation"])
    for kind, extremes in evaluation.extremes.items():
        assert len(extremes) > 0
        for extreme in extremes:
            assert extreme.row >= first
            assert extreme.posted_at == posts.posted_at[extreme.row]
            assert extreme.outlet == posts.outlets[posts.outlet[extreme.row]]
            assert extreme.popular == (posts.engagement[extreme.row] > made.label.threshold)
            assert (extreme.score > 0.5) == kind.endswith("high")
            assert ((extreme.score > 0.5) == extreme.popular) == kind.startswith("right")


def test_later_rows_need_no_other_part(parts, predict, posts):
    found = evaluate({"later": parts["evaluation"]}, predict, posts, LABEL, first_row=len(posts) - len(parts["evaluation"]))
    assert not any(key.startswith("baseline") for key in found.figures)
    assert list(found.models) == ["main", "aux", "main_without_outlet"]
    assert found.models["main"].less_baseline == {}
    assert found.models["main"].calibration_error_before is None
    assert "Logistic" not in table(found)


def test_one_class_leaves_figures_out(parts, predict, posts):
    scored = replace(parts["evaluation"], labels=np.zeros_like(parts["evaluation"].labels))
    found = evaluate({**parts, "evaluation": scored}, predict, posts, LABEL)
    defined = ("pair_accuracy", "log_loss", "accuracy", "calibration_error")
    assert set(found.figures) == {f"{model}_{metric}" for model in ("main", "aux", "baseline") for metric in defined} | {
        "main_pair_gap",
        "aux_pair_gap",
        "positive_share",
        "rows",
    }
    assert found.figures["positive_share"] == 0
    assert "nan" not in table(found).lower()
    assert found.importance == {}
    assert found.models["main"].roc == []


def test_tiny_outlets_have_no_auc_of_their_own(parts, predict, posts):
    scored = replace(parts["evaluation"], outlet=np.arange(len(parts["evaluation"]), dtype=np.int32) % 8 - 1)
    scored = replace(
        scored, labels=np.where(scored.outlet >= 0, np.arange(len(scored)) % 50 == 0, scored.labels).astype(np.float32)
    )
    found = evaluate({"later": scored}, predict, posts, LABEL)
    assert "main_auc" in found.figures
    assert "main_auc_within_outlets" not in found.figures
    assert found.outlets_with_auc == 0
    assert found.outlets[""].main_auc is not None


def test_a_single_row_has_no_interval(parts, predict, posts):
    def first(part):
        return replace(
            part,
            ids=part.ids[: part.offsets[1]],
            offsets=part.offsets[:2],
            aux=part.aux[:1],
            labels=part.labels[:1],
            targets=part.targets[:1],
            posted_at=part.posted_at[:1],
            outlet=part.outlet[:1],
        )

    found = evaluate({"later": first(parts["training"])}, predict, posts, LABEL)
    assert found.models["main"].estimates["log_loss"].low is None
    assert found.figures["rows"] == 1
    assert "1 rows" in table(found)


def test_no_row_is_refused(parts, predict, posts):
    nothing = replace(parts["evaluation"], offsets=np.zeros(1, np.int64), labels=np.zeros(0, np.float32))
    with pytest.raises(ValueError, match="no rows"):
        evaluate({"later": nothing}, predict, posts, LABEL)


def test_without_a_word_seen_twice_there_is_no_baseline(parts, predict, posts):
    unlike = replace(posts, ids=np.arange(len(posts.ids), dtype=np.int32), words=[""] * len(posts.ids))
    assert "baseline_auc" not in evaluate(parts, predict, unlike, LABEL).figures


def test_the_table_shows_each_figure(evaluation):
    shown = table(evaluation)
    for metric, title in METRICS.items():
        line = next(line for line in shown.splitlines() if line.startswith(title + " "))
        assert f"{evaluation.figures[f'main_{metric}']:.4f}" in line
        assert f"{evaluation.figures[f'baseline_{metric}']:.4f}" in line
    assert max(map(len, shown.splitlines())) <= 110


@pytest.mark.skipif(not REAL_DATA.exists(), reason="the real headlines are not at hand; HEADLINES_REAL_DATA names them")
def test_the_baselines_reach_on_real_headlines_what_was_measured():
    """Trained on the first half and scored on the tenth after it: the latest rows are for the final figures alone."""
    posts = dataset.read([REAL_DATA])
    made = features.build(posts, popular_above="median", shares=(0.5, 0.6, 0.6))
    found = evaluate(
        {"training": made.training, "validation": made.validation},
        lambda examples: expit(examples.aux[:, [4, 4]]),
        posts,
        LABEL,
    )
    assert 0.79 < found.figures["baseline_auc"] < 0.85
    assert 0.64 < found.figures["baseline_auc_within_outlets"] < 0.74
    assert found.models["outlet"].estimates["auc"].value == pytest.approx(0.778, abs=0.03)
    assert found.outlets_with_auc >= 15
