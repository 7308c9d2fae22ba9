"""What headlines hold that is not their words: damage from an export, links, entities; and in which scripts they are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# What is wrong in a headline, and what to do.
DAMAGE = {
    "bytes": "are written as Python writes bytes (b'...'); decode them before they are exported",
    "r_escapes": "hold characters as R writes them (<U+2019>); export in UTF-8",
    "escapes": "hold escapes (\\x, \\u); export the text itself",
    "mojibake": "hold mojibake, UTF-8 that was read as another encoding; export or open the file as UTF-8",
    "replaced": "hold the character that stands for lost ones; export again, in UTF-8",
    "spreadsheet_errors": "are a spreadsheet's errors (#NAME?); import the file as text",
    "tags": "hold HTML tags; remove them",
    "cut": "end in an ellipsis; if the exporter cut them, look for a column of full texts",
}
CONTENT = ("links", "entities", "mentions_first", "retweets")

_PATTERNS = {
    "bytes": re.compile(r"\A\s*b(['\"]).*\1\s*\Z", re.DOTALL),
    "r_escapes": re.compile(r"<U\+[0-9A-Fa-f]{4,8}>"),
    "escapes": re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|n\b)"),
    "mojibake": re.compile("[\u00c2\u00c3][\u0080-\u00bf\u0152-\u2122]|\u00e2\u20ac|\u00f0\u0178|\u00ef\u00bb\u00bf"),
    "replaced": re.compile("\ufffd"),
    "spreadsheet_errors": re.compile(r"\A#(?:NAME\?|VALUE!|REF!|N/A|DIV/0!|NUM!)"),
    "tags": re.compile(r"</?(?:p|br|a|b|i|em|strong|span|div)\b[^<>]*>", re.IGNORECASE),
    "cut": re.compile(r"(?:\u2026|\.\.\.)(?:\s*https?://\S*)?\s*\Z"),
    "links": re.compile(r"https?://", re.IGNORECASE),
    "entities": re.compile(r"&(?:#\d+|#x[0-9a-f]+|[a-z]\w*);", re.IGNORECASE),
    "mentions_first": re.compile(r"\A\s*@\w"),
    "retweets": re.compile(r"\bRT @"),
}
# Most headlines hold nothing of it.
_SUSPECT = re.compile("[&<\\\\@#\u2026\ufffd\u00c2\u00c3\u00e2\u00ef\u00f0]|\\.\\.\\.|\\A\\s*b['\"]|https?:", re.IGNORECASE)
_SCRIPTS = {
    "Latin": re.compile("[A-Za-z\u00c0-\u024f]"),
    "Cyrillic": re.compile("[\u0400-\u04ff]"),
    "Greek": re.compile("[\u0370-\u03ff]"),
    "Arabic": re.compile("[\u0600-\u06ff]"),
    "Hebrew": re.compile("[\u0590-\u05ff]"),
    "Devanagari": re.compile("[\u0900-\u097f]"),
    "Han, Kana or Hangul": re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"),
    "Thai, Lao, Khmer or Myanmar": re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"),
}


@dataclass(frozen=True)
class Found:
    """In how many headlines."""

    counts: Mapping[str, int]  # by the keys of DAMAGE, and CONTENT
    scripts: Mapping[str, int]  # by the first of the scripts that a headline is in, the commonest first; "other" are emoji too


def look(texts: Iterable[str]) -> Found:
    """Look at headlines."""
    counts: Counter[str] = Counter()
    scripts: Counter[str] = Counter()
    for text in texts:
        scripts.update([next((name for name, pattern in _SCRIPTS.items() if pattern.search(text)), "other")])
        if _SUSPECT.search(text):
            counts.update([name for name, pattern in _PATTERNS.items() if pattern.search(text)])
    return Found({name: counts[name] for name in _PATTERNS}, dict(scripts.most_common()))
