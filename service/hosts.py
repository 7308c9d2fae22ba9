"""Host names and addresses, as they stand in URLs, headers and flags."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/?#@,\s]+)(?::([0-9]{1,5}))?")


class Authority(NamedTuple):
    """A host and a port, as they stand in a URL."""

    host: str  # in lower case, without brackets
    port: str  # empty: none is given


def parse_authority(text: str) -> Authority | None:
    """Such as news.example:8000 or [::1]; None if it is none."""
    matched = _AUTHORITY.fullmatch(text.strip().lower())
    return Authority(matched[1].strip("[]").removesuffix("."), matched[2] or "") if matched else None


def is_address(host: str) -> bool:
    """Whether it is an IP address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    return ipaddress.ip_address(host).is_loopback if is_address(host) else host == "localhost"
