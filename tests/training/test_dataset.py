"""Reading past posts: every format, every kind of bad row, and the same answer in whatever order the files come."""

import csv
import gzip
import hashlib
import json
import logging
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.errors import DataError
from service.model import preprocessing
from service.posts import files
from training import dataset, features
from training.settings import Reading

SECRET = "Zebra Xylophone"  # a headline that must never be told
HEADER = ["headline", "posted_at", "outlet", "retweets", "likes"]
DAY = 86_400.0
OLD = 1_456_272_000.0  # 2016-02-24T00:00Z
NEWEST = ["The newest of all", "2016-05-01T00:00:00Z", "cnn", "1", "2"]  # makes the others old enough


def post(headline="Senate passes bill", posted_at="2016-02-24T05:00:00Z", outlet="cnn", retweets="3", likes="4"):
    return [headline, posted_at, outlet, retweets, likes]


def write(path, rows, header=HEADER, encoding="utf-8"):
    opened = gzip.open if path.name.endswith(".gz") else open
    if path.suffix == ".parquet":
        pq.write_table(pa.table({name: [row[i] for row in rows] for i, name in enumerate(header)}), path)
    elif ".jsonl" in path.name:
        with opened(path, "wt", encoding=encoding) as file:
            file.writelines(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows)
    else:
        with opened(path, "wt", encoding=encoding, newline="") as file:
            csv.writer(file).writerows([header, *rows])
    return path


def read(paths, rules=preprocessing.NEWEST_RULES, checked=True, clock=time.time, **options):
    return dataset.read(paths, Reading(**options), rules=rules, checked=checked, clock=clock)


def texts(posts):
    return posts.texts(range(len(posts)))


def spelled(posts):
    return [[posts.words[i] for i in ids] for ids in np.split(posts.ids, posts.offsets[1:-1])]


def read_one(tmp_path, row, **options):
    """One row among a hundred good ones."""
    others = [post(f"Headline number {i}") for i in range(99)]
    return read([write(tmp_path / "posts.csv", [*others, row, NEWEST])], **options)


@pytest.mark.parametrize("name", ["posts.csv", "posts.csv.gz", "posts.jsonl", "posts.jsonl.gz", "posts.parquet", "POSTS.CSV"])
def test_every_format_says_the_same(tmp_path, name):
    rows = [post("B's “café”, 東京\nover lines", outlet=" CNN "), post("A b", "2016-02-24T06:30:00+02:00", ""), NEWEST]
    posts = read([write(tmp_path / name, rows)])

    assert texts(posts) == ["A b", "B's “café”, 東京\nover lines"]
    assert spelled(posts) == [["a", "b"], ["b's", "café", "東", "京", "over", "lines"]]
    assert list(posts.words) == sorted(posts.words)
    assert posts.posted_at.tolist() == [OLD + 4.5 * 3600, OLD + 5 * 3600]
    assert posts.outlet.tolist() == [-1, 0]
    assert posts.outlets == ["cnn"]
    assert posts.engagement.tolist() == [7, 7]
    assert posts.counts == ("retweets", "likes")
    assert (posts.read, posts.bad, posts.synthetic) == (3, 0, False)
    assert posts.dropped == {"too_young": 1}


def test_parquet_knows_its_own_types(tmp_path):
    table = pa.table(
        {
            "headline": pa.array(["One two", "Three four", "Five six"]).dictionary_encode(),
            "posted_at": pa.array(
                [int(OLD * 1000) + 500, int(OLD * 1000), int((OLD + 9 * DAY) * 1000)], pa.timestamp("ms", "Asia/Tokyo")
            ),
            "likes": pa.array([12.0, 0.0, 1.0]),
        }
    )
    pq.write_table(table, tmp_path / "posts.parquet")
    posts = read([tmp_path / "posts.parquet"])

    assert posts.posted_at.tolist() == [OLD, OLD + 0.5]
    assert posts.engagement.tolist() == [0, 12]
    assert posts.counts == ("likes",)


