import asyncio
import time

import pytest
import uvloop

from service import timer

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
KINDS = {"loop": timer.LoopTimer, "kernel": timer.KernelTimer}


@pytest.fixture(params=LOOPS)
def run(request):
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield runner.run


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_it_rings_once_for_each_time_that_it_is_set(run, kind):
    async def main():
        rung = asyncio.Queue()
        it = kind(lambda: rung.put_nowait(None))
        for _ in range(3):
            it.set(0.002)
            await rung.get()
        await asyncio.sleep(0.02)
        assert rung.empty()
        it.close()

    run(main())


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_set_anew_or_closed_it_forgets_what_it_was_set_to(run, kind):
    async def main():
        rung = []
        it = kind(lambda: rung.append(True))
        it.set(0.005)
        it.set(3600)
        await asyncio.sleep(0.02)
        it.set(0.005)
        it.close()
        await asyncio.sleep(0.02)
        assert not rung

    run(main())


def test_the_kernels_timer_never_rings_early(run):
    async def main():
        rung = asyncio.Queue()
        it = timer.KernelTimer(lambda: rung.put_nowait(time.monotonic()))
        for _ in range(50):
            began = time.monotonic()
            it.set(0.001)
            assert await rung.get() - began >= 0.001
        it.close()

    run(main())


def test_where_the_system_has_no_timer_the_event_loops_is_taken(monkeypatch, run):
    def missing(*_, **__):
        raise AttributeError("timerfd_create")

    monkeypatch.setattr(timer.ctypes, "CDLL", missing)

    async def main():
        assert isinstance(timer.exact(lambda: None), timer.LoopTimer)

    run(main())
