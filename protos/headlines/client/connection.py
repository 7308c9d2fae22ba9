"""The channels to a server, with what bounds and watches them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from headlines.client.errors import is_outage
from headlines.v1.popularity_pb2_grpc import PopularityServiceStub

# Calls of Predict at once; more wait in the client. A server refuses what is beyond its limit of calls a connection, and counts
# those too that it has just answered: with a limit of 48 a third of 200 at once failed, whatever the retries.
_CALLS = 32
# Seconds of an outage after which a new channel is made: gRPC looks a name that could not be resolved up again after up to two
# minutes, and no option shortens that.
_STALE_AFTER = 10.0
_OPTIONS: tuple[tuple[str, Any], ...] = (
    (
        "grpc.service_config",
        json.dumps(
            {
                "loadBalancingConfig": [{"round_robin": {}}],
                "methodConfig": [
                    {
                        # A full queue is gRPC's to retry: it keeps to the server's pushback and throttles what all calls of a
                        # channel retry. An outage is not: five tries are over before a server has started (see Retries).
                        # Not PredictStream: what is left to do is known better here.
                        "name": [
                            {"service": "headlines.v1.PopularityService", "method": method} for method in ("Predict", "Explain")
                        ],
                        "retryPolicy": {
                            "maxAttempts": 5,  # gRPC allows no more
                            "initialBackoff": "0.1s",
                            "maxBackoff": "1s",
                            "backoffMultiplier": 2,
                            "retryableStatusCodes": [grpc.StatusCode.RESOURCE_EXHAUSTED.name],
                        },
                    }
                ],
                # One retry for ten answers in the long run: an overloaded server is not fed with retries.
                "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
            }
        ),
    ),
    ("grpc.use_local_subchannel_pool", 1),  # else all clients of a process share one connection, and its limit of calls
    ("grpc.keepalive_time_ms", 30_000),  # a connection that died without a word is noticed
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # After an outage of minutes gRPC's own backoff keeps a client away from a server that is back for up to two more.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # despite its name, how long one try to connect may take; 20 s by default
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),  # 30 s by default, after which a server that moved is looked up
    ("grpc.max_receive_message_length", 64 * 2**20),  # GetModel's outlets take more than gRPC's 4 MiB on older servers
    ("grpc.max_metadata_size", 2**18),  # 128 malformed headlines, each with a reason, take more than gRPC's 8 KiB
)


class Connection:
    """The channels of `library`, grpc or grpc.aio, to a server, and its methods.

    Streams have a channel of their own, which connects with the first of them and makes no retries: in a channel that makes
    some, gRPC 1.78 may never end the reads of a stream whose connection fails as it starts, although its status is known.
    """

    def __init__(
        self,
        library: Any,  # noqa: ANN401
        semaphore: Callable[[int], Any],
        target: str,
        credentials: grpc.ChannelCredentials | None,
        options: tuple[tuple[str, Any], ...],
    ) -> None:
        make = partial(library.secure_channel, credentials=credentials) if credentials else library.insecure_channel
        options = (*_OPTIONS, *options)
        calls, streams = make(target, options=options), make(target, options=(*options, ("grpc.enable_retries", 0)))
        self.channels = (calls, streams)
        self.stub = PopularityServiceStub(calls)
        self.predict_stream = PopularityServiceStub(streams).PredictStream
        # The client alone lacks the messages of grpc.health.v1; a string and a number have the same bytes.
        self.check = calls.unary_unary("/grpc.health.v1.Health/Check", StringValue.SerializeToString, Int32Value.FromString)
        self.room = semaphore(_CALLS)
        self._failing_since: float | None = None

    def answered(self) -> None:
        """Say that the server answered."""
        self._failing_since = None

    def failed(self, error: grpc.RpcError) -> None:
        """Say how a call failed."""
        if not is_outage(error):
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:  # which says nothing about the server
                self._failing_since = None
        elif self._failing_since is None:
            self._failing_since = time.monotonic()

    def is_stale(self) -> bool:
        """Whether another channel would find the server sooner."""
        return self._failing_since is not None and time.monotonic() - self._failing_since > _STALE_AFTER
