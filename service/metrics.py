"""Every metric, by name, in one place.

metrics = Metrics()
metrics.dropped("expired", 3)
metrics.registry  # for Prometheus to collect

Label values are known beforehand or come from the server itself, never from a caller. What is counted for each call or batch
is a plain number until somebody collects it: prometheus-client's own counters take a lock each, and its histograms two.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from threading import Lock
from typing import TypeAlias

import numpy as np
import prometheus_client
from grpc import StatusCode
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from headlines.commands import versions

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
PROBABILITIES = tuple(n / 20 for n in range(1, 21))
OUTLETS = ("true", "false", "none")  # known to the model, unknown, or absent
DROP_REASONS = ("overloaded", "expired", "cancelled")
CODES = tuple(code.name for code in sorted(StatusCode, key=lambda code: int(code.value[0])))  # by number, 0 to 16

# The fields of a model's Predictions, each for all headlines of a batch.
_Columns: TypeAlias = tuple[Sequence[float], Sequence[float], Sequence[int], Sequence[int], Sequence[bool]]
_Predicted: TypeAlias = tuple[int, int, _Columns]  # version, headlines without an outlet, predictions

_COUNTED_TOGETHER = 1024  # values, which take 0.05 ms

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series and tell what process_start_time_seconds tells


class Metrics:
    """The metrics of one server, with what happens as methods.

    `computed` and `dropped` make it the batcher's observer, `predicted` the predictor's and `loaded` the
    repository's. Everything but `predicted` is called on the event loop only.
    """

    def __init__(self, queue_capacity: int = 0) -> None:
        """Set all to 0; `queue_capacity` is in headlines."""
        registry = self.registry = CollectorRegistry()
        prometheus_client.ProcessCollector(registry=registry)
        prometheus_client.PlatformCollector(registry=registry)
        prometheus_client.GCCollector(registry=registry)

        self._calls: list[Calls] = []
        self._batch_size = Distribution(ROWS)
        self._queue_wait_seconds = Distribution(SECONDS)
        self._inference_seconds = Distribution(SECONDS)
        self._main_output = Distribution(PROBABILITIES)
        self._aux_output = Distribution(PROBABILITIES)
        registry.register(_Collector(self._collect))

        self.queue_headlines = Gauge("headlines_queue_headlines", "Headlines that wait", registry=registry)
        self.queue_capacity = Gauge("headlines_queue_capacity", "Headlines that may wait", registry=registry)
        self.dropped_total = Counter(
            "headlines_dropped", "Headlines that were not computed, by reason", ("reason",), registry=registry
        )
        self.build_info = Gauge("headlines_build_info", "What is running", tuple(versions.installed()), registry=registry)
        self.build_info.labels(**versions.installed()).set(1)
        self.model_info = Gauge("headlines_model_info", "The live version", ("version", "digest", "engine"), registry=registry)
        self.ready = Gauge("headlines_ready", "1 if the server is ready, as /readyz says, else 0", registry=registry)
        self.model_directory_missing = Gauge(
            "headlines_model_directory_missing",
            "1 if the live version could not be loaded again, since its directory is gone, unreadable or has changed; else 0",
            registry=registry,
        )
        self.model_loads_total = Counter("headlines_model_loads", "Versions tried, by outcome", ("outcome",), registry=registry)
        self.model_load_seconds = Histogram(
            "headlines_model_load_seconds", "Time to check, load and probe a version", registry=registry, buckets=SECONDS
        )
        self.connection_capacity = Gauge(
            "headlines_connection_capacity", "Connections that may be open, by port", ("port",), registry=registry
        )

        self.http_requests_total = Counter(
            "headlines_http_requests",
            "Requests to the web port, by route and status; 499: the client left before it was answered",
            ("route", "code"),
            registry=registry,
        )

        self._connections: dict[str, Callable[[], int | None]] = {}  # by port
        self.queue_capacity.set(queue_capacity)
        self._predictions: dict[int, int] = {}  # by version
        self._known_words = self._unknown_words = 0
        self._outlets = dict.fromkeys(OUTLETS, 0)
        self._predicted: deque[_Predicted] = deque()  # what is not counted yet
        self._room = _COUNTED_TOGETHER
        self._computed: deque[tuple[int, float, Sequence[float]]] = deque()  # likewise
        self._room_for_waits = _COUNTED_TOGETHER
        self._counting = Lock()
        self._trained_at: float | None = None  # of the live version
        self._dropped = {reason: self.dropped_total.labels(reason) for reason in DROP_REASONS}
        self._loads = {True: self.model_loads_total.labels("success"), False: self.model_loads_total.labels("failure")}

    def calls(self, kind: str, service: str, method: str) -> Calls:
        """Where the calls of one method are counted; `kind` is what gRPC calls its type."""
        calls = Calls((kind, service, method))
        self._calls.append(calls)
        return calls

    def ended(self) -> dict[str, int]:
        """How many calls of all methods have ended with each status; what no scrape may have seen when the server stops."""
        totals = (sum(counts) for counts in zip(*(calls.handled for calls in self._calls), strict=True))
        return {code: total for code, total in zip(CODES, totals, strict=True) if total}

    def computed(self, items: int, seconds: float, waits: Sequence[float]) -> None:
        """A batch of so many headlines was computed in this time; `waits` are those of requests' first headlines."""
        self._computed.append((items, seconds, waits))
        self._room_for_waits -= 1 + len(waits)
        if self._room_for_waits < 0:
            self._count_batches()

    def _count_batches(self) -> None:
        with self._counting:
            self._room_for_waits = _COUNTED_TOGETHER
            computed = [self._computed.popleft() for _ in range(len(self._computed))]
            self._batch_size.observe([items for items, _, _ in computed])
            self._inference_seconds.observe([seconds for _, seconds, _ in computed])
            self._queue_wait_seconds.observe([wait for _, _, waits in computed for wait in waits])

    def dropped(self, reason: str, items: int) -> None:
        """Headlines were not computed, for one of DROP_REASONS."""
        self._dropped[reason].inc(items)

    def predicted(self, version: int, headlines: Sequence[tuple[str, float, str]], predictions: _Columns) -> None:
        """A version predicted a batch of headlines: text, time, outlet; on the one thread that computes batches.

        As a Distribution's values, batches wait to be counted together.
        """
        absent = [outlet for _, _, outlet in headlines].count("") if False in predictions[-1] else 0
        self._predicted.append((version, absent, predictions))
        self._room -= len(headlines)
        if self._room < 0:
            self._count_predictions()

    def _count_predictions(self) -> None:
        with self._counting:
            self._room = _COUNTED_TOGETHER
            for _ in range(len(self._predicted)):
                version, absent, (main_output, aux_output, words, unknown_words, outlets_known) = self._predicted.popleft()
                self._predictions[version] += len(main_output)
                self._unknown_words += (unknown := sum(unknown_words))
                self._known_words += sum(words) - unknown
                self._main_output.observe(main_output)
                self._aux_output.observe(aux_output)
                self._outlets["true"] += (known := sum(outlets_known))
                self._outlets["none"] += absent
                self._outlets["false"] += len(main_output) - known - absent

    def loaded(self, passed: bool, seconds: float) -> None:
        """A version was tried, for so long."""
        self._loads[passed].inc()
        self.model_load_seconds.observe(seconds)

    def went_live(self, version: int, digest: str, engine: str, trained_at: float) -> None:
        """Another version is live now; `trained_at` in seconds since 1970."""
        self.went_away()
        self.model_info.labels(str(version), digest, engine).set(1)
        self._trained_at = trained_at
        self._predictions.setdefault(version, 0)

    def went_away(self) -> None:
        """The version that was live is so no longer."""
        self.model_info.clear()
        self._trained_at = None

    def http_routes(self, routes: Iterable[str]) -> None:
        """The routes of the web port, whose series begin at 0."""
        for route in (*routes, "unknown"):
            self.http_requests_total.labels(route, "404" if route == "unknown" else "200")

    def http_answered(self, route: str, code: int) -> None:
        """A request to the web port, to one of its routes or an "unknown" one, was answered with this status."""
        self.http_requests_total.labels(route, str(int(code))).inc()

    def watch_queue(self, queued: Callable[[], int]) -> None:
        """Let queue_headlines tell what this function returns: headlines that wait."""
        self.queue_headlines.set_function(queued)

    def watch_messages(self, reserved: Callable[[], int], waiting: Callable[[], int]) -> None:
        """Add what the budget of messages' memory returns: bytes that are reserved, and reads that wait for room."""
        for name, documentation, function in (
            ("message_memory_bytes", "Memory reserved for messages that are read or unanswered", reserved),
            ("messages_waiting", "Messages that wait to be read until there is memory for them", waiting),
        ):
            Gauge(f"headlines_{name}", documentation, registry=self.registry).set_function(function)

    def watch_connections(self, port: str, open_now: Callable[[], int | None], capacity: int) -> None:
        """Show how many connections a port ("grpc", "http", "web") has, unless the function does not know, beside its bound."""
        self._connections[port] = open_now
        self.connection_capacity.labels(port).set(capacity)

    def watch_certificate(self, expires_at: Callable[[], float]) -> None:
        """Show when the certificate in use ends to be valid, in seconds since 1970."""
        Gauge(
            "headlines_tls_certificate_expiry_timestamp_seconds",
            "When the TLS certificate in use expires",
            registry=self.registry,
        ).set_function(expires_at)

    def count_dropped_log_lines(self, lines: Callable[[], int]) -> None:
        """Let log_dropped_total tell what this function returns: lines of the log that were not written, since the start."""
        name, documentation = "headlines_log_dropped", "Lines of the log that were dropped, since nobody read it"
        self.registry.register(_Collector(lambda: [CounterMetricFamily(name, documentation, value=lines())]))

    def watch_gpu_memory(self, used: Callable[[], float]) -> None:
        """Add gpu_memory_bytes, which tells what this function returns."""
        Gauge("headlines_gpu_memory_bytes", "Memory in use on the GPUs", registry=self.registry).set_function(used)

    def _collect(self) -> Iterable[Metric]:
        method = ("grpc_type", "grpc_service", "grpc_method")
        in_flight = GaugeMetricFamily("headlines_calls_in_flight", "Calls that have begun and not ended", labels=method)
        started = CounterMetricFamily("grpc_server_started", "Calls begun", labels=method)
        handled = CounterMetricFamily("grpc_server_handled", "Calls ended, by status", labels=(*method, "grpc_code"))
        received = CounterMetricFamily("grpc_server_msg_received", "Messages received", labels=method)
        sent = CounterMetricFamily("grpc_server_msg_sent", "Messages sent", labels=method)
        seconds = HistogramMetricFamily("grpc_server_handling_seconds", "Time from a call's begin to its end", labels=method)
        for calls in self._calls:
            ended = sum(calls.handled)  # before `started`, which is never behind it
            started.add_metric(calls.labels, calls.started)
            in_flight.add_metric(calls.labels, max(0, calls.started - ended))
            for code, count in zip(CODES, calls.handled, strict=True):
                handled.add_metric((*calls.labels, code), count)
            received.add_metric(calls.labels, calls.received)
            sent.add_metric(calls.labels, calls.sent)
            seconds.add_metric(calls.labels, *calls.seconds.buckets())
        self._count_batches()
        self._count_predictions()
        predictions = CounterMetricFamily("headlines_predictions", "Headlines predicted, by model version", labels=("version",))
        for version, count in list(self._predictions.items()):
            predictions.add_metric((str(version),), count)
        words = CounterMetricFamily("headlines_words", "Words read, by whether the model knows them", labels=("known",))
        words.add_metric(("true",), self._known_words)
        words.add_metric(("false",), self._unknown_words)
        connections = GaugeMetricFamily("headlines_connections", "Connections that are open, by port", labels=("port",))
        for port, open_now in list(self._connections.items()):
            if (connected := open_now()) is not None:
                connections.add_metric((port,), connected)
        outlets = CounterMetricFamily(
            "headlines_outlets",
            "Headlines predicted, by whether the model knows their outlet; none: no outlet was named",
            labels=("known",),
        )
        for known, count in self._outlets.items():
            outlets.add_metric((known,), count)
        trained = GaugeMetricFamily(
            "headlines_model_trained_timestamp_seconds",
            "When the live version was trained, in seconds since 1970; absent while none is live",
        )
        if self._trained_at is not None:
            trained.add_metric((), self._trained_at)
        yield from (started, in_flight, handled, received, sent, seconds)
        yield from (predictions, words, outlets, trained, connections)
        for name, documentation, distribution in (
            ("batch_size", "Headlines in a batch, or rows of Explain", self._batch_size),
            ("queue_wait_seconds", "Time that a request's first headline waited", self._queue_wait_seconds),
            ("inference_seconds", "Time that a batch was computed", self._inference_seconds),
            ("main_output", "Predictions from words, time and outlet", self._main_output),
            ("aux_output", "Predictions from words alone", self._aux_output),
        ):
            family = HistogramMetricFamily(f"headlines_{name}", documentation)
            family.add_metric((), *distribution.buckets())
            yield family


