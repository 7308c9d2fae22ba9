"""Work that gives way: it rests, and others go before it."""

import errno
import os
import platform
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.process import environment
from service.model import throttle


def work():
    """A few steps of work, and the seconds of processor time and of time that they took."""
    began, worked = time.perf_counter(), time.thread_time()
    for _ in range(5):
        step = time.thread_time()
        while time.thread_time() < step + 2 * throttle.STEP:
            pass
        throttle.pause()
    return time.thread_time() - worked, time.perf_counter() - began


def test_a_thread_that_gives_way_rests_most_of_the_time():
    with ThreadPoolExecutor(1, initializer=throttle.enable) as executor:
        worked, took = executor.submit(work).result()
    assert worked < 2 * throttle.SHARE * took


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priorities of their own")
def test_only_the_thread_that_gives_way_has_a_lower_priority():
    def priority():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = priority()
    with ThreadPoolExecutor(1, initializer=throttle.enable) as executor:
        assert executor.submit(priority).result() == 19
    assert priority() == before


# Makes setpriority fail from now on as under `SystemCallFilter=~@resources` with `SystemCallErrorNumber=`, by seccomp(2).
FORBID = """if True:
    import ctypes, os, sys
    from concurrent.futures import ThreadPoolExecutor
    from service.model import throttle

    number, error = map(int, sys.argv[1:])
    load, equal, give = 0x20, 0x15, 0x06  # of the system call's number; the next instruction if it is this one; a verdict
    program = b"".join(
        code.to_bytes(2, "little") + bytes([yes, no]) + value.to_bytes(4, "little")
        for code, yes, no, value in (
            (load, 0, 0, 0), (equal, 0, 1, number), (give, 0, 0, 0x50000 | error), (give, 0, 0, 0x7FFF0000),
        )
    )
    buffer = ctypes.create_string_buffer(program)

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    libc = ctypes.CDLL(None, use_errno=True)
    filter_ = Program(4, ctypes.addressof(buffer))
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(filter_), 0, 0):
        sys.exit(77)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, 19)
    except OSError as refused:
        assert refused.errno == error
    else:
        sys.exit("setpriority is not forbidden")
    with ThreadPoolExecutor(1, initializer=throttle.enable) as executor:
        print(executor.submit(throttle.pause).result(), executor.submit(str, "works").result())
"""


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
def test_where_priorities_are_forbidden_a_thread_gives_way_by_its_rests(error):
    numbers = {"x86_64": 141, "aarch64": 140}
    if sys.platform != "linux" or platform.machine() not in numbers:
        pytest.skip("no number of setpriority is known here")
    command = [sys.executable, "-c", FORBID, str(numbers[platform.machine()]), str(int(error))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    if done.returncode == 77:
        pytest.skip("seccomp is not permitted")
    assert (done.returncode, done.stdout) == (0, "None works\n"), done.stderr
