"""Stock tools against a running server; `make interop` installs them."""

import json
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICE = "headlines.v1.PopularityService"

pytestmark = pytest.mark.interop


@pytest.fixture
def server(serve, models):
    with serve(models, "--engine", "litert") as server:
        server.wait_for("serving version")
        yield server


def run(tool, *arguments, stdin=""):
    path = shutil.which(tool, path=ROOT / ".tools")
    if path is None:
        pytest.skip(f"{tool} is not there: make interop")
    done = subprocess.run([path, *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_buf_finds_nothing_wrong_with_the_protos():
    assert run("buf", "lint", str(ROOT / "protos")) == ""


def test_buf_finds_no_change_that_would_break_a_caller_of_version_1():
    assert run("buf", "breaking", str(ROOT / "protos"), "--against", str(ROOT / "tests" / "golden" / "api_v1.binpb")) == ""


def test_grpcurl_finds_its_way_by_reflection(server):
    services = run("grpcurl", "-plaintext", server.target, "list").split()
    assert {SERVICE, "grpc.health.v1.Health"} <= set(services)
    assert "rpc Predict (" in run("grpcurl", "-plaintext", server.target, "describe", SERVICE)
    request = {"headlines": [{"text": "City votes on new park", "posted_at": "2026-03-01T18:30:00Z", "outlet": "nobody"}]}
    answer = json.loads(run("grpcurl", "-plaintext", "-d", json.dumps(request), server.target, f"{SERVICE}/Predict"))
    [prediction] = answer["predictions"]  # in the .proto's own names, as grpcio-reflection leaves JSON's out
    assert 0 < prediction["main_output"] < 1
    assert prediction["word_count"] == 5
    assert int(answer["model_version"]) >= 1


def test_grpc_health_probe_sees_it_serving(server):
    for service in ("", SERVICE):
        run("grpc-health-probe", "-addr", server.target, "-service", service)


def test_promtool_likes_the_metrics(server):
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/metrics", timeout=10) as response:
        metrics = response.read().decode()
    assert run("promtool", "check", "metrics", stdin=metrics) == ""


def test_ghz_meets_no_error_under_load(server):
    report = json.loads(
        run(
            "ghz",
            *("--insecure", "--call", f"{SERVICE}/Predict", "--total", "2000", "--concurrency", "50", "--format", "json"),
            *("--data", '{"headlines": [{"text": "headline {{.RequestNumber}}"}]}'),
            server.target,
        )
    )
    assert report["statusCodeDistribution"] == {"OK": 2000}
