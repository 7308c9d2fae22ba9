"""The commands, from a made-up data set to a version that is served."""

import csv
import gzip
import json
import os
import re
import subprocess
import sys
from itertools import islice

import pytest

from harness.process import ROOT, serving
from headlines.__main__ import main
from service.model import artifact, engines
from service.model.preprocessing import TIME_FEATURES
from service.model.version import Version

PYTHON_TRAINING = (sys.executable, "-m", "training")


def run(*arguments, **environment):
    return subprocess.run(
        [*PYTHON_TRAINING, *map(str, arguments)], env=os.environ | environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """A made-up data set and the AUC of its true probabilities."""
    path = tmp_path_factory.mktemp("data") / "made-up.csv.gz"
    done = run("synthesize", "--out", path)
    assert done.returncode == 0, done.stderr
    assert "made-up" in done.stdout
    return path, float(re.search(r"ROC-AUC of (0\.\d+)", done.stdout)[1])


@pytest.fixture(scope="module")
def fitted(made_up, tmp_path_factory):
    """A directory with the version that the defaults make of it, and what the command printed."""
    models = tmp_path_factory.mktemp("models")
    done = run("fit", "--data", made_up[0], "--models", models)
    assert done.returncode == 0, done.stderr
    return models, done.stdout


def test_a_fit_learns_nearly_all_that_is_there(made_up, fitted):
    _, best = made_up
    models, printed = fitted
    info = artifact.read(models / "1").info
    assert best - 0.03 < info.evaluation["main_auc"] < best + 0.01
    assert f"{info.evaluation['main_auc']:.4f}" in printed


def test_a_version_is_complete_and_says_that_its_data_are_made_up(fitted):
    models, printed = fitted
    read = artifact.read(models / "1")
    assert read.info.synthetic
    assert "made-up" in printed
    assert "Made-up" in (models / "1" / "report" / "index.html").read_text("utf-8")
    assert (
        json.loads((models / "1" / "report" / "figures.json").read_text("utf-8"))["rows"] == read.info.parts["evaluation"].rows
    )
    assert len(read.examples) > 30
    assert sorted(path.name for path in models.iterdir()) == [".last_version", ".lock", "1"]  # nothing is left of the job


@pytest.mark.parametrize("engine", ["litert", "tensorflow"])
def test_either_engine_takes_the_version(fitted, engine):
    version = Version.load(artifact.read(fitted[0] / "1"), engines.choose(engine))
    assert version.number == 1


def test_evaluate_finds_what_fit_found(made_up, fitted):
    models, _ = fitted
    done = run("evaluate", HEADLINES_DATA=str(made_up[0]), HEADLINES_MODELS=str(models))
    assert done.returncode == 0, done.stderr
    assert f"{artifact.read(models / '1').info.evaluation['main_auc']:.4f}" in done.stdout


def evaluation(made_up, models, *arguments):
    return run("evaluate", "--data", made_up[0], "--models", models, *arguments)


def test_evaluate_can_answer_programs(made_up, fitted):
    done = evaluation(made_up, fitted[0], "--json", "--fail-below", "main_auc=0.5", "rows=1")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["version"] == 1
    assert answer["figures"]["main_auc"] == pytest.approx(artifact.read(fitted[0] / "1").info.evaluation["main_auc"])
    assert "Traceback" not in done.stderr
    assert not re.search(r"^(WARNING|[IWE]\d{4} )", done.stderr, re.MULTILINE)  # TensorFlow's own log


def test_a_version_that_is_worse_than_asked_is_exit_code_1_and_says_in_what(made_up, fitted):
    done = evaluation(made_up, fitted[0], "--fail-below", "main_auc=.9999", "--fail-below", "aux_auc=0.5", "main_accuracy=2")
    assert done.returncode == 1
    assert re.search(r"evaluate: main_auc is 0\.\d{4}, below 0\.9999; main_accuracy is 0\.\d{4}, below 2$", done.stderr.strip())
    assert "aux_auc" not in done.stderr
    assert "ROC-AUC" in done.stdout


@pytest.mark.parametrize(
    ("bound", "words"),
    [
        ("auc=0.7", "there is no figure 'auc'; there are main_auc, main_auc_within_outlets, "),
        ("main_auc", "must be a figure's name, = and a number, such as main_auc=0.7"),
        ("main_auc=high", "must be a figure's name, = and a number"),
        ("main_auc=nan", "must be a figure's name, = and a number"),
    ],
)
def test_a_bound_that_means_nothing_is_exit_code_2_before_anything_is_read(capsys, bound, words):
    assert main(["evaluate", "--data", "missing.csv", "--models", "missing", "--fail-below", bound]) == 2
    assert words in capsys.readouterr().err


def test_the_users_settings_of_keras_and_matplotlib_change_nothing(made_up, tmp_path):
    """Nor do a home that cannot be there, a locale that is not UTF-8, and a terminal that can do nothing."""
    keras = tmp_path / "keras"
    keras.mkdir()
    (keras / "keras.json").write_text('{"floatx": "float16", "backend": "jax", "image_data_format": "channels_first"}')
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nbackend: TkAgg\n")
    with gzip.open(made_up[0], "rt") as file:
        (tmp_path / "few.csv").write_text("".join(islice(file, 1500)))
    settings = {
        "KERAS_HOME": str(keras),
        "KERAS_BACKEND": "torch",
        "KERAS_MAX_EPOCHS": "many",
        "TF_USE_LEGACY_KERAS": "1",
        "MPLBACKEND": "TkAgg",
        "MPLCONFIGDIR": str(tmp_path / "few.csv" / "home"),
        "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"),
        "CUDA_VISIBLE_DEVICES": "none of them",
        "HOME": str(tmp_path / "few.csv" / "home"),
        "LC_ALL": "C",
        "PYTHONIOENCODING": "ascii",
        "PYTHONUTF8": "0",
        "TERM": "dumb",
        "NO_COLOR": "1",
    }
    done = run("fit", "--data", tmp_path / "few.csv", "--models", tmp_path / "models", "--epochs", 1, **settings)
    assert done.returncode == 0, done.stderr
    for name in ("KERAS_BACKEND", "KERAS_MAX_EPOCHS", "TF_USE_LEGACY_KERAS", f"backend, floatx, image_data_format in {keras}"):
        assert f"{name}" in done.stderr
    assert done.stderr.count("ignored: training needs Keras") == 4
    assert Version.load(artifact.read(tmp_path / "models" / "1"), engines.choose("litert")).number == 1


