"""What the client asks and answers, and which error it raises."""

from concurrent import futures
from datetime import UTC, datetime, timedelta, timezone

import grpc
import pytest
from fake_server import INVALID, texts, word_counts

from headlines.client import (
    MAX_BYTES,
    MAX_HEADLINES,
    AsyncClient,
    Client,
    DeadlineExceeded,
    Headline,
    InvalidRequest,
    Overloaded,
    Prediction,
    ServerError,
    Unauthenticated,
    Unavailable,
)

NOON = datetime(2026, 3, 1, 12, 30, tzinfo=timezone(timedelta(hours=2)))


def test_predict_carries_everything_there_and_back(client, servicer):
    predictions = client.predict(["four", Headline("fives", NOON, "bbcnews")])

    assert predictions == [Prediction(0.75, 0.25, 4, 0, False, 7), Prediction(0.75, 0.25, 5, 0, True, 7)]
    first, second = servicer.requests[0].headlines
    assert not first.HasField("posted_at")
    assert second.posted_at.ToDatetime(UTC) == NOON
    assert second.outlet == "bbcnews"
    assert servicer.metadata["authorization"] == "Bearer secret"


def test_each_client_has_a_connection_of_its_own(kind, target, servicer):
    with kind(target) as one, kind(target) as other:
        for client in (one, other, one):
            client.predict(["a"])
    assert len(servicer.peers) == 2


def test_the_best_number_is_by_the_words_alone_where_the_outlet_is_unknown(client):
    unknown, known = client.predict(["a", Headline("a", outlet="bbcnews")])
    assert (unknown.best, known.best) == (0.25, 0.75)


def test_nothing_to_predict_is_no_request(client, servicer):
    assert client.predict([]) == []
    assert list(client.predict_stream([])) == []
    assert not servicer.requests
    assert not servicer.streams


def test_many_headlines_are_split_and_answered_in_order(client, servicer):
    headlines = texts(1000)
    assert word_counts(client.predict(iter(headlines))) == [len(text) for text in headlines]
    assert sorted(len(request.headlines) for request in servicer.requests) == [1000 % MAX_HEADLINES] + [MAX_HEADLINES] * 7


def test_long_headlines_are_split_by_bytes(client, servicer):
    headlines = ["é" * 130_000] * 9  # four to a MiB
    assert word_counts(client.predict(headlines)) == [130_000] * 9
    assert all(request.ByteSize() <= MAX_BYTES for request in servicer.requests)
    assert len(servicer.requests) == 3


def test_one_version_refuses_what_needs_several_requests(client, servicer):
    assert len(client.predict(texts(MAX_HEADLINES), one_version=True)) == MAX_HEADLINES
    with pytest.raises(InvalidRequest, match="2 requests"):
        client.predict(texts(MAX_HEADLINES + 1), one_version=True)
    assert len(servicer.requests) == 1


@pytest.mark.parametrize(
    ("headline", "field"),
    [
        (Headline("a", datetime(2026, 3, 1)), "headlines[1].posted_at"),
        (Headline("a", datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))), "headlines[1].posted_at"),
        ("x" * 2**20, "headlines[1]"),
        ("\ud800", "headlines[1]"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_name(client, servicer, headline, field):
    with pytest.raises(InvalidRequest) as caught:
        client.predict(["fine", headline])
    assert [violation.field for violation in caught.value.violations] == [field]
    assert str(caught.value).startswith(field)
    assert not servicer.requests
    fine, wrong = client.predict_stream(["fine", headline])
    assert fine.word_count == 4
    assert [violation.field for violation in wrong.violations] == [field]


def test_one_string_is_no_list_of_headlines(client):
    with pytest.raises(TypeError, match="one string"):
        client.predict("Storm closes every school")
    with pytest.raises(TypeError, match="one string"):
        list(client.predict_stream("Storm closes every school"))


def test_a_time_that_is_no_datetime_is_a_type_error(client):
    with pytest.raises(TypeError, match=r"headlines\[0\]\.posted_at is a str"):
        client.predict([Headline("a", "2026-03-01")])


def test_violations_are_told_by_the_callers_own_index(client):
    headlines = texts(400)
    headlines[299] = headlines[383] = "bad"
    with pytest.raises(InvalidRequest) as caught:
        client.predict(headlines)
    assert caught.value.violations == (("headlines[299].text", "is bad"), ("headlines[383].text", "is bad"))


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED])
def test_what_may_pass_is_tried_again(client, servicer, code):
    servicer.failures = [code] * 2
    assert word_counts(client.predict(["four"])) == [4]
    servicer.failures = [code] * 2
    assert word_counts(client.predict_stream(["four"])) == [4]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded),
        (grpc.StatusCode.UNAUTHENTICATED, Unauthenticated),
        (grpc.StatusCode.INTERNAL, ServerError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (INVALID, InvalidRequest),
    ],
)
def test_what_does_not_pass_is_one_of_the_clients_errors(client, servicer, code, error):
    servicer.failures = [code] * 1_000
    with pytest.raises(error, match="on purpose"):
        client.predict(["four"], timeout=9)
    with pytest.raises(error):  # what grpc.aio says of a stream that ended is now and then not the server's word
        list(client.predict_stream(["four"], timeout=9))


