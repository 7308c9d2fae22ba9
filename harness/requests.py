"""Requests with real headlines."""

from __future__ import annotations

import csv
import gzip
import os
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from harness.process import ROOT
from headlines.v1.popularity_pb2 import PredictRequest
from service.errors import UsageError

REAL_DATA = Path(os.environ.get("HEADLINES_REAL_DATA", ROOT.parent / "shared" / "data" / "headlines.csv.gz"))

Question: TypeAlias = tuple[str, datetime, str]  # text, time, outlet


def real_headlines(rows: int | None = None) -> list[Question]:
    """The first rows of the real data, or all of them."""
    if not REAL_DATA.exists():
        raise UsageError(f"{REAL_DATA} is missing; name the real data in HEADLINES_REAL_DATA")
    with gzip.open(REAL_DATA, "rt", encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        return [(row["headline"], datetime.fromisoformat(row["posted_at"]), row["outlet"]) for row in islice(reader, rows)]


def make_requests(headlines: int, count: int = 1000) -> list[bytes]:
    """So many requests with real headlines."""
    rows = real_headlines(count + headlines)
    return [make_request(rows[start : start + headlines]).SerializeToString() for start in range(count)]


def make_request(questions: list[Question]) -> PredictRequest:
    """A request with these headlines."""
    request = PredictRequest()
    for text, posted_at, outlet in questions:
        request.headlines.add(text=text, outlet=outlet).posted_at.FromDatetime(posted_at)
    return request
