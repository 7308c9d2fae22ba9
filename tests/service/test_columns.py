"""Which columns are taken: of each exporter's files its own, and of no file any by a guess."""

import pytest

from service.errors import DataError
from service.posts.columns import EXPORTERS, choose, parse_column, parse_counts

# What real exports have, as their programs write the names.
EXPORTS = {
    "this project": "headline posted_at outlet retweets likes",
    "X API v1, tweepy or rtweet": "created_at id id_str text truncated source user user.id user.name user.screen_name"
    " retweet_count"
    " favorite_count retweeted lang in_reply_to_status_id in_reply_to_screen_name retweeted_status",
    "X API v2, tweepy or twarc": "id text created_at author_id author author.username referenced_tweets public_metrics"
    " public_metrics.retweet_count public_metrics.reply_count public_metrics.like_count public_metrics.quote_count"
    " public_metrics.impression_count source",
    "twint": "id conversation_id created_at date time timezone user_id username name place tweet language replies_count"
    " retweets_count"
    " likes_count link retweet quote_url source user_rt_id reply_to retweet_date",
    "snscrape": "_type url date rawContent renderedContent id user user.username replyCount retweetCount likeCount quoteCount"
    " lang source"
    " retweetedTweet inReplyToTweetId inReplyToUser",
    "GetOldTweets": "username date retweets favorites text geo mentions hashtags id permalink",
    "Facebook page scrape": "status_id status_message link_name status_type status_link status_published num_reactions"
    " num_comments"
    " num_shares num_likes num_loves num_wows num_hahas num_sads num_angrys",
    "Facebook posts with counts of each reaction": "id page_id name message description caption post_type likes_count"
    " comments_count"
    " shares_count love_count wow_count haha_count sad_count thankful_count angry_count link picture posted_at",
    "Mastodon": "id created_at in_reply_to_id in_reply_to_account_id content reblog account account.id account.acct"
    " reblogs_count favourites_count replies_count",
    "Bluesky": "uri author author.handle record record.text record.createdAt likeCount repostCount replyCount quoteCount"
    " indexedAt",
    "Reddit": "id title score ups author created_utc num_comments subreddit url",
    "Hacker News": "id title url num_points num_comments author created_at",
    "the Upworthy Research Archive": "created_at updated_at clickability_test_id excerpt headline lede slug eyecatcher_id"
    " impressions clicks significance first_place winner share_text square test_week",
}
SPACED = {
    "X Analytics": "Tweet id,Tweet permalink,Tweet text,time,impressions,engagements,engagement"
    " rate,retweets,replies,likes,url clicks",
    "CrowdTangle": "Page Name,User Name,Facebook Id,Post Created,Post Created Date,Post Created Time,Type,Total"
    " Interactions,Likes,"
    "Comments,Shares,Love,Wow,Haha,Sad,Angry,Care,URL,Message,Link Text,Overperforming Score",
    "Meta Business Suite": "Post ID,Page ID,Page name,Title,Description,Publish time,Permalink,Post"
    " type,Date,Impressions,Reach,"
    "Reactions,Comments,Shares",
    "Facebook Graph API": "id,message,name,created_time,from,from.name,shares.count,reactions.summary.total_count",
}
NAMES = {name: names.split() for name, names in EXPORTS.items()} | {name: names.split(",") for name, names in SPACED.items()}


def test_every_exporter_has_an_example():
    assert {exporter.name for exporter in EXPORTERS} == NAMES.keys()


@pytest.mark.parametrize("case", [str, str.upper, str.title])
@pytest.mark.parametrize("exporter", NAMES)
def test_an_export_is_known_in_any_case(exporter, case):
    plan = choose([case(name) for name in NAMES[exporter]])
    assert plan.exporter == exporter
    assert plan.headline
    assert plan.posted_at
    assert set(plan.columns) <= {case(name) for name in NAMES[exporter]}
    assert not plan.unused


