"""The page for editors, used in headless Chromium: what it shows and says, also when the server or what is between fails.

tests/interop/browser.py has the checks, and drives the browser by the Python of an environment of its own.
"""

import json
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from harness import process
from harness.process import ROOT, ServerProcess, environment
from service.model import artifact
from service.model.preprocessing import TIME_FEATURES

PYTHON = ROOT / ".tools" / "playwright" / "bin" / "python"
CHROMIUM = Path("/usr/bin/chromium")
AXE = ROOT / ".tools" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
PAGE = ROOT / "service" / "web" / "page.html"
LIMIT = 150  # seconds for a check, which takes up to ten
GAIN = 100  # of the words' vectors, so that each word moves the scores by some points
TOKEN = "a-token-for-tests-of-the-page"
NEAR = {"main_pair_gap": 0.02, "aux_pair_gap": 0.1}  # about as far apart as the scores of these texts

pytestmark = [pytest.mark.interop_all, pytest.mark.timeout(200)]


@pytest.fixture(scope="session")
def words_count(tmp_path_factory):
    """A directory with version 1, made as `models` is, whose scores depend on the words."""
    directory = tmp_path_factory.mktemp("words-count") / "models"
    command = [sys.executable, ROOT / "tests" / "untrained_version.py", directory, str(GAIN)]
    made = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    change(directory / "1", evaluation=NEAR)
    (directory / "1" / "report").mkdir()
    (directory / "1" / "report" / "index.html").write_text("<!doctype html><title>Report</title><h1>Report</h1>")
    return directory


@pytest.fixture
def models(words_count, tmp_path):
    return Path(shutil.copytree(words_count, tmp_path / "models"))


def change(version, evaluation=None, **fields):
    """Change what a version says of itself; a figure that is None is left out."""
    path = version / artifact.INFO
    info = json.loads(path.read_text("utf-8"))
    figures = info["evaluation"] | (evaluation or {})
    info |= fields | {"evaluation": {name: value for name, value in figures.items() if value is not None}}
    path.write_text(json.dumps(info), "utf-8")
    artifact.write_checksums(version)


def publish(models, number, **changes):
    """The same version under another number, with changes, complete from the moment that its name is there."""
    staging = Path(shutil.copytree(models / "1", models / ".tmp-next"))
    change(staging, **changes)
    staging.rename(models / str(number))


@contextmanager
def serving(models, *flags, live=True):
    """A server whose log has told the address of its page and, if `live`, that it serves a version."""
    command = process.serve(
        models, "--engine", "litert", "--poll-seconds", "1", "--drain-seconds", "0", "--web-port", "0", *flags
    )
    with ServerProcess(command) as server:
        server.address = f"http://127.0.0.1:{server.wait_for('listening')['web_port']}/"
        if live:
            server.wait_for("serving version")
        yield server


@pytest.fixture
def server(models):
    with serving(models) as server:
        yield server


def check(name, server, *token, **actions):
    """Run a check, doing what it asks for on the way. It must end well."""
    for path in (PYTHON, CHROMIUM):
        if not path.exists():
            pytest.skip(f"{path} is not there: make interop-all")
    command = [PYTHON, Path(__file__).parent / "browser.py", server.address, name, *token]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    ) as browser:
        clock = threading.Timer(LIMIT, browser.kill)
        clock.start()
        said = []
        try:
            for line in browser.stdout:
                said.append(line)
                if action := actions.get(line.strip().replace(" ", "_")):
                    action()
                    print("done", file=browser.stdin)
        finally:
            clock.cancel()
            browser.kill()
    assert browser.returncode == 0, "".join(said)
    return said


def test_its_size():
    assert PAGE.stat().st_size < 40_000


@pytest.mark.parametrize(
    "name",
    [
        *("submit", "outlet", "made_up", "tint", "compare", "sort", "copy", "download", "paste", "keyboard", "phone"),
        *("malformed", "many", "cancel", "proxy", "busy", "report"),
    ],
)
def test_check(name, server):
    check(name, server)


def test_axe_finds_nothing(server):
    if not AXE.exists():
        pytest.skip("axe-core is not there: make interop-all")
    check("accessible", server)


def test_the_model_changes_under_it(models, server):
    def version(number, **changes):
        def act():
            publish(models, number, **changes)
            server.wait_for(f"version {number} is live")

        return act

    story = {"rule": "above_story_mean", "counts": ["clicks"], "per_impression": True}
    check(
        "swap",
        server,
        version_2=version(2, synthetic=False, evaluation={"main_pair_gap": 1.0}),
        version_3=version(3, label=story, evaluation={"main_pair_gap": None}),
        version_4=version(4),
    )


def test_there_is_no_model_yet(words_count, tmp_path):
    models, complete = tmp_path / "models", tmp_path / "complete"
    models.mkdir()
    shutil.copytree(words_count / "1", complete)
    with serving(models, live=False) as server:
        check("no_model", server, version_1=lambda: complete.rename(models / "1"))


def test_hours_that_do_not_count(models):
    path = models / "1" / artifact.EXAMPLES
    [example, *_] = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps([example]), "utf-8")  # what the others were scored with is not what is frozen
    change(models / "1", frozen=dict(zip(TIME_FEATURES, example["aux"], strict=False)))
    with serving(models) as server:
        check("frozen", server)


def test_a_model_without_a_report(models):
    shutil.rmtree(models / "1" / "report")
    with serving(models) as server:
        check("no_report", server)


def test_a_token(models, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    with serving(models, "--tokens", tokens) as server:
        check("token", server, TOKEN)


def test_the_server_goes_and_comes_back(models):
    with serving(models) as server, ExitStack() as later:

        def stop():
            server.process.send_signal(signal.SIGTERM)
            server.wait(60)

        def start():
            later.enter_context(serving(models, "--web-port", server.address.strip("/").rpartition(":")[2]))

        check("gone", server, stop=stop, start=start)
