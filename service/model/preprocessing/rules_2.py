"""Rules number 2: those number 1 for what is left when links and the like are gone.

>>> words("RT @cnn: Mayor &amp; council won&#8217;t say why https://t.co/1a2b3c")
['mayor', 'council', "won't", 'say', 'why']

Exports of posts hold what no editor types before she posts. Without it, what she asks and what was learned are the same words.
"""

from __future__ import annotations

import html
import re
from html.entities import html5

import regex

from service.model.preprocessing import rules_1

LONGEST = 1000  # characters of a text that are read, before and after NFKC

# Hosts that shorten links, which exports write without https:// too. A bare domain is a name that headlines use.
_SHORTENERS = (  # noqa: SIM905 (a list of strings is hard to read)
    "t.co bit.ly j.mp goo.gl ow.ly buff.ly tinyurl.com is.gd v.gd dlvr.it ift.tt fb.me youtu.be lnkd.in trib.al amzn.to wp.me"
    " su.pr"
    " flip.it tmblr.co instagr.am pic.twitter.com pic.x.com shar.es sh.st snip.ly cutt.ly rb.gy t.me db.tt"
    " nyti.ms wapo.st wp.st lat.ms on.wsj.com on.ft.com bbc.in cnn.it reut.rs abcn.ws cbsn.ws nbcnews.to fxn.ws bloom.bg"
    " huff.to"
    " apne.ws politi.co gu.com n.pr ti.me usat.ly econ.st read.bi mashable.to nydn.us dailym.ai ind.pn bzfd.it theatln.tc"
    " slate.me"
    " es.pn foxs.pt peoplem.ag"
).split()
_URL = r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]"  # what RFC 3986 allows
_LINKS = regex.compile(
    rf"https?://{_URL}+|(?<![A-Za-z0-9_.@/-])(?:{'|'.join(map(regex.escape, _SHORTENERS))})/{_URL}*",
    regex.IGNORECASE | regex.ASCII,
)
_ENTITIES = regex.compile(r"&(?:#[0-9]{1,8}|#[Xx][0-9A-Fa-f]{1,8}|[A-Za-z][A-Za-z0-9]{1,31});")
# Soft hyphens, what has no width, marks of direction and byte order. Nobody sees them, and all of them split words.
_INVISIBLE = "\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff"
_INVISIBLES = regex.compile(f"[{_INVISIBLE}]+")
_RETWEETED = regex.compile(rf"(?:[\s{_INVISIBLE}]*RT @[A-Za-z0-9_.-]+:)+")
# Thai, Lao, Khmer and Myanmar write no spaces between words either: letters and digits, and marks. Written out, as `re` is five
# times as fast as `regex` here.
_LETTERS = (
    "\u0e01-\u0e30\u0e32-\u0e33\u0e40-\u0e46\u0e50-\u0e59"
    "\u0e81-\u0e82\u0e84\u0e86-\u0e8a\u0e8c-\u0ea3\u0ea5\u0ea7-\u0eb0\u0eb2-\u0eb3\u0ebd\u0ec0-\u0ec4\u0ec6\u0ed0-\u0ed9\u0edc-\u0edf"
    "\u1780-\u17b3\u17d7\u17dc\u17e0-\u17e9\u17f0-\u17f9"
    "\u1000-\u102a\u103f-\u1049\u1050-\u1055\u105a-\u105d\u1061\u1065-\u1066\u106e-\u1070\u1075-\u1081\u108e\u1090-\u1099"
    "\ua9e0-\ua9e4\ua9e6-\ua9fe\uaa60-\uaa76\uaa7a\uaa7e-\uaa7f"
)
_MARKS = (
    "\u0300-\u036f\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u17b4-\u17d3\u17dd"
    "\u102b-\u103e\u1056-\u1059\u105e-\u1060\u1062-\u1064\u1067-\u106d\u1071-\u1074\u1082-\u108d\u108f\u109a-\u109d\ua9e5\uaa7b-\uaa7d"
)
_CLUSTERS = re.compile(f"[{_LETTERS}][{_MARKS}]*")  # a letter with its marks
_RUNS = re.compile(f"[{_LETTERS}][{_LETTERS}{_MARKS}]*")
_STAND_IN = "\u0e01"  # one of _LETTERS


def words(text: str) -> list[str]:
    """The words of a headline, in order: those by rules number 1 of the cleaned text, cut after NFKC.

    In Thai, Lao, Khmer and Myanmar each letter with its marks is a word.
    """
    text = clean(text)
    if text.isascii():
        return rules_1.words(text)
    text = rules_1.fold(rules_1.normalize(text)[:LONGEST])
    runs = _RUNS.findall(text)
    if not runs:
        return rules_1.split(text)
    found: list[str] = []
    following = iter(runs)
    for word in rules_1.split(_RUNS.sub(f" {_STAND_IN} ", text)):
        if word == _STAND_IN:
            found += _CLUSTERS.findall(next(following))
        else:
            found.append(word)
    return found


def clean(text: str) -> str:
    """The first 1,000 characters of a text without entities, the mark of a retweet, links and invisible characters.

    HTML entities that end in `;` are undone, once. A leading `RT @name:` is dropped; so are `http://` or `https://` with the
    ASCII characters of a URL behind it, and the host of a link shortener with a slash.
    """
    text = text[:LONGEST]
    if "&" in text:
        text = _ENTITIES.sub(_undo, text)
    if "RT @" in text and (retweeted := _RETWEETED.match(text)):
        text = text[retweeted.end() :]
    if "/" in text:
        text = _LINKS.sub(" ", text)
    return text if text.isascii() else _INVISIBLES.sub("", text)


def _undo(entity: regex.Match[str]) -> str:
    """What HTML says that an entity means; one that HTML does not know stays."""
    name = entity[0][1:]
    return html.unescape(entity[0]) if name[0] == "#" or name in html5 else entity[0]
