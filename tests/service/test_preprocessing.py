"""Words, ids and auxiliary features: pinned by golden pairs, and on whatever text an enemy may send."""

import html
import json
import math
from html.entities import html5
from itertools import chain, product
from pathlib import Path
from unicodedata import combining, normalize

import numpy as np
import pytest
import regex
from hypothesis import assume, example, given
from hypothesis import strategies as st

from service.model.preprocessing import (
    MAX_EXPANDING,
    RULES,
    SEQUENCE_LENGTH,
    TIME_FEATURES,
    UNKNOWN,
    VOCABULARY_HEAD,
    Headline,
    Preprocessor,
    expands,
    is_blank,
    outlet_key,
    rules_2,
    time_features,
)
from service.model.preprocessing.rules_1 import _LONG_RUNS, words

GOLDEN = [
    pytest.param(rules, pair, id=f"{rules}-{ascii(pair['text'])[:30]}")
    for rules in RULES
    for pair in json.loads((Path(__file__).parent.parent / "golden" / f"preprocessing_{rules}.json").read_text("utf-8"))
]
DAY = 86_400.0
MONDAY = 1_704_067_200.0  # 2024-01-01T00:00Z

VOCABULARY = [*VOCABULARY_HEAD, "the", "don't", "東", "café"]
LEVELS = {"nytimes": 1.5, "café": -0.5}
PREPROCESSOR = Preprocessor(VOCABULARY, LEVELS)

RULES_ = pytest.mark.parametrize("rules", RULES.values(), ids=map(str, RULES))

HOSTILE = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=()), max_size=8),  # lone surrogates too
        st.sampled_from(
            [
                "\0",
                "\u0301",
                "\u202e",
                "\u2067",
                "\u200d",
                "\ufe0f",
                "👩\u200d👩\u200d👧",
                "🇬🇧",
                "\ud800",
                "\udfff",
                "\ufdfa",
                "'",
                "\u2019",
                "İ",
                "ß",
                "東",
                "が",
                "ヾ",
                "\U00016ff1",  # Han, and a mark
                "\u2f52",
                "\u2e80",
                "〆",
                "서울",
                "\u1161",
                "the",
                " ",
            ]
        ),
    ),
    max_size=20,
).map("".join)
ALONE = r"\p{Han}\p{Hiragana}\p{Katakana}"  # with some symbols and marks of these scripts
WORD = regex.compile(rf"[\p{{L}}\p{{N}}{ALONE}][\p{{L}}\p{{M}}\p{{N}}]*(?:'[\p{{L}}\p{{N}}][\p{{L}}\p{{M}}\p{{N}}]*)*")
START = rf"[[\p{{L}}\p{{N}}]--[{ALONE}]]"
REST = rf"[[\p{{L}}\p{{M}}\p{{N}}]--[{ALONE}]]"
RULES_1 = regex.compile(rf"[{ALONE}]\p{{M}}*|{START}{REST}*(?:'{START}{REST}*)*", regex.V1)

# What decomposes to marks alone; U+0F73, U+FF9E and their like are not marks themselves.
MARKS = [mark for mark in map(chr, range(0x110000)) if all(map(combining, normalize("NFKD", mark)))]
LONG = st.lists(
    st.one_of(
        HOSTILE,
        st.text(MARKS, min_size=60, max_size=200),
        st.text("\u0345\u0301\u0316\u0f71\u0f73\u0f81\uff9e\u3099\U00010efc\u0897", min_size=60, max_size=200),
        st.text("東がアa1é'\u0301\u3099각\uff76\uff9e㍻㏠ ", max_size=30),
    ),
    max_size=6,
).map("".join)


def plain_words(text):
    """The rules number 1 as they are written down, at whatever cost."""
    text = normalize("NFKC", normalize("NFKC", text).casefold())
    for apostrophe in "\u2018\u2019\u02bc":
        text = text.replace(apostrophe, "'")
    return RULES_1.findall(text)


@pytest.mark.parametrize(("rules", "pair"), GOLDEN)
def test_golden_pairs(rules, pair):
    assert RULES[rules].words(pair["text"]) == pair["words"]


@given(LONG)
@example("東京\u0301a東\u0301a東a'b東1日")
@example("x" + "\u0345\u0301\u0316" * 60 + "ΐ" + "\u0316\u0345" * 60)
@example("\uff76" + "\uff9e\u0301" * 60 + "\u0897\u0301\u0316" * 60)  # U+0897 is no mark yet to Python before 3.14
def test_what_is_done_for_speed_changes_no_word(text):
    assert words(text) == plain_words(text)


