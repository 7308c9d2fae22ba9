"""A version on disk: complete or not there, checked before anything of it is used."""

import dataclasses
import json
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from service.errors import VersionError
from service.model import artifact
from service.model.labels import Label
from service.model.preprocessing import Headline
from training.publish import new_version

INFO = artifact.ModelInfo(
    created_at=artifact.Time(1_464_000_000.25),
    synthetic=True,
    vocabulary_size=3,
    outlet_levels={"gazette": 0.5},
    label=Label("above_median", ("retweets", "likes"), threshold=12.5),
    parts={"training": artifact.Part(8, 0.5, artifact.Time(1_456_000_000.0), artifact.Time(1_463_000_000.0))},
    settings={"epochs": 3},
    evaluation={"main_auc": 0.75},
    libraries={"tensorflow": "2.21.0"},
    data_checksum="0f",
)
EXAMPLE = artifact.Example(Headline("Löwe — 東京", 1_464_000_000.0, "Gazette"), [2, 1], [0.0, 1.0, 0.25, -0.5, 0.5], 0.75, 0.25)
CONTENTS = artifact.Contents(INFO, ["", "[UNK]", "löwe"], [EXAMPLE])


def write_cpu_model(directory: Path) -> None:
    path = directory / artifact.CPU_MODEL
    path.parent.mkdir()
    path.write_bytes(b"tflite")


def publish(models: Path) -> int:
    with new_version(models) as staging:
        (staging.path / "saved_model.pb").write_bytes(b"graph")
        write_cpu_model(staging.path)
        artifact.write(staging.path, CONTENTS)
        (staging.path / "report").mkdir()
        (staging.path / "report" / "index.html").write_text("<p>")
    assert staging.version is not None
    return staging.version


def test_what_is_written_is_what_is_read(tmp_path):
    number = publish(tmp_path / "models")
    read = artifact.read(tmp_path / "models" / "1")
    assert (number, read.number, read.info, read.examples) == (1, 1, INFO, [EXAMPLE])
    assert read.vocabulary == ["", "[UNK]", "löwe"]
    assert "report/index.html" not in read.files


def test_sha256sum_itself_agrees(tmp_path):
    publish(tmp_path)
    subprocess.run(
        ["sha256sum", "--check", "--strict", artifact.CHECKSUMS], cwd=tmp_path / "1", check=True, capture_output=True
    )


def test_a_number_is_never_given_twice(tmp_path):
    assert [publish(tmp_path), publish(tmp_path)] == [1, 2]
    (tmp_path / "2").rename(tmp_path.parent / "removed")
    assert publish(tmp_path) == 3
    (tmp_path / "9").mkdir()
    assert publish(tmp_path) == 10
    assert artifact.versions(tmp_path) == [10, 9, 3, 1]


def test_only_plain_numbers_are_versions(tmp_path):
    for name in ("7", "007", "0", "-1", "x", ".tmp-1", "٣", "1" * 30):
        (tmp_path / name).mkdir()
    (tmp_path / "8").write_text("a file")
    assert artifact.versions(tmp_path) == [7]
    assert artifact.versions(tmp_path / "nowhere") == []


