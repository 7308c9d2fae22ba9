"""What dashboards rely on: names, labels and that known series are there from the start."""

import platform
import time

import grpc
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import Distribution, Metrics

GRPC = {
    "grpc_server_started": "counter",
    "grpc_server_handled": "counter",
    "grpc_server_msg_received": "counter",
    "grpc_server_msg_sent": "counter",
    "grpc_server_handling_seconds": "histogram",
}
OWN = {
    "headlines_predictions": "counter",
    "headlines_batch_size": "histogram",
    "headlines_connections": "gauge",
    "headlines_connection_capacity": "gauge",
    "headlines_queue_headlines": "gauge",
    "headlines_queue_capacity": "gauge",
    "headlines_queue_wait_seconds": "histogram",
    "headlines_inference_seconds": "histogram",
    "headlines_dropped": "counter",
    "headlines_calls_in_flight": "gauge",
    "headlines_message_memory_bytes": "gauge",
    "headlines_messages_waiting": "gauge",
    "headlines_http_requests": "counter",
    "headlines_words": "counter",
    "headlines_outlets": "counter",
    "headlines_main_output": "histogram",
    "headlines_aux_output": "histogram",
    "headlines_ready": "gauge",
    "headlines_model_info": "gauge",
    "headlines_model_directory_missing": "gauge",
    "headlines_model_trained_timestamp_seconds": "gauge",
    "headlines_model_loads": "counter",
    "headlines_model_load_seconds": "histogram",
    "headlines_build_info": "gauge",
    "headlines_log_dropped": "counter",
}


@pytest.fixture
def metrics():
    metrics = Metrics(queue_capacity=4096)
    metrics.watch_messages(lambda: 4096, lambda: 3)
    metrics.count_dropped_log_lines(lambda: 2)
    metrics.calls("unary", "headlines.v1.PopularityService", "Predict")
    return metrics


def families(metrics):
    return {family.name: family for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())}


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, labels)


def test_the_names_are_the_documented_ones(metrics):
    found = {name: family.type for name, family in families(metrics).items() if name.startswith(("grpc_", "headlines_"))}
    assert found == {**GRPC, **OWN}


def test_users_find_the_process_metrics_that_they_know_and_no_created_series(metrics):
    samples = {sample.name for family in families(metrics).values() for sample in family.samples}
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes", "python_info"} <= samples
    assert "python_gc_collections_total" in samples
    assert not [name for name in samples if name.endswith("_created")]


def test_known_series_start_at_zero(metrics):
    for reason in ("overloaded", "expired", "cancelled"):
        assert value(metrics, "headlines_dropped_total", reason=reason) == 0
    for known in ("true", "false"):
        assert value(metrics, "headlines_words_total", known=known) == 0
    for known in ("true", "false", "none"):
        assert value(metrics, "headlines_outlets_total", known=known) == 0
    for outcome in ("success", "failure"):
        assert value(metrics, "headlines_model_loads_total", outcome=outcome) == 0
    assert value(metrics, "headlines_queue_capacity") == 4096
    assert value(metrics, "headlines_log_dropped_total") == 2


def test_what_is_running_is_a_metric(metrics):
    (sample,) = families(metrics)["headlines_build_info"].samples
    assert sample.value == 1
    assert set(sample.labels) == {"version", "python", "grpcio", "ai_edge_litert", "tensorflow"}
    assert sample.labels["python"] == platform.python_version()
    assert sample.labels["grpcio"] == grpc.__version__


def test_edges_are_from_a_tenth_of_a_millisecond_to_two_and_a_half_seconds(metrics):
    samples = families(metrics)["headlines_inference_seconds"].samples
    edges = [float(sample.labels["le"]) for sample in samples if "le" in sample.labels]
    assert edges == [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, float("inf")]


def test_a_swap_leaves_one_version_in_model_info(metrics):
    metrics.went_live(1, "aa", "litert", 1_464_000_000.0)
    metrics.went_live(2, "bb", "litert", 1_465_000_000.0)
    labels = [sample.labels for sample in families(metrics)["headlines_model_info"].samples]
    assert labels == [{"version": "2", "digest": "bb", "engine": "litert"}]
    assert value(metrics, "headlines_model_trained_timestamp_seconds") == 1_465_000_000
    metrics.went_away()
    assert not families(metrics)["headlines_model_info"].samples
    assert not families(metrics)["headlines_model_trained_timestamp_seconds"].samples


def test_predictions_are_counted_by_version_words_and_outputs(metrics):
    metrics.went_live(3, "cc", "litert", time.time())
    headlines = [(f"headline {i}", 0.0, outlet) for i, outlet in enumerate(["a", "b", "", "a"])]
    known = [True, False, False, True]
    metrics.predicted(3, headlines, ([0.0, 0.05, 0.051, 1.0], [0.2, 0.2, 0.2, 0.2], [5, 4, 6, 5], [0, 2, 0, 1], known))
    assert value(metrics, "headlines_predictions_total", version="3") == 4
    assert value(metrics, "headlines_words_total", known="true") == 17
    assert value(metrics, "headlines_words_total", known="false") == 3
    assert [value(metrics, "headlines_outlets_total", known=it) for it in ("true", "false", "none")] == [2, 1, 1]
    assert value(metrics, "headlines_main_output_bucket", le="0.05") == 2
    assert value(metrics, "headlines_main_output_bucket", le="0.1") == 3
    assert value(metrics, "headlines_main_output_bucket", le="1.0") == 4
    assert value(metrics, "headlines_main_output_count") == 4
    assert value(metrics, "headlines_main_output_sum") == pytest.approx(1.101)
    assert value(metrics, "headlines_aux_output_sum") == pytest.approx(0.8)


def test_the_queue_and_batches_are_observed(metrics):
    metrics.watch_queue(lambda: 5)
    metrics.computed(64, 0.0003, [0.0002])
    metrics.dropped("expired", 2)
    metrics.loaded(True, 0.5)
    metrics.loaded(False, 0.1)
    assert value(metrics, "headlines_queue_headlines") == 5
    assert value(metrics, "headlines_queue_wait_seconds_bucket", le="0.00025") == 1
    assert value(metrics, "headlines_batch_size_bucket", le="32.0") == 0
    assert value(metrics, "headlines_batch_size_bucket", le="64.0") == 1
    assert value(metrics, "headlines_inference_seconds_sum") == 0.0003
    assert value(metrics, "headlines_dropped_total", reason="expired") == 2
    assert value(metrics, "headlines_model_loads_total", outcome="failure") == 1
    assert value(metrics, "headlines_model_load_seconds_count") == 2


def test_values_wait_to_be_counted_together_and_none_is_lost():
    distribution = Distribution((1, 2))
    for value in (0.5, 1, 2, 2.5) * 1000:
        distribution.observe((value,))
        distribution.observe(())
    assert len(distribution._waiting) <= 1024
    for _ in range(2):
        assert distribution.buckets() == ([("1.0", 2000), ("2.0", 3000), ("+Inf", 4000)], 6000.0)
