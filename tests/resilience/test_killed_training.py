"""The real command, started twice at once and killed: the short form of tests/resilience/killed_training.py."""

import random

import pytest

from tests.resilience.killed_training import Job, run_killed, run_together


@pytest.mark.timeout(1200)  # four jobs of TensorFlow, which take six minutes on a machine as busy again
def test_jobs_beside_each_other_and_killed_ones_make_what_an_undisturbed_one_makes(tmp_path):
    reference = run_together(tmp_path)
    run_killed(Job(tmp_path, tmp_path / "models"), [8.0], reference, random.Random(0))
