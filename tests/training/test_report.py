import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy.special import expit

from service.model.artifact import Label, ModelInfo, Part, Time
from training import dataset, features, report
from training.dataset import LEFT_OUT
from training.evaluate import Estimate, Scores, evaluate
from training.fit import Epoch, Losses
from training.synthesize import synthesize

VOID = {"meta", "br", "link", "img", "input", "hr"}
HOSTILE = "<script>alert(1)</script> $x$ {{ 7 * 7 }} \u202e\u0645 "


class Page(HTMLParser):
    """Collects a page's elements and text; fails on what is not closed."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.open, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend(attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def posts(tmp_path_factory):
    """Made-up posts, headlines and an outlet of which try to break out of the page."""
    path = tmp_path_factory.mktemp("data") / "made-up.csv"
    synthesize(path, posts=3000)
    head, *rows = path.read_text().splitlines()
    text = "\n".join([head, *(HOSTILE + row.replace("madeupecho", "<b onclick=x>&amp;") for row in rows)]) + "\n"
    path.write_text(text)
    return dataset.read([path])


@pytest.fixture(scope="module")
def made(posts):
    return features.build(posts)


@pytest.fixture(scope="module")
def parts(made):
    return {"training": made.training, "validation": made.validation, "evaluation": made.evaluation}


def predict(examples):
    return expit(np.stack([examples.aux[:, 4], examples.aux[:, 0]], axis=1))


@pytest.fixture(scope="module")
def evaluation(parts, posts):
    return evaluate(parts, predict, posts, intercepts=(0.1, -0.1))


@pytest.fixture(scope="module")
def info(made, parts, evaluation):
    return ModelInfo(
        created_at=Time(1_720_000_000.0),
        synthetic=True,
        vocabulary_size=len(made.vocabulary),
        outlet_levels=made.outlet_levels,
        label=Label("above_median", made.threshold, ("retweets", "likes")),
        parts={
            name: Part(len(part), float(part.labels.mean()), Time(part.posted_at[0]), Time(part.posted_at[-1]))
            for name, part in parts.items()
        },
        settings={"epochs": 50, "merge": "concatenate"},
        evaluation=evaluation.figures,
        libraries={"numpy": np.__version__},
        data_checksum="0123456789abcdef" * 4,
    )


HISTORY = (Epoch(Losses(0.6, 0.68), Losses(0.62, 0.69)), Epoch(Losses(0.5, 0.6), Losses(0.63, 0.67)))


def write(directory, *arguments):
    report.write(directory, *arguments)
    return (directory / "report/index.html").read_text("utf-8")


def test_the_page_is_whole_and_asks_for_nothing(tmp_path, evaluation, info, posts):
    text = write(tmp_path, evaluation, info, posts, HISTORY)
    page = Page(text)
    assert {"script", "link", "img", "iframe", "object", "image"}.isdisjoint(page.tags)
    assert page.tags.count("svg") == 8  # ROC, calibration x 2, hours, weeks, learning x 2, importance
    for name, value in page.attributes:
        assert not name.startswith("on")
        assert name not in ("src", "srcset", "action")
        if name in ("href", "xlink:href"):
            assert value.startswith("#")
    assert "@import" not in text
    assert len(text) < 300_000


def test_headlines_and_outlets_are_shown_as_they_are(tmp_path, evaluation, info, posts):
    page = Page(write(tmp_path, evaluation, info, posts))
    shown = [text for text in page.texts if HOSTILE.strip() in text]
    assert len(shown) == sum(map(len, evaluation.extremes.values()))
    assert "<b onclick=x>&amp;" in page.texts


def test_half_a_surrogate_pair_does_not_stop_it(tmp_path, evaluation, info, posts):
    outlets = {"\ud800": evaluation.outlets["madeupbugle"]}
    assert "<td>?</td>" in write(tmp_path, replace(evaluation, outlets=outlets), info, posts)
    json.loads((tmp_path / "report/figures.json").read_text("utf-8"))


def test_it_opens_as_a_model_card(tmp_path, evaluation, info, posts, parts):
    text = " ".join(" ".join(Page(write(tmp_path, evaluation, info, posts)).texts).split())
    assert "Made-up data." in text
    assert f"its retweets + likes are above {info.label.threshold:,g}, the median" in text
    assert f"{len(parts['training']):,} headlines posted from 1 January 2024" in text
    for name, part in info.parts.items():
        assert name.capitalize() in text
        assert f"{part.positive_share:.1%}" in text
    assert f"{posts.dropped['too_young']:,} too young" in text
    assert info.data_checksum in text
    assert f"{evaluation.figures['main_auc']:.3f}" in text
    assert f"{evaluation.figures['baseline_log_loss']:.3f}" in text


def test_only_made_up_data_bear_the_banner(tmp_path, evaluation, info, posts):
    assert "Made-up data." not in write(tmp_path, evaluation, replace(info, synthetic=False), posts)


def test_a_report_on_later_rows_has_no_learning_curves(tmp_path, parts, info, posts):
    later = evaluate({"later": parts["evaluation"]}, predict, posts, first_row=len(posts) - len(parts["evaluation"]))
    text = write(tmp_path, later, info, posts)
    assert "How it learned" not in text
    assert "logistic regression" not in text
    assert Page(text).tags.count("svg") == 6


def test_one_class_is_reported_too(tmp_path, parts, info, posts):
    scored = replace(parts["evaluation"], labels=np.ones_like(parts["evaluation"].labels))
    found = evaluate({**parts, "evaluation": scored}, predict, posts)
    text = write(tmp_path, found, info, posts, HISTORY)
    assert "are of one kind" in text
    assert "nan" not in json.dumps(json.loads((tmp_path / "report/figures.json").read_text())).lower()


def test_a_post_from_the_year_1_does_not_stop_it(tmp_path, parts, info, posts):
    """As .NET's empty date is."""
    posted_at = parts["training"].posted_at.copy()
    posted_at[0] = -62_135_596_800
    found = evaluate({**parts, "training": replace(parts["training"], posted_at=posted_at)}, predict, posts)
    assert "0001-01-01" in write(tmp_path, found, info, posts)


