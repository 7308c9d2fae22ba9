"""A job decides by itself whether the posting time counts and, if asked, whether the new version is worth publishing."""

import csv
import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tiny_encoder
from test_fit import make_features

from harness.process import ROOT
from service.model import artifact
from service.model.engines.litert import Engine
from service.model.preprocessing import TIME_FEATURES, Headline
from service.model.version import Version
from training import job, synthesize
from training.checkpoint import open_checkpoint
from training.network import Network
from training.settings import Settings

SETTINGS = Settings(learning_rate=3e-3, epochs=3, batch_size=32)


def run(*arguments, **environment):
    command = [sys.executable, "-m", "training", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)


@pytest.fixture
def worthless(monkeypatch):
    """Whatever the posting time is worth is not enough."""
    monkeypatch.setattr(job, "LEAST_TIME_ROWS", 1)
    monkeypatch.setattr(job, "LEAST_TIME_WORTH", 1.0)


def over_weeks():
    """Features of posts that are an hour apart."""
    built = make_features()
    return replace(built, validation=replace(built.validation, posted_at=built.validation.posted_at * 3600.0))


def weights(learned):
    return [weight.numpy() for weight in Network(learned.fit.model).weights]


@pytest.mark.usefixtures("worthless")
def test_a_posting_time_that_is_worth_nothing_is_not_learned_from():
    built = over_weeks()
    learned = job.learn(built, SETTINGS, job.Lesson())
    assert learned.features.frozen.keys() == set(TIME_FEATURES)
    for part in (learned.features.training, learned.features.validation, learned.features.evaluation):
        assert (np.ptp(part.aux[:, :4], axis=0) == 0).all()
        assert part.aux[0, :4] == pytest.approx([learned.features.frozen[name] for name in TIME_FEATURES])
    assert np.array_equal(learned.features.training.aux[:, 4], built.training.aux[:, 4])
    # From scratch: the same as if the times had never been there.
    never = job.learn(learned.features, SETTINGS, job.Lesson())
    assert all(map(np.array_equal, weights(learned), weights(never)))
    assert (never.time_worth, learned.time_worth["rows"]) == ({}, len(built.validation))


def test_it_stays_if_it_may_be_worth_something_or_too_little_is_known(monkeypatch):
    built = over_weeks()
    assert job.learn(built, SETTINGS, job.Lesson()).features.frozen == {}  # the validation part has 240 posts
    monkeypatch.setattr(job, "LEAST_TIME_ROWS", 1)
    hour = np.where(built.training.aux[:, 0] > 0, 1.0, 0.0).astype(np.float32)
    of_validation = np.where(built.validation.aux[:, 0] > 0, 1.0, 0.0).astype(np.float32)
    told = replace(
        built,
        training=replace(built.training, labels=hour, targets=hour),
        validation=replace(built.validation, labels=of_validation, targets=of_validation),
    )
    learned = job.learn(told, SETTINGS, job.Lesson())
    assert learned.features.frozen == {}
    assert learned.time_worth["high"] >= learned.time_worth["auc"] > 0.2


@pytest.mark.usefixtures("worthless")
@pytest.mark.parametrize("phase", ["state", "without_time"])
def test_a_job_that_was_interrupted_in_either_phase_ends_as_if_it_had_not_been(tmp_path, phase, monkeypatch):
    built = over_weeks()
    undisturbed = job.learn(built, SETTINGS, job.Lesson())
    saved = []

    class Interrupted(Exception):
        pass

    from training.checkpoint import Checkpoint

    save = Checkpoint.save

    def save_once(self, state):
        save(self, state)
        saved.append(self._path.stem)
        if saved.count(phase) == 1 and self._path.stem == phase:
            raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "save", save_once)
        with pytest.raises(Interrupted), open_checkpoint(tmp_path, "a" * 16) as checkpoint:
            job.learn(built, SETTINGS, job.Lesson(), checkpoint)
    with open_checkpoint(tmp_path, "a" * 16) as checkpoint:
        resumed = job.learn(built, SETTINGS, job.Lesson(), checkpoint)
    assert all(map(np.array_equal, weights(resumed), weights(undisturbed)))
    assert resumed.time_worth == undisturbed.time_worth
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "made-up.csv.gz"
    synthesize.synthesize(path, 12_000)
    return path


def moved(made_up, path, first, last):
    """A window of the posts, from one share of them to another."""
    with gzip.open(made_up, "rt", newline="") as file:
        head, *rows = file.read().splitlines()
    path.write_text("\n".join([head, *rows[int(first * len(rows)) : int(last * len(rows))]]) + "\n")
    return path


