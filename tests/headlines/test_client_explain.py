"""What a client makes of Explain."""

import grpc
import pytest
from fake_server import texts
from test_client import NOON

from headlines.client import (
    Explanation,
    Headline,
    InvalidRequest,
    Overloaded,
    Prediction,
    ServerError,
    Unavailable,
    WordEffect,
)
from headlines.client.parts import MAX_EXPLAINED
from headlines.v1 import popularity_pb2 as pb

WORD = WordEffect("four", False, 0.25, -0.125, 0, 4)


def word_counts(explanations):
    return [explanation.prediction.word_count for explanation in explanations]


def sizes(servicer):
    return sorted((len(request.headlines) for request in servicer.requests), reverse=True)


def test_explain_carries_everything_there_and_back(client, servicer):
    explanations = client.explain(["four", Headline("fives", NOON, "bbcnews")])
    predictions = [Prediction(0.75, 0.25, 4, 0, False, 7), Prediction(0.75, 0.25, 5, 0, True, 7)]
    assert explanations == [Explanation(prediction, (WORD,), 0.5, -0.25) for prediction in predictions]
    assert [headline.outlet for headline in servicer.requests[0].headlines] == ["", "bbcnews"]
    assert servicer.metadata["authorization"] == "Bearer secret"


def test_nothing_to_explain_is_no_request(client, servicer):
    assert client.explain([]) == []
    assert not servicer.requests


def test_many_headlines_are_split_and_answered_in_order(client, servicer):
    servicer.rows = 2000
    headlines = texts(100)
    assert word_counts(client.explain(iter(headlines))) == [len(text) for text in headlines]
    assert sizes(servicer) == [MAX_EXPLAINED] * 3 + [4]


def test_what_is_too_much_for_one_request_is_split_further_as_the_server_says(client, servicer):
    servicer.rows = 45  # two or three headlines at a time, or one
    headlines = texts(70)
    assert word_counts(client.explain(headlines)) == [len(text) for text in headlines]
    assert len(servicer.requests) < 3 * 70
    servicer.requests.clear()
    servicer.rows = 1  # a headline alone is too much
    with pytest.raises(InvalidRequest) as caught:
        client.explain(texts(70))
    assert caught.value.violations == (("headlines[1]", "takes too many rows"),)  # the first has one row
    assert caught.value.index == 1


def test_a_server_that_has_no_room_for_anything_is_not_asked_for_ever(client, servicer):
    servicer.rows = -1
    with pytest.raises(InvalidRequest, match=r"headlines\[0\]: takes too many rows"):
        client.explain(texts(32))
    assert len(servicer.requests) == 1


def test_violations_are_told_by_the_callers_own_index(client):
    headlines = texts(70)
    headlines[40] = "bad"
    with pytest.raises(InvalidRequest) as caught:
        client.explain(headlines)
    assert caught.value.violations == (("headlines[40].text", "is bad"),)
    with pytest.raises(InvalidRequest, match="zone"):
        client.explain([Headline("four", NOON.replace(tzinfo=None))])
    with pytest.raises(TypeError, match="one string"):
        client.explain("four")


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_what_may_pass_is_tried_again(client, servicer, code):
    servicer.failures = [code] * 2
    assert word_counts(client.explain(["four"])) == [4]
    servicer.failures = [code] * 1_000
    with pytest.raises((Unavailable, Overloaded)):
        client.explain(["four"], timeout=3)


def test_a_server_that_is_too_old_is_said_to_be_so(raw):
    with raw(status=(grpc.StatusCode.UNIMPLEMENTED, "Method not found!", ())) as client:
        with pytest.raises(ServerError, match="cannot explain: it is older than this client"):
            client.explain(["four"])
        with pytest.raises(ServerError, match="Method not found"):
            client.predict(["four"])


GOOD = pb.Explanation(prediction=pb.Prediction(main_output=0.5), outlet_effect=0.5)


@pytest.mark.parametrize(
    "explanations",
    [
        [],
        [GOOD] * 2,
        [pb.Explanation(prediction=pb.Prediction(main_output=1.5))],
        [pb.Explanation(outlet_effect=float("nan"))],
        [pb.Explanation(words=[pb.WordEffect(word="a", aux_effect=-1.5)])],
    ],
)
def test_what_is_no_answer_is_the_servers_error(raw, explanations):
    response = pb.ExplainResponse(explanations=explanations).SerializeToString()
    with raw(response=response) as client, pytest.raises(ServerError):
        client.explain(["four"])


def test_the_real_server_is_understood(kind, serve, models):
    headlines = [Headline(f"City votes on new park {'again ' * (i % 50)}", NOON, "gazette") for i in range(40)]
    with serve(models, "--engine", "litert") as server, kind(server.target, timeout=60) as client:
        server.wait_for("serving version")
        explanations = client.explain(headlines)  # some 200 rows each, of 1,024 in a request
        outputs = [prediction.main_output for prediction in client.predict(headlines)]
        assert [explanation.prediction.main_output for explanation in explanations] == pytest.approx(outputs, abs=1e-5)
        for headline, explanation in zip(headlines, explanations, strict=True):
            assert [headline.text[word.start : word.end] for word in explanation.words] == headline.text.split()
            assert any(word.main_effect for word in explanation.words)
        with pytest.raises(InvalidRequest) as caught:
            client.explain([*headlines, "  "])
        assert caught.value.index == 40
