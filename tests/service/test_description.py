"""The commands `model` and `outlets`: what a server serves, for people and for programs."""

import json
from datetime import UTC, datetime

import pytest
from command import run, sentence
from test_get_model import with_outlets
from variants import FROZEN, variant

from harness.process import ServerProcess, serve
from headlines.commands import description
from headlines.v1 import popularity_pb2 as pb


def test_model_shows_what_is_served(target):
    done = run("model", "--target", target)
    assert (done.returncode, done.stderr) == (0, b"")
    shown = done.stdout.decode()
    assert shown.startswith(f"headline-popularity at {target}: version 1, live for ")
    age = (datetime.now(UTC) - datetime.fromtimestamp(1_464_200_000, UTC)).days
    assert f"trained       2016-05-25 18:13 UTC, {age:,} days ago" in shown
    assert "learned from  posts of 2016-04-07 to 2016-05-23" in shown
    assert "made-up posts" in shown
    assert "more than 12 retweets and likes together" in shown
    assert "21 words and 2 outlets" in shown
    assert "10 later posts that it had not seen" in shown
    assert "ranks 75 % of pairs of a popular and another post right, 66 % of pairs of one outlet (a coin: 50 %)" in shown
    assert "about the same: numbers less than 12 points apart" in shown
    assert "1,024 headlines, 4,096 bytes of UTF-8 in each" in shown
    assert "  1    live\n" in shown


def test_model_for_programs(target):
    done = run("model", "--json", HEADLINES_TARGET=target)
    model = json.loads(done.stdout)
    assert (model["version"], model["outlet_count"], model["outlets"]) == (1, 2, ["gazette", "herald"])
    assert (model["synthetic"], model["trained_at"]) == (True, "2016-05-25T18:13:20Z")
    assert model["limits"] == {
        "max_headlines": 1024,
        "max_text_bytes": 4096,
        "max_message_bytes": 4 << 20,
        "max_explain_rows": 1024,
    }
    assert (model["evaluation"]["main_auc"], model["evaluation"]["main_pair_gap"]) == (0.75, 0.12)
    assert model["versions"] == [{"version": 1, "digest": model["digest"], "state": "live", "error": ""}]


def test_outlets_are_names_alone_on_standard_output(target):
    done = run("outlets", "--target", target)
    assert (done.returncode, done.stdout) == (0, b"gazette\nherald\n")
    assert done.stderr == b"Version 1 of the model knows 2 outlets.\n"
    done = run("outlets", "--json", "--target", target)
    assert json.loads(done.stdout) == {"outlets": ["gazette", "herald"], "outlet_count": 2, "model_version": 1}


def test_of_more_than_a_thousand_outlets_it_says_how_many_there_are(models, tmp_path):
    directory = with_outlets(models, tmp_path / "models", [f"z{i:05}" for i in range(2000)])
    with ServerProcess(serve(directory, "--engine", "litert")) as server:
        server.port = server.wait_for("listening")["port"]
        server.wait_for("serving version")
        done = run("outlets", "--target", server.target)
        assert len(done.stdout.splitlines()) == 1000
        assert done.stderr == b"Version 1 of the model knows 2,002 outlets, of which the server lists 1,000.\n"
        done = run("predict", "--target", server.target, "--outlet", "z1999", "City votes")
        notes = done.stdout.decode()
        assert (done.returncode, done.stderr) == (0, b"")
        assert "It knows 2,002 outlets, of which the server lists 1,000: `headlines outlets`." in notes


def test_without_a_live_version_model_shows_the_others_and_fails(tmp_path):
    (tmp_path / "7").mkdir()
    with ServerProcess(serve(tmp_path, "--engine", "litert")) as server:
        server.port = server.wait_for("listening")["port"]
        server.wait_for("cannot go live")
        done = run("model", "--target", server.target)
        assert done.returncode == 1
        assert f"headline-popularity at {server.target}: no version is live" in done.stdout.decode()
        assert "  7    failed: assets.extra/SHA256SUMS: " in done.stdout.decode()
        [line] = done.stderr.decode().splitlines()
        assert line.startswith(f"headlines model: {server.target} has no model to answer with: version 7 cannot be served: ")
        done = run("model", "--json", "--target", server.target)
        assert done.returncode == 1
        assert json.loads(done.stdout)["versions"][0]["state"] == "failed"
        assert "version 7 cannot be served" in sentence(run("outlets", "--target", server.target))


def test_a_version_that_does_not_use_the_posting_time_is_described_so(models, serve, tmp_path):
    directory = tmp_path / "models"
    directory.mkdir()
    variant(models, directory / "1", frozen=FROZEN)
    with serve(directory, "--engine", "litert") as server:
        server.wait_for("serving version")
        shown = run("model", "--target", server.target).stdout.decode()
        assert "  posting time  makes no difference: " in shown
        assert "  words and outlet: ranks 75 % of pairs" in shown
        assert json.loads(run("model", "--json", "--target", server.target).stdout)["frozen_features"] == list(FROZEN)

        note = "--posted-at made no difference: this version of the model does not use the posting time."
        asked = ("predict", "--target", server.target, "--outlet", "gazette")
        done = run(*asked, "--posted-at", "2016-05-01T00:00Z", "City votes", "Zebra")
        notes = done.stdout.decode()
        assert (done.returncode, done.stderr) == (0, b"")
        assert note in notes
        assert "judged by words and outlet." in notes
        assert "the number comes from the outlet alone." in notes
        assert note not in run(*asked, "City votes").stdout.decode()
        notes = run("predict", "--target", server.target, "City votes").stdout.decode()
        assert "With --outlet NAME it judges by the outlet too" in notes


def test_a_version_that_uses_the_posting_time_says_nothing_of_it(target):
    assert "posting time" not in run("model", "--target", target).stdout.decode()
    done = run("predict", "--target", target, "--posted-at", "2016-05-01T00:00Z", "City votes")
    assert "--posted-at" not in done.stdout.decode()


def test_a_label_that_means_something_else_than_before_is_described():
    model = pb.GetModelResponse(version=3, label="above_story_mean", label_change="version 2: more likes")
    model.evaluation.update({"main_auc": 0.6, "main_pair_accuracy": 0.58, "main_pair_gap": 1.0})
    shown = "\n".join(description._describe(model, "here"))
    assert "changed       scores cannot be compared with those of version 2: more likes" in shown
    assert "58 % of pairs of one story" in shown
    assert "about the same: all numbers" in shown


def test_a_server_of_before_outlet_count_is_counted_by_its_list():
    assert description.how_many_outlets(pb.GetModelResponse(outlets=["a", "b"])) == "2 outlets"
    assert description.how_many_outlets(pb.GetModelResponse()) == "no outlet"
    assert description.how_many_outlets(pb.GetModelResponse(outlets=["a"], outlet_count=1)) == "1 outlet"


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0.0, "0 %"),
        (0.0001, "<1 %"),
        (0.005, "<1 %"),
        (0.006, "1 %"),
        (0.943, "94 %"),
        (0.994, "99 %"),
        (0.996, ">99 %"),
        (0.9999, ">99 %"),
        (1.0, "100 %"),
    ],
)
def test_percents_are_whole_and_certain_only_if_it_is(share, shown):
    assert description.percent(share) == shown