def test_a_parquet_row_that_is_wrong_is_named_by_its_number(tmp_path):
    naive = pa.array([int(OLD)] * 2, pa.timestamp("s"))
    pq.write_table(pa.table({"headline": ["A b", "C d"], "posted_at": naive, "likes": [1, 2]}), tmp_path / "posts.parquet")
    with pytest.raises(DataError, match=r"posts\.parquet:1: posted_at has no zone: .*--time-zone"):
        read([tmp_path / "posts.parquet"])

    assert len(read([tmp_path / "posts.parquet"], time_zone="UTC", min_age=0)) == 2


def test_broken_utf8_in_parquet_costs_one_row(tmp_path):
    binary = pa.array([b"Good one", b"Bad \xff one"])
    text = pa.StringArray.from_buffers(2, binary.buffers()[1], binary.buffers()[2])
    pq.write_table(
        pa.table({"headline": text, "posted_at": ["2016-02-24T05:00:00Z"] * 2, "likes": [1, 2]}), tmp_path / "p.parquet"
    )
    posts = read([tmp_path / "p.parquet"], max_bad_share=0.5, min_age=0)

    assert [*map(str, posts.bad_rows)] == [
        f"{tmp_path}/p.parquet:2: headline or outlet is not UTF-8; if the file is in another encoding, see --encoding"
    ]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (post(posted_at=""), "posted_at is empty"),
        (post(posted_at="24.02.2016"), "posted_at is not a time"),
        (post(posted_at="2016-02-30T00:00:00Z"), "posted_at is not a time"),
        (
            post(posted_at="2016-02-24T05:00:00"),
            "posted_at is written otherwise than the file's first time (ISO 8601 with a zone)",
        ),
        (post(posted_at="2016-02-24"), "posted_at is written otherwise"),
        (post(posted_at="1456290000"), "posted_at is written otherwise"),
        (post(posted_at="0001-01-01T00:00:00+05:00"), "posted_at is outside"),
        (post(retweets=""), "retweets is empty; if that means 0, add --empty-counts zero"),
        (post(likes="-1"), "likes is negative"),
        (post(likes="nan"), "likes is empty"),
        ([SECRET], "has 1 cells, but the header has 5"),
        ([*post(), SECRET], "has 6 cells, but the header has 5"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_bad_row_is_skipped_and_named_by_file_and_line(tmp_path, row, problem):
    posts = read_one(tmp_path, row)

    assert posts.bad == 1
    assert str(posts.bad_rows[0]).startswith(f"{tmp_path}/posts.csv:101: {problem}")
    assert len(posts) == 99


@pytest.mark.parametrize(
    ("likes", "shape"),
    [("1.5", "9.9"), ("inf", "XXX"), ("1_000", "9_999"), ("9" * 400, "9" * 24), ("٣", "?"), ("12 likes", "99 XXXXX")],
)
def test_a_count_that_cannot_be_read_ends_the_job_with_its_shape(tmp_path, likes, shape):
    with pytest.raises(DataError) as caught:
        read_one(tmp_path, post(SECRET, likes=likes))
    assert f"posts.csv:101: has a count that cannot be read; such counts are likes like {shape}" in str(caught.value)
    assert SECRET not in str(caught.value)
    posts = read_one(tmp_path, post(likes=likes), bad_counts="skip")
    assert (posts.dropped["unreadable_count"], posts.bad, len(posts)) == (1, 0, 99)


@pytest.mark.parametrize("text", ["", " \t"])
def test_a_row_without_text_is_left_out_and_counted(tmp_path, text):
    posts = read_one(tmp_path, post(text, likes="no matter"))
    assert (posts.dropped["no_text"], posts.bad, len(posts)) == (1, 0, 99)


@pytest.mark.parametrize("likes", ["12.0", " 12 ", "12.", "0012"])
def test_a_whole_number_may_be_written_as_a_fraction(tmp_path, likes):
    posts = read_one(tmp_path, post("Unlike others", likes=likes))

    assert (posts.bad, posts.engagement.max()) == (0, 15)


def test_more_bad_rows_than_the_share_end_the_job_and_the_first_are_named(tmp_path):
    path = write(
        tmp_path / "posts.csv", [*(post(f"Good {i}") for i in range(98)), post(likes="-1"), post(posted_at="y"), NEWEST]
    )
    with pytest.raises(DataError) as caught:
        read([path])

    assert "2 of 101 rows are bad, more than the share of 0.01" in str(caught.value)
    assert f"{path}:100: likes is negative" in str(caught.value)
    assert f"{path}:101: posted_at is not a time" in str(caught.value)
    assert read([path], max_bad_share=0.02).bad == 2


def test_a_time_without_a_zone_can_be_taken_as_utc(tmp_path):
    path = write(tmp_path / "posts.csv", [post("Naive one", "2016-02-24T05:00:01")])
    with pytest.raises(DataError, match=r"posts\.csv:2: posted_at has no zone: name the one .* --time-zone America/New_York"):
        read([path])

    assert read([path], time_zone="UTC", min_age=0).posted_at.tolist() == [OLD + 5 * 3600 + 1]
    assert read([path], time_zone="America/New_York", min_age=0).posted_at.tolist() == [OLD + 10 * 3600 + 1]


def test_a_quote_that_is_never_closed_is_counted_for_all_it_swallowed(tmp_path):
    path = write(tmp_path / "posts.csv", [post(f"Headline {i}") for i in range(50)])
    with path.open("a") as file:
        file.write('"never closed,2016-02-24T05:00:00Z,cnn,1,2\n' + "fine one,2016-02-24T05:00:00Z,cnn,1,2\n" * 9)
    posts = read([path], max_bad_share=0.5, min_age=0)

    assert (posts.read, posts.bad, len(posts)) == (60, 10, 50)


def test_a_stray_quote_does_not_take_the_rest_of_the_file_along(tmp_path):
    path = tmp_path / "posts.csv"
    good = [f'"Fine, {i}",2016-02-24T05:00:00Z,cnn,1,2\n' for i in range(20)]
    path.write_text(",".join(HEADER) + "\n" + '"never closed,2016-02-24T05:00:00Z,cnn,1,2\n' + "".join(good))
    posts = read([path], max_bad_share=0.5, min_age=0)

    assert len(posts) == 19


def test_a_byte_order_mark_and_blank_lines_are_passed_over(tmp_path):
    path = tmp_path / "posts.csv"
    path.write_text("\n".join([",".join(HEADER), "", ",".join(post()), "", ""]), "utf-8-sig")

    assert texts(read([path], min_age=0)) == ["Senate passes bill"]


def test_bytes_that_are_no_utf8_cost_one_row(tmp_path):
    path = write(tmp_path / "posts.csv", [post(), post("Café au lait")], encoding="latin-1")
    posts = read([path], min_age=0, max_bad_share=0.5)

    assert [*map(str, posts.bad_rows)] == [
        f"{path}:3: headline or outlet is not UTF-8; if the file is in another encoding, see --encoding"
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("[1, 2]", "is not a JSON object"),
        ("{", "is not a JSON object"),
        ("[" * 100_000, "is not a JSON object"),
        ('{"headline": 5, "posted_at": "2016-02-24T05:00:00Z", "likes": 1}', "headline is not text"),
        ('{"headline": "a \\ud800", "posted_at": "2016-02-24T05:00:00Z", "likes": 1}', "headline or outlet is not UTF-8"),
        ('{"headline": "a", "posted_at": 1456272000, "likes": 1}', "posted_at is written otherwise"),
        ('{"headline": "a", "posted_at": "2016-02-24T05:00:00Z", "likes": NaN}', "likes is empty"),
        ('{"headline": "a", "posted_at": "2016-02-24T05:00:00Z", "likes": null}', "likes is empty"),
        ('{"headline": "a", "posted_at": "2016-02-24T05:00:00Z"}', "likes is empty"),
        ('{"headline": "a", "posted_at": "2016-02-24T05:00:00Z", "likes": 1, "outlet": true}', "outlet is not text"),
    ],
    ids=lambda value: ascii(value)[-40:],
)
def test_a_bad_line_of_json_is_skipped_and_named(tmp_path, line, problem):
    path = write(tmp_path / "posts.jsonl", [["A b", "2016-02-24T05:00:00Z", 3]], ["headline", "posted_at", "likes"])
    with path.open("a") as file:
        file.write("\n" + line + "\n")
    posts = read([path], max_bad_share=0.5, min_age=0)

    assert len(posts) == 1
    assert str(posts.bad_rows[0]).startswith(f"{path}:3: {problem}")