def test_only_what_is_not_worse_is_published_if_that_is_asked(made_up, tmp_path):
    models = tmp_path / "models"
    older, newer = moved(made_up, tmp_path / "older.csv", 0, 0.95), moved(made_up, tmp_path / "newer.csv", 0.05, 1)

    def fit(data, *flags):
        return run("fit", "--data", data, "--models", models, "--teacher", "none", "--publish", "better", *flags)

    first = fit(older, "--epochs", 1, "--learning-rate", 3e-5)
    assert (first.returncode, artifact.versions(models)) == (0, [1]), first.stderr  # there is nothing to compare with
    better = fit(newer, "--epochs", 5)
    assert (better.returncode, artifact.versions(models)) == (0, [2, 1]), better.stdout
    assert "later than what both were made from, ROC-AUC 0." in better.stdout
    page = (models / "2" / "report" / "index.html").read_text("utf-8")
    assert "Beside the version before" in page
    assert "version 2" in page
    assert "version 1: 0." in (models / "2" / "MODEL_CARD.md").read_text("utf-8")
    (models / "3").mkdir()  # it cannot be read, and is passed over
    (models / "4").mkdir()
    (models / "4.withdrawn").touch()
    worse = fit(newer, "--epochs", 1, "--learning-rate", 1e-6)
    assert worse.returncode == 3, worse.stderr
    assert "Nothing is published" in worse.stdout
    assert "version 2: 0." in worse.stdout
    assert "version 3 cannot be compared with" in worse.stderr
    other = fit(newer, "--epochs", 1, "--popular-above", "median")
    assert other.returncode == 3, other.stderr
    assert "Version 2 means something else by popular" in other.stdout
    assert "this decides nothing" in other.stdout
    # Against one that learned from later posts than there are now nothing is certain.
    old = fit(moved(made_up, tmp_path / "old.csv", 0, 0.7), "--epochs", 1)
    assert old.returncode == 3, old.stderr
    assert "0 posts are later than what both versions were made from" in old.stdout
    assert artifact.versions(models) == [4, 3, 2, 1]
    assert not any(path.name.startswith((".fit-", ".tmp-")) for path in models.iterdir())


def test_a_taught_version_says_by_what_and_needs_nothing_of_it_to_be_served(made_up, tmp_path):
    tiny_encoder.write(tmp_path / "encoder")
    models = tmp_path / "models"
    done = run("fit", "--data", made_up, "--models", models, "--teacher", tmp_path / "encoder", "--epochs", 2)
    assert done.returncode == 0, done.stderr
    read = artifact.read(models / "1")
    assert read.info.teacher == artifact.Teacher("ridge", Settings().teacher_share, read.info.teacher.encoder_sha256)
    assert len(read.info.teacher.encoder_sha256) == 64
    assert read.info.teacher.encoder_sha256 in (models / "1" / "MODEL_CARD.md").read_text("utf-8")
    assert sum(path.name.startswith(".embeddings-") for path in models.iterdir()) == 1
    answer = Version.load(read, Engine()).predict([Headline("Storm closes every school", 1.7e9, "madeupbugle")])
    assert 0 < answer.main_output[0] < 1
    again = run("fit", "--data", made_up, "--models", models, "--teacher", tmp_path / "encoder", "--epochs", 2)
    assert again.returncode == 0, again.stderr
    variables = [(models / number / "variables" / "variables.data-00000-of-00001").read_bytes() for number in ("1", "2")]
    assert variables[0] == variables[1]  # whether embeddings were computed or kept


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--teacher", "nowhere"], "--teacher nowhere: is not a directory; it must be auto, none or one that holds"),
        (["--teacher", ""], "--teacher"),
        (["--teacher-share", "1.5"], "teacher_share is 1.5; it must be from 0 to 1"),
        (["--popular-above", "mean"], "--popular-above"),
        (["--publish", "never"], "--publish"),
        (["--vector-scale", "-1"], "vector_scale is -1"),
    ],
)
def test_a_wrong_flag_ends_it_before_anything_is_read(tmp_path, flags, words):
    done = run("fit", "--data", "missing.csv", "--models", tmp_path, *flags)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_directory_is_no_encoder(made_up, tmp_path):
    (tmp_path / "empty").mkdir()
    done = run("fit", "--data", made_up, "--models", tmp_path / "models", "--teacher", tmp_path / "empty")
    assert done.returncode == 2
    assert "config.json: No such file or directory; a sentence encoder is a directory with" in done.stderr
    assert artifact.versions(tmp_path / "models") == []


def write_tests(path, effect):
    """A/B tests of three headlines each; a word of the headline multiplies its clicks by e to the power of `effect`."""
    random = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["headline", "posted_at", "story", "clicks", "impressions"])
        for story in range(1_500):
            moment = np.datetime64("2024-01-01T00:00:00") + np.timedelta64(story, "h")
            about = " ".join(f"topic{word}" for word in random.integers(60, size=3))
            rate = 0.02 * np.exp(random.normal(scale=0.7))
            for wording in ("surprising", "plain", "angry"):
                lift = {"surprising": effect, "plain": 0.0, "angry": -effect}[wording]
                seen = int(random.integers(3_000, 4_000))
                writer.writerow(
                    [
                        f"The {wording} truth of {about}",
                        f"{moment}Z",
                        f"s{story}",
                        random.poisson(rate * seen * np.exp(lift)),
                        seen,
                    ]
                )


@pytest.mark.parametrize("effect", [0.3, 0.0])
def test_which_wording_of_a_story_does_better_is_learned_if_it_can_be(tmp_path, effect):
    write_tests(tmp_path / "tests.csv", effect)
    done = run(
        *("fit", "--data", tmp_path / "tests.csv", "--models", tmp_path / "models", "--popular-above", "story"),
        *("--engagement", "clicks", "--epochs", 8, "--min-age", 0),
    )
    assert done.returncode == 0, done.stderr
    info = artifact.read(tmp_path / "models" / "1").info
    assert info.label.describe() == "more clicks per impression than the mean of the other headlines of the same story"
    figures = json.loads((tmp_path / "models" / "1" / "report" / "figures.json").read_text("utf-8"))
    assert figures["of_stories"]
    pairs = figures["models"]["main"]["estimates"]["pair_accuracy"]
    if effect:
        assert pairs["low"] > 0.7
    else:
        assert pairs["low"] < 0.5 < pairs["high"] or abs(pairs["value"] - 0.5) < 0.03
    page = (tmp_path / "models" / "1" / "report" / "index.html").read_text("utf-8")
    assert "Of two headlines of one story" in page
    assert "wordings of one story" not in page
