"""Explain: what leaving one thing out does to a score, for callers and for those beside them."""

import asyncio
import dataclasses
import random
from types import SimpleNamespace

import grpc
import pytest
from in_process import HeldEngine, generous, running, until
from test_batcher import Loop, Record
from test_server import failure, headline, sample
from variants import FROZEN, variant

from headlines.v1 import popularity_pb2 as pb
from service.batcher import BULK, Batcher
from service.errors import DeadlineExceeded, InvalidRequest, Unavailable
from service.model import artifact, engines
from service.model.explanation import Explainable
from service.model.preprocessing import Headline
from service.model.version import Version
from service.predictor import Limits, Predictor, cost
from service.server import LARGEST_BATCH, LARGEST_BATCH_BYTES

WHEN = 1_464_000_000
HOUR = 3600.0
MONDAY = 1_463_961_600.0  # 2016-05-23 00:00 UTC
KNOWN = "a after at by city council for in is market new of on over park report says the to votes wins".split()  # noqa: SIM905
TOLERANCE = 1e-6  # single-precision sums in another order


@pytest.fixture(scope="module", params=["litert", "tensorflow"])
def engine(request):
    return engines.choose(request.param)


@pytest.fixture(scope="module", params=["used", "frozen"])
def version(request, engine, models, tmp_path_factory):
    if request.param == "used":
        return Version.load(artifact.read(models / "1"), engine)
    return Version.load(artifact.read(variant(models, tmp_path_factory.mktemp("frozen") / "1", frozen=FROZEN)), engine)


def explained(version, headline):
    question = Explainable(version, headline)
    rows = question.rows()
    assert len(rows) == len(question)
    return question.explain(version.compute(rows))


def random_headlines(count, most_words):
    rng = random.Random(5)
    for _ in range(count):
        words = rng.choices([*KNOWN, *KNOWN, "storm", "lions", "东"], k=rng.randint(1, most_words))
        yield Headline(" ".join(words), rng.uniform(0, 2e9), rng.choice(["gazette", " HERALD", "nobody", ""]))


# The kernel


def test_every_effect_is_the_difference_of_two_predictions(version):
    """Each is computed here from a text without the word, no outlet, and the hours of a week: not by rows."""
    largest = dict.fromkeys(("word", "outlet", "time"), 0.0)
    for it in [*random_headlines(12, 12), *random_headlines(2, 99), Headline("Votes votes, VOTES", WHEN, "gazette")]:
        explanation = explained(version, it)
        words = it.text.replace(",", "").lower().split()
        texts = [" ".join(words[:i] + words[i + 1 :]) or "storm" for i in range(len(words))]  # one unknown word
        others = [it._replace(text=text) for text in texts]
        hours = [it._replace(posted_at=MONDAY + hour * HOUR) for hour in range(168)]
        [itself, *without, no_outlet] = version.predict([it, *others, it._replace(outlet="")]).rows()
        assert explanation.prediction == pytest.approx(itself, abs=TOLERANCE)
        assert [word.word for word in explanation.words] == words
        assert [word.known for word in explanation.words] == [word in KNOWN for word in words]
        for word, rest in zip(explanation.words, without, strict=True):
            assert word.main_effect == pytest.approx(itself.main_output - rest.main_output, abs=TOLERANCE)
            assert word.aux_effect == pytest.approx(itself.aux_output - rest.aux_output, abs=TOLERANCE)
            largest["word"] = max(largest["word"], abs(word.main_effect))
        assert explanation.outlet_effect == pytest.approx(itself.main_output - no_outlet.main_output, abs=TOLERANCE)
        mean = sum(version.predict(hours).main_output) / 168
        assert explanation.time_effect == pytest.approx(itself.main_output - mean, abs=TOLERANCE)
        largest["outlet"] = max(largest["outlet"], abs(explanation.outlet_effect))
        largest["time"] = max(largest["time"], abs(explanation.time_effect))
        if version.info.frozen:
            assert explanation.time_effect == 0.0
    assert largest["word"] > 100 * TOLERANCE  # else 0 would be as good an answer
    assert largest["outlet"] > 100 * TOLERANCE
    assert (largest["time"] > 100 * TOLERANCE) != bool(version.info.frozen)


