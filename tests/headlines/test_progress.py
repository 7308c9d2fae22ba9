"""No silence: what takes long says so, and a time left is only told once it can be known."""

import io
import time

from headlines.commands import progress


def test_what_takes_long_says_so_again_and_again_and_what_does_not_says_nothing(monkeypatch):
    shown = io.StringIO()
    with progress.busy("waiting", shown):
        pass
    assert not shown.getvalue()
    monkeypatch.setattr(progress, "EVERY", 0.01)
    with progress.busy("waiting", shown):
        while shown.getvalue().count("still waiting, after ") < 2:
            time.sleep(0.01)


def test_the_time_left_is_told_once_there_is_a_pace(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.01)
    shown = io.StringIO()
    with progress.counting("scoring", shown) as tell:
        tell(3, 9)  # three were done before
        while not shown.getvalue():
            time.sleep(0.01)
        assert "left" not in shown.getvalue()
        tell(4, 9)
        while " scoring, 4 of 9, about " not in shown.getvalue():
            time.sleep(0.01)


def test_it_is_short_enough_for_a_newcomer():
    assert progress.EVERY < 10
