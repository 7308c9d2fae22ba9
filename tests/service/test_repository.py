"""Which version is live, while versions come, break and go. The engine here is the smallest one: it counts words."""

import asyncio
import collections
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from in_process import until

from service.batcher import Batcher
from service.errors import InvalidRequest, Unavailable, VersionError
from service.model import artifact, preprocessing
from service.model.labels import Label
from service.model.preprocessing import Headline, Preprocessor
from service.predictor import Limits, Predictor
from service.repository import Repository, State
from training.publish import new_version

VOCABULARY = ["", "[UNK]", "city", "votes"]
LEVELS = {"gazette": 0.5}


class WordCounter:
    """A model whose main output is the number of words and whose aux output is a constant of its version."""

    name = "counter"
    inline = True

    def __init__(self, constant=0.0):
        self._constant = constant

    def load(self, read):
        if read.files[artifact.CPU_MODEL] == b"large":
            raise MemoryError
        if read.files[artifact.CPU_MODEL] == b"no room":
            raise OSError(12, "a GPU's memory is full")
        if read.files[artifact.CPU_MODEL] == b"refused":
            raise VersionError("cpu.tflite: is no model")
        if read.files[artifact.CPU_MODEL] == b"bug":
            raise ZeroDivisionError("secret words")
        return WordCounter(float(read.files[artifact.CPU_MODEL]))

    def warm(self):
        pass

    def predict(self, ids, lengths, aux):  # noqa: ARG002
        return np.stack([lengths, np.full(len(lengths), self._constant)], axis=1).astype(np.float32)


LABEL = Label("above_median", ("likes",), threshold=1.0)


def publish(
    models: Path,
    constant: str = "0.25",
    *,
    ids=(2, 1),
    outlet_level=0.5,
    main_output=2.0,
    rules=preprocessing.NEWEST_RULES,
    label=LABEL,
) -> int:
    headline = Headline("City council", 1_464_000_000.0, "Gazette")
    aux = Preprocessor(VOCABULARY, {"gazette": outlet_level}).encode([headline]).aux[0].tolist()
    info = artifact.ModelInfo(
        preprocessing=rules,
        created_at=artifact.Time(1_464_000_000.0),
        synthetic=True,
        vocabulary_size=len(VOCABULARY),
        outlet_levels=LEVELS,
        label=label,
        parts={},
        settings={},
        evaluation={},
        libraries={},
        data_checksum="",
    )
    with new_version(models) as staging:
        (staging.path / "saved_model.pb").write_bytes(b"graph")
        output = float(constant) if constant[0].isdigit() else 0.0
        example = artifact.Example(headline, list(ids), aux, main_output, output)
        (staging.path / artifact.CPU_MODEL).parent.mkdir()
        (staging.path / artifact.CPU_MODEL).write_bytes(constant.encode())
        artifact.write(staging.path, artifact.Contents(info, VOCABULARY, [example]))
    assert staging.version
    return staging.version


@pytest.fixture
def models(tmp_path):
    return tmp_path / "models"


@pytest.fixture
def repository(models):
    return Repository(models, WordCounter())


def states(repository):
    return {state.number: state.state for state in repository.states}


async def test_the_highest_version_is_live(models, repository):
    publish(models)
    publish(models, "0.5")
    await repository.scan()
    assert repository.live.number == 2
    assert repository.live.predict([Headline("City votes today", 0.0)]).rows() == [(3.0, 0.5, 3, 1, False)]


async def test_a_new_version_replaces_the_old_one_and_removing_it_rolls_back(models, repository):
    publish(models)
    await repository.scan()
    publish(models)
    await repository.scan()
    assert states(repository) == {2: State.LIVE, 1: State.RETIRED}
    shutil.rmtree(models / "2")
    await repository.scan()
    assert (repository.live.number, states(repository)) == (1, {1: State.LIVE})


