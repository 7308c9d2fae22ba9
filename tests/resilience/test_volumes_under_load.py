"""Volumes that misbehave under load, as tests/resilience/volumes.py lets them for longer."""

import asyncio
import subprocess

import pytest

from tests.resilience import volumes


@pytest.mark.parametrize("case", volumes.CASES)
def test_no_call_is_lost_and_what_can_be_read_goes_live(models, questions, tmp_path, case):
    volume = volumes.Volume(tmp_path, models, questions)
    try:
        outcome = asyncio.run(volumes.attempt(case, volume, questions, clients=4, poll_seconds=0.1))
    except subprocess.CalledProcessError:
        pytest.skip("mounting, or dropping capabilities, is not permitted")
    assert outcome.problems == []
    assert outcome.calls
