"""Questions that the version without training knows some words of."""

from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest


@pytest.fixture(scope="session")
def questions():
    began = datetime(2016, 5, 23, tzinfo=UTC)
    texts = map(" ".join, permutations(("city", "votes", "on", "new", "stadium"), 3))
    return [(text, began + timedelta(hours=i), ("gazette", "herald", "")[i % 3]) for i, text in enumerate(texts)]
