"""Which columns of a file hold the headline, its time, its outlet and its counts: a table of exporters.

    >>> plan = choose(["Tweet permalink", "Tweet text", "time", "impressions", "retweets", "replies", "likes"])
    >>> plan.exporter, plan.headline, plan.counts
    ('X Analytics', ('Tweet text',), {'retweets': ('retweets',), 'likes': ('likes',)})

An exporter fits a file that has a column for its headline, its time and one of its counts, and its marker. Names are compared
without case, spaces and punctuation; a nested field's name has dots. What the user names goes first (`--column`). If nothing
fits, or two exporters fit and disagree, the file cannot be read without being told: nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches

from headlines.commands.console import printable
from service.errors import DataError

COUNTS = ("retweets", "likes", "replies", "quotes", "clicks")
DEFAULT_COUNTS = ("retweets", "likes")  # what engagement is, unless --engagement says otherwise
NEEDS = ("headline", "posted_at", "outlet", *COUNTS, "impressions", "story")
# Other names of the counts in --engagement and --column.
SYNONYMS = {
    "shares": "retweets",
    "reposts": "retweets",
    "reblogs": "retweets",
    "reactions": "likes",
    "favorites": "likes",
    "favourites": "likes",
    "upvotes": "likes",
    "comments": "replies",
}
_LONG = 8  # characters of the end of a column's name that say what it is for
_SHOWN = 60  # columns of a file that a message lists
_NAME = re.compile(r"[^\W\d][\w.()/%#-]*( [\w.()/%#-]+){0,3}")  # what a column may be called: up to four words


@dataclass(frozen=True, kw_only=True)
class Exporter:
    """A program that writes posts, and how it names what is needed.

    A need's columns: alternatives are separated by `|`, the best first. Parts of one are separated by `+` (times are joined,
    counts added; one that ends in `?` may be missing) or by `/` (of a row, the first that is not empty).
    """

    name: str
    marker: str = ""  # separated by spaces: each must be there; `|` separates alternatives
    headline: str
    posted_at: str
    outlet: str = ""
    retweets: str = ""
    likes: str = ""
    replies: str = ""
    quotes: str = ""
    clicks: str = ""
    impressions: str = ""
    story: str = ""  # whose headlines were tried against one another
    retweet: str = ""  # separated by spaces: columns that say that a row repeats another's post
    reply: str = ""  # likewise, that it answers a post
    thread: str = ""  # A=B: equal if a row answers its own author
    unused: str = ""  # what looks like a need and is none
    html: bool = False  # headlines are HTML
    engagement: tuple[str, ...] = DEFAULT_COUNTS  # the counts that are added by default


OWN = Exporter(
    name="this project",
    marker="headline posted_at",
    headline="headline",
    posted_at="posted_at",
    outlet="outlet",
    retweets="retweets",
    likes="likes",
    replies="replies",
    quotes="quotes",
    clicks="clicks",
    impressions="impressions",
    story="story",
    retweet="is_retweet",
    reply="is_reply",
)
EXPORTERS = (
    OWN,
    Exporter(
        name="X API v1, tweepy or rtweet",
        headline="full_text|extended_tweet.full_text/text|text|tweet.full_text",
        posted_at="created_at|tweet.created_at",
        outlet="user.screen_name|screen_name|username",
        retweets="retweet_count|tweet.retweet_count",
        likes="favorite_count|tweet.favorite_count",
        replies="reply_count",
        quotes="quote_count",
        retweet="retweeted_status retweeted_status.id retweeted_status_id retweet_status_id is_retweet",
        reply="in_reply_to_status_id in_reply_to_status_id_str in_reply_to_user_id reply_to_status_id reply_to_user_id"
        " tweet.in_reply_to_status_id",
        thread="in_reply_to_screen_name=user.screen_name in_reply_to_screen_name=screen_name reply_to_screen_name=screen_name",
        unused="source user user.name name tweet tweet.source",
    ),
    Exporter(
        name="X API v2, tweepy or twarc",
        headline="note_tweet.text/text|text",
        posted_at="created_at",
        outlet="author.username|username|user.username|screen_name|author_id",
        retweets="public_metrics.retweet_count|retweet_count",
        likes="public_metrics.like_count|like_count",
        replies="public_metrics.reply_count|reply_count",
        quotes="public_metrics.quote_count|quote_count",
        impressions="public_metrics.impression_count|impression_count",
        retweet="referenced_tweets:retweeted referenced_tweets.retweeted.id is_retweet",
        reply="referenced_tweets:replied_to referenced_tweets.replied_to.id in_reply_to_user_id",
        thread="in_reply_to_user_id=author_id",
        unused="source author author.name author.created_at",
    ),
    Exporter(
        name="X Analytics",
        marker="tweet_text|post_text",
        headline="tweet_text|post_text",
        posted_at="time|date",
        outlet="tweet_permalink|post_link|username",
        retweets="retweets|reposts",
        likes="likes",
        replies="replies",
        impressions="impressions",
        unused="shares",
    ),
    Exporter(
        name="twint",
        headline="tweet",
        posted_at="date+time+timezone|created_at|date+time|date",
        outlet="username",
        retweets="retweets_count|nretweets",
        likes="likes_count|nlikes",
        replies="replies_count|nreplies",
        retweet="retweet user_rt_id retweet_id",
        reply="reply_to",
        unused="name source created_at date time timezone retweet_date",
    ),
    Exporter(
        name="snscrape",
        headline="raw_content|content|rendered_content",
        posted_at="date",
        outlet="user.username|username",
        retweets="retweet_count",
        likes="like_count",
        replies="reply_count",
        quotes="quote_count",
        impressions="view_count",
        retweet="retweeted_tweet",
        reply="in_reply_to_tweet_id in_reply_to_user",
        thread="in_reply_to_user.username=user.username",
        unused="source user rendered_content content user.created",
    ),
    Exporter(
        name="GetOldTweets",
        headline="text|content",
        posted_at="date",
        outlet="username",
        retweets="retweets",
        likes="favorites",
        replies="replies",
        retweet="is_retweet",
        reply="to",
        thread="to=username",
    ),
    Exporter(
        name="Facebook page scrape",
        headline="link_name|status_message",
        posted_at="status_published",
        outlet="page_name|page_id|page",
        retweets="num_shares",
        likes="num_reactions|num_likes+num_loves?+num_wows?+num_hahas?+num_sads?+num_angrys?",
        replies="num_comments",
        unused="status_message num_likes",
    ),
    Exporter(
        name="Facebook Graph API",
        marker="created_time",
        headline="name|message",
        posted_at="created_time",
        outlet="from.name|from.id|page_name|page_id",
        retweets="shares.count|shares",
        likes="reactions.summary.total_count|likes.summary.total_count"
        "|react_like+react_love?+react_wow?+react_haha?+react_sad?+react_angry?",
        replies="comments.summary.total_count",
        unused="message",
    ),
    Exporter(
        name="Facebook posts with counts of each reaction",
        marker="shares_count",
        headline="name|message",
        posted_at="posted_at|created_time|created_at",
        outlet="page_name|page_id",
        retweets="shares_count",
        likes="reactions_count|likes_count+love_count?+wow_count?+haha_count?+sad_count?+angry_count?+thankful_count?+care_count?",
        replies="comments_count",
        unused="message caption",
    ),
    Exporter(
        name="CrowdTangle",
        marker="post_created|post_created_date|overperforming_score|total_interactions",
        headline="link_text|message",
        posted_at="post_created|post_created_date+post_created_time|created",
        outlet="page_name|group_name|account|user_name",
        retweets="shares",
        likes="likes+love?+wow?+haha?+sad?+angry?+care?+thankful?",
        replies="comments",
        unused="message user_name post_created_date post_created_time overperforming_score",
    ),
    Exporter(
        name="Meta Business Suite",
        marker="publish_time permalink|post_id",
        headline="title|description",
        posted_at="publish_time",
        outlet="page_name|account_name|account_username",
        retweets="shares",
        likes="reactions|likes",
        replies="comments",
        impressions="impressions|views",
        unused="date caption account_username",
    ),
    Exporter(
        name="Mastodon",
        html=True,
        headline="content|text",
        posted_at="created_at",
        outlet="account.acct|account.username|acct|username",
        retweets="reblogs_count|reblogs",
        likes="favourites_count|favourites",
        replies="replies_count|replies",
        retweet="reblog",
        reply="in_reply_to_id",
        thread="in_reply_to_account_id=account.id",
        unused="account text account.created_at",
    ),
    Exporter(
        name="Bluesky",
        headline="record.text|post.record.text|text",
        posted_at="record.created_at|post.record.created_at|created_at|indexed_at",
        outlet="author.handle|post.author.handle|handle|author",
        retweets="repost_count|post.repost_count",
        likes="like_count|post.like_count",
        replies="reply_count|post.reply_count",
        quotes="quote_count|post.quote_count",
        retweet="reason",
        reply="record.reply post.record.reply reply",
        unused="author post.author author.created_at post.author.created_at",
    ),
    Exporter(
        name="Reddit",
        headline="title|data.title",
        posted_at="created_utc|data.created_utc|time_created",
        outlet="subreddit|data.subreddit",
        likes="score|ups|data.score|data.ups|up_votes",
        replies="num_comments|data.num_comments",
        unused="date_created author data.author created data.created domain data.likes likes",
    ),
    Exporter(
        name="Hacker News",
        marker="points|num_points|by",
        headline="title",
        posted_at="created_at|timestamp|created_at_i|time",
        likes="points|num_points|score",
        replies="num_comments|descendants",
        unused="author time timestamp",
    ),
    Exporter(
        name="the Upworthy Research Archive",
        marker="clickability_test_id",
        headline="headline",
        posted_at="created_at",
        clicks="clicks",
        impressions="impressions",
        story="clickability_test_id",
        engagement=("clicks",),
    ),
)

# What else these columns are called: to suggest them, never to take them.
_LOOKALIKES = {
    "headline": "title text full_text tweet tweet_text post_text message status_message link_name link_text raw_content "
    "content caption post name",
    "story": "story_id test_id experiment_id",
    "posted_at": "created_at created createdat created_time created_utc date time datetime timestamp posted published "
    "published_at publish_time status_published post_created publish_date date_posted posted_on",
    "outlet": "account account_name page page_name user username user_name user_username user_screen_name screen_name handle "
    "author source subreddit publisher newspaper channel site brand",
    "retweets": "retweet retweet_count retweets_count num_retweets shares share_count shares_count num_shares reposts "
    "repost_count reblogs reblogs_count reposts_count",
    "likes": "like like_count likes_count num_likes favorites favourites favorite_count favourite_count favorites_count "
    "favourites_count reactions reaction_count num_reactions upvotes score points num_points hearts ups",
}


@dataclass(frozen=True)
class Plan:
    """The columns of a file by what they hold, by their names in the file."""

    exporter: str  # empty: the user named the columns
    headline: tuple[str, ...]  # of a row, the first that is not empty
    posted_at: tuple[str, ...]  # joined by spaces
    outlet: str | None
    counts: Mapping[str, tuple[str, ...]]  # those that make the engagement; columns of one are added
    impressions: tuple[str, ...] = ()
    story: str | None = None
    retweet: tuple[str, ...] = ()  # a cell that is set: the row repeats another's post; NAME:WORD: the cell holds this word
    reply: tuple[str, ...] = ()  # likewise: it answers a post
    thread: tuple[tuple[str, str], ...] = ()  # equal: it answers its own author
    synthetic: str | None = None
    html: bool = False
    unused: tuple[tuple[str, str], ...] = ()  # columns that look like a need, and the need

    @property
    def columns(self) -> list[str]:
        """All columns that are read, each once."""
        marks = [name.partition(":")[0] for name in (*self.retweet, *self.reply)]
        others = [name for name in (self.outlet, self.story, self.synthetic) if name]
        counts = [name for names in self.counts.values() for name in names]
        threads = [name for pair in self.thread for name in pair]
        return list(dict.fromkeys([*self.headline, *self.posted_at, *others, *counts, *self.impressions, *marks, *threads]))

    def describe(self) -> dict[str, str]:
        """What is taken from which column, for people."""
        needs = {"headline": " or ".join(self.headline), "posted_at": " + ".join(self.posted_at), "outlet": self.outlet or ""}
        needs |= {name: " + ".join(columns) for name, columns in self.counts.items()}
        needs |= {
            "impressions": " + ".join(self.impressions),
            "story": self.story or "",
            "retweet": ", ".join(self.retweet),
            "reply": ", ".join(self.reply),
        }
        return {need: printable(columns) for need, columns in needs.items() if columns}


class _Names:
    """A file's columns, to be found whatever their case and punctuation."""

    def __init__(self, names: Iterable[str]) -> None:
        self.all = list(names)
        self._by_plain: dict[str, list[str]] = {}
        for name in self.all:
            self._by_plain.setdefault(plain(name), []).append(name)

    def find(self, wanted: str) -> str | None:
        """The column of this name. Raises DataError if several could be meant."""
        alike = self._by_plain.get(plain(wanted), [])
        if len(alike) > 1:
            exact = [name for name in alike if name == wanted] or [name for name in alike if name.strip().lower() == wanted]
            if len(exact) != 1:
                raise DataError(f"two columns have the same name, {wanted}: {' and '.join(map(repr, alike))}")
            return exact[0]
        return alike[0] if alike else None

    def columns(self, alternatives: str) -> tuple[str, ...]:
        """The columns of the first alternative that the file has, or none; see Exporter."""
        for alternative in filter(None, alternatives.split("|")):
            parts = re.split(r"[+/]", alternative)
            found = [self.find(part.removesuffix("?")) for part in parts]
            if all(name or part.endswith("?") for name, part in zip(found, parts, strict=True)):
                return tuple(name for name in found if name)
            if "/" in alternative and any(found):
                return tuple(name for name in found if name)
        return ()


