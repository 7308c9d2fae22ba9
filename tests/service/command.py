"""`headlines predict`, `model` and `outlets` as processes."""

import subprocess
import sys

from harness.process import PATIENCE, ROOT, environment

PREFIX = [sys.executable, "-m", "headlines"]


def command_environment(**variables):
    return environment(**{"PYTHONIOENCODING": "utf-8", **variables})


def run(*arguments, stdin=b"", **variables):
    """Run a command to its end; its output as bytes."""
    return subprocess.run(
        [*PREFIX, *map(str, arguments)],
        input=stdin,
        env=command_environment(**variables),
        cwd=ROOT,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )


def shell(script, **variables):
    """Run a shell's script, in which "$@" is `headlines`."""
    return subprocess.run(
        ["sh", "-c", script, "sh", *PREFIX],
        env=command_environment(**variables),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )


def sentence(done, code=1):
    """What a command that failed said: one line, in plain words."""
    assert done.returncode == code, (done.stdout, done.stderr)
    assert done.stdout == b""
    [line] = done.stderr.decode().splitlines()
    assert "Traceback" not in line
    return line


def popen(*arguments, **keywords):
    return subprocess.Popen([*PREFIX, *map(str, arguments)], env=command_environment(), cwd=ROOT, **keywords)