def test_word_101_does_not_move_in(version):
    words = (KNOWN * 5)[:99]
    explanation = explained(version, Headline(" ".join([*words, "park", "votes", "storm"]), WHEN))
    assert len(explanation.words) == 100
    assert (explanation.prediction.word_count, explanation.prediction.unknown_word_count) == (102, 1)
    itself, rest = version.predict([Headline(" ".join([*words, "park"]), WHEN), Headline(" ".join(words), WHEN)]).rows()
    assert explanation.words[-1].aux_effect == pytest.approx(itself.aux_output - rest.aux_output, abs=TOLERANCE)


def test_without_a_word_nothing_is_left_out_and_a_lone_unknown_word_has_no_effect(version):
    rows = 2 if version.info.frozen else 170
    assert len(Explainable(version, Headline("!!!", WHEN))) == rows
    assert len(Explainable(version, Headline("storm", WHEN))) == rows + 1
    assert len(Explainable(version, Headline("x " * 300, WHEN))) == rows + 100
    nothing = explained(version, Headline("!!!", WHEN, "gazette"))
    assert nothing.words == []
    assert nothing.outlet_effect != 0.0
    [word] = explained(version, Headline("storm", WHEN)).words
    assert word == ("storm", False, 0.0, 0.0, 0, 5)
    assert explained(version, Headline("storm", WHEN, "nobody")).outlet_effect == 0.0


# The predictor, without a face


class Halved:
    """A model whose outputs are half of another's."""

    def __init__(self, model):
        self._model = model
        self.warm = model.warm

    def predict(self, ids, lengths, aux):
        return self._model.predict(ids, lengths, aux) / 2


@pytest.fixture(scope="module")
def two(models, tmp_path_factory):
    """Two versions that answer otherwise, by their outlets and by their weights."""
    other = variant(models, tmp_path_factory.mktemp("other") / "2", outlet_levels={"gazette": -1.5, "herald": 1.0})
    first, second = (Version.load(artifact.read(path), engines.choose("litert")) for path in (models / "1", other))
    return [first, dataclasses.replace(second, model=Halved(second.model))]


class Bench:
    """A predictor on a loop of its own time; `record` has its batches."""

    def __init__(self, version, **limits):
        self.record = Record()
        self.repository = SimpleNamespace(live=version)
        self.observed = []  # what counts as predicted
        self.batcher = Batcher(
            capacity=4096,
            largest_batch=LARGEST_BATCH,
            largest_cost=LARGEST_BATCH_BYTES,
            cost=cost,
            executor=None,
            observer=self.record,
            clock=asyncio.get_running_loop().time,
        )
        self.predictor = Predictor(self.repository, self.batcher, Limits(**limits), lambda *it: self.observed.append(it))


def on_own_time(main):
    loop = Loop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()


LARGEST = [Headline("x y " * 50, WHEN, "gazette")] * 3 + [Headline("city votes", WHEN)]  # 3 x 270 + 172 = 982 rows


def test_a_lone_prediction_waits_for_one_batch_of_the_largest_request(two):
    async def main():
        bench = Bench(two[0])
        explaining = asyncio.ensure_future(bench.predictor.explain(LARGEST))
        before, batches = [], bench.record.batches
        while not explaining.done():
            seen = len(batches)
            await bench.predictor.predict([Headline("city votes", WHEN)])
            if not explaining.done():
                before.append(sum(size > 1 for size in batches[seen:]))
        return before, batches, (await explaining).explanations, bench

    before, batches, explanations, bench = on_own_time(main())
    assert len(explanations) == len(LARGEST)
    assert len(before) > 10  # it was asked all along
    assert max(before) == 1
    assert max(batches) <= BULK + 1
    assert sum(batches) == 982 + len(bench.observed)  # a headline to predict each
    assert bench.batcher.queued == 0


def test_a_full_queue_is_waited_for(two):
    async def main():
        bench = Bench(two[0])
        with bench.predictor.admit(1024), bench.predictor.admit(1024), bench.predictor.admit(1024), bench.predictor.admit(1024):
            explaining = asyncio.ensure_future(bench.predictor.explain(LARGEST))
            for _ in range(100):
                await asyncio.sleep(0)
            assert not explaining.done()
            assert bench.record.batches == []
        assert len((await explaining).explanations) == len(LARGEST)
        assert not bench.record.drops

    on_own_time(main())