def plain(name: str) -> str:
    """A column's name as names are compared: lower case, letters and digits alone."""
    return re.sub(r"[\W_]+", "", name).lower()


_SIMILAR = {plain(name): need for need, names in _LOOKALIKES.items() for name in names.split()}
_NONE: Mapping[str, str] = {}


def choose(
    names: Iterable[str],
    *,
    named: Mapping[str, str] = _NONE,
    engagement: Sequence[str] = (),
) -> Plan:
    """Choose the columns of a file that has these.

    `named` are columns that the user names, by need. `engagement` are the counts to add, by default those that the exporter
    counts: retweets and likes as far as the file has them, or clicks. Raises DataError, which says what the file has and what
    would be right, if a need has no column or if two exporters fit and disagree.
    """
    found = _Names(names)
    chosen = {need: _named_column(found, need, name) for need, name in named.items()}
    # Who exports both counts goes before who exports one of them: names such as `text` and `created_at` are many exporters'.
    fitting = [exporter for exporter in EXPORTERS if _fits(exporter, found, chosen)]
    # A column that the user names tells exporters apart that fit both.
    meant = [
        exporter
        for exporter in fitting
        if all(found.columns(getattr(exporter, need))[:1] == (name,) for need, name in chosen.items())
    ]
    fitting = meant or fitting
    whole = [exporter for exporter in fitting if _has_all_counts(exporter, found, chosen)]
    plans = [_plan(exporter, found, chosen, engagement) for exporter in whole or fitting]
    if not plans:
        own = _plan(replace(OWN, name=""), found, chosen, engagement)
        missing = _missing(own, engagement)
        if missing:
            raise DataError(_nothing_fits(found, own.describe(), missing))
        return own
    if plans[0].exporter != OWN.name:  # who uses this project's names means them
        _check_agreement(plans)
    absent = [count for count in engagement if count not in plans[0].counts]
    if absent:
        raise DataError(f"has no column {', '.join(absent)}, which --engagement names; {_has(found)}")
    return plans[0]


