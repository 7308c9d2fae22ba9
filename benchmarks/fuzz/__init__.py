"""Hostile inputs for everything that reads some; `python -m benchmarks.fuzz`."""