def test_every_mark_of_unicode_is_put_in_order_before_nfkc():
    missed = [mark for mark in MARKS if not _LONG_RUNS.fullmatch(mark * 64)]
    assert missed == []
    for mark in MARKS:
        text = "a" + f"{mark}\u0301\u0316" * 30
        assert words(text) == plain_words(text), ascii(mark)


def test_case_folding_is_normalised_wherever_it_has_to_be():
    followers = ["", "\u030c", "\u0323\u0308", "\u030a", "\u0331", "\u02be", "\u0345\u0301", "\u0342", "\u0313"]
    for character in map(chr, range(0x110000)):
        if normalize("NFKC", character).casefold() != character:
            for follower in followers:
                text = f"a{character}{follower}b"
                assert words(text) == plain_words(text), ascii(text)


def test_characters_that_expand_are_counted_over_all_of_unicode():
    alone = regex.compile(f"[{ALONE}]")
    for character in map(chr, range(0x110000)):
        replacement = normalize("NFKC", character)
        several_words = len(replacement) > 1 and alone.search(replacement) is not None
        long = len(normalize("NFKD", character)) > 2
        marked_space = len(replacement) > 1 and replacement[0] == " "
        expected = replacement != character and (long or several_words or marked_space)
        assert expands(character * (MAX_EXPANDING + 1)) == expected, ascii(character)


@pytest.mark.parametrize("character", ["\ufdfa", "㌫", "½", "…", "㍻", "㏠", "㈱", "\U0001d160", "\ufef7", "´"], ids=ascii)
def test_a_text_may_hold_64_characters_that_expand(character):
    assert not expands("новости " * 50 + character * MAX_EXPANDING)
    assert not expands(character * MAX_EXPANDING)
    assert expands("новости " * 50 + f"{character} " * (MAX_EXPANDING + 1))


