"""Flags and their variables: nothing that was asked for is passed over, and what is wrong is named."""

import os
import subprocess
import sys

import pytest

from harness.process import environment
from headlines.__main__ import main
from training import synthesize

HEADER = "headline,posted_at,likes\n"


@pytest.fixture
def fit(tmp_path, monkeypatch, caplog, capsys):
    """Run a fit of too few posts, without a zone, in files called a.csv and b.csv; its exit code, log and error."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("HEADLINES_"):
            monkeypatch.delenv(name)
    (tmp_path / "a.csv").write_text(HEADER + "City votes,2016-01-01T00:00:00Z,3\n")
    (tmp_path / "b.csv").write_text(HEADER + "City waits,2016-01-01T00:00:00Z,3\nCity wins,2016-01-05T00:00:00Z,3\n")
    (tmp_path / "local.csv").write_text(HEADER + "City votes,2016-01-01T00:00:00,3\n")
    caplog.set_level("INFO")

    def fit(*arguments, **variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return main(["fit", "--models", "models", *arguments]), caplog.text, capsys.readouterr().err

    return fit


@pytest.mark.parametrize(
    "data",
    [("--data", "a.csv", "--data", "b.csv"), ("--data", "a.csv", "b.csv"), ("--data=a.csv", "--data=b.csv")],
    ids=" ".join,
)
def test_every_file_that_is_named_is_read(fit, data):
    assert "3 rows read" in fit(*data)[1]


def test_files_may_be_named_in_a_variable(fit):
    assert "3 rows read" in fit(HEADLINES_DATA=os.pathsep.join(["a.csv", "b.csv"]))[1]


@pytest.mark.parametrize("flag", ["--epochs", "--max-bad-share"])
def test_of_a_flag_given_twice_the_last_counts_with_a_warning(fit, flag):
    code, _, error = fit("--data", "a.csv", flag, "x", flag, "-1")
    assert code == 2
    assert f"{flag} (HEADLINES_{flag[2:].upper().replace('-', '_')}): must be" in error
    assert "not '-1'" in error
    assert f"{flag} is given 2 times; the last one counts: '0'" in fit("--data", "a.csv", flag, "1", flag, "0")[2]


@pytest.mark.parametrize("value", ["true", "1", "yes", "on", "ON", " True "])
def test_a_variable_may_say_yes(fit, value):
    assert "1 rows read" in fit("--data", "local.csv", HEADLINES_ASSUME_UTC=value)[1]


@pytest.mark.parametrize("value", ["false", "0", "no", "off", ""])
def test_a_variable_may_say_no(fit, value):
    assert "posted_at has no zone" in fit("--data", "local.csv", HEADLINES_ASSUME_UTC=value)[2]


def test_a_flag_goes_before_its_variable(fit):
    assert "posted_at has no zone" in fit("--data", "local.csv", "--no-assume-utc", HEADLINES_ASSUME_UTC="on")[2]


@pytest.mark.parametrize(
    ("flag", "value", "right"),
    [
        ("assume-utc", "maybe", "must be true or false"),
        ("max-bad-share", "5", "must be a share between 0 and 1, such as 0.01 for 1 %"),
        ("max-bad-share", "-0.1", "must be a share between 0 and 1"),
        ("max-bad-share", "nan", "must be a share between 0 and 1"),
        ("max-bad-share", "1%", "must be a share between 0 and 1"),
        ("min-age", "-1", "must be a number of days, 0 or greater"),
        ("min-age", "inf", "must be a number of days, 0 or greater"),
        ("collected-at", "2016-01-01T00:00:00", "must be a time with its zone, such as 2026-03-01T18:30Z"),
        ("collected-at", "yesterday", "must be a time with its zone"),
        ("seed", "one", "must be a whole number, 0 or greater"),
        ("seed", "-1", "must be a whole number, 0 or greater"),
        ("epochs", "1.5", "must be a whole number"),
        ("epochs", "1_0", "must be a whole number"),
        ("learning-rate", "nan", "must be a number"),
        ("averaging", "1e999", "must be a number"),
        ("merge", "sum", "must be one of concatenate, "),
        ("models", " ", "must not be empty"),
    ],
)
def test_a_value_that_makes_no_sense_is_named_by_flag_or_variable(fit, tmp_path, capsys, flag, value, right):
    variable = "HEADLINES_" + flag.replace("-", "_").upper()
    if flag == "models":
        assert main(["fit", "--data", "a.csv", "--models", value]) == 2
        assert f"--models (HEADLINES_MODELS): {right}, not ' '" in capsys.readouterr().err
        return
    code, _, error = fit("--data", "a.csv", **{variable: value})
    assert code == 2
    assert f"{variable} (--{flag}): {right}" in error
    assert f"not {value!r}" in error
    if flag != "assume-utc":
        code, _, error = fit("--data", "a.csv", f"--{flag}={value}")
        assert code == 2
        assert f"--{flag} ({variable}): {right}" in error
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("flag", ["--epochs=0", "--learning-rate=5", "--embedding-dropout=1", "--batch-size=0"])
def test_a_setting_out_of_bounds_is_named(fit, flag):
    code, _, error = fit("--data", "a.csv", flag)
    assert code == 2
    assert f"{flag[2:].partition('=')[0].replace('-', '_')} is " in error


def test_a_flag_is_not_guessed_from_its_beginning(fit):
    with pytest.raises(SystemExit):
        fit("--data", "a.csv", "--max-bad", "0.5")


@pytest.mark.parametrize("missing", ["--data", "--models"])
def test_what_is_required_may_come_from_a_variable_and_is_named(monkeypatch, capsys, missing):
    given = {"--data": "x.csv", "--models": "m"}
    del given[missing]
    monkeypatch.delenv("HEADLINES_" + missing[2:].upper(), raising=False)
    assert main(["fit", *(word for pair in given.items() for word in pair)]) == 2
    assert f"{missing} (HEADLINES_{missing[2:].upper()}): is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("HEADLINES_EPOCH", "; did you mean HEADLINES_EPOCHS?"),
        ("HEADLINES_PROT", "; did you mean HEADLINES_PORT?"),
        ("HEADLINES_MAX_BAD_SHARES", "; did you mean HEADLINES_MAX_BAD_SHARE?"),
        ("HEADLINES_XYZZY", "; `headlines COMMAND --help` lists them"),
    ],
)
def test_an_unknown_variable_is_warned_about(fit, name, near):
    log = fit("--data", "a.csv", **{name: "1"})[1]
    assert f"{name} is not a variable of this program{near}\n" in log


@pytest.mark.parametrize("command", ["fit", "inspect", "evaluate", "synthesize"])
def test_without_the_extra_it_says_what_to_install(command):
    """In an environment that has nothing but Python, as far as modules beyond the standard library go."""
    program = (
        "import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p];"
        "from headlines.__main__ import main; from training.commands import COMMANDS; sys.exit(main(sys.argv[1:], COMMANDS))"
    )
    required = ["--out", "x.csv"] if command == "synthesize" else ["--data", "x.csv", "--models", "."]
    done = subprocess.run(
        [sys.executable, "-S", "-c", program, command, *required],
        env={"PYTHONPATH": environment()["PYTHONPATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "is not installed; in a checkout of this project: pip install ./protos '.[training]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["fit", "inspect", "evaluate", "synthesize"])
def test_help_names_the_default_and_the_variable(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    variables = ("HEADLINES_SEED", "(default the highest; HEADLINES_VERSION)", "(default no; HEADLINES_SHOW)")
    assert any(variable in shown for variable in variables)


def test_ctrl_c_is_said_and_ends_it_with_130(monkeypatch, capsys, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(synthesize, "synthesize", interrupt)
    assert main(["synthesize", "--out", str(tmp_path / "x.csv")]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"