async def test_a_version_whose_scores_mean_something_else_is_announced(models, repository, caplog):
    publish(models)
    await repository.scan()
    publish(models, label=Label("above_median", ("likes",), threshold=7.0))  # the same rule on newer posts
    await repository.scan()
    assert (repository.label_change, caplog.records) == ("", [])
    publish(models, label=Label("above_outlet_median", ("likes",), window_days=28, least_posts=20))
    await repository.scan()
    assert repository.label_change.startswith("version 2: more than 7 likes")
    (record,) = caplog.records
    assert "version 3 calls something else popular than version 2" in record.getMessage()
    assert "than half of the same account's posts" in record.getMessage()
    (models / "3.withdrawn").touch()
    await repository.scan()
    assert repository.label_change.startswith("version 3: more likes than half of the same account's")


async def test_no_version_is_a_state_not_a_crash(models, repository):
    await repository.scan()
    assert (repository.live, repository.states) == (None, [])
    publish(models)
    await repository.scan()
    assert repository.live.number == 1
    (models / "1.withdrawn").touch()
    await repository.scan()
    assert (repository.live, states(repository)) == (None, {1: State.RETIRED})


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"constant": "refused"}, "cpu.tflite: is no model"),
        ({"constant": "bug"}, "ZeroDivisionError"),
        ({"main_output": 2.001}, "the exported one answered"),
        ({"main_output": 3.0}, "the exported one answered"),
        ({"ids": (2, 3)}, "other ids"),
        ({"outlet_level": 0.25}, "other numbers"),
    ],
)
async def test_a_version_that_fails_never_goes_live_and_says_why(models, repository, broken, words):
    publish(models)
    await repository.scan()
    publish(models, **broken)
    await repository.scan()
    assert states(repository) == {2: State.FAILED, 1: State.LIVE}
    assert words in repository.states[0].error
    assert "secret words" not in repository.states[0].error
    assert repository.live.number == 1


async def test_a_failed_version_is_tried_again_when_it_changes_and_only_then(models):
    attempts = []
    repository = Repository(models, WordCounter(), on_load=lambda passed, _: attempts.append(passed))
    publish(models)
    path = models / "1" / artifact.CPU_MODEL
    whole = path.read_bytes()
    path.write_bytes(b"")
    await repository.scan()
    await repository.scan()
    assert attempts == [False]
    path.write_bytes(whole)
    await repository.scan()
    assert attempts == [False, True]
    assert repository.live.number == 1


async def test_damage_to_the_live_version_on_disk_does_not_touch_what_is_served(models, repository):
    publish(models)
    publish(models)
    await repository.scan()
    (models / "2" / artifact.CPU_MODEL).write_bytes(b"damaged")
    await repository.scan()
    assert repository.live.number == 2
    assert "SHA-256" in repository.states[0].error


async def test_touching_the_live_version_loads_nothing(models):
    attempts = []
    repository = Repository(models, WordCounter(), on_load=lambda passed, _: attempts.append(passed))
    publish(models)
    await repository.scan()
    live = repository.live
    (models / "1" / artifact.CPU_MODEL).touch()
    await repository.scan()
    assert repository.live is live
    assert attempts == [True]


async def test_a_pinned_version_stays(models):
    repository = Repository(models, WordCounter(), pinned=1)
    publish(models)
    publish(models)
    await repository.scan()
    assert repository.live.number == 1


async def test_who_listens_hears_of_every_change(models):
    heard = []
    repository = Repository(models, WordCounter(), on_live=lambda version: heard.append(version and version.number))
    publish(models)
    await repository.scan()
    await repository.scan()
    publish(models)
    await repository.scan()
    for number in (1, 2):
        (models / f"{number}.withdrawn").touch()
    await repository.scan()
    assert heard == [1, 2, None]


async def test_the_loop_goes_on_while_a_version_loads(models):
    free = threading.Event()

    class Slow(WordCounter):
        def load(self, read):
            assert free.wait(60)
            return super().load(read)

    repository = Repository(models, Slow())
    publish(models)
    scan = asyncio.ensure_future(repository.scan())
    await until(lambda: states(repository) == {1: State.LOADING})
    assert repository.live is None
    free.set()
    await scan
    assert repository.live.number == 1


class Silent:
    """An observer that does not care."""

    def computed(self, items, seconds, waits):
        pass

    def dropped(self, reason, items):
        pass