class Distribution:
    """A histogram. One thread observes; any may collect.

    Values wait until there are a thousand, or somebody collects: to count them together takes a third of the time.
    """

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges = np.array(edges, np.float64)
        self._counts = [0] * (len(edges) + 1)  # the last is above all edges
        self._sum = 0.0
        self._waiting: deque[Sequence[float]] = deque()
        self._room = _COUNTED_TOGETHER  # for values that may wait yet, and what they come in
        self._counting = Lock()

    def observe(self, values: Sequence[float]) -> None:
        """Count these values."""
        self._waiting.append(values)
        self._room -= 1 + len(values)
        if self._room < 0:
            self._count()

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """How many values are up to each edge, and the sum of all, as prometheus-client takes them."""
        self._count()
        edges = (*(str(float(edge)) for edge in self._edges), "+Inf")
        return list(zip(edges, accumulate(list(self._counts)), strict=True)), self._sum

    def _count(self) -> None:
        with self._counting:
            # What is observed meanwhile stays for the next time.
            self._room = _COUNTED_TOGETHER
            waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
            values = np.fromiter(chain.from_iterable(waiting), np.float64)
            places = np.searchsorted(self._edges, values)
            for place, count in enumerate(np.bincount(places, minlength=len(self._counts)).tolist()):
                self._counts[place] += count
            self._sum += float(values.sum())


@dataclass(slots=True)
class Calls:
    """How often a gRPC method was called and how that ended. To be changed on the event loop only."""

    labels: tuple[str, str, str]  # grpc_type, grpc_service, grpc_method
    started: int = 0
    received: int = 0  # messages
    sent: int = 0  # likewise
    handled: list[int] = field(default_factory=lambda: [0] * len(CODES))  # by the number of the status
    seconds: Distribution = field(default_factory=lambda: Distribution(SECONDS))  # from begin to end


class _Collector(Collector):
    """What a function tells."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()