@pytest.mark.parametrize("name", ["posts.csv", "posts.jsonl", "posts.parquet"])
@pytest.mark.parametrize(
    ("column", "sentence"), [("headline", "headline"), ("posted_at", "posted_at"), ("likes", "retweets or likes")]
)
def test_a_missing_column_ends_the_job_at_once(tmp_path, name, column, sentence):
    header = ["headline", "posted_at", "likes"]
    place = header.index(column)
    header[place] = "other"
    path = write(tmp_path / name, [["A b", "2016-02-24T05:00:00Z", "1"]], header)
    with pytest.raises(DataError, match=f"{name}: has no column {sentence}"):
        read([path])


def test_an_engagement_column_that_no_file_has_counts_nothing(tmp_path):
    path = write(tmp_path / "posts.csv", [["A b", "2016-02-24T05:00:00Z", "7"]], ["headline", "posted_at", "retweets"])
    posts = read([path], min_age=0)

    assert (posts.counts, posts.engagement.tolist()) == (("retweets",), [7])


def test_files_that_count_different_things_are_refused(tmp_path):
    both = write(tmp_path / "both.csv", [post()])
    one = write(tmp_path / "one.csv", [["A b", "2016-02-24T05:00:00Z", "7"]], ["headline", "posted_at", "likes"])
    with pytest.raises(DataError, match=r"one\.csv: counts likes, but .*both\.csv counts retweets and likes"):
        read([both, one])


