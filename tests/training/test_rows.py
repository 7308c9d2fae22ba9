"""Which rows are posts to learn from, and what of a row is read."""

import json
import math

import pytest

from service.errors import DataError
from training import dataset
from training.settings import Reading

V1 = {
    "text": "Senate",
    "created_at": "Sun May 01 12:37:05 +0000 2016",
    "retweet_count": 1,
    "favorite_count": 2,
    "user": {"screen_name": "cnn"},
}
V2 = {
    "text": "Senate",
    "created_at": "2016-05-01T12:37:05.000Z",
    "author_id": "7",
    "public_metrics": {"retweet_count": 1, "like_count": 2, "impression_count": 900},
}
TWINT = {
    "tweet": "Senate",
    "date": "2016-05-01",
    "time": "12:37:05",
    "timezone": "UTC",
    "username": "cnn",
    "retweets_count": 1,
    "likes_count": 2,
}
SNSCRAPE = {
    "rawContent": "Senate",
    "date": "2016-05-01T12:37:05+00:00",
    "user": {"username": "cnn"},
    "retweetCount": 1,
    "likeCount": 2,
}
MASTODON = {
    "content": "<p>Senate &amp; house<br />vote</p>",
    "created_at": "2016-05-01T12:37:05.000Z",
    "account": {"id": "7", "acct": "cnn"},
    "reblogs_count": 1,
    "favourites_count": 2,
}
BLUESKY = {
    "record": {"text": "Senate", "createdAt": "2016-05-01T12:37:05.000Z"},
    "author": {"handle": "cnn"},
    "repostCount": 1,
    "likeCount": 2,
}
OWN = {"headline": "Senate", "posted_at": "2016-05-01T12:37:05Z", "outlet": "cnn", "retweets": 1, "likes": 2}


def read(tmp_path, *rows, **options):
    path = tmp_path / "posts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return dataset.read([path], Reading(min_age=0, max_bad_share=1, **options))


@pytest.mark.parametrize("row", [V1, V2, TWINT, SNSCRAPE, MASTODON, BLUESKY, OWN], ids=lambda it: next(iter(it)))
def test_a_post_is_read(tmp_path, row):
    posts = read(tmp_path, row)
    assert (len(posts), posts.engagement.tolist(), posts.dropped) == (1, [3], {})
    assert posts.outlets == ["7" if row is V2 else "cnn"]
    assert posts.words[-1] in ("senate", "vote")


@pytest.mark.parametrize(
    "row",
    [
        V1 | {"retweeted_status": {"id": 5}},
        V1 | {"is_retweet": True},
        V1 | {"is_retweet": "TRUE"},
        V1 | {"text": "RT @bbc: Senate"},
        V2 | {"referenced_tweets": [{"type": "retweeted", "id": "5"}]},
        V2 | {"referenced_tweets": "[{'type': 'retweeted', 'id': '5'}]"},
        TWINT | {"retweet": "True"},
        TWINT | {"user_rt_id": 5.0},
        SNSCRAPE | {"retweetedTweet": {"id": 5}},
        MASTODON | {"reblog": {"id": "5"}},
        BLUESKY | {"reason": {"$type": "app.bsky.feed.defs#reasonRepost"}},
        OWN | {"headline": "RT @bbc: Senate"},
        OWN | {"headline": "\ufeff RT @bbc@mastodon.social: Senate"},
        OWN | {"is_retweet": 1},
    ],
    ids=ascii,
)
def test_a_retweet_is_left_out_unless_it_is_kept(tmp_path, row):
    assert read(tmp_path, row).dropped == {"retweet": 1}
    assert "retweet" not in read(tmp_path, row, keep_retweets=True).dropped


@pytest.mark.parametrize(
    "row",
    [
        V1 | {"retweeted_status": None, "is_retweet": False, "retweeted": True},
        V1 | {"is_retweet": "f", "is_quote": "t"},
        V2 | {"referenced_tweets": None},
        V2 | {"referenced_tweets": [{"type": "quoted", "id": "5"}]},
        TWINT | {"retweet": "False", "user_rt_id": "", "reply_to": "[]"},
        TWINT | {"user_rt_id": math.nan, "reply_to": []},
        V1 | {"in_reply_to_status_id": None, "in_reply_to_user_id": math.nan},
        V1 | {"in_reply_to_status_id": 5, "in_reply_to_screen_name": "cnn"},  # a thread
        V2 | {"referenced_tweets": [{"type": "replied_to", "id": "5"}], "in_reply_to_user_id": "7"},
        MASTODON | {"in_reply_to_id": "5", "in_reply_to_account_id": "7"},
        SNSCRAPE | {"inReplyToTweetId": 5, "inReplyToUser": {"username": "cnn"}},
        OWN | {"headline": "@NASA lands on Mars"},
    ],
    ids=ascii,
)
def test_what_is_neither_retweet_nor_reply_to_others_stays(tmp_path, row):
    assert read(tmp_path, row).dropped == {}


