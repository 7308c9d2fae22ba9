"""`make` in a fresh checkout: it finds a Python that will do, or says what is wrong with each that it tried."""

import os
import shutil
import subprocess
import sys

import pytest

from harness.process import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")

GOOD = f"""#!/bin/sh
if [ "$1 $2" = "-m venv" ]; then mkdir -p .venv/bin && echo "$0" > .venv/made-by; else exec "{sys.executable}" "$@"; fi
"""
OLD = """#!/bin/sh
case "$2" in *platform*) echo 3.9.2;; *) exit 1;; esac
"""
WITHOUT_VENV = f"""#!/bin/sh
case "$2" in *ensurepip*) exit 1;; *) exec "{sys.executable}" "$@";; esac
"""
SHIM = """#!/bin/sh
echo "command not found" >&2; exit 127
"""


@pytest.fixture
def make(tmp_path):
    """Make the environment in a checkout whose path has a space, with these Pythons alone on the PATH."""
    checkout, programs = tmp_path / "a checkout", tmp_path / "bin"
    checkout.mkdir()
    programs.mkdir()
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout)
    for name in ("protos", "requirements"):
        shutil.copytree(ROOT / name, checkout / name)
    for name in ("make", "sh", "mkdir", "touch", "cut", "du", "sleep", "env"):
        (programs / name).symlink_to(shutil.which(name))

    def make(*arguments, **pythons):
        for name, script in pythons.items():
            path = programs / name.replace("_", ".")
            path.write_text(script)
            path.chmod(0o755)
        environment = {name: value for name, value in os.environ.items() if name not in {"PYTHON", "MAKEFLAGS", "MAKELEVEL"}}
        done = subprocess.run(
            ["make", ".venv/.created", *arguments],
            cwd=checkout,
            env=environment | {"PATH": str(programs)},
            capture_output=True,
            text=True,
            check=False,
        )
        made_by = checkout / ".venv" / "made-by"
        return done.returncode, done.stdout, os.path.basename(made_by.read_text().strip()) if made_by.exists() else None  # noqa: PTH119

    return make


def test_the_first_python_that_will_do_is_taken(make):
    assert make(python3=GOOD, python3_11=GOOD)[2] == "python3"


def test_an_old_python3_is_passed_over(make):
    code, said, made_by = make(python3=OLD, python3_12=GOOD, python3_13=SHIM)
    assert (code, made_by) == (0, "python3.12"), said


def test_each_that_will_not_do_is_named_with_the_reason(make):
    code, said, made_by = make(python3=OLD, python3_13=SHIM, python3_12=WITHOUT_VENV)
    assert (code, made_by) == (2, None)
    assert "python3 is Python 3.9.2\n" in said
    assert "python3.13 does not run\n" in said
    assert "python3.12 has no module venv or ensurepip (on Debian and Ubuntu: apt install python3-venv)\n" in said
    assert "python3.11 is not installed\n" in said
    assert "make PYTHON=" in said


def test_a_python_that_is_named_and_missing_is_said_to_be_missing(make):
    code, said, made_by = make("PYTHON=python3.12", python3=GOOD)
    assert (code, made_by) == (2, None)
    assert "python3.12 is not installed" in said
    assert "python3 " not in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_checkout_that_may_not_be_written_to_is_said_so(make, tmp_path):
    (tmp_path / "a checkout").chmod(0o500)
    code, said, _ = make(python3=GOOD)
    assert code == 2
    assert "cannot be written to" in said


@pytest.mark.parametrize(("model", "extra"), [(False, "training"), (True, "service")])
def test_serving_a_model_that_is_there_needs_no_tensorflow(make, tmp_path, model, extra):
    make(python3=GOOD)
    if model:
        (tmp_path / "a checkout" / "models" / "1").mkdir(parents=True)
        (tmp_path / "a checkout" / "models" / "1" / "saved_model.pb").touch()
    done = subprocess.run(
        ["make", "--dry-run", "serve"], cwd=tmp_path / "a checkout", capture_output=True, text=True, check=False
    )
    assert f"--require-hashes -r requirements/{extra}.lock" in done.stdout, done.stderr
    assert "MB to download" in done.stdout
    assert '.venv/bin/headlines predict$port \\"Storm closes every school\\"' in done.stdout
