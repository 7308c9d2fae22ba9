"""Which version is live: finds versions on disk, tries them beside the one that serves, and swaps."""

from service.repository.repository import Repository, State, VersionState

__all__ = ["Repository", "State", "VersionState"]
