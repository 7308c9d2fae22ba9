import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy.special import expit

from service.model.artifact import ModelInfo, Part, Teacher, Time
from service.model.preprocessing import TIME_FEATURES
from training import card, dataset, features, report
from training.calibration import Calibration
from training.comparison import Comparison
from training.dataset import LEFT_OUT
from training.evaluate import Scores, evaluate
from training.fit import Epoch, Losses
from training.resampling import Estimate
from training.synthesize import synthesize

FROZEN = dict.fromkeys(TIME_FEATURES, 0.1)
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
    return features.build(posts, popular_above="median")


@pytest.fixture(scope="module")
def parts(made):
    return {"training": made.training, "validation": made.validation, "evaluation": made.evaluation}


def predict(examples):
    return expit(np.stack([examples.aux[:, 4], examples.aux[:, 0]], axis=1))


@pytest.fixture(scope="module")
def evaluation(parts, posts, made):
    return evaluate(parts, predict, posts, made.label, calibration=(Calibration(1.0, 0.1), Calibration(1.0, -0.1)))


@pytest.fixture(scope="module")
def info(made, parts, evaluation):
    return ModelInfo(
        created_at=Time(1_720_000_000.0),
        synthetic=True,
        vocabulary_size=len(made.vocabulary),
        outlet_levels=made.outlet_levels,
        label=made.label,
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
    assert page.tags.count("svg") == 9  # pairs, ROC, calibration x 2, hours, weeks, learning x 2, importance
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
    assert f"Popular is a post with more than {info.label.threshold:,g} retweets and likes together" in text
    assert f"{len(parts['training']):,} posts of 1 January 2024" in text
    for name, part in info.parts.items():
        assert name.capitalize() in text
        assert f"{part.positive_share:.1%}" in text
    assert f"{posts.dropped['too_young']:,} too young" in text
    assert info.data_checksum in text
    assert f"{evaluation.figures['main_auc']:.3f}" in text
    assert f"{evaluation.figures['baseline_log_loss']:.3f}" in text


def test_only_made_up_data_bear_the_banner(tmp_path, evaluation, info, posts):
    assert "Made-up data." not in write(tmp_path, evaluation, replace(info, synthetic=False), posts)


def test_a_report_on_later_rows_has_no_learning_curves(tmp_path, parts, info, posts, made):
    later = evaluate(
        {"later": parts["evaluation"]}, predict, posts, made.label, first_row=len(posts) - len(parts["evaluation"])
    )
    text = write(tmp_path, later, info, posts)
    assert "How it learned" not in text
    assert "logistic regression" not in text
    assert Page(text).tags.count("svg") == 7


def test_one_class_is_reported_too(tmp_path, parts, info, posts, made):
    scored = replace(parts["evaluation"], labels=np.ones_like(parts["evaluation"].labels))
    found = evaluate({**parts, "evaluation": scored}, predict, posts, made.label)
    text = write(tmp_path, found, info, posts, HISTORY)
    assert "in the right order" in text  # of two popular posts one did better
    assert "nan" not in json.dumps(json.loads((tmp_path / "report/figures.json").read_text())).lower()


def test_a_post_from_the_year_1_does_not_stop_it(tmp_path, parts, info, posts, made):
    """As .NET's empty date is."""
    posted_at = parts["training"].posted_at.copy()
    posted_at[0] = -62_135_596_800
    found = evaluate({**parts, "training": replace(parts["training"], posted_at=posted_at)}, predict, posts, made.label)
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
        (Estimate(0.02, 0.01, 0.03), "this model is the better one"),
        (Estimate(-0.02, -0.03, -0.01), "that method is the better one here"),
        (Estimate(0.001, -0.01, 0.01), "no clear difference"),
        (Estimate(0.02, None, None), "no clear difference"),
    ],
)
def test_plain_words_follow_the_figures(evaluation, difference, verdict):
    def scores(pairs, less_baseline=None):
        estimates = {"pair_accuracy": Estimate(pairs, None, None), "calibration_error": Estimate(0.0241, 0.01, 0.04)}
        return Scores(estimates, less_baseline or {}, [], [], [], None)

    models = {"main": scores(0.676, {"pair_accuracy": difference}), "aux": scores(0.643), "baseline": scores(0.659)}
    found = replace(evaluation, models=models, pair_gap={"main": 0.137, "aux": 0.2})
    text = " ".join([card.lead(found), *card.sentences(found)])
    assert "Of two posts of one account, it gives the better one the higher number 68 times in 100; a coin" in text
    assert "less than 14 points apart are about the same: of such pairs fewer than 60 in 100" in text
    assert "From the words alone, as for an account that it does not know, it is right 64 times in 100." in text
    assert f"is right 65.9 times in 100, this model 67.6 times: {verdict}." in text
    assert "off by 2.4 percentage points" in text
    assert "cannot tell which of two wordings of one story is better" in text


