"""`headlines predict --explain`, for people and for programs."""

import json
import os
import pty
import subprocess
import sys

import pytest

from harness.process import PATIENCE, ROOT, environment
from headlines.commands import console
from headlines.v1 import popularity_pb2 as pb

FROZEN = ["hour_sin", "hour_cos", "weekday_sin", "weekday_cos"]
TEXT = "Don\u2019t panic: \u6771\u4eac &#98;x votes, votes the"
WORDS = [
    pb.WordEffect(word="don't", known=True, main_effect=0.034, aux_effect=0.2, start=0, end=5),
    pb.WordEffect(word="panic", known=False, main_effect=-0.126, aux_effect=0.001, start=6, end=11),
    pb.WordEffect(word="\u6771", known=False, main_effect=0.01, aux_effect=0.01, start=13, end=14),
    pb.WordEffect(word="bx", known=True, main_effect=-0.02, aux_effect=0, start=-1, end=-1),
    pb.WordEffect(word="votes", known=True, main_effect=0.14, aux_effect=-0.3, start=23, end=28),
    pb.WordEffect(word="votes", known=True, main_effect=0.004, aux_effect=0, start=30, end=35),
    pb.WordEffect(word="stop", known=True, main_effect=0.03, aux_effect=0, start=-1, end=-1),
    pb.WordEffect(word="the", known=True, main_effect=-0.004, aux_effect=0, start=36, end=39),
]


@pytest.fixture
def explains(servicer):
    """The servicer as one that explains TEXT."""
    servicer.model = {"limits": pb.Limits(max_explain_rows=1024)}
    prediction = pb.Prediction(word_count=8, unknown_word_count=2)
    servicer.explanation = pb.Explanation(prediction=prediction, words=WORDS, outlet_effect=0.124, time_effect=-0.01)
    return servicer


def run(target, *arguments, stdin=""):
    return subprocess.run(
        [sys.executable, "-m", "headlines", "predict", "--target", target, "--explain", *arguments],
        env=environment(PYTHONIOENCODING="utf-8"),
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )


def test_the_strongest_word_comes_first_and_the_outlet_and_time_are_said_in_words(target, explains):  # noqa: ARG001
    done = run(target, "--outlet", " nytimes", TEXT)
    assert (done.returncode, done.stderr) == (0, "")
    table, _, notes = done.stdout.partition("\n\n")
    assert table.splitlines() == [
        f"   75 %  {TEXT}",
        "    +14  votes",
        "    -13  panic ?",
        "     +3  Don\u2019t, stop",
        "     -2  bx",
        "     +1  \u6771 ?",
        "      0  votes, the",
        "         nytimes adds 12 points.",
        "         The posting time takes 1 point away, compared with the average of the week.",
    ]
    best, points, *others = notes.splitlines()
    assert best.startswith("best: the chance")
    assert points.startswith("points: the chance in percent less what it is without this word. They do not add up")
    assert "They say what moves the model's number, not what moves readers." in others
    assert "?: the model does not know this word; all words that it does not know are the same to it." in others


def test_without_an_outlet_the_words_alone_are_explained(target, explains):  # noqa: ARG001
    table, _, notes = run(target, TEXT).stdout.partition("\n\n")
    assert table.splitlines()[:4] == [f"   25 %  {TEXT}", "    -30  votes", "    +20  Don\u2019t", "     +1  \u6771 ?"]
    assert "posting time" not in table
    assert "points" not in table
    assert "No outlet was named" in notes or "The model knows no outlets" in notes


def test_what_makes_no_difference_is_said_to_make_none(target, explains):
    explains.model["frozen_features"] = FROZEN
    explains.explanation.outlet_effect = -0.004
    del explains.explanation.words[:]
    explains.explanation.prediction.unknown_word_count = 0
    done = run(target, "--outlet", "nytimes", "x" * 150, "y")
    first, second, notes = done.stdout.split("\n\n")
    assert first.splitlines()[1:] == ["         nytimes makes no difference."]
    assert second.splitlines()[1:] == ["         nytimes makes no difference."]
    assert "?:" not in notes
    assert "reads the first 100 words" in notes  # the server counts a word for each character


def test_a_wrong_headline_harms_no_other_and_lines_are_explained_as_they_come(target, explains):  # noqa: ARG001
    done = run(target, "one", "-", stdin="two\nbad\nthree\n")
    assert done.returncode == 1
    assert [line[9:] for line in done.stdout.splitlines() if "25 %" in line] == ["one", "two", "three"]
    assert done.stderr == "headlines predict: line 2: text is bad\n"


def test_a_program_gets_the_protos_names(target, explains):  # noqa: ARG001
    [line] = run(target, "--json", "--outlet", "nytimes", TEXT).stdout.splitlines()
    fields = json.loads(line)
    assert (fields["headline"], fields["best"], fields["model_version"]) == (TEXT, 0.75, 7)
    assert fields["outlet_effect"] == pytest.approx(0.124)
    assert fields["time_effect"] == pytest.approx(-0.01)
    assert len(fields["words"]) == len(WORDS)
    for got, sent in zip(fields["words"], WORDS, strict=True):
        assert got == {field.name: getattr(sent, field.name) for field in pb.WordEffect.DESCRIPTOR.fields}


def test_no_line_of_the_table_is_wider_than_a_terminal(target, explains):
    for number in range(60):
        explains.explanation.words.add(word=f"\u6771word{number}", start=-1, end=-1)
    explains.explanation.words.add(word="\u6771" * 90, main_effect=0.5, start=-1, end=-1)
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "headlines", "predict", "--target", target, "--explain", "--outlet", "o" * 80, TEXT * 3]
    with subprocess.Popen(command, env=environment(COLUMNS="60"), cwd=ROOT, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        shown = b""
        try:
            while data := os.read(controller, 4096):
                shown += data
        except OSError:  # Linux' way to say that the terminal's other side is closed
            pass
        assert process.wait(PATIENCE) == 0, shown
    os.close(controller)
    table = shown.decode().replace("\r\n", "\n").partition("\n\n")[0].splitlines()
    widths = [sum(map(console._columns, line)) for line in table]
    assert max(widths[:-2]) <= 60  # the last two are sentences, as those below them
    assert [line.endswith("...") for line in table[:2]] == [True] * 2
    assert table[1].startswith("    +50  \u6771")
    zeros = " ".join(table[table.index(next(line for line in table if line.startswith("      0  "))) : -2])
    assert [f"\u6771word{number} ?" in zeros for number in range(60)] == [True] * 60


def test_a_server_that_is_too_old_is_said_to_be_so(target, servicer):
    done = run(target, TEXT)
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr == f"headlines predict: the server at {target} cannot explain: it is older than this command; update it\n"
    )
    assert not servicer.requests
