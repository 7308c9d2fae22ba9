"""Servers that are stopped and killed under load, as tests/resilience/stopping.py does it for longer."""

import asyncio
import random
import shutil

import pytest

from tests.resilience import soak, stopping


@pytest.fixture
def trial(models, questions, tmp_path):
    copy = tmp_path / "models"
    shutil.copytree(models, copy)
    return stopping.Trial(copy, questions, {1: soak.expect(copy / "1", questions)}, rounds=3, clients=8)


@pytest.mark.parametrize("case", ["undrained", "alone", "killed"])
def test_callers_are_answered_rightly_or_told(trial, case):
    outcome = asyncio.run(stopping.CASES[case](trial, random.Random(0)))
    assert outcome.problems == []
    assert outcome.tally.wrong == 0
    assert outcome.tally.calls