def choose_unlabelled(names: Iterable[str], *, named: Mapping[str, str] = _NONE) -> Plan:
    """Like choose, for headlines that have earned nothing yet: counts, times and outlets may be absent.

    An export that `choose` knows is read in the same way. Raises DataError if no column is the headline for certain.
    """
    names = list(names)
    with suppress(DataError):
        return choose(names, named=named)
    found = _Names(names)
    chosen = {need: _named_column(found, need, name) for need, name in named.items()}
    plan = _plan(replace(OWN, name=""), found, chosen, ())
    if plan.headline:
        return plan
    plans = [
        _plan(exporter, found, chosen, ())
        for exporter in EXPORTERS
        if all(found.columns(wanted) for wanted in (exporter.headline, exporter.posted_at, *exporter.marker.split()))
    ]
    if not plans:
        raise DataError(_nothing_fits(found, plan.describe(), ["headline"]))
    _check_agreement(plans)
    return plans[0]


def _check_agreement(plans: Sequence[Plan]) -> None:
    """Raise DataError if exporters that fit take different columns."""
    for other in plans[1:]:
        taken, others = plans[0].describe(), other.describe()
        if any(taken.get(need) != others.get(need) for need in ("headline", "posted_at", "outlet", *COUNTS)):
            raise DataError(
                f"could be from {plans[0].exporter} ({_in_words(taken)}) or from {other.exporter} ({_in_words(others)});"
                f" say which columns to read, such as --column headline={plans[0].headline[0]!r}"
            )


