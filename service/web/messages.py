"""The JSON form of the protos' messages: requests from bytes, answers and errors to bytes.

It is proto3's (https://protobuf.dev/programming-guides/json/): names in lowerCamelCase, and in a request also as the proto has
them; 64-bit integers are strings, and no field of an answer is left out. protobuf's own json_format does the same, but takes
60 us of the event loop for each headline; it makes what is seldom made, GetModel's answer.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
import numpy as np
from google.protobuf import json_format
from msgspec import UNSET, Meta, Struct, UnsetType, field

from headlines.v1 import popularity_pb2
from service import errors
from service.errors import InvalidRequest
from service.model import explanation, preprocessing, version
from service.predictor import MAX_EXPLAINED, Answer, Explained

MAX_HEADLINES = 128  # of a request, which every client may send to every server without asking

_AT = re.compile(r" - at `\$\.?([^`]*)`$")
_LONE_SURROGATE = re.compile(rb"\\u[dD](?:[89abAB]..(?!\\u[dD][c-fC-F])|[c-fC-F])")

_When = Annotated[datetime, Meta(tz=True)]


def _number(most: int) -> Meta:
    """How many headlines there may be, for the schema alone: the predictor says what is wrong better than msgspec."""
    return Meta(extra_json_schema={"minItems": 1, "maxItems": most})


class Headline(Struct, forbid_unknown_fields=True):
    """A headline as a newsroom would post it."""

    text: Annotated[str, Meta(description="The headline itself, in any language; not blank.")]
    posted_at: Annotated[
        _When | UnsetType | None, Meta(description="When it is posted, as RFC 3339 writes it. Absent: now.")
    ] = field(name="postedAt", default=UNSET)
    posted_at_as_in_the_proto: Annotated[_When | UnsetType | None, Meta(description="The same; give one of the two.")] = field(
        name="posted_at", default=UNSET
    )
    outlet: Annotated[
        str | None, Meta(description="The account that posts it, as GET /v1/model lists those that are known. Absent: none.")
    ] = None


class PredictRequest(Struct, forbid_unknown_fields=True):
    """1 to 128 headlines."""

    headlines: Annotated[list[Headline], _number(MAX_HEADLINES)]


class ExplainRequest(Struct, forbid_unknown_fields=True):
    """1 to 32 headlines, which together take at most `limits.maxExplainRows` of GET /v1/model."""

    headlines: Annotated[list[Headline], _number(MAX_EXPLAINED)]


class Prediction(Struct, rename="camel"):
    """How popular a headline will be; `best` is the number to use."""

    main_output: float
    aux_output: float
    word_count: int
    unknown_word_count: int
    outlet_known: bool
    best: float


class PredictResponse(Struct, rename="camel"):
    """One prediction a headline, in their order."""

    predictions: list[Prediction]
    model_version: str


class WordEffect(Struct, rename="camel"):
    """What one word does to a headline's score."""

    word: str
    known: bool
    main_effect: float
    aux_effect: float
    start: int
    end: int


class Explanation(Struct, rename="camel"):
    """What moves the score of one headline."""

    prediction: Prediction
    words: list[WordEffect]
    outlet_effect: float
    time_effect: float


class ExplainResponse(Struct, rename="camel"):
    """One explanation a headline, in their order."""

    explanations: list[Explanation]
    model_version: str


class FieldViolation(Struct):
    """One field of a request that is wrong."""

    field: str
    description: str


class BadRequest(Struct, rename="camel", tag_field="@type", tag="type.googleapis.com/google.rpc.BadRequest"):
    """Each field that is wrong."""

    field_violations: list[FieldViolation]


class Error(Struct):
    """google.rpc.Status, with the HTTP status in place of gRPC's number and that by name."""

    code: int
    status: str
    message: str
    details: list[BadRequest]


class ErrorResponse(Struct):
    """Why a request has no other answer."""

    error: Error


