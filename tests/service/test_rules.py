"""Versions of different rules under one server: each answers by its own, while they come and go."""

import asyncio
import collections

import pytest
from in_process import running, until
from variants import variant

from headlines.v1 import popularity_pb2 as pb
from service.model import artifact, engines
from service.model.preprocessing import Headline
from service.model.version import Version

TEXT = "RT @cnn: City &amp; council votes on new park https://t.co/x"
WORDS = {1: ["rt", "cnn", "city", "amp", "council", "votes", "on", "new", "park", "https", "t", "co", "x"], 2: None}
WORDS[2] = WORDS[1][2:3] + WORDS[1][4:9]
RULES = {1: 1, 2: 2, 3: 1}  # by the version's number


async def test_each_version_answers_by_its_own_rules_while_they_are_swapped_and_rolled_back(make_settings, models, tmp_path):
    directory = tmp_path / "models"
    directory.mkdir()
    made = {number: variant(models, tmp_path / str(number), preprocessing=rules) for number, rules in RULES.items()}
    expected = {number: directly(path) for number, path in made.items()}
    assert expected[1].main_output != pytest.approx(expected[2].main_output, abs=1e-3)
    made[1].rename(directory / "1")
    answered = collections.Counter()

    async def ask(stub):
        request = pb.PredictRequest(headlines=[pb.Headline(text=TEXT)] * 3)
        while True:
            answer = await stub.Predict(request)
            for prediction in answer.predictions:
                right = expected[answer.model_version]
                assert prediction.word_count == right.word_count == len(WORDS[RULES[answer.model_version]])
                assert prediction.unknown_word_count == right.unknown_word_count
                assert prediction.aux_output == pytest.approx(right.aux_output, abs=1e-6)
            answered[answer.model_version] += 1

    changes = [
        (2, lambda: made[2].rename(directory / "2")),
        (1, (directory / "2.withdrawn").touch),
        (3, lambda: made[3].rename(directory / "3")),
        (1, (directory / "3.withdrawn").touch),
        (2, (directory / "2.withdrawn").unlink),
    ]
    async with asyncio.timeout(240), running(make_settings(models=directory)) as (_, stub):
        callers = [asyncio.create_task(ask(stub)) for _ in range(8)]
        try:
            for live, change in [(1, lambda: None), *changes]:
                change()
                before = answered[live]
                await until(lambda live=live, before=before: answered[live] > before + 50 or any(it.done() for it in callers))
        finally:
            for caller in callers:
                caller.cancel()
            ends = await asyncio.gather(*callers, return_exceptions=True)
    assert [end for end in ends if not isinstance(end, asyncio.CancelledError)] == []
    assert answered.keys() == RULES.keys()


def directly(path):
    """What a version answers without a server; the time makes no difference to what is compared."""
    [prediction] = Version.load(artifact.read(path), engines.choose("litert")).predict([Headline(TEXT, 0.0)]).rows()
    return prediction