def parse_counts(given: str) -> tuple[str, ...]:
    """The counts that `--engagement` names. Raises ValueError."""
    counts = [SYNONYMS.get(name, name) for name in re.split(r"[\s,+]+", given.strip().lower()) if name]
    if not counts or set(counts) - set(COUNTS):
        raise ValueError(f"must be some of {', '.join(COUNTS)}, such as likes,retweets,replies")
    return tuple(count for count in COUNTS if count in counts)


def parse_column(given: str) -> tuple[str, str]:
    """NEED=NAME, as `--column` takes it. Raises ValueError."""
    need, _, name = given.partition("=")
    need = need.strip().lower()
    need = SYNONYMS.get(need, need)
    if need not in NEEDS or not name.strip():
        raise ValueError(f"must be one of {', '.join(NEEDS)}, = and a column's name, such as headline='Tweet text'")
    return need, name


def _named_column(found: _Names, need: str, name: str) -> str:
    """A column that the user names. Raises DataError if the file does not have it."""
    if name in found.all:
        return name
    column = found.find(name.strip())
    if column is None:
        near = get_close_matches(name, found.all, 1)
        hint = f"did you mean {near[0]!r}?" if near else _has(found)
        raise DataError(f"has no column {name!r}, which --column names for {need}; {hint}")
    return column