def test_all_headlines_are_explained_by_the_version_that_was_live_at_first(two):
    async def main():
        bench = Bench(two[0])
        computed = bench.record.computed

        def swap(items, seconds, waits):
            computed(items, seconds, waits)
            bench.repository.live = two[1]

        bench.record.computed = swap
        questions = [Headline("city votes on new park", WHEN, "gazette")] * 3
        first = await bench.predictor.explain(questions)
        return first, await bench.predictor.explain(questions), bench.record.batches

    first, second, batches = on_own_time(main())
    assert len(batches) >= 6
    assert (first.version, second.version) == (1, 2)
    expected = [explained(version, Headline("city votes on new park", WHEN, "gazette")) for version in two]
    assert expected[0].outlet_effect > 0 > expected[1].outlet_effect
    assert expected[0].prediction.main_output > 1.5 * expected[1].prediction.main_output
    for got, wanted in zip((first, second), expected, strict=True):
        for explanation in got.explanations:
            assert explanation.prediction == pytest.approx(wanted.prediction, abs=TOLERANCE)
            assert explanation.outlet_effect == pytest.approx(wanted.outlet_effect, abs=TOLERANCE)
            assert explanation.time_effect == pytest.approx(wanted.time_effect, abs=TOLERANCE)


def test_what_may_be_asked_is_bounded(two):
    async def main():
        bench = Bench(two[0], max_headlines=400)
        ask = bench.predictor.explain
        long, short = Headline("x " * 200, WHEN), Headline("city", WHEN)
        for headlines, field, words in [
            ([], "headlines", "is empty; send 1 to 32 headlines"),
            ([short] * 33, "headlines", "holds more than 32"),
            ([long, short], "headlines[1]", "takes 171 rows, and the headlines of a request at most 400 together; send it"),
            ([short, short, short], "headlines[2]", "send it and those after it in further requests"),
            ([short, Headline(" ", WHEN)], "headlines[1].text", "is blank"),
            ([short, Headline("\ufdfa" * 65, WHEN)], "headlines[1].text", "NFKC"),
            ([Headline("city", float("nan"))], "headlines[0].posted_at", "is not a valid time"),
        ]:
            with pytest.raises(InvalidRequest) as error:
                await ask(headlines)
            [violation] = error.value.violations
            assert violation.field == field
            assert words in violation.description
        assert bench.record.batches == []
        assert len((await ask([Headline(f"city{' x' * 57}", WHEN), short])).explanations) == 2  # 228 + 171 = 399 rows
        with pytest.raises(InvalidRequest) as error:
            await Bench(two[0], max_headlines=128).predictor.explain([short])
        assert "send it" not in error.value.violations[0].description  # no other request would do

    on_own_time(main())


def test_too_late_and_without_a_version_nothing_is_computed(two):
    async def main():
        bench = Bench(two[0])
        now = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineExceeded):
            await bench.predictor.explain(LARGEST, now - 1)
        assert bench.record.drops["expired"] == 270
        bench.repository.live = None
        with pytest.raises(Unavailable):
            await bench.predictor.explain(LARGEST)
        assert (bench.record.batches, bench.batcher.queued) == ([], 0)

    on_own_time(main())


def test_a_request_that_is_cancelled_in_the_middle_leaves_nothing_behind(two):
    async def main():
        bench = Bench(two[0])
        explaining = asyncio.ensure_future(bench.predictor.explain(LARGEST))
        while len(bench.record.batches) < 2:
            await asyncio.sleep(0)
        explaining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await explaining
        batches = len(bench.record.batches)
        assert batches < 8  # LARGEST takes more
        assert bench.batcher.queued == 0
        half = 4096 // 2
        answers = await bench.batcher.submit(lambda items: items, [Headline("x", WHEN)] * half, bulk=True)
        assert len(answers) == half  # all room was given back

    on_own_time(main())


# The face


def request(*texts, **fields):
    return pb.ExplainRequest(headlines=[headline(text, **fields) for text in texts])


async def test_a_headline_is_answered_with_its_prediction_words_and_their_places(stub):
    answer = await stub.Explain(request("City’s votes: lions &amp; the&nbsp;park", "!!!"))
    predicted = await stub.Predict(
        pb.PredictRequest(headlines=request("City’s votes: lions &amp; the&nbsp;park", "!!!").headlines)
    )
    assert answer.model_version == 1
    first, second = answer.explanations
    for explanation, prediction in zip(answer.explanations, predicted.predictions, strict=True):
        assert explanation.prediction.main_output == pytest.approx(prediction.main_output, abs=TOLERANCE)
        assert explanation.prediction.best == explanation.prediction.main_output
        assert explanation.prediction.word_count == prediction.word_count
        assert explanation.prediction.outlet_known
    assert [(it.word, it.known, it.start, it.end) for it in first.words] == [
        ("city's", False, 0, 6),
        ("votes", True, 7, 12),
        ("lions", False, 14, 19),
        ("the", True, 26, 29),
        ("park", True, 35, 39),
    ]
    assert all(it.main_effect and it.aux_effect for it in first.words)
    assert first.outlet_effect
    assert first.time_effect
    assert not second.words