@pytest.mark.parametrize(
    ("exporter", "taken"),
    [
        ("X API v1, tweepy or rtweet", {"headline": "text", "outlet": "user.screen_name", "likes": "favorite_count"}),
        ("X API v2, tweepy or twarc", {"outlet": "author.username", "likes": "public_metrics.like_count"}),
        ("twint", {"posted_at": "date + time + timezone", "retweets": "retweets_count"}),
        ("Facebook page scrape", {"headline": "link_name", "likes": "num_reactions", "retweets": "num_shares"}),
        ("X Analytics", {"headline": "Tweet text", "outlet": "Tweet permalink", "impressions": "impressions"}),
        (
            "CrowdTangle",
            {"headline": "Link Text", "likes": "Likes + Love + Wow + Haha + Sad + Angry + Care", "outlet": "Page Name"},
        ),
        ("Mastodon", {"outlet": "account.acct", "likes": "favourites_count", "retweet": "reblog"}),
        ("Bluesky", {"headline": "record.text", "posted_at": "record.createdAt", "outlet": "author.handle"}),
        ("Reddit", {"likes": "score", "outlet": "subreddit"}),
    ],
)
def test_the_right_columns_are_taken(exporter, taken):
    described = choose(NAMES[exporter]).describe()
    assert {need: described[need] for need in taken} == taken


def test_the_message_is_the_headline_if_there_is_no_title_of_a_link():
    assert choose(["status_message", "status_published", "num_reactions", "num_shares"]).headline == ("status_message",)


def test_a_column_that_the_user_names_goes_first():
    plan = choose(NAMES["X Analytics"], named={"outlet": "Tweet id", "likes": "url clicks"})
    assert (plan.outlet, plan.counts["likes"]) == ("Tweet id", ("url clicks",))
    assert plan.headline == ("Tweet text",)


@pytest.mark.parametrize(
    ("names", "exporter", "taken"),
    [
        ("id link content date retweets favorites mentions geo", "GetOldTweets", {"headline": "content", "likes": "favorites"}),
        ("Date Username Tweet-text Retweets Likes", "X Analytics", {"headline": "Tweet-text", "outlet": "Username"}),
        (
            "created_at date tweet username retweet nlikes nretweets nreplies",
            "twint",
            {"posted_at": "created_at", "likes": "nlikes"},
        ),
        ("time_created date_created up_votes down_votes title author subreddit", "Reddit", {"likes": "up_votes"}),
        (
            "created_time link message page_id post_id react_like react_love react_angry shares",
            "Facebook Graph API",
            {"likes": "react_like + react_love + react_angry", "outlet": "page_id"},
        ),
        ("Page_Name Created Likes Comments Shares Love Message Total_Interactions", "CrowdTangle", {"posted_at": "Created"}),
    ],
)
def test_other_versions_of_an_export_are_known_too(names, exporter, taken):
    plan = choose(names.split())
    assert plan.exporter == exporter
    assert {need: plan.describe()[need] for need in taken} == taken
    assert not plan.unused


@pytest.mark.parametrize(
    ("names", "flags"),
    [
        (
            "video_id title channel_title publish_time views likes dislikes",
            "--column headline='title' --column posted_at='publish_time'",
        ),
        ("Title Headline Source PublishDate Facebook", "--column outlet='Source' --column posted_at='PublishDate'"),
        (
            "source_name title published_at engagement_reaction_count engagement_share_count",
            (
                "--column headline='title' --column posted_at='published_at' --column likes='engagement_reaction_count'"
                " --column retweets='engagement_share_count'"
            ),
        ),
        (
            "created_at test_id headline impressions clicks",
            "--column posted_at='created_at' --column story='test_id'; to count clicks instead, add --engagement clicks",
        ),
    ],
)
def test_what_is_no_export_that_is_known_is_never_guessed(names, flags):
    with pytest.raises(DataError) as caught:
        choose(names.split())
    assert str(caught.value).endswith(f"if these are right, add {flags}")


def test_columns_that_no_exporter_has_can_all_be_named():
    plan = choose(["titulo", "fecha", "gustos"], named={"headline": "titulo", "posted_at": "FECHA", "likes": "gustos"})
    assert (plan.headline, plan.posted_at, plan.counts) == (("titulo",), ("fecha",), {"likes": ("gustos",)})