def test_the_order_of_files_and_rows_changes_nothing(tmp_path):
    random = np.random.default_rng(0)
    # Few moments, outlets and beginnings, so that many rows are tied in all but the headline's end.
    rows = [
        post(
            f"Breaking news {random.integers(40)}{random.choice(['', '!'])}",
            f"2016-02-2{random.integers(4, 6)}T05:00:00Z",
            random.choice(["cnn", "CNN", "bbc", ""]),
            int(random.integers(3)),
            0,
        )
        for _ in range(400)
    ]
    first = write(tmp_path / "a.csv", rows[:150])
    second = write(tmp_path / "b.jsonl", rows[150:])
    shuffled = write(tmp_path / "c.csv.gz", [rows[i] for i in random.permutation(len(rows))])
    one, other = read([first, second], min_age=0), read([second, first], min_age=0)
    third = read([shuffled], min_age=0)

    assert one.checksum == other.checksum != third.checksum
    for another in (other, third):
        assert texts(another) == texts(one)
        assert another.engagement.tolist() == one.engagement.tolist()
        assert another.ids.tolist() == one.ids.tolist()
    outlets = [one.outlets[i] if i >= 0 else "" for i in one.outlet]
    keys = list(zip(one.posted_at, outlets, texts(one), strict=True))
    assert keys == sorted(keys)
    assert len(one) + one.dropped["duplicate"] == 400


