"""A checkpoint is whole or not there, and belongs to one job at a time."""

import fcntl
import os
from contextlib import suppress

import numpy as np
import pytest
from file_limit import largest_file

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


def test_a_damaged_state_is_as_good_as_none_and_is_told(tmp_path, caplog):
    with pytest.raises(KeyboardInterrupt), open_checkpoint(tmp_path, "0a") as checkpoint:
        checkpoint.save({"step": np.int64(7)})
        file = tmp_path / ".fit-0a" / "state.npz"
        whole = file.read_bytes()
        cut = [whole[:length] for length in range(len(whole))]
        flipped = [whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :] for at in range(len(whole)) for bit in range(8)]
        for damaged in (*cut, *flipped):
            file.write_bytes(damaged)
            caplog.clear()
            assert checkpoint.load() is None
            assert "damaged; starting afresh" in caplog.text
        file.write_bytes(whole)
        assert checkpoint.load() == {"step": 7}
        raise KeyboardInterrupt


def test_a_half_written_state_leaves_the_one_before(tmp_path):
    file = leave_state(tmp_path)
    file.with_suffix(".new").write_bytes(b"PK half")
    with open_checkpoint(tmp_path, "0a") as checkpoint:
        assert checkpoint.load()["step"] == 7


def test_a_job_that_failed_says_what_is_kept_and_keeps_nothing_else(tmp_path, caplog):
    caplog.set_level("INFO")
    leave_state(tmp_path)
    assert ".fit-0a keeps what was fitted; the same command goes on from there" in caplog.text
    caplog.clear()
    with pytest.raises(OSError, match="full"), open_checkpoint(tmp_path / "other", "0b"):
        raise OSError("the disk is full")
    assert "keeps" not in caplog.text
    assert list((tmp_path / "other").iterdir()) == []


def test_a_disk_that_is_full_costs_the_new_state_and_not_the_one_before(tmp_path):
    file = leave_state(tmp_path)
    with largest_file(10**6), open_checkpoint(tmp_path, "0a") as checkpoint:
        with pytest.raises(OSError, match="too large"):
            checkpoint.save({"weights": np.zeros(10**6)})
        assert checkpoint.load()["step"] == 7
        assert sorted(path.name for path in file.parent.iterdir()) == ["lock", "state.npz"]


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


def test_of_other_jobs_the_latest_two_and_those_that_run_are_kept(tmp_path, caplog):
    for name in ("0a", "0b", "0c", "0d", "0e"):
        with suppress(KeyboardInterrupt), open_checkpoint(tmp_path / name, name) as checkpoint:
            checkpoint.save(STATE)
            raise KeyboardInterrupt
    models = tmp_path / "models"
    models.mkdir()
    for age, name in enumerate(("0e", "0d", "0c", "0b", "0a")):
        path = (tmp_path / name / f".fit-{name}").rename(models / f".fit-{name}")
        os.utime(path, (1e9 - age, 1e9 - age))
    with (models / ".fit-0a" / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open_checkpoint(models, "ff"):
            assert sorted(path.name for path in models.iterdir()) == [".fit-0a", ".fit-0d", ".fit-0e", ".fit-ff"]
    assert {name: f".fit-{name} was left by an older fit" in caplog.text for name in ("0a", "0b", "0c", "0d", "0e")} == {
        "0a": False,
        "0b": True,
        "0c": True,
        "0d": False,
        "0e": False,
    }
    with open_checkpoint(models, "0e") as checkpoint:
        assert checkpoint.load()["step"] == 7
