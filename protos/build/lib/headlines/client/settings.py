"""A client's parameters, checked before gRPC sees them: it misreads some and quotes others, such as a token, in its errors."""

from __future__ import annotations

import ipaddress
import math
import os
import re
import time
from collections.abc import Mapping
from numbers import Real
from typing import NamedTuple

import grpc

from headlines.client.errors import InvalidSetting

_NO_LIMIT = 1e8  # seconds, three years: longer timeouts overflow in gRPC and in locks
_SHAPE = "must be host:port, such as 127.0.0.1:50051 or [::1]:50051, or one of gRPC's names, such as dns:///host:port"
_ADDRESS = re.compile(r"(?P<host>[^\s:/@\[\]]+|\[[0-9A-Fa-f:.%\w]+\]):(?P<port>[0-9]{1,5})")
_ADDRESSES = ("dns", "ipv4", "ipv6")  # gRPC's schemes that hold host:port
_SOCKETS = ("unix", "unix-abstract", "vsock")
_SERVICES = ("xds", "google-c2p")
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")  # the variables that gRPC looks at, in its order
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")


def seconds(value: object) -> float:
    """A timeout in seconds, math.inf for none. Raises TypeError, or InvalidSetting, which is a ValueError."""
    if isinstance(value, bool) or not isinstance(value, (float, int, Real)):
        raise TypeError(f"timeout: must be a number of seconds (math.inf: no limit), not a {type(value).__name__}")
    if not value >= 0:  # type: ignore[operator]
        raise InvalidSetting("timeout: must be a number of seconds, 0 or greater (math.inf: no limit)")
    return math.inf if value >= _NO_LIMIT else float(value)  # type: ignore[operator]


class Deadline:
    """The moment at which a call must have ended."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._end = time.monotonic() + timeout

    def left(self) -> float | None:
        """Seconds, 0 when the time is up; None: no limit, as gRPC, locks and asyncio have it."""
        return None if self._end == math.inf else max(0.0, self._end - time.monotonic())

    def passed(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._end


class Target(NamedTuple):
    """Where the server listens."""

    name: str  # as gRPC takes it
    hosts: tuple[str, ...]  # those that it names; none for a socket of this machine

    @property
    def is_loopback(self) -> bool:
        """Whether no packet leaves this machine."""
        return all(map(_is_loopback, self.hosts))

    def proxy_variable(self, environment: Mapping[str, str] = os.environ) -> str | None:
        """The variable that names the proxy for this target; None: there is none."""
        if self.is_loopback:
            return None
        if (name := next(filter(environment.get, _PROXIES), None)) is None:
            return None
        exceptions = environment.get(next(filter(environment.get, _EXCEPTIONS), ""), "")
        suffixes = tuple(it.strip() for it in exceptions.split(",") if it.strip())
        return None if suffixes and all(host.endswith(suffixes) for host in self.hosts) else name


def target(value: str) -> Target:
    """Raises TypeError, or InvalidSetting for what gRPC would try to look up all the same, with words about DNS."""
    if not isinstance(value, str):
        raise TypeError(f"target: {_SHAPE}, not a {type(value).__name__}")
    scheme, colon, rest = value.partition(":")
    if colon and rest and scheme in (*_SOCKETS, *_SERVICES):
        return Target(value, () if scheme in _SOCKETS else (rest,))
    addresses = value
    if colon and scheme in _ADDRESSES and not rest.isdigit():  # dns:53 is a host of that name
        addresses = re.sub("^//[^/]*/", "", rest)  # the authority is the DNS server to ask
    found = [_ADDRESS.fullmatch(it) for it in (addresses.split(",") if scheme in ("ipv4", "ipv6") else [addresses])]
    if not all(it and 0 < int(it["port"]) < 65_536 for it in found):
        raise InvalidSetting(f"target: {_SHAPE}{_hint(value)}")
    return Target(value, tuple(it["host"].strip("[]") for it in found if it))


def _hint(value: str) -> str:
    if re.match("[a-z]+://", value, re.IGNORECASE):
        return "; leave out what stands before the host"
    if value.count(":") > 1 and "[" not in value:
        return "; an IPv6 address stands in brackets"
    if re.fullmatch(r"[^\s:/@]+", value):
        return "; the port is missing"
    return ""


def _is_loopback(host: str) -> bool:
    host = host.rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback or address.is_unspecified


def metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    """What goes with each call. Raises TypeError or InvalidSetting, which do not quote the token, as gRPC would."""
    if token is None or token == "":
        return ()
    if not isinstance(token, str):
        raise TypeError(f"token: must be a string, not a {type(token).__name__}")
    if not token.isascii() or not token.isprintable() or token != token.strip():
        raise InvalidSetting("token: must be printable ASCII characters, without spaces or a line break around them")
    return (("authorization", f"Bearer {token}"),)


def credentials(
    tls: bool | grpc.ChannelCredentials, tls_server_name: str | None
) -> tuple[grpc.ChannelCredentials | None, tuple[tuple[str, str], ...]]:
    """What encrypts, None for nothing, and the channel's options for it. Raises TypeError or InvalidSetting."""
    if not isinstance(tls, (bool, grpc.ChannelCredentials)):
        raise TypeError(f"tls: must be true, false or grpc.ssl_channel_credentials(...), not a {type(tls).__name__}")
    if not tls:
        if tls_server_name:
            raise InvalidSetting("tls_server_name: needs tls")
        return None, ()
    options = (("grpc.ssl_target_name_override", tls_server_name),) if tls_server_name else ()
    return (grpc.ssl_channel_credentials() if tls is True else tls), options