def _fits(exporter: Exporter, found: _Names, chosen: Mapping[str, str]) -> bool:
    if {"headline", "posted_at"} <= chosen.keys():
        return False  # the user has said what the file is
    named = {getattr(exporter, need) for need in chosen}
    wanted = [exporter.headline, exporter.posted_at, *exporter.marker.split()]
    counts = [count for count in exporter.engagement if count in chosen or found.columns(getattr(exporter, count))]
    return bool(counts) and all(found.columns(names) for names in wanted if names not in named)


def _has_all_counts(exporter: Exporter, found: _Names, chosen: Mapping[str, str]) -> bool:
    names = {count: getattr(exporter, count) for count in exporter.engagement}
    return all(found.columns(names[count]) for count in names if names[count] and count not in chosen)


def _plan(exporter: Exporter, found: _Names, chosen: Mapping[str, str], engagement: Sequence[str]) -> Plan:
    def columns(need: str) -> tuple[str, ...]:
        return (chosen[need],) if need in chosen else found.columns(getattr(exporter, need))

    outlet, story = columns("outlet"), columns("story")
    counts = {name: columns(name) for name in engagement or exporter.engagement}
    marks = {need: _marks(found, getattr(exporter, need)) for need in ("retweet", "reply")}
    pairs = [tuple(map(found.find, pair.split("="))) for pair in exporter.thread.split()]
    plan = Plan(
        exporter=exporter.name,
        headline=columns("headline"),
        posted_at=columns("posted_at"),
        outlet=outlet[0] if outlet else None,
        counts={name: taken for name, taken in counts.items() if taken},
        impressions=columns("impressions"),
        story=story[0] if story else None,
        retweet=marks["retweet"],
        reply=marks["reply"],
        thread=tuple((one, other) for one, other in pairs if one and other),
        synthetic=found.find("synthetic"),
        html=exporter.html,
    )
    known = {plain(name) for name in exporter.unused.split()} | {plain(name) for name in plan.columns}
    taken = {need for need in NEEDS if need in plan.describe()}
    unused = tuple(
        (name, need) for name in found.all if (need := _similar(name)) and need not in taken and plain(name) not in known
    )
    return replace(plan, unused=unused)


