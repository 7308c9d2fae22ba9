"""Asks a web port as stock HTTP clients do."""

import http.client
import json
import socket
from typing import NamedTuple

from harness.process import PATIENCE

JSON = {"Content-Type": "application/json"}


class Answer(NamedTuple):
    code: int
    headers: dict  # by name in lower case
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        """The message of an error; its code is the answer's."""
        error = self.json["error"]
        assert error["code"] == self.code
        return error["message"]

    @property
    def fields(self):
        """The fields that an error names."""
        return [it["field"] for detail in self.json["error"]["details"] for it in detail["fieldViolations"]]


def ask(port, method, path, body=None, headers=JSON, *, tls=None):
    """One request on a connection of its own; `body` is JSON unless it is bytes."""
    if body is not None and not isinstance(body, (bytes, list)):
        body = json.dumps(body).encode()
    if tls:
        connection = http.client.HTTPSConnection("localhost", port, timeout=PATIENCE, context=tls)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, headers, encode_chunked=isinstance(body, list))
        response = connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    finally:
        connection.close()


def predict(port, *texts, **headers):
    """POST /v1/predict for some texts."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ask(port, "POST", "/v1/predict", {"headlines": [{"text": it} for it in texts]}, {**JSON, **named})


def connect(port):
    """A connection that says nothing yet."""
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
