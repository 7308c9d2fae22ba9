"""The programs of benchmarks/ and tests/resilience/ fail in one way, and print tables in one form."""

import math
import sys

import grpc
import pytest

from harness import process, report
from headlines.v1 import popularity_pb2 as pb
from headlines.v1 import popularity_pb2_grpc
from service.errors import DataError, UsageError


@pytest.mark.parametrize(
    ("error", "code", "out", "err"),
    [
        (report.BrokenError("slow", "a wrong answer", "slow"), 1, "BROKEN: slow (2 times)\nBROKEN: a wrong answer\n", ""),
        (DataError("posts.csv: cannot be read"), 1, "", "posts.csv: cannot be read\n"),
        (UsageError("models holds no version"), 2, "", "models holds no version\n"),
    ],
)
def test_a_program_ends_with_a_line_for_each_problem(error, code, out, err, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as ended:
        report.run(main)
    assert ended.value.code == code
    assert capsys.readouterr() == (out, err)


def test_a_table_shows_medians_of_the_runs_that_have_a_figure(capsys):
    report.run(lambda: report.require_none([]))
    table = report.Table("clients", {"requests/s": ",.0f", "p99 ms": ".1f", "statuses": "<"}, width=8)
    runs = [{"requests/s": 1000, "p99 ms": 2.0}, {"requests/s": 3000, "p99 ms": math.nan}, {"requests/s": 9000, "p99 ms": 4.0}]
    table.row(8, *report.medians(runs).values(), "OK")
    table.row(64, math.nan, None)
    assert capsys.readouterr().out == "clients   requests/s   p99 ms  statuses\n8              3,000      3.0  OK\n64\n"


def test_the_server_that_answers_constants_starts_and_answers():
    headlines = [pb.Headline(text="City votes on new park")] * 3
    with process.started([sys.executable, "-m", "benchmarks.noop"]) as server, grpc.insecure_channel(server.target) as channel:
        answer = popularity_pb2_grpc.PopularityServiceStub(channel).Predict(pb.PredictRequest(headlines=headlines), timeout=60)
    assert len(answer.predictions) == 3