@pytest.mark.parametrize(
    "text",
    [
        "Thủ tướng yêu cầu đẩy nhanh tiến độ các dự án trọng điểm ",
        normalize("NFD", "Thủ tướng yêu cầu đẩy nhanh tiến độ các dự án trọng điểm "),
        "국회가 새로운 예산안을 통과시켰다 ",
        normalize("NFD", "국회가 새로운 예산안을 통과시켰다 "),
        "ἄνδρα μοι ἔννεπε, Μοῦσα, πολύτροπον, ὃς μάλα πολλὰ ᾧ ᾄδω ",
        "الرئيس يعلن خطة جديدة للاقتصاد ",
        "सड़क पर बड़ी भीड़, पढ़ाई के लिए नया क़ानून ",
        "ประชาชนทำงานและนำเข้าสินค้า ",
        "東京で新しい公園がオープン！ﾊﾟｰﾃｨｰ ",
        "«Это надолго» — сказал министр № 1 ",
        "Z\u0351\u036b\u0343a\u0321\u0316l\u0301\u0323g\u0489o\u035c ",
        "ﬁnancial ﬂows – “quoted” text at 20℃ ™ ",
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_what_newsrooms_write_is_never_refused_for_its_script(text):
    assert not expands(text * 60)
    assert words(text * 60) == plain_words(text * 60)


@given(HOSTILE)
def test_a_word_is_letters_digits_and_marks_joined_by_single_apostrophes(text):
    assert all(WORD.fullmatch(word) for word in words(text))


@given(HOSTILE)
def test_compatible_forms_of_a_text_have_the_same_words(text):
    assert words(normalize("NFKC", text)) == words(text)


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_takes_a_shorter_way_to_the_same_words(text):
    # An ideograph of its own word sends the whole text the long way.
    assert words(text + " 東") == [*words(text), "東"]


def check_rows(number, texts, words):
    """All words are known, so ids tell them apart."""
    vocabulary = [*VOCABULARY_HEAD, *sorted(set(chain.from_iterable(words)))]
    id_of = {word: i for i, word in enumerate(vocabulary)}
    rows = Preprocessor(vocabulary, {}, number).encode([(text, 0.0, "") for text in texts])
    expected = [[id_of[word] for word in some][:SEQUENCE_LENGTH] or [UNKNOWN] for some in words]
    assert rows.ids.tolist() == list(chain.from_iterable(expected))
    assert rows.lengths.tolist() == list(map(len, expected))
    assert rows.word_counts == list(map(len, words))


def test_latin_1_and_what_editors_write_take_a_shorter_way_to_the_same_words():
    characters = [*map(chr, range(256)), *"\u2018\u2019\u02bc\u201c\u201d\u2013\u2014\u2022\u20ac\u2026\u0301\u0153"]
    texts = [f"a{first}{second}{third}" for first, second in product(characters, repeat=2) for third in ("B", " '")]
    check_rows(1, texts, list(map(plain_words, texts)))


@pytest.mark.parametrize("number", RULES)
@given(
    st.lists(st.one_of(HOSTILE, st.text(st.characters(max_codepoint=255)), st.text("aB9' \u2019\u2014\xad&/@\xff")), min_size=1)
)
@example(
    ["", "!", "", "\u2014", "caf\xe9 \u2019tis", "\xad", "a" * 1001, "\u2019" * 1001 + "a", "a " * 101, "\u2026" * 400 + "a"]
)
def test_many_texts_have_the_words_that_each_has(number, texts):
    check_rows(number, texts, list(map(RULES[number].words, texts)))


@given(st.lists(st.tuples(HOSTILE, st.floats(-62_135_596_800, 253_402_300_799), HOSTILE), max_size=5))
def test_whatever_comes_becomes_rows_that_the_network_can_take(headlines):
    rows = PREPROCESSOR.encode([Headline(*fields) for fields in headlines])

    assert rows.ids.dtype == rows.lengths.dtype == np.int32
    assert rows.aux.dtype == np.float32
    assert rows.aux.shape == (len(headlines), 5)
    assert len(rows.ids) == rows.lengths.sum()
    assert ((rows.lengths >= 1) & (rows.lengths <= SEQUENCE_LENGTH)).all()
    assert ((rows.ids >= UNKNOWN) & (rows.ids < 6)).all()
    assert np.isfinite(rows.aux).all()
    assert all(0 <= unknown <= count for unknown, count in zip(rows.unknown_word_counts, rows.word_counts, strict=True))


@given(HOSTILE, st.floats(-62_135_596_800, 253_402_300_799), HOSTILE | st.sampled_from(["", "nytimes", "NYTimes"]), HOSTILE)
def test_a_row_is_the_same_whatever_stands_beside_it(text, posted_at, outlet, other):
    alone = PREPROCESSOR.encode([Headline(text, posted_at, outlet)])
    beside = PREPROCESSOR.encode([Headline(other, 5.0, "nytimes"), Headline(text, posted_at, outlet)])

    assert beside.ids[beside.lengths[0] :].tolist() == alone.ids.tolist()
    assert beside.lengths[1:].tolist() == alone.lengths.tolist()
    assert beside.aux[1].tobytes() == alone.aux[0].tobytes()
    assert [column[1:] for column in beside[3:]] == list(alone[3:])


@pytest.mark.parametrize(
    "text",
    ["a" * 2**20, "the " * 2**18, "東" * 2**18, "\u0301" * 2**19, "a'" * 2**19, "\0" * 2**20, "\ufdfa" * 2**15],
    ids=ascii,
)
def test_a_megabyte_is_cut_to_the_first_hundred_words(text):
    rows = PREPROCESSOR.encode([Headline(text, 0.0)])

    assert 1 <= len(rows.ids) <= SEQUENCE_LENGTH
    assert rows.word_counts == [len(rules_2.words(text))]
    old = Preprocessor(VOCABULARY, LEVELS, rules=1).encode([Headline(text, 0.0)])
    assert 1 <= len(old.ids) <= SEQUENCE_LENGTH
    assert old.word_counts == [len(words(text))]


def test_a_headline_over_a_hundred_words_keeps_its_first_hundred_and_counts_all():
    rows = PREPROCESSOR.encode([Headline("the " * 70 + "unheard " * 70, 0.0)])

    assert rows.ids.tolist() == [2] * 70 + [UNKNOWN] * 30
    assert (rows.word_counts, rows.unknown_word_counts) == ([140], [70])


def test_a_headline_without_a_word_is_one_unknown_word_and_counts_none():
    rows = PREPROCESSOR.encode([Headline("!!!", 0.0)])

    assert rows.ids.tolist() == [UNKNOWN]
    assert (rows.word_counts, rows.unknown_word_counts) == ([0], [0])
    assert not is_blank("!!!")


def test_no_headline_is_no_row():
    rows = PREPROCESSOR.encode([])

    assert rows.ids.shape == rows.lengths.shape == (0,)
    assert rows.aux.shape == (0, 5)


@pytest.mark.parametrize("text", ["", " ", "\t\r\n", "\u00a0\u3000\u2028"])
def test_white_space_alone_is_blank(text):
    assert is_blank(text)


def test_outlets_are_compared_stripped_and_casefolded():
    rows = PREPROCESSOR.encode([Headline("x", 0.0, name) for name in (" NYTimes\n", "CAFÉ", "The New York Times", "")])

    assert rows.aux[:, 4].tolist() == [1.5, -0.5, 0.0, 0.0]
    assert rows.outlets_known == [True, True, False, False]
    assert outlet_key("STRASSE") == outlet_key("straße")


def test_known_moments_stand_where_they_should_on_their_circles():
    assert time_features(MONDAY) == pytest.approx((0, 1, 0, 1), abs=1e-9)
    assert time_features(MONDAY + DAY / 4) == pytest.approx((1, 0, math.sin(math.tau / 28), math.cos(math.tau / 28)), abs=1e-9)
    assert time_features(MONDAY + 3.5 * DAY) == pytest.approx((0, -1, 0, -1), abs=1e-9)


@given(st.integers(-700_000, 2_900_000), st.floats(0, 60))
def test_time_moves_without_a_step_over_midnight_and_monday(day, seconds):
    midnight = day * DAY
    before, after = time_features(midnight - seconds), time_features(midnight + seconds)

    assert max(abs(a - b) for a, b in zip(before, after, strict=True)) <= math.tau * 2 * seconds / DAY + 1e-6


@given(st.floats(-62_135_596_800, 253_402_300_799))
def test_time_stands_on_two_circles_that_come_round_each_day_and_week(seconds):
    a, b, c, d = time_features(seconds)

    assert (a * a + b * b, c * c + d * d) == (pytest.approx(1), pytest.approx(1))
    assert time_features(seconds + DAY)[:2] == pytest.approx((a, b), abs=1e-6)
    assert time_features(seconds + 7 * DAY) == pytest.approx((a, b, c, d), abs=1e-6)


@pytest.mark.parametrize(
    ("vocabulary", "sentence"),
    [(["[UNK]", "", "a"], "begins otherwise"), ([], "begins otherwise"), (["", "[UNK]", "a", "a"], "a word twice")],
)
def test_a_wrong_vocabulary_is_refused(vocabulary, sentence):
    with pytest.raises(ValueError, match=sentence):
        Preprocessor(vocabulary, {})


@given(HOSTILE)
def test_words_are_found_again_in_their_own_spelling(text):
    found = words(text)
    assume(found)
    assert words(" ".join(found)) == found


# What is cleaned, and beginnings of it, in any order.
CLEANED = st.lists(
    st.one_of(
        HOSTILE,
        st.text("&#;x0aA1/:.@RT \u200b", max_size=8),
        st.sampled_from(
            ["&amp;", "&amp;amp;", "&#8217;", "&#x;", "&#xd800;", "&#0;", "&notit;", "&copy", "&", ";", ".", "/", "@"]
        ),
        st.sampled_from(["https://", "HTTP://", "https://t.co/a", "http://b?c=(d)", "http", "://", "a", "é", "_", "-"]),
        st.sampled_from(["t.co/", "T.CO/x", "t.co", "bit.ly/x", "at.co/x", "on.wsj.com/x", "wsj.com/x", "pic.twitter.com/x"]),
        st.sampled_from(["RT @a: ", "RT @a.b-c_d:", "RT @a@b:", "RT @", "RT", " ", "\u00a0"]),
        st.sampled_from(["\u00ad", "\u200b", "\u200c", "\ufeff", "\u202e", "\u2060"]),
        st.sampled_from(["\u0e44\u0e17\u0e22", "\u0e17\u0e35\u0e48", "\u1000\u103a", "\u1026", "a" * 990, "\u1ff7" * 400]),
    ),
    max_size=12,
).map("".join)
URL = r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]"
HOSTS = "|".join(map(regex.escape, rules_2._SHORTENERS))
LINKS = [
    regex.compile(pattern, regex.IGNORECASE | regex.ASCII)
    for pattern in (
        rf"https?://{URL}+",
        rf"(pic\.twitter\.com|pic\.x\.com)/{URL}*",
        rf"(?<![A-Za-z0-9_.@/-])({HOSTS})/{URL}*",
    )
]


def plain_clean(text):
    """Rules number 2's cleaning as it is written down, at whatever cost."""
    text = regex.sub("&(?:[A-Za-z0-9]{2,31}|#[0-9]{1,8}|#[Xx][0-9A-Fa-f]{1,8});", plain_entity, text[:1000])
    text = regex.sub(r"[\p{Cf}--[\u0600-\u0605\u06dd\u070f\u0890-\u08e2\ufff9-\U0010ffff]]", "", text, flags=regex.V1)
    for link in LINKS:
        text = link.sub(" ", text)
    while mark := regex.match(r"\s*RT @[A-Za-z0-9_][A-Za-z0-9_.@-]*:", text):
        text = text[mark.end() :]
    return text


def plain_entity(entity):
    meaning = html.unescape(entity[0])
    if entity[0][1] != "#":
        return meaning if entity[0][1:] in html5 else entity[0]
    return meaning or chr(int("0" + entity[0][2:-1].lower(), 0 if entity[0][2] in "xX" else 10))


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("AT&T, R&B; 24/7 and/or @name #tag RT http 1:2 Amazon.com t.co")
def test_rules_2_are_rules_1_for_what_needs_no_cleaning(text):
    text = regex.sub(r"[\p{Cf}]|&[^;]*;|://|\.[a-z]+/|RT @", "", text[:300])
    assume(not regex.search(r"&[^;]*;|://|\.[a-z]+/|RT @", text))
    assume(not CLUSTERED.search(normalize("NFKC", text)))
    assert rules_2.words(text) == words(text)


@given(CLEANED)
@example("a.bit.ly/x é.t.co/x _t.co/x 東t.co/x/t.co/y RT @a: t.co/z")
@example("&#128;&#129;&#x110000;&#65534;&#1;&#x0;&#57343;&NotEqualTilde;&CounterClockwiseContourIntegral;")
def test_what_is_done_for_speed_cleans_the_same(text):
    assert rules_2.clean(text) == plain_clean(text)


@given(CLEANED)
def test_a_cleaned_text_holds_nothing_more_to_clean(text):
    cleaned = rules_2.clean(text)
    assert len(cleaned) <= rules_2.LONGEST
    assert not any(link.search(cleaned) for link in LINKS)
    assert not cleaned.lstrip().startswith("RT @a:")
    assert not set(cleaned) & set("\u00ad\u200b\u200c\u200d\u2060\ufeff")
    assert all(WORD.fullmatch(word) for word in rules_2.words(text))
    assume(not regex.search("&[A-Za-z0-9#]+;", cleaned))  # entities are undone once
    assert rules_2.clean(cleaned) == cleaned


@given(CLEANED)
def test_rules_2_read_what_is_left_by_rules_1(text):
    cleaned = rules_2.clean(text)
    read = normalize("NFKC", cleaned)[: rules_2.LONGEST]
    assume(not CLUSTERED.search(read))
    assert rules_2.words(text) == words(read)


SCRIPTS = ["Thai", "Lao", "Khmer", "Myanmar", "Tai_Le", "New_Tai_Lue", "Tai_Tham", "Tai_Viet", "Javanese", "Balinese"]
CLUSTERED = regex.compile("[" + "".join(rf"\p{{{script}}}" for script in SCRIPTS) + "]")


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_letter_of_a_script_without_spaces_is_a_word_with_its_marks(script):
    # In the basic plane; beyond it are rare numbers.
    characters = [it for it in map(chr, range(0x10000)) if regex.match(rf"\p{{{script}}}", it) and normalize("NFKC", it) == it]
    letters = [it for it in characters if regex.match(r"[\p{L}\p{N}]", it)]
    marks = [it for it in characters if regex.match(r"\p{M}", it)]
    assert len(letters) > 30
    for letter in letters:
        assert rules_2.words(f"{letter}{letter}") == [letter, letter], ascii(letter)
    for mark in [*marks, "\u0301", "\ufe00"]:
        first, second = words(f"{letters[0]}{mark}{letters[1]}x")[0][:-2], letters[1]
        assert rules_2.words(f"{letters[0]}{mark}{letters[1]}") == [first, second], ascii(mark)


def test_frozen_features_do_not_depend_on_the_time():
    frozen = dict(zip(TIME_FEATURES, (0.25, -0.5, 0.0, 1.0), strict=True))
    rows = Preprocessor(VOCABULARY, LEVELS, frozen=frozen).encode(
        [Headline("x", time, "nytimes") for time in (0.0, MONDAY, 1e9)]
    )
    assert rows.aux.tolist() == [[0.25, -0.5, 0.0, 1.0, 1.5]] * 3