def _marks(found: _Names, names: str) -> tuple[str, ...]:
    marks = []
    for name in names.split():
        column, _, word = name.partition(":")
        if taken := found.find(column):
            marks.append(f"{taken}:{word}" if word else taken)
    return tuple(marks)


def _missing(plan: Plan, engagement: Sequence[str]) -> list[str]:
    missing = [need for need in ("headline", "posted_at") if not getattr(plan, need)]
    if not plan.counts:
        missing.append(" or ".join(engagement or DEFAULT_COUNTS))
    return missing


def _nothing_fits(found: _Names, taken: Mapping[str, str], missing: Sequence[str]) -> str:
    if not found.all:
        return "is empty; its first line must name the columns"
    similar: dict[str, str] = {}
    for name in found.all:
        need = _suggestion(name)
        if need and need not in taken and name not in taken.values():
            similar.setdefault(need, name)
    looks = "".join(f"; {name!r} looks like {need}" for need, name in similar.items())
    flags = "".join(f" --column {need}={name!r}" for need, name in similar.items())
    remedy = f"; if these are right, add{flags}" if flags else "; name them, such as --column headline='Tweet text'"
    counts = [count for count in COUNTS if count not in DEFAULT_COUNTS and found.columns(count)]
    counted = (
        f"; to count {counts[0]} instead, add --engagement {counts[0]}"
        if counts and " or ".join(DEFAULT_COUNTS) in missing
        else ""
    )
    problem = f"has no column {', '.join(missing)}, and is not an export that this program knows"
    return f"{problem}; {_has(found)}{looks}{remedy}{counted}"


def _has(found: _Names) -> str:
    """The columns in words, unless they may be cells: a file without a header begins with a post."""
    if not any(map(_similar, found.all)) and not (len(found.all) > 1 and all(map(_NAME.fullmatch, found.all))):
        return "its first line does not look like names of columns"
    shown = ", ".join(repr(name[:80]) for name in found.all[:_SHOWN])
    more = f" and {len(found.all) - _SHOWN} more" if len(found.all) > _SHOWN else ""
    return f"it has {shown}{more}"


def _similar(name: str) -> str | None:
    """The need that a column of this name may be for, going by what other tools call theirs."""
    return _SIMILAR.get(plain(name)) or _SIMILAR.get(plain(name.rsplit(".", 1)[-1]) if "." in name else "")


def _suggestion(name: str) -> str | None:
    """The need that a column may be for, also if its name only ends as one that other tools use."""
    endings = (need for ending, need in _SIMILAR.items() if len(ending) >= _LONG and plain(name).endswith(ending))
    return _similar(name) or next(endings, None)


def _in_words(taken: Mapping[str, str]) -> str:
    return ", ".join(f"{need} = {column}" for need, column in taken.items() if need in NEEDS)