def test_pairs_of_stories_are_told_as_such_and_what_was_not_measured_is_not(evaluation):
    estimates = {"pair_accuracy": Estimate(0.6, 0.58, 0.62), "calibration_error": Estimate(0.01, None, None)}
    models = {name: Scores(estimates, {}, [], [], [], None) for name in ("main", "aux")}
    found = replace(evaluation, models=models, of_stories=True, pair_gap={})
    text = " ".join([card.lead(found), *card.sentences(found)])
    assert "Of two headlines of one story, it gives the better one the higher number 60 times in 100 (58 to 62)" in text
    assert "about the same" not in text
    assert "wordings" not in text
    assert "No difference" in " ".join(card.sentences(replace(found, pair_gap={"main": 1.0})))


@pytest.mark.parametrize(
    ("frozen", "worth", "words"),
    [
        ({}, {}, "The posting time counts."),
        ({}, {"auc": 0.01, "high": 0.012, "rows": 5000.0}, "was worth 0.0100 of ROC-AUC on 5,000 later posts, and counts"),
        (FROZEN, {"auc": 0.0008, "high": 0.002, "rows": 5000.0}, "makes no difference: it was worth 0.0008 of ROC-AUC"),
        (FROZEN, {}, "makes no difference: the posts that it learned from have days without hours"),
    ],
)
def test_what_the_posting_time_is_worth_is_said(tmp_path, evaluation, info, posts, frozen, worth, words):
    said = replace(info, frozen=frozen, time_worth=worth)
    text = " ".join(" ".join(Page(write(tmp_path, evaluation, said, posts)).texts).split())
    assert words in text
    assert text.count(words) == 2  # with the numbers' meaning and over the hours
    assert ", the time of posting" not in text if frozen else ", the time of posting" in text


def test_the_page_says_which_version_it_is_of_and_how_the_one_before_did(tmp_path, evaluation, info, posts):
    before = Comparison(6, 4_000, 0.7, 0.69, Estimate(0.01, 0.004, 0.016), True, "more likes than before")
    text = write(tmp_path, evaluation, info, posts, HISTORY, before)
    assert "no number yet" in text
    report.write_number(tmp_path, 7)
    text = " ".join(" ".join(Page((tmp_path / "report/index.html").read_text("utf-8")).texts).split())
    assert "Model card · version 7" in text
    assert "no number yet" not in text
    assert "version 6: 0.6900; difference +0.0100 [+0.0040, +0.0160]" in text
    assert "made-up.csv" in text
    assert str(tmp_path) not in text
    assert "ROC-AUC" not in text[: text.index("What the numbers mean")].replace(before.describe(), "")


def test_a_model_card_is_written_beside_the_model(tmp_path, evaluation, info):
    card.write(tmp_path, evaluation, replace(info, teacher=Teacher("ridge", 0.6, "ab" * 32)))
    text = (tmp_path / "MODEL_CARD.md").read_text("utf-8")
    assert text.startswith("# Will this headline be popular?\n\n**Made-up data")
    assert info.label.describe() in text
    assert card.lead(evaluation) in text
    assert "ab" * 32 in text
    assert "nan" not in text.lower()
    card.write(tmp_path, evaluation, replace(info, synthetic=False))
    assert "Made-up" not in (tmp_path / "MODEL_CARD.md").read_text("utf-8")


def test_every_reason_for_leaving_rows_out_has_its_words(tmp_path, evaluation, info, posts):
    dropped = {reason: 1000 + i for i, reason in enumerate(LEFT_OUT)}
    text = " ".join(" ".join(Page(write(tmp_path, evaluation, info, replace(posts, dropped=dropped, bad=999))).texts).split())
    for reason, rows in dropped.items():
        assert f"{rows:,} {LEFT_OUT[reason]}" in text
    assert "999 whose time, headline or counts could not be used" in text