def test_of_the_same_words_by_one_outlet_the_earliest_stays(tmp_path):
    rows = [
        post("Same WORDS, again!", "2016-02-25T05:00:00Z", "CNN", likes="50"),
        post("same words again", "2016-02-24T05:00:00Z", "cnn", likes="10"),
        post("Same words again", "2016-02-26T05:00:00Z", "bbc", likes="30"),
        post("again same words", "2016-02-27T05:00:00Z", "cnn", likes="40"),
    ]
    posts = read([write(tmp_path / "posts.csv", rows)], min_age=0)

    assert posts.engagement.tolist() == [13, 33, 43]
    assert posts.dropped["duplicate"] == 1


def test_of_one_post_that_was_read_twice_the_later_reading_stays(tmp_path):
    rows = [post(likes="10"), post(likes="90"), post(likes="20")]
    posts = read([write(tmp_path / "posts.csv", rows)], min_age=0)

    assert posts.engagement.tolist() == [93]


def test_young_posts_and_posts_later_than_the_collection_are_left_out_and_counted(tmp_path):
    rows = [post(f"On day {day}", f"2016-03-{day:02}T00:00:00Z") for day in range(1, 11)]
    path = write(tmp_path / "posts.csv", rows)

    assert read([path]).dropped == {"too_young": 2}
    assert read([path], min_age=3 * DAY).dropped["too_young"] == 3
    early = read([path], collected_at=OLD + 11 * DAY)  # 2016-03-06
    assert early.dropped == {"after_collection": 4, "too_young": 2}
    assert texts(early)[-1] == "On day 4"


def test_a_post_from_the_future_does_not_set_the_time_of_collection(tmp_path):
    rows = [post(f"On day {day}", f"2016-03-{day:02}T00:00:00Z") for day in range(1, 11)]
    posts = read([write(tmp_path / "posts.csv", [*rows, post("Wrong", "2106-01-01T00:00:00Z")])], clock=lambda: OLD + 99 * DAY)

    assert posts.collected_at == OLD + 15 * DAY
    assert posts.dropped == {"after_collection": 1, "too_young": 2}


@pytest.mark.parametrize("name", ["posts.csv", "posts.jsonl", "posts.parquet"])
def test_a_row_that_says_it_is_made_up_marks_the_data(tmp_path, name):
    real = write(tmp_path / ("real_" + name), [post()])
    made_up = write(tmp_path / name, [[*post("Made up"), True]], [*HEADER, "synthetic"])
    false = write(tmp_path / ("false_" + name), [[*post("Not made up"), False]], [*HEADER, "synthetic"])

    assert read([real, made_up], min_age=0).synthetic
    assert not read([real, false], min_age=0).synthetic


def test_texts_are_read_again_in_the_order_asked_for(tmp_path):
    files = [
        write(tmp_path / f"{name}.csv", [post(f"{name} {i}", f"2016-02-24T05:00:{i:02}Z") for i in range(20)]) for name in "ab"
    ]
    posts = read(files, min_age=0)

    assert posts.texts([39, 0, 5, 0]) == ["b 19", "a 0", "b 2", "a 0"]
    assert posts.texts([]) == []


