"""The command `predict` as a person and as a program would use it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from certificates import NAME, Authority

ROOT = Path(__file__).parents[2]


@pytest.fixture
def target(serve, models):
    with serve(models, "--engine", "litert") as server:
        server.wait_for("serving version")
        yield server.target


def predict(*arguments, stdin=b"", **variables):
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HEADLINES_")}
    return subprocess.run(
        [sys.executable, "-m", "service", "predict", *arguments],
        input=stdin,
        env={**plain, "PYTHONIOENCODING": "utf-8", **variables},
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_a_person_gets_a_table(target):
    done = predict("--target", target, "--outlet", "Gazette", "City votes on new park", "東京 \x1b[31m wins")
    assert done.returncode == 0
    head, first, second, *notes = done.stdout.decode().splitlines()
    assert head.split() == ["main", "aux", "words", "unknown", "headline"]
    assert first.split()[2:] == ["5", "0", "City", "votes", "on", "new", "park"]
    assert second.split()[2:] == ["4", "3", "東京", "\ufffd[31m", "wins"]
    assert all(0 <= float(number.rstrip("%")) <= 100 for number in first.split()[:2])
    assert "made-up data" in notes[-1]
    assert "use aux" not in done.stdout.decode()

    unknown = predict("--outlet", "Gazete", "City votes on new park", HEADLINES_TARGET=target).stdout.decode()
    assert "does not know the outlet 'Gazete': use aux" in unknown
    assert "No outlet was named (--outlet): use aux" in predict("x", HEADLINES_TARGET=target).stdout.decode()


def test_a_program_gets_one_object_a_headline(target):
    lines = b"\xef\xbb\xbfCity votes on new park\n\n   \nhalf a \xff byte\nThe market wins\r\n" + b"more\n" * 3000
    done = predict("--json", "--target", target, "--posted-at", "2026-03-01T18:30Z", "first", "-", stdin=lines)
    answers = [json.loads(line) for line in done.stdout.splitlines()]

    assert done.returncode == 1
    assert [answer["headline"] for answer in answers[:2]] == ["first", "City votes on new park"]
    assert "UTF-8" in answers[2]["error"]
    assert answers[3]["headline"] == "The market wins"
    assert answers[3]["posted_at"] == "2026-03-01T18:30:00+00:00"
    assert answers[3]["word_count"] == 3
    assert answers[3]["best"] == answers[3]["aux_output"]
    assert len(answers) == 3004
    assert {answer["model_version"] for answer in answers if "error" not in answer} == {1}


def test_a_headline_that_the_server_refuses_is_named(target):
    done = predict("--target", target, "fine", "")
    assert done.returncode == 1
    assert b"fine" in done.stdout
    assert b"headlines[1].text" in done.stderr


def test_a_server_that_cannot_be_reached_is_told_in_a_sentence():
    done = predict("--target", "127.0.0.1:1", "x")
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.startswith(b"headlines: 127.0.0.1:1 gives no answer")
    assert len(done.stderr.splitlines()) == 1


def test_it_shows_a_certificate_and_a_token_to_a_server_that_asks(serve, models, tmp_path):
    authority = Authority()
    for name in ("server", "caller"):
        pair = authority.issue()
        (tmp_path / f"{name}.pem").write_bytes(pair.certificate)
        (tmp_path / f"{name}-key.pem").write_bytes(pair.key)
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    (tmp_path / "tokens").write_text("first\nsecond")
    (tmp_path / "token").write_text("second\n")
    own = ["--tls-certificate", tmp_path / "server.pem", "--tls-key", tmp_path / "server-key.pem"]
    asked = ["--tls-client-ca", tmp_path / "ca.pem", "--tokens", tmp_path / "tokens"]
    with serve(models, "--engine", "litert", *own, *asked) as server:
        server.wait_for("serving version")
        encrypted = ["--tls-ca", tmp_path / "ca.pem", "--tls-server-name", NAME]
        shown = ["--tls-client-certificate", tmp_path / "caller.pem", "--tls-client-key", tmp_path / "caller-key.pem"]
        token = {"HEADLINES_TOKEN_FILE": str(tmp_path / "token")}
        ask = ["--target", server.target, "City votes on new park"]
        assert predict(*encrypted, *shown, *ask, **token).returncode == 0
        for flags, variables, words in (
            ([*encrypted, *shown], {}, b"a valid token is missing"),
            (encrypted, token, b"gives no answer"),
            (shown, token, b"CERTIFICATE_VERIFY_FAILED"),
        ):
            done = predict(*flags, *ask, **variables)
            assert done.returncode == 1
            assert words in done.stderr
            assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        ([], {}, b"HEADLINE"),
        (["x", "--posted-at", "2026-03-01T18:30"], {}, b"--posted-at (HEADLINES_POSTED_AT): must be a time with its zone"),
        (["x"], {"HEADLINES_POSTED_AT": "noon"}, b"--posted-at (HEADLINES_POSTED_AT): must be a time with its zone"),
        (["x", "--timeout", "0"], {}, b"--timeout (HEADLINES_TIMEOUT): must be a number of seconds"),
        (["x", "--tls-ca", "/no/such/file"], {}, b"--tls-ca (HEADLINES_TLS_CA): cannot read '/no/such/file'"),
        (["x", "--token-file", "/dev/null"], {}, b"--token-file (HEADLINES_TOKEN_FILE): '/dev/null' must hold one token"),
        (
            ["x", "--tls-client-key", "/dev/null"],
            {},
            b"--tls-client-certificate (HEADLINES_TLS_CLIENT_CERTIFICATE): is missing",
        ),
        (["x"], {"HEADLINES_TLS": "maybe"}, b"--tls (HEADLINES_TLS): must be true or false"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_right(arguments, variables, words):
    done = predict(*arguments, **variables)
    assert done.returncode == 2
    assert words in done.stderr


def test_it_needs_neither_numpy_nor_an_engine():
    code = "import sys, service.__main__, service.predict; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"numpy", "regex", "prometheus_client", "ai_edge_litert", "tensorflow"} & set(done.stdout.split())