_decoder = msgspec.json.Decoder(PredictRequest)  # an ExplainRequest looks the same
_encoder = msgspec.json.Encoder()


def headlines(body: bytes) -> list[preprocessing.Headline]:
    """The headlines of a request. Raises InvalidRequest, which quotes nothing of the body."""
    try:
        request = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the body is not JSON in UTF-8: {_why(body, error)}") from None
    now = time.time()
    return [preprocessing.Headline(it.text, _seconds(i, it, now), it.outlet or "") for i, it in enumerate(request.headlines)]


def _invalid(problem: str) -> InvalidRequest:
    """What msgspec says of a field; a field's name is the caller's, and may be a headline."""
    matched = _AT.search(problem)
    name = matched[1] if matched else ""
    problem = _AT.sub("", problem)
    if problem.startswith("Object contains unknown field"):
        known = ", ".join(Headline.__struct_encode_fields__ if name else PredictRequest.__struct_encode_fields__)
        problem = f"has an unknown field; there are {known}"
    return InvalidRequest("the JSON is no request", [errors.FieldViolation(name or "the body", problem)])


def _why(body: bytes, error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "a text holds bytes that are not UTF-8"
    if _LONE_SURROGATE.search(body):
        return "a text holds half of a surrogate pair, such as \\ud83d alone"
    return str(error)


def _seconds(i: int, headline: Headline, now: float) -> float:
    when, again = headline.posted_at, headline.posted_at_as_in_the_proto
    if when is UNSET:
        when = again
    elif again is not UNSET:
        problem = "is there as postedAt and as posted_at; give one"
        raise InvalidRequest("the JSON is no request", [errors.FieldViolation(f"headlines[{i}]", problem)])
    return when.timestamp() if isinstance(when, datetime) else now


def predicted(answer: Answer) -> bytes:
    """A PredictResponse."""
    return _encoder.encode(PredictResponse([_prediction(it) for it in answer.predictions], str(answer.version)))


def explained(answer: Explained) -> bytes:
    """An ExplainResponse."""
    return _encoder.encode(ExplainResponse([_explanation(it) for it in answer.explanations], str(answer.version)))


def described(response: bytes) -> bytes:
    """A GetModelResponse from its serialized form. It takes milliseconds."""
    message = popularity_pb2.GetModelResponse.FromString(response)
    return json_format.MessageToJson(message, always_print_fields_with_no_presence=True, indent=None).encode()


def failed(code: int, status: str, message: str, violations: Sequence[errors.FieldViolation] = ()) -> bytes:
    """An error; `code` is HTTP's and `status` gRPC's by name."""
    details = [BadRequest([FieldViolation(it.field, it.description) for it in violations])] if violations else []
    return _encoder.encode(ErrorResponse(Error(code, status, message, details)))


def _prediction(it: version.Prediction) -> Prediction:
    main, aux = _shortest(it.main_output), _shortest(it.aux_output)
    best = main if it.outlet_known else aux
    return Prediction(main, aux, it.word_count, it.unknown_word_count, it.outlet_known, best)


def _explanation(it: explanation.Explanation) -> Explanation:
    words = [
        WordEffect(word.word, word.known, _shortest(word.main_effect), _shortest(word.aux_effect), word.start, word.end)
        for word in it.words
    ]
    return Explanation(_prediction(it.prediction), words, _shortest(it.outlet_effect), _shortest(it.time_effect))


def _shortest(number: float) -> float:
    """The number with the fewest digits that is the same as a 32-bit float."""
    return float(str(np.float32(number)))


def schemas() -> dict[str, Any]:
    """JSON Schemas of what requests and answers hold, by name, for OpenAPI."""
    _, found = msgspec.json.schema_components(
        [PredictRequest, PredictResponse, ExplainRequest, ExplainResponse, ErrorResponse],
        ref_template="#/components/schemas/{name}",
    )
    return found
