"""Settings that make no sense are refused by name."""

import subprocess
import sys

import pytest

from service.errors import UsageError
from training.settings import Settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"merge": "sum"},
        {"seed": -1},
        {"seed": 2**31},
        {"epochs": 0},
        {"patience": 0},
        {"batch_size": -32},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"aux_loss_weight": -0.2},
        {"word_dropout": 1.0},
        {"embedding_dropout": 1.0},
        {"state_dropout": -0.1},
        {"embedding_decay": float("inf")},
        {"averaging": -1.0},
        {"popular_above": "mean"},
        {"teacher_share": 1.01},
        {"vector_scale": -1.0},
    ],
    ids=str,
)
def test_a_value_that_makes_no_sense_is_refused_by_name(wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(UsageError, match=f"{name} is {value!r}; it must be"):
        Settings(**wrong)


def test_flags_can_be_read_without_tensorflow():
    command = "import sys; import training.settings; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], env={"PYTHONPATH": ":".join(sys.path)}, check=False).returncode == 0
