r"""Rules number 2: those of number 1, applied to the text without links and the like.

>>> words("RT @cnn: Mayor &amp; council won&#8217;t say why https://t.co/1a2b3c")
['mayor', 'council', "won't", 'say', 'why']

Exports of posts hold what no editor types before a post is out. Without it, what is asked and what was learned are the same
words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html.entities import html5

import regex

from service.model.preprocessing import rules_1

LONGEST = 1000  # characters of a text that are read, before and after NFKC
_SURELY_READ = LONGEST // 3  # of plain text, of which NFKC makes no more than three times as many

# HTML's entities, by name, decimal number or hexadecimal number. The longest name has 31 characters.
_ENTITIES = re.compile("&(?:([A-Za-z][A-Za-z0-9]{1,30};)|#([0-9]{1,8});|#[Xx]([0-9A-Fa-f]{1,8});)")
_NAME, _DECIMAL, _HEXADECIMAL = 1, 2, 3  # its groups
_WINDOWS_1252 = {number: bytes([number]).decode("cp1252", "ignore") for number in range(0x80, 0xA0)}
_NO_CHARACTER = "\ufffd"  # what HTML reads when a number is not a character's; it separates words

# Characters that nobody sees: soft hyphens, characters without width, marks of direction, byte-order marks. Rules number 1
# split words at them. The zero-width joiner and non-joiner (U+200D, U+200C) are among them although Persian and Indic scripts
# use them: people write the same word with and without, and an emoji is no word either way. Variation selectors and U+034F are
# marks, which split nothing, so they stay.
INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]+")

# Hosts that shorten links. Exports write these without https:// too, while a bare domain is a name that headlines use.
_SHORTENERS = """
    t.co bit.ly j.mp bitly.com goo.gl ow.ly ht.ly owl.ly buff.ly tinyurl.com tiny.cc is.gd v.gd dlvr.it ift.tt trib.al
    ebx.sh hubs.ly bddy.me snip.ly su.pr shar.es sh.st cutt.ly rb.gy adf.ly po.st ln.is bit.do x.co smarturl.it spr.ly
    mtr.cool fb.me on.fb.me youtu.be lnkd.in t.me db.tt flip.it tmblr.co instagr.am redd.it pin.it amzn.to wp.me wp.st
    git.io qr.ae g.co nyti.ms wapo.st lat.ms on.wsj.com on.ft.com on.mktw.net bbc.in cnn.it cnnmon.ie reut.rs abcn.ws
    abc7.la abc7ne.ws cbsn.ws cbsloc.al cbsprt.co nbcnews.to on.msnbc.com cnb.cx fxn.ws foxs.pt bloom.bg huff.to huffp.st
    apne.ws politi.co hill.cm gu.com n.pr to.pbs.org cs.pn ti.me usat.ly econ.st read.bi mashable.to on.mash.to nydn.us
    nyp.st nym.ag nyer.cm dailym.ai ind.pn bzfd.it theatln.tc slate.me es.pn peoplem.ag thr.cm rol.st vult.re eonli.ne
    yhoo.it aje.io aje.me f24.my on.rt.com sptnkne.ws ab.co spon.de sz.de lemde.fr trib.in strib.mn wh.gov 1.usa.gov
    go.usa.gov