def test_the_same_evaluation_gives_the_same_bytes(tmp_path, evaluation, info, posts):
    first = write(tmp_path / "a", evaluation, info, posts, HISTORY)
    assert write(tmp_path / "b", evaluation, info, posts, HISTORY) == first


def test_figures_json_holds_what_the_page_shows(tmp_path, evaluation, info, posts):
    write(tmp_path, evaluation, info, posts)
    fields = json.loads((tmp_path / "report/figures.json").read_text())
    assert fields["figures"] == evaluation.figures
    auc = evaluation.models["main"].estimates["auc"]
    assert fields["models"]["main"]["estimates"]["auc"] == {"value": auc.value, "low": auc.low, "high": auc.high}
    assert HOSTILE.split()[0] not in json.dumps(fields)


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        (Estimate(0.02, 0.01, 0.03), "so this model is the better one"),
        (Estimate(-0.02, -0.03, -0.01), "so that method is the better one here"),
        (Estimate(0.001, -0.01, 0.01), "which is no clear difference"),
        (Estimate(0.02, None, None), "which is no clear difference"),
    ],
)
def test_plain_words_follow_the_figures(evaluation, difference, verdict):
    def scores(auc, less_baseline=None):
        estimates = {"auc": Estimate(auc, None, None), "calibration_error": Estimate(0.0241, 0.01, 0.04)}
        return Scores(estimates, less_baseline or {}, [], [], [], None)

    models = {"main": scores(0.814, {"auc": difference}), "aux": scores(0.703), "baseline": scores(0.79)}
    text = " ".join(report.summary(replace(evaluation, models=models)))
    assert "higher score 81 times in 100" in text
    assert "From the words alone, not knowing who posts or when, it is right 70 times in 100." in text
    assert f"right 79 times in 100, {verdict}." in text
    assert "off by 2.4 percentage points" in text
    assert "same outlet" not in text


def test_every_reason_for_leaving_rows_out_has_its_words(tmp_path, evaluation, info, posts):
    dropped = {reason: 1000 + i for i, reason in enumerate(LEFT_OUT)}
    text = " ".join(" ".join(Page(write(tmp_path, evaluation, info, replace(posts, dropped=dropped, bad=999))).texts).split())
    for reason, rows in dropped.items():
        assert f"{rows:,} {LEFT_OUT[reason]}" in text
    assert "999 whose time, headline or counts could not be used" in text
