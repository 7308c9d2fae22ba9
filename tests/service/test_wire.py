"""What is read and written by hand is what protobuf reads and writes."""

import math

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from headlines.v1 import popularity_pb2 as pb
from service.api import wire
from service.errors import Malformed
from service.model.version import Prediction

NOW = 1_464_000_000.25

TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])), st.text("aé東", max_size=9000), st.integers(0, 400).map("x".__mul__)
)
TIMES = st.one_of(
    st.builds(pb.Headline().posted_at.__class__, seconds=st.integers(0, 2**36), nanos=st.sampled_from([0, 0, 1, 999_999_999])),
    st.builds(
        pb.Headline().posted_at.__class__, seconds=st.integers(-(2**63), 2**63 - 1), nanos=st.integers(-(2**31), 2**31 - 1)
    ),
)
HEADLINES = st.builds(
    lambda text, posted_at, outlet: pb.Headline(text=text, posted_at=posted_at, outlet=outlet),
    TEXTS,
    st.none() | TIMES,
    TEXTS | st.sampled_from(["", "nytimes"]),
)
MESSAGES = HEADLINES.map(pb.Headline.SerializeToString)


def read(message):
    """A headline as protobuf reads it; None if it cannot."""
    try:
        headline = pb.Headline.FromString(message)
    except DecodeError:
        return None
    return headline.text, wire.seconds(headline.posted_at) if headline.HasField("posted_at") else NOW, headline.outlet


def check(message):
    expected = read(message)
    if expected is None:
        with pytest.raises(Malformed):
            wire.headlines([message], NOW)
    else:
        [found] = wire.headlines([message], NOW)
        assert repr(found) == repr(expected)  # NaN too
        assert type(found[1]) is float


@given(MESSAGES)
@example(pb.Headline(text="x" * 127).SerializeToString())
@example(pb.Headline(text="x" * 128).SerializeToString())
@example(pb.Headline(text="x" * 16_383).SerializeToString())
@example(pb.Headline(text="x" * 16_384, outlet="a").SerializeToString())
@example(pb.Headline(text="a", outlet="x" * 126).SerializeToString())
@example(pb.Headline(text="a", outlet="x" * 128).SerializeToString())
@example(b"")
def test_a_headline_is_what_protobuf_reads(message):
    check(message)


@given(MESSAGES, st.data())
def test_a_headline_with_a_few_other_bytes_is_what_protobuf_reads(message, data):
    changed = bytearray(message)
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, len(changed)))
        changed[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    check(bytes(changed))


@given(st.lists(MESSAGES, max_size=3).map(b"".join))  # fields twice, of which protobuf takes the last or makes one
def test_headlines_in_one_are_what_protobuf_reads(message):
    check(message)


@given(
    st.lists(st.sampled_from([b"\n", b"\x12", b"\x1a", b"\x08", b"\0", b"\x01", b"\x06", b"\x80", b"\xff", b"a"])).map(b"".join)
)
def test_bytes_that_look_like_a_headline_are_what_protobuf_reads(message):
    check(message)


@given(st.lists(HEADLINES, max_size=3), st.integers(-(2**63), 2**63 - 1))
def test_a_request_is_cut_into_its_headlines(headlines, identity):
    request = wire.PredictRequest.FromString(pb.PredictRequest(headlines=headlines).SerializeToString())
    streamed = wire.PredictStreamRequest.FromString(
        pb.PredictStreamRequest(id=identity, headlines=headlines).SerializeToString()
    )
    assert list(request.headlines) == list(streamed.headlines) == [it.SerializeToString() for it in headlines]
    assert streamed.id == identity


OUTPUTS = st.one_of(
    st.floats(0, 1, width=32), st.floats(width=32), st.sampled_from([0.0, -0.0, 1.0, 2.0**-149, 1e-45, math.nan])
)
COUNTS = st.one_of(st.integers(0, 20), st.integers(0, 2**31 - 1))
PREDICTIONS = st.lists(st.builds(Prediction, OUTPUTS, OUTPUTS, COUNTS, COUNTS, st.booleans()), max_size=5)


@given(PREDICTIONS, st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_a_response_is_what_protobuf_writes(predictions, version, identity):
    expected = pb.PredictResponse(model_version=version)
    for each in predictions:
        expected.predictions.add(**each._asdict(), best=each.best)
    found = wire.response(predictions, version)
    assert found == expected.SerializeToString()
    streamed = pb.PredictStreamResponse(id=identity, response=expected)
    assert (
        wire.PredictStreamResponse(id=identity, response=found).SerializeToString() == streamed.SerializeToString() or not found
    )
