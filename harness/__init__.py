"""What tests, benchmarks and the resilience programs share: processes, load, requests, reports."""
