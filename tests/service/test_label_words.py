"""A label says in words what a popular post has more of, and than what."""

import pytest

from service.model.labels import ABOVE_MEDIAN, ABOVE_OUTLET_MEDIAN, ABOVE_STORY_MEAN, Label


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (("likes",), "more than 1,234.5 likes, as half of"),
        (("retweets", "likes"), "more than 1,234.5 retweets and likes together, as half of"),
        (("retweets", "likes", "replies"), "more than 1,234.5 retweets, likes and replies together, as half of"),
    ],
)
def test_a_label_says_what_is_counted(counts, words):
    assert Label(ABOVE_MEDIAN, counts, threshold=1234.5).describe().startswith(words)


def test_a_label_says_what_a_post_is_compared_with():
    outlet = Label(ABOVE_OUTLET_MEDIAN, ("likes",), window_days=28, least_posts=20)
    assert outlet.describe() == "more likes than half of the same account's posts of the 28 days before it"
    story = Label(ABOVE_STORY_MEAN, ("clicks",), per_impression=True)
    assert story.describe() == "more clicks per impression than the mean of the other headlines of the same story"
    assert (
        Label(ABOVE_STORY_MEAN, ("clicks",)).describe() == "more clicks than the mean of the other headlines of the same story"
    )


@pytest.mark.parametrize(
    ("rule", "parameters"),
    [
        (ABOVE_MEDIAN, {}),
        (ABOVE_MEDIAN, {"threshold": float("nan")}),
        (ABOVE_OUTLET_MEDIAN, {}),
        (ABOVE_OUTLET_MEDIAN, {"window_days": 28.0}),
        (ABOVE_OUTLET_MEDIAN, {"window_days": -1.0, "least_posts": 20}),
    ],
)
def test_a_label_needs_the_parameters_of_its_rule(rule, parameters):
    with pytest.raises(ValueError, match="needs"):
        Label(rule, ("likes",), **parameters)