def test_a_named_column_that_is_not_there_is_told_with_the_nearest():
    with pytest.raises(
        DataError, match=r"has no column 'Tweet txt', which --column names for headline; did you mean 'Tweet text'"
    ):
        choose(NAMES["X Analytics"], named={"headline": "Tweet txt"})


def test_engagement_is_what_the_user_adds_up():
    assert [*choose(NAMES["twint"], engagement=("retweets", "likes", "replies")).counts] == ["retweets", "likes", "replies"]
    assert [*choose(NAMES["Reddit"]).counts] == ["likes"]
    with pytest.raises(DataError, match="has no column quotes, which --engagement names"):
        choose(NAMES["twint"], engagement=("likes", "quotes"))


def test_two_exporters_that_fit_and_disagree_end_the_job():
    with pytest.raises(DataError, match=r"could be from X API v1.* or from Facebook page scrape .*--column headline='text'"):
        choose(
            [
                *[
                    "text",
                    "created_at",
                    "retweet_count",
                    "favorite_count",
                    "link_name",
                    "status_published",
                    "num_reactions",
                    "num_shares",
                ]
            ]
        )


@pytest.mark.parametrize(("named", "exporter"), [("text", "X API v1, tweepy or rtweet"), ("link_name", "Facebook page scrape")])
def test_a_column_that_is_named_tells_two_exporters_apart(named, exporter):
    of_x = ["text", "created_at", "retweet_count", "favorite_count"]
    of_facebook = ["link_name", "status_published", "num_reactions", "num_shares"]
    plan = choose([*of_x, *of_facebook], named={"headline": named})
    assert (plan.exporter, plan.headline) == (exporter, (named,))


def test_a_need_without_a_column_is_told_with_what_the_file_has_and_what_to_add():
    with pytest.raises(DataError) as caught:
        choose(["Title", "Date", "Favs", "shares"])
    assert str(caught.value) == (
        "has no column headline, posted_at, retweets or likes, and is not an export that this program knows; it has 'Title',"
        " 'Date',"
        " 'Favs', 'shares'; 'Title' looks like headline; 'Date' looks like posted_at; 'shares' looks like retweets; if these"
        " are right,"
        " add --column headline='Title' --column posted_at='Date' --column retweets='shares'"
    )


def test_a_first_line_that_is_a_post_is_not_shown():
    with pytest.raises(DataError) as caught:
        choose(["Zebra in town hall, mayor says", "2016-05-01T12:00:00Z", "cnn", "3", "4"])
    assert "does not look like names of columns" in str(caught.value)
    assert "Zebra" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "need"),
    [
        *((name, "outlet") for name in ("account", "page", "Page Name", "user.username", "screen_name", "source", "subreddit")),
        *((name, "likes") for name in ("favorites", "favorite_count", "Favourites", "likesCount", "num_reactions", "score")),
        *((name, "retweets") for name in ("shares", "retweet_count", "Share Count", "reblogs")),
    ],
)
def test_a_column_that_looks_like_a_need_and_is_not_used_is_named(name, need):
    names = [name if column == need else column for column in NAMES["this project"]]
    assert choose(names).unused == ((name, need),)
    assert choose([*NAMES["this project"], name]).unused == ()  # what is there needs no other


def test_columns_of_the_same_name_are_told_apart_or_refused():
    assert choose(["headline", "posted_at", "likes", "Likes"]).counts == {"likes": ("likes",)}
    with pytest.raises(DataError, match="two columns have the same name, outlet: 'Outlet' and 'OUTLET'"):
        choose(["headline", "posted_at", "likes", "Outlet", "OUTLET"])
    with pytest.raises(DataError, match="two columns have the same name, headline"):
        choose(["headline", "headline", "posted_at", "likes"])


def test_the_flags_say_what_would_be_right():
    assert parse_column("headline=Tweet text") == ("headline", "Tweet text")
    assert parse_column("shares=n=1") == ("retweets", "n=1")
    assert parse_counts("likes, shares+comments") == ("retweets", "likes", "replies")
    for parse, given in (
        (parse_column, "title=x"),
        (parse_column, "headline"),
        (parse_column, "headline="),
        (parse_counts, "claps"),
    ):
        with pytest.raises(ValueError, match="such as"):
            parse(given)
