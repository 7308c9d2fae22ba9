"""Writes posts as other programs export them, with the flags that the file then needs."""

import csv
import json
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

NEW_YORK, KOLKATA = ZoneInfo("America/New_York"), ZoneInfo("Asia/Kolkata")
PRECISION = {"X Analytics": 60}  # seconds; of the others 1


def moment(post, zone=UTC):
    return datetime.fromtimestamp(post["posted_at"], zone)


def write_csv(path, rows, delimiter=","):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)


def plain(path, posts, seconds=1):
    """This project's own columns, with times cut to so many seconds."""
    write_csv(
        path,
        [
            {
                "headline": post["headline"],
                "posted_at": datetime.fromtimestamp(post["posted_at"] // seconds * seconds, UTC).isoformat(),
                "outlet": post["outlet"],
                "retweets": post["retweets"],
                "likes": post["likes"],
            }
            for post in posts
        ],
    )


def x_analytics(path, posts):
    write_csv(
        path,
        [
            {
                "Tweet id": i,
                "Tweet permalink": f"https://twitter.com/{post['outlet']}/status/{i}",
                "Tweet text": post["headline"],
                "time": moment(post).strftime("%Y-%m-%d %H:%M +0000"),
                "impressions": f"{100.0 * (post['likes'] + 1)}",
                "engagements": "9.0",
                "engagement rate": "0.01",
                "retweets": f"{post['retweets']}.0",
                "replies": "1.0",
                "likes": f"{post['likes']}.0",
                "url clicks": "-",
            }
            for i, post in enumerate(posts)
        ],
    )
    return {}


def x_api_v1(path, posts):
    with path.open("w", encoding="utf-8") as file:
        for i, post in enumerate(posts):
            status = {
                "created_at": moment(post).strftime("%a %b %d %H:%M:%S +0000 %Y"),
                "id": i,
                "text": post["headline"],
                "source": "<a>Web</a>",
                "in_reply_to_screen_name": None,
                "in_reply_to_status_id": None,
                "user": {"id": 5, "name": "The Name", "screen_name": post["outlet"]},
                "retweet_count": post["retweets"],
                "favorite_count": post["likes"],
                "retweeted": False,
            }
            file.write(json.dumps(status) + "\n")
    return {}


def twint(path, posts):
    write_csv(
        path,
        [
            {
                "id": i,
                "created_at": moment(post, KOLKATA).strftime("%Y-%m-%d %H:%M:%S IST"),
                "date": moment(post, KOLKATA).strftime("%Y-%m-%d"),
                "time": moment(post, KOLKATA).strftime("%H:%M:%S"),
                "timezone": "+0530",
                "username": post["outlet"],
                "name": "The Name",
                "tweet": post["headline"],
                "replies_count": 1,
                "retweets_count": post["retweets"],
                "likes_count": post["likes"],
                "retweet": "False",
                "user_rt_id": "",
                "reply_to": "[]",
            }
            for i, post in enumerate(posts)
        ],
        delimiter="\t",
    )
    return {}


def facebook_scrape(path, posts):
    write_csv(
        path,
        [
            {
                "status_id": i,
                "status_message": "More on our page!",
                "link_name": post["headline"],
                "status_type": "link",
                "status_published": moment(post, NEW_YORK).strftime("%Y-%m-%d %H:%M:%S"),
                "num_reactions": post["likes"],
                "num_comments": 3,
                "num_shares": post["retweets"],
                "num_likes": post["likes"],
                "page_name": post["outlet"],
            }
            for i, post in enumerate(posts)
        ],
    )
    return {"time_zone": "America/New_York"}


def crowdtangle(path, posts):
    write_csv(
        path,
        [
            {
                "Page Name": post["outlet"],
                "User Name": "name",
                "Post Created": moment(post, NEW_YORK).strftime("%Y-%m-%d %H:%M:%S %Z"),
                "Type": "Link",
                "Likes": f"{post['likes'] - post['likes'] // 3:,}",
                "Comments": "7",
                "Shares": f"{post['retweets']:,}",
                "Love": f"{post['likes'] // 3:,}",
                "Wow": "0",
                "Care": "",
                "Message": "More on our page!",
                "Link Text": post["headline"],
                "Overperforming Score": "-1.5",
            }
            for post in posts
        ],
    )
    return {"time_zone": "America/New_York"}


WRITERS = {
    "X Analytics": x_analytics,
    "X API v1, tweepy or rtweet": x_api_v1,
    "twint": twint,
    "Facebook page scrape": facebook_scrape,
    "CrowdTangle": crowdtangle,
}
