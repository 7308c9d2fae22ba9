"""The JSON API against requests that schemathesis makes of its description, good ones and bad ones."""

import re
import subprocess
from pathlib import Path

import pytest

from harness.process import environment

SCHEMATHESIS = Path(__file__).parents[2] / ".tools" / "schemathesis" / "bin" / "schemathesis"
SEED = "7"
TOKEN = "schemathesis-token"
# What a schema cannot say: a time with an offset that is outside the years 1 to 9999 in UTC, bytes rather than characters, and
# characters that NFKC replaces by several.
UNSAID = re.compile(r"between the years 1 and 9999|has \d+ bytes; write at most|that NFKC replaces by several")
FAILURE = re.compile(r"^- (ST\d+ .*)\n(?:.*\n)*?\n\[(\d+)\] .*:\n\n +`(.*)`", re.MULTILINE)
# So large that the schema's own limits are the ones that count.
WIDE = ("--max-headlines", 9000, "--queue-headlines", 18_000)

pytestmark = [
    pytest.mark.interop_all,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not SCHEMATHESIS.exists(), reason="schemathesis is not there: make interop-all"),
]


def run(server, directory, *flags):
    """Run it; its output, whatever it found, and the failures: what was checked, the status and the answer."""
    ended = subprocess.run(
        [
            *(SCHEMATHESIS, "--no-color", "run", f"http://127.0.0.1:{server.web_port}/openapi.json", "--checks", "all"),
            *("--seed", SEED, "--continue-on-failure", "--no-shrink", "--output-truncate", "false", *flags),
            # A deadline that the caller sets may pass, and none that it sets is wrong.
            *("-H", "Grpc-Timeout: 60S"),
        ],
        cwd=directory,  # it leaves files
        env=environment(),
        capture_output=True,
        text=True,
        timeout=350,
        check=False,
    )
    found = FAILURE.findall(ended.stdout)
    assert len(found) == len(re.findall(r"^- ST", ended.stdout, re.MULTILINE)), ended.stdout
    assert ended.returncode == bool(found), ended.stdout + ended.stderr
    return ended.stdout, found


def answered(server, path):
    return server.metric("headlines_http_requests_total", route=path, code="200")


@pytest.mark.parametrize("tokens", [False, True])
def test_requests_are_answered_as_the_description_says(serve, models, tmp_path, tokens):
    token = tmp_path / "tokens"
    token.write_text(TOKEN)
    guard = ("--tokens", token) if tokens else ()
    bearer = ("-H", f"Authorization: Bearer {TOKEN}") if tokens else ()
    with serve(models, "--engine", "litert", *WIDE, *guard) as server:
        server.wait_for("serving version")
        found = [
            *run(server, tmp_path, *bearer, "--mode", "positive", "--phases", "fuzzing", "--max-examples", "1200")[1],
            *run(server, tmp_path, *bearer, "--max-examples", "300")[1],
        ]
        assert all(check == "ST202 Schema-valid request rejected" and UNSAID.search(answer) for check, _, answer in found), (
            found
        )
        for path in ("/v1/predict", "/v1/explain"):
            assert answered(server, path) >= 1000
        print(*found, sep="\n")


def test_without_a_model_each_answer_is_one_that_is_described(serve, tmp_path):
    with serve(tmp_path, "--engine", "litert") as server:
        text, found = run(server, tmp_path, "--exclude-checks", "not_a_server_error", "--max-examples", "100")
        assert not found, text
        assert answered(server, "/v1/predict") == 0