@pytest.mark.parametrize(
    "row",
    [
        V1 | {"in_reply_to_status_id": 5, "in_reply_to_screen_name": "bbc"},
        V1 | {"in_reply_to_status_id_str": "5"},
        V1 | {"reply_to_status_id": "5"},
        V2 | {"referenced_tweets": [{"type": "replied_to", "id": "5"}], "in_reply_to_user_id": "8"},
        TWINT | {"reply_to": "[{'screen_name': 'bbc'}]"},
        TWINT | {"reply_to": [{"screen_name": "bbc"}]},
        SNSCRAPE | {"inReplyToTweetId": 5, "inReplyToUser": {"username": "bbc"}},
        MASTODON | {"in_reply_to_id": "5", "in_reply_to_account_id": "8"},
        BLUESKY | {"record": BLUESKY["record"] | {"reply": {"parent": {"uri": "at://x"}}}},
        OWN | {"is_reply": "yes"},
    ],
    ids=ascii,
)
def test_a_reply_to_others_is_left_out_unless_it_is_kept(tmp_path, row):
    assert read(tmp_path, row).dropped == {"reply": 1}
    assert read(tmp_path, row, keep_replies=True).dropped == {}


def test_what_is_left_out_needs_no_time_and_no_count(tmp_path):
    rows = [OWN | {"headline": " ", "likes": "x"}, OWN | {"headline": "RT @a: b", "posted_at": "?"}, OWN]
    posts = read(tmp_path, *rows)
    assert (posts.dropped, posts.bad) == ({"no_text": 1, "retweet": 1}, 0)


def test_tags_of_html_are_no_words(tmp_path):
    posts = read(tmp_path, MASTODON)
    assert list(posts.words) == ["house", "senate", "vote"]


@pytest.mark.parametrize(
    ("cell", "outlet"),
    [("CNN", "cnn"), (12, "12"), (12.0, "12"), (None, None), (math.nan, None), ("", None), (" the times ", "the times")],
)
def test_an_outlet_may_be_a_number(tmp_path, cell, outlet):
    assert read(tmp_path, OWN | {"outlet": cell}).outlets == ([outlet] if outlet else [])


@pytest.mark.parametrize(
    ("link", "outlet"),
    [
        ("https://twitter.com/cnn/status/5", "cnn"),
        ("https://x.com/CNN/status/5?s=20", "cnn"),
        ("http://www.twitter.com/cnn/status/5", "cnn"),
        ("https://x.com/i/web/status/5", None),
        ("https://example.com/cnn/status/5", "https://example.com/cnn/status/5"),
    ],
)
def test_the_account_is_read_from_a_permalink(tmp_path, link, outlet):
    row = {"Tweet permalink": link, "Tweet text": "Senate", "time": "2016-05-01 12:37 +0000", "retweets": "1.0", "likes": "2.0"}
    assert read(tmp_path, row).outlets == ([outlet] if outlet else [])


def test_empty_counts_are_bad_or_zero(tmp_path):
    row = OWN | {"headline": "House", "likes": None}
    assert read(tmp_path, row, OWN).bad == 1
    assert read(tmp_path, row, OWN, empty_counts="zero").engagement.tolist() == [1, 3]


def test_engagement_is_what_is_named(tmp_path):
    row = OWN | {"replies": 40, "quotes": 500}
    assert read(tmp_path, row).engagement.tolist() == [3]
    assert read(tmp_path, row, engagement=("likes", "replies")).engagement.tolist() == [42]
    assert read(tmp_path, row, engagement=("likes", "replies")).counts == ("likes", "replies")
    with pytest.raises(DataError, match=r"posts\.jsonl: has no column replies, which --engagement names"):
        read(tmp_path, OWN, engagement=("replies",))


def test_impressions_are_kept_where_they_can_be_read(tmp_path):
    rows = [V2, V2 | {"text": "House", "public_metrics": V2["public_metrics"] | {"impression_count": "?"}}]
    assert [it for it in read(tmp_path, *rows).impressions.tolist() if not math.isnan(it)] == [900]
    assert math.isnan(read(tmp_path, OWN).impressions[0])


def test_since_and_the_years_before_2004_are_counted_apart(tmp_path):
    rows = [
        OWN | {"headline": f"On {day}", "posted_at": day}
        for day in ("1970-01-01T00:00:00Z", "2015-01-01T00:00:00Z", "2016-01-02T00:00:00Z")
    ]
    posts = read(tmp_path, *rows, since=1_451_606_400.0)
    assert (len(posts), posts.dropped) == (1, {"before_2004": 1, "before_since": 1})


def test_the_same_words_with_other_links_are_one_post_and_emoji_are_told_apart(tmp_path):
    texts = ["Senate votes https://t.co/a", "Senate votes https://t.co/b", "🔥", "🔥 ", "👏"]
    posts = read(tmp_path, *(OWN | {"headline": text} for text in texts))
    assert (len(posts), posts.dropped) == (3, {"duplicate": 2})


def test_two_files_of_one_job_count_the_same_or_end_it(tmp_path):
    reddit = {"title": "Senate", "created_utc": 1462106225, "score": 5, "subreddit": "news"}
    (tmp_path / "a.jsonl").write_text(json.dumps(OWN))
    (tmp_path / "b.jsonl").write_text(json.dumps(reddit))
    with pytest.raises(DataError, match=r"b\.jsonl: counts likes, but .*a\.jsonl counts retweets and likes.*--engagement"):
        dataset.read([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    posts = dataset.read([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], Reading(min_age=0, engagement=("likes",)))
    assert posts.engagement.tolist() == [2, 5]
