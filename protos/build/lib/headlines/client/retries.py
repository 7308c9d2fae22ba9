"""When what failed is tried again, and when it is given up."""

from __future__ import annotations

import math
import random
import time
from typing import Protocol

import grpc

from headlines.client.errors import TOO_LATE, ClientError, DeadlineExceeded, Locate, is_outage, is_overload
from headlines.client.settings import Deadline

_PATIENCE = 60.0  # seconds without progress after which a call without a timeout is given up: starts take up to 30
_LEAST_PATIENCE = 2.0  # seconds; several tries to connect
_LEAST_LEFT = 0.05  # seconds before the deadline after which no further try is made
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0  # seconds, give or take a half


class ErrorOf(Protocol):
    """Makes the ClientError for an error of gRPC's."""

    def __call__(self, error: grpc.RpcError, locate: Locate | None = None) -> ClientError:
        """See errors.translated."""


class Peer:
    """What a client remembers of its server."""

    reached = False  # whether it has ever answered


class Retries:
    """The tries of one call of a client's method.

    An outage is waited for until the call's timeout is over, or for a minute without progress when there is none. A client that
    its server has never answered gives up after a third of that: there a wrong address is likelier than a restart.
    """

    def __init__(self, deadline: Deadline, peer: Peer, error_of: ErrorOf, overload_tries: int = 1) -> None:
        self._deadline = deadline
        self._peer = peer
        self._error_of = error_of
        self._overload_tries = overload_tries
        self._failures = 0  # since the last answer
        self._failing_since = 0.0

    def answered(self) -> None:
        """Say that the server answered."""
        self._failures = 0
        self._peer.reached = True

    def pause(self, error: grpc.RpcError, locate: Locate | None = None) -> float:
        """Seconds to wait before the next try. Raises ClientError when there is to be none."""
        now = time.monotonic()
        if not self._failures:
            self._failing_since = now
        self._failures += 1
        # A connection that has grown old, or one server of several that stops, is no reason to wait.
        pause = 0.0 if self._failures == 1 else min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._failures - 2, 9))
        pause *= random.uniform(0.5, 1.5)
        left = self._deadline.left()
        if left is not None:
            if not left:  # whatever ended the call, the time is up
                raise DeadlineExceeded(TOO_LATE) from error
            pause = min(pause, left / 2)  # so that the last try is near the deadline
        if is_outage(error):
            again = now + pause < self._failing_since + self._patience()
        else:
            again = is_overload(error) and self._failures < self._overload_tries
        if not again or (left is not None and left < _LEAST_LEFT):
            raise self._error_of(error, locate) from error
        return pause

    def _patience(self) -> float:
        patience = _PATIENCE if self._deadline.timeout == math.inf else self._deadline.timeout
        return patience if self._peer.reached else min(patience, max(_LEAST_PATIENCE, patience / 3))