async def test_variants_count_in_batches_and_not_as_headlines(server, stub):
    def counts():
        names = ["words_total:known=true", "words_total:known=false", "outlets_total:known=true", "outlets_total:known=false"]
        names += ["outlets_total:known=none", "predictions_total:version=1", "main_output_count", "main_output_sum"]
        names += ["aux_output_count", "aux_output_sum"]
        found = []
        for name in names:
            name, _, label = name.partition(":")
            labels = dict([label.split("=")]) if label else {}
            found.append(sample(server, f"headlines_{name}", **labels))
        return found

    def batches():
        return [sample(server, f"headlines_{name}") for name in ("batch_size_sum", "inference_seconds_sum")]

    await stub.Predict(pb.PredictRequest(headlines=[headline()]))
    drift, (rows, seconds) = counts(), batches()
    assert None not in drift
    assert sum(drift[:6]) > 0
    await stub.Explain(request("City votes on lions", "park", outlet="nobody"))
    assert counts() == drift
    more_rows, more_seconds = batches()
    assert more_rows - rows == 2 * 170 + 5
    assert more_seconds > seconds
    labels = {"grpc_type": "unary", "grpc_service": "headlines.v1.PopularityService", "grpc_method": "Explain"}
    assert sample(server, "grpc_server_handled_total", **labels, grpc_code="OK") == 1


@pytest.mark.parametrize("count", [0, 33, 100_000, 500_000])
async def test_the_number_of_headlines_is_bounded(stub, count):
    code, _, violations = await failure(stub.Explain(pb.ExplainRequest(headlines=[pb.Headline()] * count)))
    assert (code, [field for field, _ in violations]) == (grpc.StatusCode.INVALID_ARGUMENT, ["headlines"])
    assert "32" in violations[0][1]


async def test_too_many_rows_name_the_headline_with_which_a_further_request_begins(stub):
    most = (await stub.GetModel(pb.GetModelRequest())).limits.max_explain_rows
    code, message, violations = await failure(stub.Explain(request(*["park " * 30] * 8)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert [field for field, _ in violations] == [f"headlines[{most // 200}]"]
    assert "at most 1024 together" in message
    assert len((await stub.Explain(request(*["park " * 30] * (most // 200)))).explanations) == most // 200


async def test_with_a_frozen_time_32_headlines_are_explained_at_once(make_settings, models, tmp_path):
    variant(models, tmp_path / "models" / "1", frozen=FROZEN)
    async with running(make_settings(models=tmp_path / "models")) as (server, stub):
        answer = await stub.Explain(request(*["City votes on new park"] * 32))
        assert [(len(it.words), it.time_effect) for it in answer.explanations] == [(5, 0.0)] * 32
        assert sample(server, "headlines_batch_size_sum") == 32 * 7


async def test_expired_and_cancelled_calls_compute_no_further_headline(make_settings):
    engine = HeldEngine()
    async with running(make_settings(), engine) as (server, stub):
        timeout = await generous(stub)
        for ends in ("expired", "cancelled"):
            batches = sample(server, "headlines_batch_size_count")
            call = stub.Explain(request(*["park"] * 5), timeout=timeout if ends == "expired" else 60)
            await engine.hold()
            if ends == "expired":
                assert (await failure(call))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
            else:
                call.cancel()
            await until(lambda: not sample(server, "headlines_queue_headlines"))
            engine.go.set()
            assert len((await stub.Predict(pb.PredictRequest(headlines=[headline()]))).predictions) == 1
            assert sample(server, "headlines_batch_size_count") == batches + 2  # the one that had begun, and Predict's
            assert sample(server, "headlines_dropped_total", reason=ends) == 171 - BULK


async def test_a_stop_answers_what_has_begun_and_refuses_what_has_not(make_settings):
    engine = HeldEngine()
    async with running(make_settings(), engine) as (server, stub), asyncio.timeout(60):
        begun = stub.Explain(request(*["park"] * 5))
        await engine.hold()
        stopping = asyncio.create_task(server.stop())
        await until(lambda: server._gate.closed)
        code, message, _ = await failure(stub.Explain(request("park")))
        assert (code, message) == (grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        engine.go.set()
        assert len((await begun).explanations) == 5
        await stopping
