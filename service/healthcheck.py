"""The command `healthcheck`: asks the server on this machine whether it is ready, as a container's HEALTHCHECK does."""

from __future__ import annotations

import http.client
import ipaddress
import sys

from headlines.commands import Given
from service.settings import Settings

_TIMEOUT = 2.0  # seconds


def run(given: Given) -> int:
    """Print what /readyz answers; 0 if that is 200, else 1."""
    host, port = given.get("http_host", Settings.http_host), given.get("http_port", Settings.http_port)
    # Not urllib, which would ask a proxy that the environment names.
    connection = http.client.HTTPConnection(_reachable(host), port, timeout=_TIMEOUT)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        print(response.read().decode("utf-8", "replace").strip())
    except (OSError, http.client.HTTPException) as error:
        print(f"headlines healthcheck: {host} port {port} does not answer: {error or type(error).__name__}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    return int(response.status != http.client.OK)


def _reachable(host: str) -> str:
    """The address of a server that listens at `host`."""
    try:
        return "127.0.0.1" if ipaddress.ip_address(host).is_unspecified else host
    except ValueError:  # a name
        return host
