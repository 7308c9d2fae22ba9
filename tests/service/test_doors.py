"""Who may come in at the web port."""

import pytest

from service.hosts import Authority, is_loopback, parse_authority
from service.web.doors import Doors, is_json

OWN = Doors([])
KNOWN = Doors([Authority("news.example", ""), Authority("desk.example", "8443")])
CLICK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "[::1]:8000", "localhost:8000", "LOCALHOST", "localhost.", "10.1.2.3", "[fe80::1]"]
)
def test_an_address_and_localhost_are_its_own(host):
    assert OWN.refusal("GET", {"host": host}) == ""


@pytest.mark.parametrize(
    "host",
    [
        *("", "evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "[::1", "local host"),
        *("127.0.0.1:8000, evil.example", "127.0.0.1:8000@evil.example", "127.0.0.1/evil", "127.0.0.1:port", "0x7f000001"),
    ],
)
def test_another_name_is_refused_whatever_its_dns_says(host):
    assert "--web-hosts" in OWN.refusal("GET", {"host": host})
    assert "--web-hosts" in KNOWN.refusal("GET", {"host": host})


def test_a_request_without_a_host_is_refused():
    assert "--web-hosts" in OWN.refusal("GET", {})


@pytest.mark.parametrize("host", ["news.example", "news.example:80", "News.Example:8000", "desk.example:8443"])
def test_a_name_that_is_given_is_known_at_its_port(host):
    assert KNOWN.refusal("GET", {"host": host}) == ""


@pytest.mark.parametrize("host", ["desk.example", "desk.example:8000", "www.news.example"])
def test_a_name_at_another_port_is_not_known(host):
    assert KNOWN.refusal("GET", {"host": host})


@pytest.mark.parametrize(
    ("method", "headers", "enters"),
    [
        ("GET", CLICK, True),
        ("POST", CLICK, False),
        ("GET", {**CLICK, "sec-fetch-dest": "iframe"}, False),
        ("GET", {**CLICK, "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, False),
        ("GET", {"sec-fetch-site": "cross-site"}, False),
        ("POST", {"sec-fetch-site": "same-origin"}, True),
        ("GET", {"sec-fetch-site": "none"}, True),
    ],
)
def test_another_sites_page_may_link_to_it_and_do_nothing_else(method, headers, enters):
    assert (OWN.refusal(method, {"host": "localhost:8000", **headers}) == "") is enters


@pytest.mark.parametrize(
    ("host", "origin", "enters"),
    [
        ("localhost:8000", "http://localhost:8000", True),
        ("127.0.0.1", "http://127.0.0.1", True),
        ("[::1]:8000", "http://[::1]:8000", True),
        ("localhost:8000", "http://localhost:8001", False),
        ("localhost:8000", "http://127.0.0.1:8000", False),
        ("localhost:8000", "http://evil.example", False),
        ("localhost:8000", "null", False),
        ("localhost:8000", "", False),
        ("localhost:8000", "http://localhost:8000, http://evil.example", False),
        ("localhost:8000", "http://localhost:8000/x", False),
        ("localhost:8000", "chrome-extension://abcdef", False),
        # Behind a proxy that ends TLS and keeps the Host, at its scheme's port or at another.
        ("news.example", "https://news.example", True),
        ("news.example:443", "https://news.example", True),
        ("desk.example:8443", "https://desk.example:8443", True),
        ("10.0.0.5", "https://10.0.0.5", True),
        ("news.example", "https://evil.example", False),
        # Behind one that puts the server's own address there.
        ("127.0.0.1:8000", "https://news.example", True),
        ("127.0.0.1:8000", "https://desk.example", False),
    ],
)
def test_an_origin_must_be_the_host_or_a_name_that_is_given(host, origin, enters):
    assert (KNOWN.refusal("POST", {"host": host, "origin": origin}) == "") is enters


@pytest.mark.parametrize(
    ("content_type", "json"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("text/plain", False),
        ("text/plain; application/json", False),
        ("application/json, text/plain", False),
        ("application/x-www-form-urlencoded", False),
        ("multipart/form-data", False),
        ("application/jsonp", False),
        ("", False),
    ],
)
def test_only_json_is_json(content_type, json):
    assert is_json({"content-type": content_type}) is json
    assert not is_json({})


@pytest.mark.parametrize("text", ["a b", "a/b", "http://a", "a:b", "a:123456", "[::1", "::1", "a@b", ""])
def test_what_is_no_host_and_port_is_none(text):
    assert parse_authority(text) is None


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("::", False), ("a", False)]
)
def test_loopback(host, loopback):
    assert is_loopback(host) is loopback