@pytest.mark.parametrize("name", ["posts.csv", "posts.csv.gz", "posts.jsonl", "posts.parquet"])
def test_a_file_is_read_once_and_hashed_as_it_is_read(tmp_path, monkeypatch, name):
    path = write(tmp_path / name, [post(f"Headline {i}") for i in range(50)])
    expected = hashlib.sha256(hashlib.sha256(path.read_bytes()).hexdigest().encode()).hexdigest()
    passes = []

    def count(table, columns, changed):
        passes.append(columns)
        return rows(table, columns, changed)

    rows = files.Table.rows
    monkeypatch.setattr(files.Table, "rows", count)
    posts = read([path], min_age=0)
    path.unlink()  # nothing is read again
    assert features.choose_words(posts, slice(0, len(posts)))
    assert sorted(posts.texts(range(50))) == sorted(f"Headline {i}" for i in range(50))
    assert len(passes) == 1
    assert posts.checksum == expected


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("posts.csv", b"", "is empty; its first line must name the columns"),
        ("posts.csv", ",".join(HEADER).encode(), "the files hold no rows"),
        ("posts.csv", b"headline,headline,posted_at,likes\n", "two columns have the same name"),
        (
            "posts.csv.gz",
            gzip.compress(b"headline,posted_at,likes\n" * 1000)[:-20],
            "is damaged or incomplete, as a compressed file",
        ),
        (
            "posts.csv.gz",
            gzip.compress(b"headline,posted_at,likes\n" + b"x" * (5 << 20)),
            "posts.csv.gz:2: is longer than 4194304",
        ),
        ("posts.jsonl.gz", gzip.compress(b"{}\n{}\n" + b"x" * (5 << 20)), "posts.jsonl.gz:3: is longer than 4194304"),
        ("posts.csv", bytes(100), "is a binary file"),
        ("posts.parquet", b"PAR1 no parquet PAR1", "cannot be read as Parquet"),
        ("posts.jsonl", b"[]", "is empty"),
        ("posts.jsonl", b"[1, 2]", "is empty"),
        ("posts.jsonl", b'[{"headline": "a"}, ', "ends in the middle, after 1 records"),
        ("posts.jsonl", b"{", "posts.jsonl:1: is not a JSON object"),
        ("missing/posts.csv", None, "cannot be read: No such file"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence) as caught:
        read([tmp_path / name])

    assert name in str(caught.value) or "no rows" in sentence


def test_no_headline_is_ever_told(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    told = []
    bad = [[SECRET, *row[1:]] for row in (post(likes="x"), post(posted_at=SECRET), post(retweets=SECRET), [SECRET, SECRET])]
    for name, rows, header in [
        ("rows.csv", bad, HEADER),
        ("header.csv", [post()], post(f"{SECRET} and more of it")),
        ("rows.jsonl", bad[:3], HEADER),
        ("rows.parquet", bad[:3], HEADER),
    ]:
        path = write(tmp_path / name, rows, header)
        with pytest.raises(DataError) as caught:
            read([path])
        told.append(str(caught.value))
    (tmp_path / "broken.jsonl").write_text(SECRET)
    with pytest.raises(DataError) as caught:
        read([tmp_path / "broken.jsonl"])
    told.append(str(caught.value))
    read([write(tmp_path / "skipped.csv", [post(SECRET, likes="x"), post()])], bad_counts="skip", min_age=0)

    assert caplog.records
    assert all(word not in text for word in SECRET.split() for text in [*told, caplog.text])


def test_reading_and_features_need_no_tensorflow():
    code = "import sys; import training.dataset, training.features, training.synthesize; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["posts.csv", "posts.jsonl", "posts.parquet"])
@pytest.mark.parametrize(
    "header",
    [["Headline", "POSTED_AT", "Outlet", "ReTweets", "LIKES"], [" headline ", "posted_at", "outlet\t", "retweets", "likes"]],
)
def test_columns_may_differ_in_case_and_outer_spaces_and_that_is_said(tmp_path, caplog, name, header):
    caplog.set_level(logging.INFO)
    posts = read([write(tmp_path / name, [post(), NEWEST], header)])
    assert (posts.outlets, posts.counts, posts.engagement.tolist()) == (["cnn"], ("retweets", "likes"), [7])
    if name != "posts.csv" or header[0] == "Headline":  # a CSV header's outer spaces never mattered
        assert f"headline = {header[0]}, " in caplog.text


@pytest.mark.parametrize("name", ["posts.csv", "posts.jsonl", "posts.parquet"])
def test_the_exact_name_goes_before_another_writing(tmp_path, name):
    posts = read([write(tmp_path / name, [[*post(), "other"], [*NEWEST, "other"]], [*HEADER, "Outlet"])])
    assert posts.outlets == ["cnn"]


def test_two_writings_without_the_exact_name_are_refused(tmp_path):
    header = ["headline", "posted_at", "Outlet", "OUTLET", "likes"]
    with pytest.raises(DataError, match="two columns have the same name, outlet"):
        read([write(tmp_path / "posts.csv", [post()], header)])
