"""What is installed: the versions of this program and of what it stands on."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from importlib import metadata

_LIBRARIES = ("grpcio", "ai-edge-litert", "tensorflow")


@cache
def installed() -> Mapping[str, str]:
    """Versions by `version` (this program), `python`, and each library with underscores; empty for what is not installed."""
    return {
        "version": _version("headline-popularity") or _version("headline-popularity-client") or "unknown",
        "python": platform.python_version(),
        **{name.replace("-", "_"): _version(name) for name in _LIBRARIES},
    }


def describe(versions: Mapping[str, str]) -> str:
    """Versions for people, such as `headlines 0.1.0, Python 3.11.7, grpcio 1.78.0`."""
    names = {"version": "headlines", "python": "Python"}
    parts = (f"{names.get(name, name.replace('_', '-'))} {version}" for name, version in versions.items() if version)
    return ", ".join(parts)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
