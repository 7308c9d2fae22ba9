"""Ask a headline popularity service, from plain or from asynchronous code.

    from headlines.client import Client, Headline

    with Client("127.0.0.1:50051") as client:
        for prediction in client.predict(["Storm closes every school", Headline("Cup final tonight", outlet="bbcnews")]):
            print(f"{prediction.best:.0%}")

`explain` says what moves a score. `AsyncClient` is the same with `await`. What goes wrong is one of these:

ClientError             also itself: the client is closed
├── InvalidSetting      a parameter is malformed, such as `target` or `timeout`; a ValueError too
├── InvalidRequest      a headline is malformed; names each field by the caller's own index, from 0
├── Overloaded          the server's queue is full, and stayed so
├── DeadlineExceeded    the time was up
├── Unavailable         no server can be reached, or it has no model
├── Unauthenticated     the token is missing or wrong
└── ServerError         anything else
"""

from headlines.client.asynchronous import AsyncClient
from headlines.client.blocking import Client
from headlines.client.errors import (
    ClientError,
    DeadlineExceeded,
    InvalidRequest,
    InvalidSetting,
    Overloaded,
    ServerError,
    Unauthenticated,
    Unavailable,
)
from headlines.client.parts import MAX_BYTES, MAX_HEADLINES
from headlines.client.values import Explanation, FieldViolation, Headline, Prediction, WordEffect

__all__ = [
    "MAX_BYTES",
    "MAX_HEADLINES",
    "AsyncClient",
    "Client",
    "ClientError",
    "DeadlineExceeded",
    "Explanation",
    "FieldViolation",
    "Headline",
    "InvalidRequest",
    "InvalidSetting",
    "Overloaded",
    "Prediction",
    "ServerError",
    "Unauthenticated",
    "Unavailable",
    "WordEffect",
]