def test_no_server_is_unavailable_before_the_time_is_up(kind):
    with kind("127.0.0.1:1", timeout=3) as client:
        with pytest.raises(Unavailable):
            client.predict(["four"])
        with pytest.raises(Unavailable):
            client.model()
        with pytest.raises(Unavailable):
            client.health()
        with pytest.raises(Unavailable):
            list(client.predict_stream(["four"], timeout=3))


def test_one_deadline_holds_for_all_requests_of_a_list(client, servicer):
    servicer.hold.clear()
    with pytest.raises(DeadlineExceeded):
        client.predict(texts(1000), timeout=0.1)
    servicer.hold.set()
    assert len(servicer.requests) <= 4


def test_a_stream_answers_in_order_and_takes_in_as_it_goes(client, servicer):
    taken = 0

    def source():
        nonlocal taken
        for text in texts(5000):
            taken += 1
            yield text

    answers = client.predict_stream(source())
    first = next(answers)
    assert first.word_count == 1
    assert taken <= 5 * MAX_HEADLINES
    assert word_counts([first, *answers]) == [len(text) for text in texts(5000)]
    assert servicer.streams == 1


def test_a_bad_headline_in_a_stream_harms_no_other(client):
    headlines = texts(1000)
    for i in (0, 5, 127, 128, 999):
        headlines[i] = "bad"
    answers = list(client.predict_stream(headlines))
    wrong = {i: answer for i, answer in enumerate(answers) if isinstance(answer, InvalidRequest)}
    assert {i: answer.violations for i, answer in wrong.items()} == {
        i: ((f"headlines[{i}].text", "is bad"),) for i in (0, 5, 127, 128, 999)
    }
    assert all(i in wrong or answer.word_count == len(headlines[i]) for i, answer in enumerate(answers))


def test_a_stream_that_breaks_goes_on_over_a_new_one(client, servicer):
    servicer.break_after = [2, 0, 1, 3]
    headlines = texts(2000)
    assert word_counts(client.predict_stream(headlines)) == [len(text) for text in headlines]
    assert servicer.streams == 5


def test_a_stream_may_have_a_deadline(client, servicer):
    servicer.hold.clear()
    with pytest.raises(DeadlineExceeded):
        list(client.predict_stream(texts(10), timeout=0.1))
    servicer.hold.set()


def test_a_stream_that_is_left_ends(client):
    answers = client.predict_stream(texts(5000))
    next(answers)
    answers.close()
    assert word_counts(client.predict(["four"])) == [4]


async def test_an_asynchronous_source_feeds_a_stream(target):
    async def source():
        for text in texts(300):
            yield text

    async with AsyncClient(target) as client:
        assert [answer.word_count async for answer in client.predict_stream(source())] == [len(text) for text in texts(300)]


def test_model_and_health(client, servicer):
    assert client.model().version == 7
    assert client.health() is True
    servicer.failures = [grpc.StatusCode.UNAUTHENTICATED, INVALID]
    with pytest.raises(Unauthenticated):
        client.model()
    assert client.health() is False
    assert servicer.metadata["authorization"] == "Bearer secret"


def test_threads_share_a_client(target):
    with Client(target) as client, futures.ThreadPoolExecutor(8) as pool:
        lists = [texts(200)[i:] for i in range(32)]
        for headlines, predictions in zip(lists, pool.map(client.predict, lists), strict=True):
            assert word_counts(predictions) == [len(text) for text in headlines]


def test_the_real_server_is_understood(kind, serve, models):
    headlines = [f"City votes on new park {'again ' * (i % 7)}" for i in range(300)]
    headlines[7] = "  "
    headlines[299] = "x" * 5000
    fine = [text for i, text in enumerate(headlines) if i not in (7, 299)]
    with serve(models, "--engine", "litert") as server, kind(server.target, timeout=30) as client:
        server.wait_for("serving version")
        assert client.health()
        assert client.model().version == 1
        predictions = client.predict([Headline(text, NOON, "gazette") for text in fine])
        assert word_counts(predictions) == [len(text.split()) for text in fine]
        assert all(prediction.outlet_known and prediction.model_version == 1 for prediction in predictions)
        with pytest.raises(InvalidRequest) as caught:
            client.predict(headlines, timeout=30)
        assert [violation.field for violation in caught.value.violations] == ["headlines[7].text"]

        answers = list(client.predict_stream(Headline(text, NOON, "gazette") for text in headlines))
        wrong = {i: answer for i, answer in enumerate(answers) if isinstance(answer, InvalidRequest)}
        assert {i: error.violations[0].field for i, error in wrong.items()} == {
            7: "headlines[7].text",
            299: "headlines[299].text",
        }
        outputs = [answer.main_output for i, answer in enumerate(answers) if i not in wrong]
        assert outputs == pytest.approx([prediction.main_output for prediction in predictions], abs=1e-5)
