"""Who may come in: what a request's headers must be before anything of its body is read.

The web port answers browsers, and a browser sends whatever any page that it shows asks it to send. So a request must be meant
for this server (its Host is an address or a known name, against DNS rebinding), must not come from another site's page
(Sec-Fetch-Site and Origin), and must be one that no HTML form can make (its Content-Type is JSON).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from service.hosts import Authority, is_address, parse_authority

_DEFAULT_PORTS = {"http": "80", "https": "443"}
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#\s]+)")


class Doors:
    """The rules, in their order."""

    def __init__(self, hosts: Collection[Authority]) -> None:
        """`hosts` are the server's names beside localhost and its addresses; one without a port stands for all its ports."""
        self._hosts = frozenset(hosts)

    def refusal(self, method: str, headers: Mapping[str, str]) -> str:
        """Why a request with these headers, by name in lower case, must not come in; empty if it may."""
        host = parse_authority(headers.get("host", ""))
        if not host or not (host.host == "localhost" or is_address(host.host) or self._is_known(host)):
            return "the Host of the request is not one of this server's; --web-hosts names those that it is reached by"
        if headers.get("sec-fetch-site") == "cross-site" and not _is_navigation(method, headers):
            return "the request comes from another site's page"
        if (origin := headers.get("origin")) is not None and not self._is_same(origin, host):
            return "the request's Origin is another site; --web-hosts names those that a proxy puts before this server"
        return ""

    def _is_known(self, host: Authority) -> bool:
        return host in self._hosts or Authority(host.host, "") in self._hosts

    def _is_same(self, origin: str, host: Authority) -> bool:
        """Whether an Origin is the request's Host; its scheme may differ, since a proxy may end TLS."""
        matched = _ORIGIN.fullmatch(origin.strip().lower())
        found = parse_authority(matched[2]) if matched else None
        if not matched or not found:  # such as "null"
            return False
        default = _DEFAULT_PORTS.get(matched[1], "")
        return self._is_known(found) or (found.host, found.port or default) == (host.host, host.port or default)


def is_json(headers: Mapping[str, str]) -> bool:
    """Whether the body is said to be JSON, which no HTML form can say."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def _is_navigation(method: str, headers: Mapping[str, str]) -> bool:
    """Whether the browser goes to the answer as a page of its own, as after a click on a link."""
    return method == "GET" and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
