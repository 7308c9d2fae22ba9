"""What is said of posts before anything is trained on them: facts, what may mislead, and why a fit would end."""

import csv
import json
import re
import time

import numpy as np
import pytest

from headlines.__main__ import main
from training import dataset, inspect
from training.commands import COMMANDS
from training.settings import Reading

SECRET = "Zebra Xylophone"  # in headlines that must never be told
DAY = 86_400.0
FIRST = 1_456_272_000.0  # 2016-02-24T00:00Z
NOW = FIRST + 70 * DAY


def make(posts=1200, **change):
    """Posts of 60 days by three outlets; `change` replaces columns, by functions of the row's number."""
    random = np.random.default_rng(0)
    rows = []
    for i in range(posts):
        moment = FIRST + i * 60 * DAY / posts
        row = {
            "headline": f"{SECRET} number {i} of {random.integers(50)}",
            "posted_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment)),
            "outlet": ("cnn", "bbc", "fox")[i % 3],
            "retweets": int(random.integers(100)),
            "likes": int(random.integers(1000)),
        }
        rows.append(row | {name: of(i, row) for name, of in change.items()})
    return rows


def write(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def look(tmp_path, rows, models=None, popular_above="median", **options):
    path = write(tmp_path / "posts.csv", rows)
    posts = dataset.read([path], Reading(**options), checked=False, clock=lambda: NOW)
    return inspect.inspect(posts, popular_above=popular_above, models=models, clock=lambda: NOW)


def test_good_posts_are_described_and_nothing_is_warned_of(tmp_path):
    found = look(tmp_path, make())
    assert (found.warnings, found.problems) == ((), ())
    facts = found.facts
    assert (facts["rows"], facts["used"], facts["left_out"]) == (1200, 1160, {"too_young": 40})
    assert facts["files"][0]["columns"] == {
        "headline": "headline",
        "posted_at": "posted_at",
        "outlet": "outlet",
        "retweets": "retweets",
        "likes": "likes",
    }
    assert facts["period"]["first"] == "2016-02-24T00:00:00Z"
    assert [it["outlet"] for it in facts["outlets"]] == ["bbc", "cnn", "fox"] or len(facts["outlets"]) == 3
    assert sum(it["posts"] for it in facts["parts"].values()) == 1160
    lines = "\n".join(inspect.describe(found))
    assert "1,160 posts to train on" in lines
    assert "A fit would begin." in lines
    assert SECRET not in lines
    assert SECRET not in json.dumps(facts)


def days(_, row):
    return row["posted_at"][:10]


CASES = {
    "bytes": (
        make(headline=lambda i, row: f"b'{row['headline']}'"),
        {},
        (
            r"1,160 of 1,160 headlines \(100%\) are written as"
            " Python"
        ),
    ),
    "R's escapes": (make(headline=lambda i, row: f"{row['headline']} <U+0001F449>"), {}, "as R writes them"),
    "escapes": (make(headline=lambda i, row: rf"{row['headline']} \xe2\x80"), {}, "hold escapes"),
    "mojibake": (
        make(headline=lambda i, row: f"{row['headline']} wonâ€™t" if i % 4 == 0 else row["headline"]),
        {},
        (
            r"\(25%\)"
            " hold mojibake"
        ),
    ),
    "mojibake of letters": (make(headline=lambda i, row: f"CafÃ© {row['headline']}"), {}, "hold mojibake"),
    "lost characters": (make(headline=lambda i, row: f"{row['headline']} caf\ufffd"), {}, "stands for lost ones"),
    "Excel": (make(headline=lambda i, row: "#NAME?" if i % 50 == 0 else row["headline"]), {}, "are a spreadsheet's errors"),
    "tags": (make(headline=lambda i, row: f"<p>{row['headline']}</p>"), {}, "hold HTML tags"),
    "cut": (make(headline=lambda i, row: f"{row['headline']}… https://t.co/x"), {}, "end in an ellipsis"),
    "emoji": (
        make(headline=lambda i, row: chr(0x1F300 + i % 200) * (1 + i // 200) if i % 9 == 0 else row["headline"]),
        {},
        "hold no word",
    ),
    "mentions": (make(headline=lambda i, row: f"@reader{i} {row['headline']}"), {}, "begin with @ as replies do"),
    "later posts": (
        make(likes=lambda i, row: row["likes"] * (6 if i > 1000 else 10) // 10),
        {},
        (
            r"of the evaluation part's posts"
            " are popular, but 50%"
        ),
    ),
    "one-sided": (
        make(likes=lambda i, row: row["likes"] + 2000 * (i % 3 == 0)),
        {},
        (
            r"nearly all popular or nearly none"
            r" \(cnn 100%"
        ),
    ),
    "look-alike": (
        [{k if k != "outlet" else "page": v for k, v in row.items()} for row in make()],
        {},
        "column 'page' looks like outlet and is not used; .*--column outlet='page'",
    ),
    "one account": (
        [{k: v for k, v in row.items() if k != "outlet"} for row in make()],
        {},
        "--popular-above outlet compares it",
    ),
    "rare posts": (
        make(800, outlet=lambda i, row: f"outlet{i % 7}"),
        {"popular_above": "outlet"},
        r"140 of 773 posts \(18%\) have fewer than 20 of the same outlet",
    ),
    "stories": (
        [row | {"story": f"s{i // 3}"} for i, row in enumerate(make())],
        {},
        "name their story; .*--popular-above story",
    ),
    "no outlet": ([{k: v for k, v in row.items() if k != "outlet"} for row in make()], {}, "no column holds the outlet"),
    "days": (make(posted_at=days), {}, "days without hours, so hour and weekday are switched off"),
    "midnights": (make(posted_at=lambda i, row: days(i, row) + "T00:00:00Z"), {}, "days without hours"),
    "zero times": (
        make(posted_at=lambda i, row: "1970-01-01T00:00:00Z" if i % 20 == 0 else row["posted_at"]),
        {},
        (
            r"60 of"
            r" 1,200 rows \(5%\) are dated before 2004"
        ),
    ),
    "future": (
        make(posted_at=lambda i, row: "2099-01-01T00:00:00Z" if i % 20 == 0 else row["posted_at"]),
        {},
        (
            r"60 of 1,200"
            r" rows \(5%\) are dated after the collection"
        ),
    ),
    "short": (
        make(posted_at=lambda i, row: f"2016-04-01T{i % 24:02}:{i // 24:02}:00Z"),
        {"min_age": 0},
        "the posts cover 1 days",
    ),
    "bad rows": (
        make(likes=lambda i, row: -1 if i == 7 else row["likes"]),
        {},
        (
            r"1 of 1,200 rows are bad and left out; most"
            r" often likes is negative \(first .*posts\.csv:9\)"
        ),
    ),
    "unreadable counts": (
        make(likes=lambda i, row: "1.2Q" if i == 7 else row["likes"]),
        {"bad_counts": "skip"},
        "1 of 1,200 rows have a count that cannot be read",
    ),
    "rounded counts": (make(likes=lambda i, row: f"{i % 9}.{i % 7}K"), {}, "have rounded counts, such as 1.2K"),
    "alike": (make(likes=lambda i, row: 5, retweets=lambda i, row: 0), {}, "all posts have the same engagement"),
    "duplicates": (make(headline=lambda i, row: f"Same {i % 150}"), {}, r"repeat an earlier post of the same outlet"),
    "retweets": (
        make(headline=lambda i, row: f"RT @a: {row['headline']}" if i % 3 else row["headline"]),
        {},
        "are retweets and left out",
    ),
    "no text": (make(headline=lambda i, row: "" if i % 3 else row["headline"]), {}, "have no text and are left out"),
    "names": (
        make(outlet=lambda i, row: ("BBC News", "bbcnews", "@BBCNews", "BBC News (UK)")[i % 4]),
        {},
        "'@bbcnews', 'bbc news', 'bbc news \\(uk\\)', 'bbcnews' look like one outlet",
    ),
    "made up": ([row | {"synthetic": "true"} for row in make()], {}, "the data are made-up"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_may_mislead_is_said_before_anything_is_trained(tmp_path, case):
    rows, options, words = CASES[case]
    found = look(tmp_path, rows, **options)
    assert any(re.search(words, warning) for warning in found.warnings), found.warnings
    assert not any(SECRET in warning for warning in found.warnings)
    assert not any(re.search(words, warning) for warning in look(tmp_path, make()).warnings)


def test_a_zone_in_which_the_newsroom_would_sleep_by_day_is_doubted(tmp_path):
    def at(hours):
        return make(posted_at=lambda i, row: f"2016-03-{1 + i % 28:02} {hours[i % len(hours)]:02}:{i // 28:02}:00")

    asleep_by_night = at([7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22])
    asleep_by_day = at([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 18, 19, 20, 21, 22, 23])
    doubts = [
        [
            it
            for it in look(tmp_path, rows, time_zone="America/New_York", min_age=0).warnings
            if "by America/New_York's clocks" in it
        ]
        for rows in (asleep_by_night, asleep_by_day)
    ]
    assert doubts == [[], ["by America/New_York's clocks the fewest posts are of 10 to 15 h, by day: is that the right zone?"]]


def test_hours_that_exist_twice_are_told(tmp_path):
    rows = make(posted_at=lambda i, row: f"2015-11-01 01:{i % 60:02}:00" if i < 60 else row["posted_at"][:-1])
    assert any("60 exist twice" in it for it in look(tmp_path, rows, time_zone="America/New_York").warnings)


def test_an_old_file_is_told(tmp_path):
    path = write(tmp_path / "posts.csv", make())
    found = inspect.inspect(dataset.read([path]), clock=lambda: NOW + 365 * DAY)
    assert any("the newest post is of 2016-04-2" in it and "days ago" in it for it in found.warnings)


def test_two_exporters_in_one_job_are_told(tmp_path):
    own = write(tmp_path / "own.csv", make())
    other = write(
        tmp_path / "other.csv",
        [
            {
                "tweet": row["headline"] + "!",
                "created_at": row["posted_at"],
                "username": "x",
                "retweets_count": 1,
                "likes_count": i,
            }
            for i, row in enumerate(make(600))
        ],
    )
    third = write(
        tmp_path / "third.csv",
        [
            {"text": row["headline"] + "?", "created_at": row["posted_at"], "retweet_count": 1, "favorite_count": i}
            for i, row in enumerate(make(600))
        ],
    )
    warnings = inspect.inspect(dataset.read([own, other, third], clock=lambda: NOW), clock=lambda: NOW).warnings
    assert any("the files come from X API v1, tweepy or rtweet and twint" in it for it in warnings)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (make(300), "posts are too few"),
        (make(likes=lambda i, row: -1 if i % 5 == 0 else row["likes"]), "240 of 1200 rows are bad"),
        (
            make(likes=lambda i, row: "9.9X" if i % 5 == 0 else row["likes"]),
            (
                r"a count that cannot be read; such counts are"
                r" likes like 9.9X \(240 times\)"
            ),
        ),
        (make(posted_at=lambda i, row: "2016-05-01T00:00:00Z"), "0 posts are too few|1,?2?0?0? ?.*too young"),
    ],
)
def test_why_a_fit_would_end_is_a_problem_and_exit_code_1(tmp_path, capsys, rows, problem):
    found = look(tmp_path, rows)
    assert re.search(problem, found.problems[0])
    assert "A fit would end:" in "\n".join(inspect.describe(found))
    assert main(["inspect", "--data", str(tmp_path / "posts.csv")], commands=COMMANDS) == 1
    captured = capsys.readouterr()
    assert re.search(problem, captured.out)
    assert "a fit would end" in captured.err
    assert SECRET not in captured.out + captured.err


def test_the_command_answers_people_and_programs_and_shows_posts_only_if_asked(tmp_path, capsys):
    path = write(tmp_path / "posts.csv", make())
    assert main(["inspect", "--data", str(path), "--popular-above", "median"], commands=COMMANDS) == 0
    assert "A fit would begin." in (out := capsys.readouterr().out)
    assert SECRET not in out
    assert main(["inspect", "--data", str(path), "--json"], commands=COMMANDS) == 0
    used = json.loads(capsys.readouterr().out)
    assert (used["used"], used["left_out"]) == (1100, {"too_young": 40, "few_before": 60})
    assert main(["inspect", "--data", str(path), "--show"], commands=COMMANDS) == 0
    assert capsys.readouterr().out.count(SECRET) == 3


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--time-zone", "Berlin"], r"--time-zone \(HEADLINES_TIME_ZONE\): must be a zone's name.*did you mean Europe/Berlin"),
        (["--time-format", "%H"], "must hold a year, a month and a day"),
        (["--column", "title=x"], "must be one of headline, posted_at, outlet"),
        (["--column", "headline=a", "--column", "headline=b"], "--column names two columns for headline"),
        (["--engagement", "claps"], "must be some of retweets, likes, replies, quotes"),
        (["--encoding", "utf-99"], "must be an encoding's name"),
        (["--encoding", "base64"], "must be an encoding's name"),
        (["--empty-counts", "one"], "must be one of bad, zero"),
        (["--since", "yesterday"], "must be a time with its zone"),
        (["--assume-utc", "--time-zone", "Asia/Tokyo"], "--assume-utc and --time-zone Asia/Tokyo cannot both be right"),
    ],
)
def test_a_wrong_flag_is_exit_code_2_before_anything_is_read(capsys, flags, words):
    assert main(["inspect", "--data", "missing.csv", *flags], commands=COMMANDS) == 2
    assert re.search(words, capsys.readouterr().err)


def test_the_same_data_as_the_newest_versions_are_told(tmp_path, monkeypatch):
    path = write(tmp_path / "posts.csv", make())
    posts = dataset.read([path], clock=lambda: NOW)

    class Read:
        class info:  # noqa: N801
            data_checksum = posts.checksum

    monkeypatch.setattr("service.model.artifact.versions", lambda _: [7, 6])
    monkeypatch.setattr("service.model.artifact.read", lambda _: Read)
    found = inspect.inspect(posts, models=tmp_path, clock=lambda: NOW)
    assert "version 7 was trained on the same files; are these the newest?" in found.warnings
