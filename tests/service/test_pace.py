"""Work that gives way: it rests, and others go before it."""

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from service import pace


def work():
    """A few steps of work, and the seconds of processor time and of time that they took."""
    began, worked = time.perf_counter(), time.thread_time()
    for _ in range(5):
        step = time.thread_time()
        while time.thread_time() < step + 2 * pace.STEP:
            pass
        pace.rest()
    return time.thread_time() - worked, time.perf_counter() - began


def test_a_thread_that_gives_way_rests_most_of_the_time():
    with ThreadPoolExecutor(1, initializer=pace.give_way) as executor:
        worked, took = executor.submit(work).result()
    assert worked < 2 * pace.SHARE * took


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priorities of their own")
def test_only_the_thread_that_gives_way_has_a_lower_priority():
    def priority():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = priority()
    with ThreadPoolExecutor(1, initializer=pace.give_way) as executor:
        assert executor.submit(priority).result() == 19
    assert priority() == before
