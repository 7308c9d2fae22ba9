"""More than a server can do: overload.py, cancels.py and bulk.py in short, with what they promise but for times."""

import random
from contextlib import contextmanager

import pytest

from harness.load import OK, open_loop
from headlines.v1 import popularity_pb2 as pb
from tests.resilience import bulk, cancels, crowds, overload


def request(headlines):
    return pb.PredictRequest(headlines=[pb.Headline(text="city votes on new park")] * headlines).SerializeToString()


@pytest.fixture
def serving(models, serve):
    """A server with a live version, which logs no error."""

    @contextmanager
    def start(*flags):
        with serve(models, "--engine", "litert", *flags) as server:
            server.wait_for("serving version")
            yield server
        assert '"level": "error"' not in server.output

    return start


@pytest.mark.parametrize(("headlines", "rate"), [(1, 20_000), (1024, 500)])
def test_an_overload_is_refused_as_documented_and_health_is_answered(serving, headlines, rate):
    with serving("--max-streams", 16) as server, overload.feeling_pulse(server, timeout=60) as pulse:
        load = open_loop(server.target, [request(headlines)], headlines, rate, 4, 0.5, deadline=3)
    assert load.statuses[OK]
    assert set(load.statuses) - {OK} <= overload.REFUSALS
    assert load.statuses.total() == rate / 2
    assert pulse.health
    assert pulse.metrics
    assert not pulse.problems


def test_callers_that_give_up_leave_nothing_in_the_queue(serving):
    with serving() as server:
        statuses = cancels.give_up_at_random(server.target, [request(1)], [request(300)], 3000, random.Random(0))
        assert cancels.wait_until_empty(server)
    assert statuses.total() == 3000
    assert set(statuses) == {"OK", "CANCELLED"}


@pytest.mark.parametrize("callers", [crowds.aio_callers, crowds.sync_callers])
def test_none_of_96_callers_that_share_a_connection_is_refused(serving, callers):
    with serving() as server:
        assert set(callers(server.target, 1.0)) == {"OK"}


def test_bulk_streams_refuse_no_interactive_call(serving):
    requests = [bulk.to_stream(request(128))]
    with serving() as server:
        outcome = bulk.ask_beside(server.target, [request(1)], requests, streams=5, seconds=0.5)
    assert outcome.latencies
    assert outcome.streamed
    assert not outcome.problems
