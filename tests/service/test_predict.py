"""The command `predict` as a person and as a program would use it."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading

import pytest
from command import command_environment, popen, run, sentence, shell

from harness.process import PATIENCE, ROOT
from headlines.commands import console, description


def predict(*arguments, **keywords):
    return run("predict", *arguments, **keywords)


def table(done):
    """The rows of the table, and the notes below it."""
    assert done.returncode == 0, done.stderr
    rows, _, notes = done.stdout.decode().partition("\n\n")
    return rows.splitlines(), notes


# For people


def test_a_person_gets_the_number_to_use_first_in_whole_percents(target):
    done = predict("--target", target, "--outlet", "Gazette", "City votes on new park", "Lions win the cup")
    (head, first, second), notes = table(done)
    answers = [
        json.loads(line)
        for line in predict(
            "--json", "City votes on new park", "--outlet", "Gazette", HEADLINES_TARGET=target
        ).stdout.splitlines()
    ]
    assert head.split() == ["best", "unknown", "words", "headline"]
    assert first.split() == [
        f"{100 * answers[0]['main_output']:.0f}",
        "%",
        "0",
        "of",
        "5",
        "City",
        "votes",
        "on",
        "new",
        "park",
    ]
    assert second.split()[2:5] == ["3", "of", "4"]
    assert "judged by words, time and outlet" in notes
    assert "more than 12 retweets and likes together" in notes
    assert "made-up posts: it says nothing about real headlines" in notes
    assert "!" not in done.stdout.decode()
    assert done.stderr == b""


def test_of_several_headlines_it_says_which_are_about_the_same(target):
    one = predict("City votes on new park", "--outlet", "gazette", "--target", target).stdout.decode()
    assert "about the same" not in one
    two = predict("City votes on new park", "The market wins", "--outlet", "gazette", "--target", target).stdout.decode()
    assert "Numbers less than 12 points apart are about the same: of posts of one account so near" in two
    assert "which of two wordings of one story is better it cannot tell" in two
    unknown = predict("City votes on new park", "The market wins", "--target", target).stdout.decode()
    assert "Numbers less than 20 points apart are about the same" in unknown  # by the words alone


def test_a_headline_of_which_no_word_is_known_is_marked(target):
    (_, known, unknown, wordless), notes = table(
        predict("--target", target, "--outlet", "gazette", "City votes", "Lions lose", "!!!")
    )
    assert not known.startswith("!")
    assert unknown.split()[0] == "!"
    assert unknown.split()[3:6] == ["2", "of", "2"]
    assert wordless.split()[0] == "!"
    assert "no words" in wordless
    assert "!: the model knows no word of this headline; the number comes from time and outlet alone." in notes
    (_, row), notes = table(predict("--target", target, "Lions lose"))
    assert row.startswith("!")
    assert "the number means nothing" in notes


@pytest.mark.parametrize("outlet", ["Gazete", "The Gazette", "@gazette", "the GAZETTE!"])
def test_an_outlet_that_is_not_known_is_answered_with_the_nearest(target, outlet):
    _, notes = table(predict("--outlet", outlet, "City votes on new park", HEADLINES_TARGET=target))
    assert f"does not know the outlet {outlet!r}; is it 'gazette'?" in notes
    assert "It knows 2 outlets: `headlines outlets`." in notes
    assert "judged by its words alone" in notes


def test_without_an_outlet_it_says_that_one_would_help(target):
    for arguments in (["x"], ["x", "--outlet", ""]):
        _, notes = table(
            predict(*arguments, HEADLINES_TARGET=target, HEADLINES_OUTLET="" if "--outlet" not in arguments else "q")
        )
        assert "No outlet was named. With --outlet NAME" in notes
        assert "`headlines outlets`" in notes


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("The New York Times", "nytimes"),
        ("New York Times", "nytimes"),
        ("BBC News", "bbcnews"),
        ("@WSJ", "wsj"),
        ("Wall Street Journal", "wsj"),
        ("bbcnew", "bbcnews"),
        ("Entirely Other", None),
        ("", None),
        ("!!!", None),
        ("ＢＢＣ ＮＥＷＳ", "bbcnews"),
    ],
)
def test_the_nearest_outlet(name, known):
    assert description.nearest_outlet(name, ["bbcnews", "nytimes", "wsj", "42", "!"]) == known


def test_a_headline_stays_on_its_line_and_gives_a_terminal_no_orders(target):
    hostile = "東京\u3000\x1b[31m wins\n\t\u202egnp\u2066\x9b0m a\u00a0b 👩\u200d🚀\u2028x"
    (_, row), _ = table(predict("--target", target, hostile))
    assert row.endswith("東京 \ufffd[31m wins  \ufffdgnp\ufffd\ufffd0m a b 👩\u200d🚀 x")


def test_a_long_headline_is_cut_at_a_terminals_width(target):
    text = "City votes on " * 40 + "東京" * 100
    at_terminal = on_terminal(["predict", "--target", target, text, "東京" * 100, "short"], COLUMNS="60")
    rows = at_terminal.splitlines()[1:4]
    assert rows[0].endswith("...")
    assert len(rows[0]) == 60
    assert rows[1].endswith("東京東...") or rows[1].endswith("東京...")
    assert sum(console._columns(character) for character in rows[1]) <= 60
    assert rows[2].endswith("short")
    (_, row), _ = table(predict("--target", target, text, COLUMNS="60"))  # a pipe takes all of it
    assert row.endswith(text)


def on_terminal(arguments, keys=b"", **variables):
    """What a terminal shows of a command that is typed there."""
    controller, terminal = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "headlines", *arguments],
            env=command_environment(**variables),
            cwd=ROOT,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)
        shown = b""
        with process:
            try:
                while data := os.read(controller, 4096):
                    shown += data
                    if keys and b"\n" in shown:
                        os.write(controller, keys)
                        keys = b""
            except OSError:  # Linux' way to say that the terminal's other side is closed
                pass
            assert process.wait(PATIENCE) == 0, shown
        return shown.decode().replace("\r\n", "\n")
    finally:
        os.close(controller)


def test_a_terminal_as_standard_input_is_told_what_is_awaited(target):
    shown = on_terminal(["predict", "--target", target, "-"], keys=b"City votes\n\x04")
    assert shown.startswith("Reading headlines from the terminal, one a line; Ctrl-D ends the list.\n")
    assert "0 of 2  City votes" in shown


# For programs


def test_a_program_gets_one_object_a_headline(target):
    lines = b"\xef\xbb\xbfCity votes on new park\n\n   \nhalf a \xff byte\nThe market wins\r\n" + b"more\n" * 3000
    done = predict("--json", "--target", target, "--posted-at", "2026-03-01T18:30Z", "first", "-", stdin=lines)
    answers = [json.loads(line) for line in done.stdout.splitlines()]

    assert done.returncode == 1
    assert [answer["headline"] for answer in answers[:2]] == ["first", "City votes on new park"]
    assert (answers[0]["argument"], answers[1]["line"]) == (1, 1)
    assert (answers[2]["line"], answers[2]["error"]) == (4, "is not UTF-8")
    assert answers[2]["headline"] == "half a \ufffd byte"
    assert answers[3]["headline"] == "The market wins"
    assert answers[3]["line"] == 5
    assert answers[3]["posted_at"] == "2026-03-01T18:30:00+00:00"
    assert answers[3]["word_count"] == 3
    assert answers[3]["best"] == answers[3]["aux_output"]
    assert [answer["line"] for answer in answers[1:]] == [1, 4, 5, *range(6, 3006)]
    assert {answer["model_version"] for answer in answers if "error" not in answer} == {1}


def test_headlines_and_flags_come_in_any_order(target):
    done = predict("one", "--json", "--Breaking: two", "--target", target, "--", "-5 tonight", "--json", "-")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["headline"] for answer in answers] == ["one", "--Breaking: two", "-5 tonight", "--json"]
    assert [answer["argument"] for answer in answers] == [1, 2, 3, 4]


def test_what_moves_a_score_is_told_too(target):
    asked = [
        "--target",
        target,
        "--json",
        "--outlet",
        "gazette",
        "--posted-at",
        "2026-03-01T18:30Z",
        "City votes",
        "Don\u2019t stop",
    ]
    plain = [json.loads(line) for line in predict(*asked).stdout.splitlines()]
    explained = [json.loads(line) for line in predict("--explain", *asked).stdout.splitlines()]
    assert len(explained) == 2
    for answer, prediction in zip(explained, plain, strict=True):
        words, outlet, time = (answer.pop(name) for name in ("words", "outlet_effect", "time_effect"))
        assert answer == pytest.approx(prediction, abs=1e-6)
        assert [answer["headline"][word["start"] : word["end"]] for word in words] == answer["headline"].split()
        assert outlet
        assert time
        assert any(word["main_effect"] for word in words)
    done = predict("--explain", "--target", target, "--outlet", "gazette", "City votes on lions")
    assert "lions ?" in done.stdout.decode()
    assert "gazette " in done.stdout.decode()


# What is wrong with a headline is said by its place in the input


def test_a_wrong_line_is_named_by_its_number_in_the_file(target):
    lines = b"\n\nfine\n\n" + b"x" * 5000 + b"\n\xff\n" + b"y" * (3 << 20) + b"\nlast\n"
    done = predict("--target", target, "-", stdin=lines)
    assert done.returncode == 1
    assert [row.split()[-1] for row in done.stdout.decode().partition("\n\n")[0].splitlines()[1:]] == ["fine", "last"]
    long, bytes_, huge = done.stderr.decode().splitlines()
    assert long.startswith("headlines predict: line 5: text ")
    assert "4096" in long
    assert bytes_ == "headlines predict: line 6: is not UTF-8"
    assert huge.startswith("headlines predict: line 7: takes more than 1 MiB")


def test_a_wrong_argument_is_named_by_its_position(target):
    done = predict("--target", target, "fine", "", b"\xff".decode(errors="surrogateescape"))
    assert done.returncode == 1
    assert b"fine" in done.stdout
    blank, bytes_ = done.stderr.decode().splitlines()
    assert blank.startswith("headlines predict: argument 2: text is blank")
    assert bytes_ == "headlines predict: argument 3: is not UTF-8"


def test_utf_16_is_recognised(target):
    done = predict("--target", target, "-", stdin="City votes\nLions win\n".encode("utf-16"))
    assert done.stderr.decode().splitlines()[0].startswith("headlines predict: line 1: is not UTF-8 but looks like UTF-16")


# Standard input and output as they happen to be


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "ascii:strict"])
def test_output_that_is_not_utf_8_shows_escapes(target, encoding):
    done = predict("--target", target, "東京 wins", "Café", "a\x1bb", PYTHONIOENCODING=encoding)
    assert done.returncode == 0
    assert done.stderr == b""
    assert b"\\u6771\\u4eac wins" in done.stdout
    assert ("Café".encode("ascii", "backslashreplace") if "ascii" in encoding else b"Caf\xe9") in done.stdout


@pytest.mark.parametrize(
    ("redirection", "words"),
    [
        ("<&-", "headlines predict: standard input is closed"),
        (">&-", "headlines predict: standard output is closed"),
        (">/dev/full", "headlines predict: standard output cannot be written: No space left on device"),
    ],
)
def test_a_closed_or_full_stream_is_said_in_a_sentence(target, redirection, words):
    if "full" in redirection and not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("this system has no /dev/full")
    for flags in ("", "--json"):
        assert sentence(
            shell(
                f'"$@" predict {flags} --target {target} - {redirection} <<E\nx\nE'
                if "<" not in redirection
                else f'"$@" predict {flags} --target {target} - {redirection}'
            )
        ).startswith(words)


def test_standard_error_that_is_closed_hides_nothing_and_spoils_nothing(target):
    done = shell(f'"$@" predict --target {target} fine "" 2>&-')
    assert done.returncode == 1
    assert b"fine" in done.stdout
    assert b"argument 2" not in done.stdout
    assert shell('"$@" predict --target 127.0.0.1:1 x 2>&-').stdout == b""


def test_a_reader_that_leaves_is_no_reason_for_words(target):
    done = shell(f'yes "City votes" | head -n 20000 | "$@" predict --target {target} - | head -n 3')
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr == b""


def test_no_headline_at_all(target):
    done = predict("--target", target, "-")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr == b"headlines predict: standard input held no headline\n"
    done = predict("--json", "--target", target, "-", stdin=b"\n\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("source", ["-", "x"])
def test_ctrl_c_ends_it_with_130_and_without_words(source, silent_target):
    """It waits for a line, or for a server that says nothing."""
    with popen(
        "predict",
        "--target",
        silent_target.address,
        "--timeout",
        60,
        source,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert silent_target.connected.wait(PATIENCE)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_ctrl_c_while_it_waits_for_standard_input(target):
    with popen(
        "predict",
        "--json",
        "--target",
        target,
        "first",
        "-",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        timer = threading.Timer(PATIENCE, process.kill)
        timer.start()
        assert json.loads(process.stdout.readline())["headline"] == "first"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        timer.cancel()
        assert process.stderr.read() == b""


def test_each_answer_comes_as_soon_as_its_line_has_come(target):
    """As in `tail -f headlines.txt | headlines predict --json -`."""
    with popen("predict", "--json", "--target", target, "-", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        timer = threading.Timer(PATIENCE, process.kill)
        timer.start()
        for i in range(3):
            process.stdin.write(f"headline {i}\n".encode())
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["headline"] == f"headline {i}"
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
        timer.cancel()


# Flags


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        ([], {}, "name a headline, in quotes, or - to read headlines from standard input"),
        (["--outlte", "x", "y"], {}, "there is no flag --outlte; --help lists the flags, and a headline that begins with -"),
        (["x", "--posted-at", "2026-03-01T18:30"], {}, "--posted-at (HEADLINES_POSTED_AT): must be a time with its zone"),
        (["x", "--posted-at", "2026-03-01"], {}, "add Z for UTC, or an offset such as +01:00, not '2026-03-01'"),
        (["x", "--posted-at", "tomorrow"], {}, "such as 2026-03-01T18:30Z, not 'tomorrow'"),
        (["x"], {"HEADLINES_POSTED_AT": "noon"}, "HEADLINES_POSTED_AT (--posted-at): must be a time with its zone"),
        (["x", "--timeout", "0"], {}, "--timeout (HEADLINES_TIMEOUT): must be a number of seconds"),
        (["x", "--timeout", ""], {}, "--timeout (HEADLINES_TIMEOUT): must be a number of seconds"),
        (["x", "--timeout", "5s"], {}, "--timeout (HEADLINES_TIMEOUT): must be a number of seconds"),
        (["x", "--tls-ca", "/no/such/file"], {}, "--tls-ca (HEADLINES_TLS_CA): cannot read '/no/such/file'"),
        (["x", "--tls-ca", "/dev/null"], {}, "--tls-ca (HEADLINES_TLS_CA): '/dev/null' holds no certificate in PEM"),
        (["x", "--tls-ca", "/"], {}, "--tls-ca (HEADLINES_TLS_CA): cannot read '/'"),
        (["x", "--token-file", "/dev/null"], {}, "--token-file (HEADLINES_TOKEN_FILE): '/dev/null' must hold one token"),
        (["x", "--token-file", ""], {}, "--token-file (HEADLINES_TOKEN_FILE): must not be empty, not ''"),
        (["x", "--tls-client-key", "/dev/null"], {}, "--tls-client-certificate (HEADLINES_TLS_CLIENT_CERTIFICATE): is missing"),
        (["x"], {"HEADLINES_TLS": "maybe"}, "HEADLINES_TLS (--tls): must be true or false"),
        (["x", "--target", "localhost"], {}, "--target (HEADLINES_TARGET): must be HOST:PORT"),
        (["x", "--target", ""], {}, "--target (HEADLINES_TARGET): must be HOST:PORT"),
        (["x", "--target", "::1:50051"], {}, "or [::1]:50051"),
        (["x", "--target", "127.0.0.1:http"], {}, "--target (HEADLINES_TARGET): must be HOST:PORT"),
        (["x", "--target", "127.0.0.1:99999"], {}, "--target (HEADLINES_TARGET): must be HOST:PORT"),
        (["x"], {"HEADLINES_TARGET": "http://127.0.0.1:50051"}, "without http://"),
        (["x", "--outlet", b"\xff".decode(errors="surrogateescape")], {}, "--outlet (HEADLINES_OUTLET): must be UTF-8"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_right(arguments, variables, words):
    line = sentence(predict(*arguments, **variables), code=2)
    assert line.startswith("headlines predict: ")
    assert words in line


@pytest.mark.parametrize("text", ["on", "TRUE", " yes "])
def test_a_switch_is_a_variable_too(target, text):
    assert json.loads(predict("x", HEADLINES_TARGET=target, HEADLINES_JSON=text).stdout)["headline"] == "x"
    assert predict("x", "--no-json", HEADLINES_TARGET=target, HEADLINES_JSON=text).stdout.startswith(b"   best")


def test_no_command_and_help():
    alone = run()
    assert alone.returncode == 2
    for name in ("serve", "predict", "model", "outlets"):
        assert name in alone.stderr.decode()
    asked = run("help")
    assert (asked.returncode, asked.stderr) == (0, b"")
    assert b"predict" in asked.stdout
    for command in ("predict", "model", "outlets"):
        assert b"HEADLINES_TARGET" in run("help", command).stdout
    assert b"A headline that begins with - goes after --" in run("predict", "--help").stdout
    unknown = run("ask", "x")
    assert unknown.returncode == 2
    assert b"'ask'" in unknown.stderr


def test_it_needs_neither_numpy_nor_an_engine():
    code = "import sys, headlines.__main__, headlines.commands.predict; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=command_environment(), capture_output=True, text=True, check=True
    )
    assert not {"numpy", "regex", "prometheus_client", "ai_edge_litert", "tensorflow"} & set(done.stdout.split())
