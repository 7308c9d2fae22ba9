"""Every metric, by name, in one place.

metrics = Metrics()
metrics.dropped("expired", 3)
metrics.registry  # for Prometheus to collect

Label values are known beforehand or come from the server itself, never from a caller. Children of labels are looked up once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
PROBABILITIES = tuple(n / 20 for n in range(1, 21))
DROP_REASONS = ("overloaded", "expired", "cancelled")

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series and tell what process_start_time_seconds tells


class Metrics:
    """The metrics of one server, with what happens as methods.

    `queued`, `waited`, `computed` and `dropped` make it the batcher's observer, `predicted` the predictor's and `loaded` the
    repository's. Everything but `predicted` is called on the event loop alone.
    """

    def __init__(self, queue_capacity: int = 0) -> None:
        """Set all to 0; `queue_capacity` is in headlines."""
        registry = self.registry = CollectorRegistry()
        prometheus_client.ProcessCollector(registry=registry)
        prometheus_client.PlatformCollector(registry=registry)
        prometheus_client.GCCollector(registry=registry)

        method = ("grpc_type", "grpc_service", "grpc_method")
        self.grpc_server_started_total = Counter("grpc_server_started", "Calls begun", method, registry=registry)
        self.grpc_server_handled_total = Counter(
            "grpc_server_handled", "Calls ended, by status", (*method, "grpc_code"), registry=registry
        )
        self.grpc_server_msg_received_total = Counter(
            "grpc_server_msg_received", "Messages received", method, registry=registry
        )
        self.grpc_server_msg_sent_total = Counter("grpc_server_msg_sent", "Messages sent", method, registry=registry)
        self.grpc_server_handling_seconds = Histogram(
            "grpc_server_handling_seconds", "Time from a call's begin to its end", method, registry=registry, buckets=SECONDS
        )

        self.predictions_total = Counter(
            "headlines_predictions", "Headlines predicted, by model version", ("version",), registry=registry
        )
        self.batch_size = Histogram("headlines_batch_size", "Headlines in a batch", registry=registry, buckets=ROWS)
        self.queue_headlines = Gauge("headlines_queue_headlines", "Headlines that wait", registry=registry)
        self.queue_capacity = Gauge("headlines_queue_capacity", "Headlines that may wait", registry=registry)
        self.queue_wait_seconds = Histogram(
            "headlines_queue_wait_seconds", "Time that a request's first headline waited", registry=registry, buckets=SECONDS
        )
        self.inference_seconds = Histogram(
            "headlines_inference_seconds", "Time that a batch was computed", registry=registry, buckets=SECONDS
        )
        self.dropped_total = Counter(
            "headlines_dropped", "Headlines that were not computed, by reason", ("reason",), registry=registry
        )
        self.words_total = Counter(
            "headlines_words", "Words read, by whether the model knows them", ("known",), registry=registry
        )
        self.main_output = _Distribution("headlines_main_output", "Predictions from words, time and outlet", registry)
        self.aux_output = _Distribution("headlines_aux_output", "Predictions from words alone", registry)
        self.model_info = Gauge("headlines_model_info", "The live version", ("version", "digest", "engine"), registry=registry)
        self.model_trained_timestamp_seconds = Gauge(
            "headlines_model_trained_timestamp_seconds", "When the live version was made", registry=registry
        )
        self.model_loads_total = Counter("headlines_model_loads", "Versions tried, by outcome", ("outcome",), registry=registry)
        self.model_load_seconds = Histogram(
            "headlines_model_load_seconds", "Time to check, load and probe a version", registry=registry, buckets=SECONDS
        )

        self._queued = 0
        self.queue_headlines.set_function(lambda: self._queued)
        self.queue_capacity.set(queue_capacity)
        self._predictions: dict[int, Counter] = {}
        self._dropped = {reason: self.dropped_total.labels(reason) for reason in DROP_REASONS}
        self._known, self._unknown = self.words_total.labels("true"), self.words_total.labels("false")
        self._loads = {True: self.model_loads_total.labels("success"), False: self.model_loads_total.labels("failure")}

    def queued(self, items: int) -> None:
        """The queue has now this many headlines."""
        self._queued = items

    def waited(self, seconds: float) -> None:
        """A request's first headlines left the queue after so long."""
        self.queue_wait_seconds.observe(seconds)

    def computed(self, items: int, seconds: float) -> None:
        """A batch of so many headlines was computed in this time."""
        self.batch_size.observe(items)
        self.inference_seconds.observe(seconds)

    def dropped(self, reason: str, items: int) -> None:
        """Headlines were not computed, for one of DROP_REASONS."""
        self._dropped[reason].inc(items)

    def predicted(
        self, version: int, main_outputs: Sequence[float], aux_outputs: Sequence[float], words: int, unknown_words: int
    ) -> None:
        """A version predicted a batch with so many words in all; on the one thread that computes batches."""
        self._predictions[version].inc(len(main_outputs))
        self._known.inc(words - unknown_words)
        self._unknown.inc(unknown_words)
        self.main_output.observe(main_outputs)
        self.aux_output.observe(aux_outputs)

    def loaded(self, passed: bool, seconds: float) -> None:
        """A version was tried, for so long."""
        self._loads[passed].inc()
        self.model_load_seconds.observe(seconds)

    def went_live(self, version: int, digest: str, engine: str, trained_at: float) -> None:
        """Another version is live now; `trained_at` in seconds since 1970."""
        self.went_away()
        self.model_info.labels(str(version), digest, engine).set(1)
        self.model_trained_timestamp_seconds.set(trained_at)
        self._predictions[version] = self.predictions_total.labels(str(version))

    def went_away(self) -> None:
        """The version that was live is so no longer."""
        self.model_info.clear()
        self.model_trained_timestamp_seconds.set(0)

    def count_padding(self, rows: Callable[[], int]) -> None:
        """Let batch_padding_rows_total tell what this function returns: rows computed for shape only, since the start."""
        self.registry.register(_Reading("headlines_batch_padding_rows", "Rows computed to fill a shape", rows))

    def watch_gpu_memory(self, used: Callable[[], float]) -> None:
        """Add gpu_memory_bytes, which tells what this function returns."""
        Gauge("headlines_gpu_memory_bytes", "Memory in use on the GPUs", registry=self.registry).set_function(used)


class _Distribution(Collector):
    """A histogram of probabilities that takes many at once: a tenth of Histogram's time for each.

    One thread observes; any may collect.
    """

    def __init__(self, name: str, documentation: str, registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._counts = [0] * (len(PROBABILITIES) + 1)  # the last is above all edges
        self._sum = 0.0
        registry.register(self)

    def observe(self, values: Sequence[float]) -> None:
        for value in values:
            self._counts[bisect_left(PROBABILITIES, value)] += 1
        self._sum += sum(values)

    def collect(self) -> Iterable[HistogramMetricFamily]:
        edges = (*map(str, PROBABILITIES), "+Inf")
        buckets = list(zip(edges, accumulate(list(self._counts)), strict=True))
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=self._sum)


class _Reading(Collector):
    """A counter that somebody else keeps."""

    def __init__(self, name: str, documentation: str, read: Callable[[], int]) -> None:
        self._name = name
        self._documentation = documentation
        self._read = read

    def collect(self) -> Iterable[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._documentation, value=self._read())