def test_evaluate_refuses_data_that_count_something_else(made_up, fitted, tmp_path, capsys):
    with gzip.open(made_up[0], "rt", newline="") as file, (tmp_path / "likes.csv").open("w", newline="") as likes_alone:
        reader = csv.DictReader(file)
        writer = csv.DictWriter(likes_alone, [name for name in reader.fieldnames if name != "retweets"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(reader)
    assert main(["evaluate", "--data", str(tmp_path / "likes.csv"), "--models", str(fitted[0])]) == 1
    assert "learned retweets + likes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["fit", "--data", "missing.csv", "--models", "models"], 1, "missing.csv"),
        (["fit", "--data", "few.csv", "--models", "models"], 1, "too few"),
        (["fit", "--data", "few.csv", "--models", "models", "--averaging", "-1"], 2, "averaging"),
        (["fit", "--data", "few.csv", "--models", "few.csv"], 2, "--models few.csv: few.csv is not a directory that can be"),
        (["fit", "--data", "few.csv", "--models", "few.csv/models"], 2, "few.csv is not a directory"),
        (["evaluate", "--data", "few.csv", "--models", "models"], 1, "holds no version"),
        (["evaluate", "--data", "few.csv", "--models", "few.csv"], 1, "few.csv: Not a directory"),
        (["evaluate", "--data", "few.csv", "--models", "models", "--version", "7"], 1, "no version 7"),
        (["synthesize", "--out", "no/such/directory/made-up.csv"], 2, "no/such/directory"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path, monkeypatch, capsys, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.csv").write_text("headline,posted_at,likes\nCity votes,2016-01-01T00:00:00Z,3\n")
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert words in captured.err
    lines = [line for line in captured.err.splitlines() if " still " not in line]  # on a busy machine
    assert len(lines) == 1
    assert not (tmp_path / "models").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_models_that_may_not_be_written_to_are_told_before_anything_is_read(tmp_path, capsys):
    (tmp_path / "models").mkdir(0o500)
    assert main(["fit", "--data", "missing.csv", "--models", str(tmp_path / "models")]) == 2
    assert "not a directory that can be written to" in capsys.readouterr().err


def exit_code(arguments):
    try:
        return main(arguments)
    except SystemExit as exit_:  # argparse's
        return exit_.code


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fit"],
        ["fit", "--data", "x.csv", "--models", "m", "--seed", "one"],
        ["fit", "--data", "x.csv", "--models", "m", "--min-age", "-1"],
        ["fit", "--data", "x.csv", "--models", "m", "--collected-at", "2016-01-01T00:00:00"],
        ["synthesize", "--out", "x.csv", "--posts", "0"],
    ],
)
def test_a_wrong_flag_is_exit_code_2(arguments):
    assert exit_code(arguments) == 2


def test_a_notebook_fits_and_evaluates(made_up, tmp_path):
    program = f"""
from training import job
from training.settings import Settings

fitted = job.fit([{str(made_up[0])!r}], {str(tmp_path / "models")!r}, Settings(epochs=1))
evaluated = job.evaluate([{str(made_up[0])!r}], {str(tmp_path / "models")!r})
print(fitted.version, fitted.synthetic, (fitted.path / "saved_model.pb").exists())
print(evaluated.version, fitted.evaluation.figures["main_auc"] == evaluated.evaluation.figures["main_auc"])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["1 True True", "1 True"]


def test_posts_of_days_without_hours_make_a_version_whose_scores_do_not_depend_on_the_time(made_up, tmp_path):
    with gzip.open(made_up[0], "rt", newline="") as file:
        rows = list(islice(csv.DictReader(file), 0, None, 10))
    with (tmp_path / "days.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"posted_at": row["posted_at"][:10]} for row in rows)
    done = run("fit", "--data", tmp_path / "days.csv", "--models", tmp_path / "models", "--epochs", 1)
    assert done.returncode == 0, done.stderr
    assert "the times are days without hours, so hour and weekday are switched off" in done.stderr

    read = artifact.read(tmp_path / "models" / "1")
    assert read.info.frozen.keys() == set(TIME_FEATURES)
    with serving(tmp_path / "models", "--engine", "litert") as server:
        asked = [sys.executable, "-m", "headlines"]
        model = subprocess.run(
            [*asked, "model", "--json", "--target", server.target], capture_output=True, check=True, cwd=ROOT
        )
        assert json.loads(model.stdout)["frozen_features"] == list(TIME_FEATURES)
        shown = subprocess.run([*asked, "model", "--target", server.target], capture_output=True, check=True, cwd=ROOT)
        assert b"posting time  makes no difference" in shown.stdout
        outputs = set()
        for time in ("2016-05-01T00:00:00Z", "2016-05-03T15:00:00Z"):
            command = [*asked, "predict", "--json", "--posted-at", time, "--target", server.target, rows[0]["headline"]]
            outputs.add(json.loads(subprocess.run(command, capture_output=True, check=True, cwd=ROOT).stdout)["main_output"])
    assert len(outputs) == 1
    evaluated = run("evaluate", "--data", tmp_path / "days.csv", "--models", tmp_path / "models", "--json")
    assert json.loads(evaluated.stdout)["figures"]["main_auc"] == pytest.approx(read.info.evaluation["main_auc"], abs=1e-6)


def test_an_error_of_tensorflows_ends_it_with_a_sentence():
    import tensorflow as tf

    from headlines.commands import CommandError, Given
    from training import commands

    def fail(_):
        raise tf.errors.ResourceExhaustedError(None, None, "no memory\nand a long list of operations")

    with pytest.raises(CommandError, match=r"^TensorFlow cannot go on: ResourceExhaustedError: no memory$"):
        commands._command("", (), fail).run(Given({}))
