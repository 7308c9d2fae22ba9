"""The page for people, and the policy under which a browser shows it."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources

CONTENT = resources.files(__package__).joinpath("page.html").read_bytes()


def _hashes(element: bytes) -> str:
    """What allows the page's own elements of this name, and no other, to be used by a browser."""
    found = re.findall(b"<%b>(.*?)</%b>" % (element, element), CONTENT, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(it).digest()).decode() for it in found)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


_POLICY = (
    f"default-src 'none'; style-src {_hashes(b'style')}; script-src {_hashes(b'script')}; img-src data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
HEADERS = (("Content-Type", "text/html; charset=utf-8"), ("Content-Security-Policy", _POLICY))
