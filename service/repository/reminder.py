"""Log lines about what lasts, without one line for each look at it."""

from __future__ import annotations

import logging
from collections.abc import Callable

SECONDS = 60.0  # between two lines with the same text


class Reminder:
    """Logs a condition when it begins, when its text changes, and again every SECONDS."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float]) -> None:
        self._logger = logger
        self._clock = clock
        self._text = ""
        self._next = 0.0

    def say(self, level: int, text: str) -> None:
        """The condition holds; `level` is logging's."""
        if text != self._text or self._clock() >= self._next:
            self._logger.log(level, "%s", text)
            self._text, self._next = text, self._clock() + SECONDS

    def clear(self) -> None:
        """It holds no longer."""
        self._text = ""
