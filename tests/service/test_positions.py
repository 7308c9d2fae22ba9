"""Where words stand in a text: a position is right, or it is not given."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.model.preprocessing import RULES, SEQUENCE_LENGTH, positions

PIECES = [
    *(
        "a",
        "storm",
        "Don\u2019t",
        "O'Neil",
        "naïve",
        "nai\u0308ve",
        "Straße",
        "İstanbul",
        "ﬁne",
        "½",
        "½a",
        "ΐ",
        "J\u030c",
        "ǰ",
        "2nd",
    ),
    *("東京", "ﾊﾞｶ", "ガ", "\u1112\u1161\u11ab", "한국", "กำลังดี", "မြန်မာ", "𠮷", "नमस्ते", "שָׁלוֹם", "ﷺ"),
    *(
        "http://t.co/storm",
        "https://a.b/a?a=a",
        "t.co/a",
        "stormpic.twitter.com/a",
        "cnn.com",
        "RT @anna: ",
        "@storm",
        "#storm",
    ),
    *("&amp;", "&#97;", "&#8217;", "&storm;", "AT&amp;T", "storm&nbsp;a", "\u00ad", "\u200b", "\u200d", "\ufeff", "\u202e"),
    *("\u0301", "\u3099", "'", "\u2019", "-", "...", "!", "👩\u200d🚀", "\r\n", "\u3000", "\ud800", "\0"),
]
TEXTS = st.one_of(
    st.lists(st.sampled_from([*PIECES, *[" "] * 20]), max_size=40).map("".join),
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5)), max_size=30).map(" ".join),
    st.text(max_size=60),
)
RULES_ = pytest.mark.parametrize("rules", RULES.values(), ids=[f"rules {number}" for number in RULES])


def find(rules, text):
    words = rules.words(text)[:SEQUENCE_LENGTH]
    places = positions.find(rules, text, words)
    assert len(places) == len(words)
    return words, places


@RULES_
@settings(max_examples=1500, deadline=None)
@given(text=TEXTS)
@example("&#97; http://x/a")
@example("&#97; a")
@example("RT @a: a")
@example("กำลัง")
def test_a_position_is_that_of_the_word_or_is_not_given(rules, text):
    words, places = find(rules, text)
    for i, (word, (start, end)) in enumerate(zip(words, places, strict=True)):
        if (start, end) != positions.NOWHERE:
            assert 0 <= start < end <= len(text)
            assert rules.words(text[start:end]) == [word]
            assert rules.words(text[:start]) == words[:i]
            assert rules.words(text[:end]) == words[: i + 1]
    found = [place for place in places if place != positions.NOWHERE]
    assert all(before[1] <= after[0] for before, after in pairwise(found))


@RULES_
@settings(max_examples=300, deadline=None)
@given(words=st.lists(st.sampled_from(["a", "Storm", "don\u2019t", "naïve", "東", "STRASSE", "nai\u0308ve", "9"]), max_size=60))
def test_the_words_of_a_usual_text_are_all_found(rules, words):
    text = ", ".join(words)
    _, places = find(rules, text)
    assert [text[start:end] for start, end in places] == words


@pytest.mark.parametrize(
    ("text", "stands"),
    [
        ("AT&amp;T won&#8217;t pay", ["AT", "T", None, "pay"]),
        ("RT @anna: a storm https://t.co/aXaa a", ["a", "storm", "a"]),
        ("see http://t.co/storm storm", ["see", "storm"]),
        ("winpic.twitter.com/x yes", ["win", "yes"]),
        ("co\u00adoperate \u200bnow", ["co\u00adoperate", "now"]),
        ("ﬁne ﾊﾞｶ İstanbul Straße", ["ﬁne", "ﾊﾞ", "ｶ", "İstanbul", "Straße"]),
        ("กำดี", [None, None, "ดี"]),  # the vowel's mark belongs to one word, the rest of it to the next
        ("the that the", ["the", "that", "the"]),
        ("!!!", []),
    ],
)
def test_examples_by_rules_2(text, stands):
    _, places = find(RULES[2], text)
    assert [text[start:end] if end > 0 else None for start, end in places] == stands


HOSTILE = {
    "one-letter words": "a " * 2048,
    "one letter": "a" * 4096,
    "a link of one letter": "https://t.co/" + "a" * 980 + " a" * 1500,
    "words that stand nowhere": "&#98; " * 600 + "b " * 200,
    "letters without case": "абвгдежзийк " * 170,
    "marks": ("a" + "\u0301\u0323" * 20 + " ") * 48,
    "one run of marks": "a" + "\u0301\u0323" * 1000 + " b",
    "ligatures": "ﬃ " * 1000,
    "retweets": "RT @a: " * 100 + "a " * 100,
    "longer than by default": "é " * 50_000,
}


@RULES_
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_is_read_is_bounded_whatever_the_text(rules, text):
    read = []
    words = rules.words(text)[:SEQUENCE_LENGTH]
    counted = rules._replace(words=lambda text: read.append(len(text)) or rules.words(text))
    positions.find(counted, text, words)
    assert 0 < sum(read) <= positions._MOST_READ


def test_what_cannot_be_looked_for_any_more_is_not_given():
    text = "абвгдежзийк " * 170
    _, places = find(RULES[1], text)
    found = [place != positions.NOWHERE for place in places]
    assert found == sorted(found, reverse=True)
    assert 30 < sum(found) < len(found)
