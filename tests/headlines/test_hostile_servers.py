"""Answers that no sound server gives: each ends in an error of the client's, and none is taken for an answer."""

import math
import threading

import grpc
import pytest
from fake_server import INVALID, serving, texts
from google.rpc.status_pb2 import Status

from headlines.client import ClientError, InvalidRequest, Prediction, ServerError
from headlines.v1.popularity_pb2 import Error, PredictResponse, PredictStreamResponse
from headlines.v1.popularity_pb2 import Prediction as PredictionMessage

SECONDS = 5  # the timeout of each call
GOOD = PredictionMessage(main_output=0.75, aux_output=0.25)
RESPONSES = {
    "bytes that are no message": b"\xff\xff\xff",
    "no prediction": b"",
    "one too many": PredictResponse(predictions=[GOOD] * 3).SerializeToString(),
    "not a number": PredictResponse(predictions=[GOOD, PredictionMessage(main_output=math.nan)]).SerializeToString(),
    "above 1": PredictResponse(predictions=[GOOD, PredictionMessage(aux_output=1.5)]).SerializeToString(),
    "below 0": PredictResponse(predictions=[GOOD, PredictionMessage(main_output=-math.inf)]).SerializeToString(),
}


def answer(request_id=1, **result):
    return PredictStreamResponse(id=request_id, **result).SerializeToString()


def violating(*fields):
    error = Error(code=INVALID.value[0], message="malformed")
    for field in fields:
        error.violations.add(field=field, description="is bad")
    return [answer(error=error)]


def sound(request_id=1):
    return answer(request_id, response=PredictResponse(predictions=[GOOD] * 2))


STREAMS = {
    "bytes that are no message": [b"\xff\xff\xff"],
    "neither an answer nor an error": [answer()],
    "too few": [answer(response=PredictResponse(predictions=[GOOD]))],
    "not a number": [answer(response=PredictResponse(predictions=[PredictionMessage(main_output=math.nan)] * 2))],
    "an id that was not sent": [answer(7)],
    "a negative id": [answer(-1)],
    "an error of no code": [answer(error=Error())],
    "an unknown code": [answer(error=Error(code=99, message="what"))],
    "a negative code": [answer(error=Error(code=-3))],
    "a violation of no field": violating(""),
    "a field of 5,000 digits": violating(f"headlines[{'7' * 5_000}].text"),
    "a negative index": violating("headlines[-1].text"),
    "an index beyond the request": violating("headlines[2].text"),
    "digits that are not ASCII": violating("headlines[\u0661].text"),
    "no violation": violating(),
    "a malformed id 0": [answer(0, error=Error(code=INVALID.value[0], message="bytes that are no request"))],
}


@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
def test_what_is_no_answer_is_the_servers_error(raw, response):
    with raw(response=response) as client, pytest.raises(ServerError):
        client.predict(["a", "b"])


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_what_is_no_answer_ends_a_stream_with_an_error(raw, stream):
    with raw(stream=stream) as client, pytest.raises((ServerError, InvalidRequest)) as caught:
        list(client.predict_stream(["a", "b"], timeout=SECONDS))
    assert str(caught.value)
    assert len(str(caught.value)) < 2_000
    assert getattr(caught.value, "index", None) is None


def test_an_answer_that_comes_twice_is_the_servers_error(raw):
    with raw(stream=[sound(), sound()]) as client:
        answers = client.predict_stream(["a", "b"] * 500, timeout=SECONDS)
        with pytest.raises(ClientError):
            list(answers)


def test_a_server_that_never_ends_its_stream_keeps_nobody(raw):
    release = threading.Event()
    with raw(stream=[sound()], waits=release) as client:
        answers = list(client.predict_stream(["a", "b"]))
    release.set()
    assert [type(it) for it in answers] == [Prediction, Prediction]


@pytest.mark.parametrize(
    "trailers",
    [
        (("grpc-status-details-bin", b"\xff\xff\xff"),),
        (("grpc-status-details-bin", Status(code=5, message="another").SerializeToString()),),
        (("grpc-status-details-bin", b""), ("grpc-status-details-bin", b"\x00")),
    ],
)
def test_status_details_that_cannot_be_read_are_passed_over(raw, trailers):
    status = INVALID, "malformed \u20ac \ud7ff", trailers
    with raw(status=status) as client, pytest.raises(InvalidRequest, match="malformed") as caught:
        client.predict(["a"])
    assert caught.value.violations == ()


def test_an_empty_message_becomes_one_that_names_the_status(raw):
    with raw(status=(grpc.StatusCode.INTERNAL, "", ())) as client, pytest.raises(ServerError, match="INTERNAL"):
        client.predict(["a"])


def test_as_many_violations_as_headlines_arrive(client, servicer):
    servicer.description = "is bad: " + 100 * "x"  # 128 of them are more metadata than gRPC takes by default
    with pytest.raises(InvalidRequest) as caught:
        client.predict(["bad"] * 128)
    assert len(caught.value.violations) == 128
    assert caught.value.index == 0


@pytest.mark.parametrize("words", ["Received message larger than max (5 vs. 4)", "Sent message larger than max (5 vs. 4)"])
def test_a_message_too_large_is_no_overload(client, servicer, words):
    servicer.failures = [grpc.StatusCode.RESOURCE_EXHAUSTED] * 100
    servicer.words = words
    for ask in (client.model, lambda: client.predict(["a"]), lambda: list(client.predict_stream(["a"]))):
        with pytest.raises(ServerError, match="larger than"):
            ask()


def test_a_server_that_takes_only_small_messages_is_not_called_overloaded(kind, servicer):
    with serving(servicer, max_receive_message_length=1_000) as target, kind(target) as client:
        with pytest.raises(ServerError, match="larger than"):
            client.predict(["x" * 2_000])
        with pytest.raises(ClientError):
            list(client.predict_stream(["x" * 2_000], timeout=SECONDS))


def test_a_model_of_very_many_outlets_is_received(client, servicer):
    servicer.outlets = [f"outlet{i:024}" for i in range(200_000)]
    assert len(client.model().outlets) == 200_000


def test_the_index_of_a_malformed_headline_is_the_callers(client):
    headlines = texts(300)
    headlines[200] = "bad"
    with pytest.raises(InvalidRequest) as caught:
        client.predict(headlines)
    assert caught.value.index == 200
    assert [i for i, it in enumerate(client.predict_stream(headlines)) if isinstance(it, InvalidRequest) and it.index == i] == [
        200
    ]
    headlines[250] = "\ud800"
    *_, wrong = [it for it in client.predict_stream(headlines) if isinstance(it, InvalidRequest)]
    assert wrong.index == 250
    assert "UTF-8" in str(wrong)