def test_an_error_leaves_nothing_behind(tmp_path):
    with pytest.raises(OSError, match="disk"), new_version(tmp_path) as staging:
        (staging.path / "saved_model.pb").write_bytes(b"half")
        raise OSError("disk full")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_makes_is_kept(tmp_path):
    code = """if True:
        import sys; from pathlib import Path; from training.publish import new_version
        with new_version(Path(sys.argv[1])) as staging:
            (staging.path / "saved_model.pb").write_bytes(b"half")
            print("ready", flush=True)
            sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": "."},
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        publish(tmp_path)
        assert len(list(tmp_path.glob(".tmp-*"))) == 1
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert artifact.versions(tmp_path) == [1]
    publish(tmp_path)
    assert list(tmp_path.glob(".tmp-*")) == []


def test_what_was_killed_while_it_began_or_was_removed_is_removed_too(tmp_path):
    (tmp_path / ".tmp-begun").mkdir()
    (tmp_path / ".tmp-half-removed" / "version").mkdir(parents=True)
    (tmp_path / ".last_version.4711.new").write_text("1")
    publish(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".last_version", ".lock", "1"]


def test_two_jobs_at_once_get_two_numbers(tmp_path):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        numbers = pool.map(publish, [tmp_path] * 12)
    assert sorted(numbers) == list(range(1, 13))


@pytest.mark.parametrize("name", ["saved_model.pb", artifact.VOCABULARY, artifact.INFO, artifact.EXAMPLES, artifact.CPU_MODEL])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_found_and_the_file_is_named(tmp_path, name, damage):
    publish(tmp_path)
    path = tmp_path / "1" / name
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if damage == "truncate" else bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(VersionError, match=name):
        artifact.read(tmp_path / "1")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a checksum"),
        (b"\xff\xfe", "UTF-8"),
        (b"0" * 64 + b"  ../../etc/passwd\n", "inside the version"),
        (b"0" * 64 + b"  /etc/passwd\n", "inside the version"),
        (b"0" * 64 + b"  assets//vocabulary.txt\n", "inside the version"),
        (b"nonsense\n", "not a checksum"),
        (b"0" * 64 + b"  assets/a\0b\n", "not a checksum"),
        (b"0" * 64 + b"  assets/loop\n", "assets/loop: cannot be read"),
        (b"0" * 64 + b"  assets/endless\n", "assets/endless: is not a regular file"),
        (b"0" * 64 + b"  assets/pipe\n", "assets/pipe: is not a regular file"),
    ],
)
def test_a_wrong_list_of_checksums_is_refused(tmp_path, content, words):
    publish(tmp_path)
    (tmp_path / "1" / "assets" / "loop").symlink_to("loop")
    (tmp_path / "1" / "assets" / "endless").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "1" / "assets" / "pipe")
    (tmp_path / "1" / artifact.CHECKSUMS).write_bytes(content)
    with pytest.raises(VersionError, match=words):
        artifact.read(tmp_path / "1")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe" * 1000, "is not UTF-8"),
        (b"0" * 64 + b"  a\n" + b"1" * 64 + b"  a\n", "two checksums for a"),
        (b"0" * (1 << 20) + b"\n", "larger than 1 MiB"),
    ],
)
def test_a_list_of_checksums_that_is_none_is_refused(tmp_path, content, words):
    publish(tmp_path)
    (tmp_path / "1" / artifact.CHECKSUMS).write_bytes(content)
    with pytest.raises(VersionError, match=f"SHA256SUMS: .*{words}"):
        artifact.read(tmp_path / "1")


@pytest.mark.parametrize("name", [artifact.CHECKSUMS, artifact.CPU_MODEL])
def test_a_huge_file_is_refused_by_name_before_it_is_read(tmp_path, name):
    publish(tmp_path)
    os.truncate(tmp_path / "1" / name, 3 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(VersionError, match=f"{name}: .*(3,221,225,472 bytes.*--max-version-bytes|larger than 1 MiB)"):
            artifact.read(tmp_path / "1", 1 << 30)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_sizes_are_added_up(tmp_path):
    publish(tmp_path)
    size = sum((tmp_path / "1" / name).stat().st_size for name in artifact.read(tmp_path / "1").files)
    artifact.read(tmp_path / "1", size)
    with pytest.raises(VersionError, match="--max-version-bytes"):
        artifact.read(tmp_path / "1", size - 1)


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path):
    publish(tmp_path)
    path = tmp_path / "1" / artifact.CPU_MODEL
    path.unlink()
    path.symlink_to("/proc/self/status")  # a regular file that has more bytes than its size says
    if not path.is_file():
        pytest.skip("there is no /proc")
    with pytest.raises(VersionError, match=r"cpu\.tflite: grew while it was read"):
        artifact.read(tmp_path / "1")


def _listen(path):
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path may not be long
        try:
            listener.bind(path.name)
        finally:
            os.chdir(here)


@pytest.mark.parametrize("name", [artifact.CHECKSUMS, artifact.CPU_MODEL])
@pytest.mark.parametrize(
    "put",
    [os.mkfifo, Path.mkdir, _listen, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(path.name)],
    ids=["pipe", "directory", "socket", "device", "loop"],
)
def test_what_is_no_file_is_refused_by_name_and_never_waited_for(tmp_path, name, put):
    publish(tmp_path)
    (tmp_path / "1" / name).unlink()
    put(tmp_path / "1" / name)
    with pytest.raises(VersionError, match=f"{name}: (is not a regular file|cannot be read)"):
        artifact.read(tmp_path / "1")


def test_an_empty_directory_is_refused(tmp_path):
    (tmp_path / "1").mkdir()
    with pytest.raises(VersionError, match="SHA256SUMS"):
        artifact.read(tmp_path / "1")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 3}, "'format' is 3, and this program knows 1 and 2 alone"),
        ({"preprocessing": 3}, "'preprocessing' is 3"),
        ({"sequence_length": 50}, "sequence_length"),
        ({"vocabulary_size": 4}, "vocabulary.txt"),
        ({"label": None}, "model.json"),
        (
            {"label": {"rule": "viral", "threshold": 1.0, "counts": []}},
            "model.json: 'label.rule' is 'viral', and this program knows 'above_median' and 'above_outlet_median' and 'above_s",
        ),
        ({"label": {"rule": "above_median", "counts": ["likes"]}}, "threshold is None; the rule above_median needs a number"),
        (
            {"label": {"rule": "above_outlet_median", "counts": ["likes"], "window_days": 0, "least_posts": 20}},
            "window_days and least_posts are missing or 0",
        ),
        ({"created_at": 5}, r"Expected a time .* - at `\$.created_at`"),
        ({"created_at": "yesterday"}, r"at `\$.created_at`"),
        ({"outlet_levels": {"gazette": "high"}}, r"Expected `float`, got `str` - at `\$.outlet_levels"),
        ({"outlet_levels": {"gazette": "nan"}}, r"Expected `float`, got `str` - at `\$.outlet_levels"),
        ({"outlet_levels": {"gazette": math.inf}}, "JSON is malformed"),
        ({"outlet_levels": {"gazette": 1e30}}, "not standardised"),
        ({"outlet_levels": {"\ud800": 1.0}}, "model.json"),  # GetModel could not tell it
        ({"created_at": "0001-01-01T00:00:00+23:59"}, "model.json"),  # nor this
        ({"created_at": "9999-12-31T23:59:59.999999+00:00"}, "model.json"),
        ({"settings": [["epochs", 3]]}, r"Expected `object`, got `array` - at `\$.settings`"),
        ({"synthetic": 1}, r"Expected `bool`, got `int` - at `\$.synthetic`"),
        ({"format": "x" * 10_000}, "'format' is 'x{1,500}$"),
    ],
)
def test_a_format_that_is_not_known_is_refused(tmp_path, change, words):
    with new_version(tmp_path) as staging:
        (staging.path / "saved_model.pb").write_bytes(b"graph")
        write_cpu_model(staging.path)
        artifact.write(staging.path, CONTENTS)
        path = staging.path / artifact.INFO
        path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), "utf-8")
        artifact.write_checksums(staging.path)
    with pytest.raises(VersionError, match=words):
        artifact.read(tmp_path / "1")


HEAD = '[{"headline": "a", "outlet": "", "posted_at": "2016-05-23T10:40:00+00:00", "main_output": 1.0, "aux_output": 0'


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 100_000, "NaN", "{", "{}", "[]", "null", '[{"headline": 1}]', '[{"headline": "\\ud800"}]'),
        HEAD + ', "ids": [true], "aux": [0, 0, 0, 0, 0]}]',
        HEAD + ', "ids": [2], "aux": [0]}]',
        HEAD + ', "ids": [2], "aux": [0, 0, 0, 0, 1e400]}]',
        HEAD + ', "ids": "2", "aux": [0, 0, 0, 0, 0]}]',
    ],
)
def test_json_from_an_enemy_is_a_version_error(tmp_path, text):
    with new_version(tmp_path) as staging:
        (staging.path / "saved_model.pb").write_bytes(b"graph")
        write_cpu_model(staging.path)
        artifact.write(staging.path, CONTENTS)
        (staging.path / artifact.EXAMPLES).write_text(text)
        artifact.write_checksums(staging.path)
    with pytest.raises(VersionError, match=artifact.EXAMPLES):
        artifact.read(tmp_path / "1")


FORMAT_1 = """{
 "format": 1, "preprocessing": 1, "created_at": "2016-05-23T10:40:00.250000+00:00", "synthetic": true, "sequence_length": 100,
 "vocabulary_size": 3, "aux_features": ["hour_sin", "hour_cos", "weekday_sin", "weekday_cos", "outlet_level"],
 "outlet_levels": {"gazette": 0.5}, "label": {"rule": "above_median", "threshold": 12.5, "counts": ["retweets", "likes"]},
 "parts": {"training": {"rows": 8, "positive_share": 0.5, "first": "2016-02-20T20:26:40Z", "last": "2016-05-11T20:53:20Z"}},
 "settings": {"epochs": 3}, "evaluation": {"main_auc": 0.75}, "libraries": {"tensorflow": "2.21.0"}, "data_checksum": "0f"
}"""


def test_format_1_is_read_for_ever(tmp_path):
    publish(tmp_path)
    (tmp_path / "1" / artifact.INFO).write_text(FORMAT_1)
    artifact.write_checksums(tmp_path / "1")
    info = artifact.read(tmp_path / "1").info
    assert (info.format, info.preprocessing, info.frozen) == (1, 1, {})
    assert dataclasses.replace(info, format=INFO.format, preprocessing=INFO.preprocessing) == INFO


def test_format_1_may_say_that_nothing_is_frozen(tmp_path):
    publish(tmp_path)
    path = tmp_path / "1" / artifact.INFO
    path.write_text(FORMAT_1.replace('"format": 1,', '"format": 1, "frozen": {},'))
    artifact.write_checksums(tmp_path / "1")
    assert artifact.read(tmp_path / "1").info.frozen == {}


def test_new_versions_have_format_2_and_rules_2(tmp_path):
    publish(tmp_path)
    written = json.loads((tmp_path / "1" / artifact.INFO).read_text())
    assert (written["format"], written["preprocessing"], written["frozen"]) == (2, 2, {})


FROZEN = {"hour_sin": 0.25, "hour_cos": -0.5, "weekday_sin": 0.0, "weekday_cos": 1.0}


def test_frozen_features_are_written_and_read(tmp_path):
    with new_version(tmp_path) as staging:
        (staging.path / "saved_model.pb").write_bytes(b"graph")
        write_cpu_model(staging.path)
        artifact.write(staging.path, dataclasses.replace(CONTENTS, info=dataclasses.replace(INFO, frozen=FROZEN)))
    assert artifact.read(tmp_path / "1").info.frozen == FROZEN


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"frozen": {"hour_sin": 0.25}}, "'frozen' lacks hour_cos; it holds hour_sin, .*, or nothing"),
        ({"frozen": FROZEN | {"outlet_level": 0.0}}, "'frozen' names 'outlet_level', which cannot be frozen"),
        ({"frozen": FROZEN | {"x" * 10_000: 0.0}}, "'frozen' names 'x{1,500}', which"),
        ({"frozen": FROZEN | {"hour_cos": 1.5}}, "'frozen.hour_cos' is 1.5; it must be from -1 to 1"),
        ({"frozen": FROZEN | {"weekday_cos": -1.0000001}}, "'frozen.weekday_cos' is -1.0000001; "),
        ({"frozen": FROZEN | {"hour_sin": math.nan}}, "JSON is malformed"),
        ({"frozen": FROZEN, "format": 1}, "'frozen' is there, and format 1 has no frozen features"),
        ({"frozen": FROZEN | {"hour_sin": "0"}}, r"Expected `float`, got `str` - at `\$.frozen"),
        ({"frozen": ["hour_sin"]}, r"Expected `object`, got `array` - at `\$.frozen`"),
        ({"frozen": None}, r"Expected `object`, got `null` - at `\$.frozen`"),
    ],
)
def test_features_that_cannot_be_frozen_so_are_refused(tmp_path, change, words):
    publish(tmp_path)
    path = tmp_path / "1" / artifact.INFO
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    artifact.write_checksums(tmp_path / "1")
    with pytest.raises(VersionError, match=rf"model\.json: .*{words}"):
        artifact.read(tmp_path / "1")
