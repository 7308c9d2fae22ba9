"""The command `healthcheck`: asks the server on this machine whether it is ready, as a container's HEALTHCHECK does."""

from __future__ import annotations

import argparse
import http.client
import ipaddress
import os
import sys
from collections.abc import Mapping

from service import settings

_SETTINGS = ("http_host", "http_port")
_TIMEOUT = 2.0  # seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `serve` that matter."""
    settings.add_arguments(parser, _SETTINGS)


def run(arguments: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> int:
    """Print what /readyz answers; 0 if that is 200, else 1. Raises UsageError for a wrong flag or variable."""
    values = settings.values(arguments, environment, _SETTINGS)
    host = values.get("http_host", settings.Settings.http_host)
    port = values.get("http_port", settings.Settings.http_port)
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
