"""A moment of tests.resilience.fuzz: what reads bytes ends as it is documented to, whatever the bytes are."""

import random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.resilience.fuzz import mutation, server, targets

INPUTS = {
    "preprocessing": 300,
    "request": 300,
    "inference": 300,
    "web": 300,
    "version": 300,
    "consistent version": 200,
    "data": 150,
    "credentials": 100,
}


@pytest.mark.parametrize("name", INPUTS)
def test_hostile_bytes_end_as_documented(models, tmp_path, name):
    target = targets.make(name, models, tmp_path)

    @settings(
        max_examples=INPUTS[name],
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 1 << 64), st.binary(max_size=60))
    def run(seed, data):
        target.run(mutation.mutate([*target.seeds, data], random.Random(seed), target.whole))

    try:
        run()
    finally:
        target.close()


def test_hostile_calls_and_connections_break_no_promise_of_a_server(models, capsys):
    kept = server.fuzz(models, inputs=800, seed=0, rounds=1, bomb=40 << 20)
    assert kept, capsys.readouterr().out
