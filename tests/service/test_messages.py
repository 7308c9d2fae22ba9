"""What is asked of a large message before it is parsed."""

from hypothesis import given
from hypothesis import strategies as st

from headlines.v1 import popularity_pb2 as pb
from service.api.messages import has_more_fields

REQUESTS = st.builds(
    lambda identity, texts: pb.PredictStreamRequest(id=identity, headlines=[pb.Headline(text=text) for text in texts]),
    st.integers(-(2**63), 2**63 - 1),
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=20),
)


@given(REQUESTS)
def test_it_counts_the_fields_of_a_message(request):
    fields = len(request.headlines) + (request.id != 0)
    raw = request.SerializeToString()
    assert not has_more_fields(raw, fields)
    assert fields == 0 or has_more_fields(raw, fields - 1)


@given(st.binary(), st.integers(0, 5))
def test_it_ends_whatever_the_bytes_are(raw, most):
    assert not has_more_fields(raw, most) or len(raw) > most