def make_predictor(repository, **limits):
    batcher = Batcher(capacity=4096, largest_batch=256, executor=None, observer=Silent())
    return Predictor(repository, batcher, Limits(**limits))


async def test_a_request_is_answered_by_the_version_that_was_live_when_it_came(models, repository):
    publish(models, "0.25")
    await repository.scan()
    predictor = make_predictor(repository)
    before = [asyncio.ensure_future(predictor.predict([Headline("City", 0.0)])) for _ in range(10)]
    await asyncio.sleep(0)
    publish(models, "0.75")
    await repository.scan()
    after = await predictor.predict([Headline("City", 0.0)])
    assert {(answer.version, answer.predictions[0].aux_output) for answer in await asyncio.gather(*before)} == {(1, 0.25)}
    assert (after.version, after.predictions[0].aux_output) == (2, 0.75)


async def test_each_version_answers_by_its_own_rules_while_they_are_swapped_and_rolled_back(models, repository):
    headline = Headline("RT @cnn: City &amp; votes https://t.co/x", 0.0)
    word_counts = {1: 9, 2: 2, 3: 9}  # by the version's number
    publish(models, rules=1)
    await repository.scan()
    predictor = make_predictor(repository)
    swapping = True
    answered = collections.Counter()

    async def ask():
        while swapping:
            answer = await predictor.predict([headline] * 3)
            for prediction in answer.predictions:
                assert (prediction.word_count, prediction.main_output) == (word_counts[answer.version],) * 2
            answered[answer.version] += 1

    async with asyncio.timeout(120), asyncio.TaskGroup() as callers:
        for _ in range(8):
            callers.create_task(ask())
        try:
            for change in (
                lambda: publish(models, rules=2),
                lambda: (models / "2.withdrawn").touch(),
                lambda: publish(models, rules=1),
                lambda: ((models / "2.withdrawn").unlink(), (models / "3.withdrawn").touch()),
            ):
                change()
                await repository.scan()
                live = repository.live.number
                await until(lambda live=live, before=answered[live]: answered[live] > before + 20)
        finally:
            swapping = False
    assert live == 2
    assert answered.keys() == {1, 2, 3}


async def test_without_a_version_a_request_is_unavailable(repository):
    with pytest.raises(Unavailable):
        await make_predictor(repository).predict([Headline("City", 0.0)])


@pytest.mark.parametrize(
    ("headlines", "fields"),
    [
        ([], ["headlines"]),
        ([Headline("City", 0.0)] * 9, ["headlines"]),
        ([Headline("City", 0.0), Headline("", 0.0), Headline(" \t\u3000", 0.0)], ["headlines[1].text", "headlines[2].text"]),
        ([Headline("é" * 17, 0.0)], ["headlines[0].text"]),
        ([Headline("x" * 33, 0.0)], ["headlines[0].text"]),
    ],
)
async def test_what_is_wrong_is_named_by_its_field(models, repository, headlines, fields):
    publish(models)
    await repository.scan()
    with pytest.raises(InvalidRequest) as error:
        await make_predictor(repository, max_headlines=8, max_text_bytes=32).predict(headlines)
    assert [violation.field for violation in error.value.violations] == fields


async def test_a_text_that_expands_is_refused_by_name_and_never_quoted(models, repository):
    publish(models)
    await repository.scan()
    predictor = make_predictor(repository)
    with pytest.raises(InvalidRequest) as error:
        await predictor.predict([Headline("City", 0.0), Headline("City " + "\ufdfa" * 65, 0.0)])
    (violation,) = error.value.violations
    assert violation.field == "headlines[1].text"
    assert violation.description == "has more than 64 characters that NFKC replaces by several; write them out"
    assert "\ufdfa" not in str(error.value)
    answer = await predictor.predict([Headline("City " + "\ufdfa" * 64, 0.0), Headline("Đường sắt đô thị " * 100, 0.0)])
    assert len(answer.predictions) == 2


async def test_limits_are_inclusive(models, repository):
    publish(models)
    await repository.scan()
    predictor = make_predictor(repository, max_headlines=8, max_text_bytes=32)
    answer = await predictor.predict([Headline("é" * 16, time.time())] * 8)
    assert len(answer.predictions) == 8