""".split()  # noqa: SIM905 (a list of strings is hard to read)
# They stand at the end of a tweet's text, in some exports without a space before them.
_GLUED = ("pic.twitter.com", "pic.x.com")


def _any_host(hosts: Iterable[str], before: str = "") -> str:
    """A pattern for hosts and a slash that begins at the host's last dot and looks back: group `lastindex` is the whole host.

    `before` is a pattern without width that must match in front of the host. The pattern is tried at dots alone, not at every
    letter, only if a slash follows soon, and only with the hosts that end in what stands between.
    """
    by_last_part: dict[str, list[str]] = {}
    for host in hosts:
        by_last_part.setdefault(host.rpartition(".")[2], []).append(f"(?<={before}({re.escape(host)})/)")
    choices = "|".join(f"{last}/(?:{'|'.join(ends)})" for last, ends in by_last_part.items())
    return rf"\.(?=[A-Za-z]{{2,{max(map(len, by_last_part))}}}/)(?:{choices})"


_URL = r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]"  # what RFC 3986 allows; another character ends a link, an ideograph for one
_ASCII_CASE = re.IGNORECASE | re.ASCII
_LINKS = re.compile(rf"://(?:(?<=(http)://)|(?<=(https)://)){_URL}+", _ASCII_CASE)
# A host begins where no other part of a URL or an address, such as a letter, stands before it. What is not ASCII is no such
# part: Chinese writes no space there.
_SHORT_LINKS = re.compile(rf"{_any_host(_SHORTENERS, r'(?<![A-Za-z0-9_.@/-])')}{_URL}*", _ASCII_CASE)
_GLUED_LINKS = re.compile(f"{_any_host(_GLUED)}{_URL}*", _ASCII_CASE)

# Names of Twitter's, and of Bluesky's and Mastodon's, which are hosts or hold one.
RETWEETED = re.compile(r"(?:\s*RT @[A-Za-z0-9_][A-Za-z0-9_.@-]*:)+")

# Scripts that write no space between words, beside those of rules number 1. Their characters are written out, so that no newer
# Unicode changes the words of an older version: letters and digits here, marks below.
_SPACELESS = (
    "\u0e01-\u0e30\u0e32-\u0e33\u0e40-\u0e46\u0e50-\u0e59"  # Thai
    "\u0e81-\u0e82\u0e84\u0e86-\u0e8a\u0e8c-\u0ea3\u0ea5\u0ea7-\u0eb0\u0eb2-\u0eb3\u0ebd\u0ec0-\u0ec4\u0ec6"  # Lao
    "\u0ed0-\u0ed9\u0edc-\u0edf"
    "\u1780-\u17b3\u17d7\u17dc\u17e0-\u17e9\u17f0-\u17f9"  # Khmer
    "\u1000-\u102a\u103f-\u1049\u1050-\u1055\u105a-\u105d\u1061\u1065-\u1066\u106e-\u1070\u1075-\u1081"  # Myanmar
    "\u108e\u1090-\u1099\ua9e0-\ua9e4\ua9e6-\ua9fe\uaa60-\uaa76\uaa7a\uaa7e-\uaa7f"
    "\u1950-\u196d\u1970-\u1974"  # Tai Le
    "\u1980-\u19ab\u19b0-\u19c9\u19d0-\u19da"  # New Tai Lue
    "\u1a20-\u1a54\u1a80-\u1a89\u1a90-\u1a99\u1aa7"  # Tai Tham
    "\uaa80-\uaaaf\uaab1\uaab5-\uaab6\uaab9-\uaabd\uaac0\uaac2\uaadb-\uaadd"  # Tai Viet
    "\ua984-\ua9b2\ua9d0-\ua9d9"  # Javanese
    "\u1b05-\u1b33\u1b45-\u1b4c\u1b50-\u1b59"  # Balinese
)
_MARKS = (
    "\u0300-\u036f\ufe00-\ufe0f"  # of all scripts; U+FE00 dots letters of Myanmar
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e"  # Thai
    "\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece"  # Lao
    "\u17b4-\u17d3\u17dd"  # Khmer
    "\u102b-\u103e\u1056-\u1059\u105e-\u1060\u1062-\u1064\u1067-\u106d\u1071-\u1074\u1082-\u108d\u108f\u109a-\u109d"  # Myanmar
    "\ua9e5\uaa7b-\uaa7d"
    "\u1a55-\u1a5e\u1a60-\u1a7c\u1a7f"  # Tai Tham
    "\uaab0\uaab2-\uaab4\uaab7-\uaab8\uaabe-\uaabf\uaac1"  # Tai Viet
    "\ua980-\ua983\ua9b3-\ua9c0"  # Javanese
    "\u1b00-\u1b04\u1b34-\u1b44\u1b6b-\u1b73"  # Balinese
)
_CLUSTERS = re.compile(f"([{_SPACELESS}][{_MARKS}]*)")  # a letter with its marks
# The words by rules number 1 of a text in NFKC whose case is folded. Their own pattern is a tenth faster, but takes up to three
# times as long if Han, Hiragana and Katakana stand among other letters, as in Japanese.
_WORDS = regex.compile(
    rf"[{rules_1.ALONE}]\p{{M}}*|{rules_1.START}{rules_1.REST}*(?:'{rules_1.START}{rules_1.REST}*)*", regex.V1
)


def words(text: str) -> list[str]:
    """The words of a headline as it was sent, in order: by rules number 1, those of its cleaned text.

    After NFKC the text is cut at 1,000 characters again. In Thai, Lao, Khmer, Myanmar, Tai Le, New Tai Lue, Tai Tham, Tai Viet,
    Javanese and Balinese each letter with its marks is a word, as these scripts write no spaces.
    """
    text = clean(text)
    if text.isascii():
        return rules_1.words(text)
    text = rules_1.fold(rules_1.normalize(text)[:LONGEST])
    for apostrophe in rules_1.APOSTROPHES:
        text = text.replace(apostrophe, "'")
    parts = _CLUSTERS.split(text)  # a text, and then a cluster and a text in turn
    found: list[str] = _WORDS.findall(parts[0])
    for cluster, following in zip(parts[1::2], parts[2::2], strict=True):
        found.append(cluster)
        if following:
            found += _WORDS.findall(following)
    return found


def plain(texts: Sequence[str]) -> Sequence[str]:
    """Texts with the same words that are plain, as `rules_1.plain` makes them; most headlines hold nothing to clean."""
    joined = "".join(texts)
    if joined.isascii() and not ("&" in joined or "/" in joined or "@" in joined) and max(map(len, texts)) <= _SURELY_READ:
        return texts
    return [
        (text if text.isascii() else rules_1.to_plain(text))
        if not ("&" in text or "/" in text or "@" in text or len(text) > _SURELY_READ)
        else ""
        for text in texts
    ]


def clean(text: str) -> str:
    """The first 1,000 characters of a text without entities, invisible characters, links and the mark of a retweet.

    In this order:

    1. HTML entities that end in `;` become what HTML says, once: `&amp;amp;` becomes `&amp;`. A name that HTML does not know
       stays. A number that is not a character's (0, a surrogate's, one beyond Unicode) becomes U+FFFD.
    2. Soft hyphens, zero-width characters, marks of direction and byte-order marks are dropped.
    3. Links become a space: `http://` or `https://`, or the host of a link shortener and a slash, with the ASCII characters of
       a URL behind it. Punctuation behind a link counts as part of it, since it is no word, and URLs may end so.
    4. A `RT @name:` at the beginning is dropped, and those behind it.

    Cleaning twice changes nothing more, unless the first time has left an entity.
    """
    text = text[:LONGEST]
    if "&" in text:
        text = _ENTITIES.sub(_undo, text)
    if not text.isascii():
        text = INVISIBLE.sub("", text)
    if "/" in text:
        for pattern in (_LINKS, _GLUED_LINKS, _SHORT_LINKS):
            text = _without(pattern, text)
    if "@" in text and (retweeted := RETWEETED.match(text)):
        text = text[retweeted.end() :]
    return text


def _undo(entity: re.Match[str]) -> str:
    group = entity.lastindex
    if group == _NAME:
        return html5.get(entity[_NAME], entity[0])
    number = int(entity[_DECIMAL]) if group == _DECIMAL else int(entity[_HEXADECIMAL], 16)
    if 0xA0 <= number < 0xD800:
        return chr(number)
    if number in _WINDOWS_1252:  # as browsers read them; five of them mean nothing
        return _WINDOWS_1252[number] or chr(number)
    return chr(number) if 0 < number < 0xD800 or 0xE000 <= number <= 0x10FFFF else _NO_CHARACTER


def _without(links: re.Pattern[str], text: str) -> str:
    """The text with a space in place of each link, which begins with the last group that matched and ends with the match."""
    kept = []
    end = 0
    for link in links.finditer(text):
        kept.append(text[end : link.start(link.lastindex or 0)])
        end = link.end()
    return " ".join((*kept, text[end:])) if end else text
