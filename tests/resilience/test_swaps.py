"""Versions that come in under load, as tests/resilience/swaps.py lets them come for longer."""

import asyncio

from tests.resilience import swaps
from tests.resilience.stopping import request


def test_callers_notice_no_swap_and_no_broken_version_goes_live(models, questions, tmp_path):
    trial = swaps.Trial.prepare(tmp_path, models, questions, swaps=12, broken=range(3, 13))
    requests = [request(questions, [i]).SerializeToString() for i in range(len(questions))]
    outcome = asyncio.run(swaps.swap(trial, questions, requests, engine="litert", every=0.3, rate=100))
    assert outcome.problems == []
    assert outcome.tally.wrong == 0
    assert outcome.tally.calls
    assert outcome.failures.keys() == swaps.BREAKAGES.keys()
