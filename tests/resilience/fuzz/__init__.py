"""Hostile inputs for everything that reads some; `python -m tests.resilience.fuzz`."""
