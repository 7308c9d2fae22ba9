"""A checkpoint is whole or not there, and belongs to one job at a time."""

import numpy as np
import pytest

from service.errors import DataError
from training.checkpoint import open_checkpoint

STATE = {"weights": np.arange(1000, dtype=np.float32), "step": np.int64(7)}


def leave_state(models):
    """What an interrupted job leaves; the answer is its file."""
    with pytest.raises(KeyboardInterrupt), open_checkpoint(models, "0a") as checkpoint:
        checkpoint.save({"weights": np.zeros(3)})
        checkpoint.save(STATE)
        raise KeyboardInterrupt
    return models / ".fit-0a" / "state.npz"


def test_an_interrupted_job_finds_the_last_state_and_a_finished_one_leaves_nothing(tmp_path):
    leave_state(tmp_path / "models")
    with open_checkpoint(tmp_path / "models", "0a") as checkpoint:
        state = checkpoint.load()
        assert state.keys() == STATE.keys()
        assert all((state[name] == STATE[name]).all() for name in STATE)
    assert list((tmp_path / "models").iterdir()) == []
    with open_checkpoint(tmp_path / "models", "0a") as checkpoint:
        assert checkpoint.load() is None


@pytest.mark.parametrize(("at", "cut"), [(-50, True), (500, True), (0, True), (700, False)])
def test_a_damaged_state_is_as_good_as_none_and_is_told(tmp_path, caplog, at, cut):
    file = leave_state(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:at] if cut else whole[:at] + b"\xff" + whole[at + 1 :])
    with open_checkpoint(tmp_path, "0a") as checkpoint:
        assert checkpoint.load() is None
    assert "damaged" in caplog.text
    assert "afresh" in caplog.text


def test_a_half_written_state_leaves_the_one_before(tmp_path):
    file = leave_state(tmp_path)
    file.with_suffix(".new").write_bytes(b"PK half")
    with open_checkpoint(tmp_path, "0a") as checkpoint:
        assert checkpoint.load()["step"] == 7


def test_another_job_starts_afresh_says_so_and_touches_nothing(tmp_path, caplog):
    file = leave_state(tmp_path)
    with open_checkpoint(tmp_path, "0b") as checkpoint:
        assert checkpoint.load() is None
    assert ".fit-0a is of another fit, with other data or settings," in caplog.text
    assert file.exists()


def test_the_same_job_twice_at_once_is_refused(tmp_path):
    with open_checkpoint(tmp_path, "0a") as checkpoint:
        checkpoint.save(STATE)
        with pytest.raises(DataError, match="already running"), open_checkpoint(tmp_path, "0a"):
            pass
        assert checkpoint.load() is not None
        with open_checkpoint(tmp_path, "0b"):
            pass
