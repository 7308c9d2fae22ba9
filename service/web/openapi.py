"""The description of the JSON API, as OpenAPI 3.1 has it (https://spec.openapis.org/oas/v3.1.0)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from google.protobuf.descriptor import FieldDescriptor

from headlines.v1 import popularity_pb2
from service.predictor import Limits
from service.web import messages

_ERRORS = {
    "400": "The request is malformed; `details` names each field",
    "401": "A valid token is missing",
    "403": "The Host or the Origin is not one of this server's",
    "404": "There is no such path",
    "405": "The path has another method",
    "408": "The body was not here within 10 s",
    "413": "The body has more than 1 MiB",
    "415": "The Content-Type is not application/json, or the body is compressed",
    "429": "The queue is full; Retry-After says for how long to wait",
    "500": "An error of the server's, with an id that its log has too",
    "503": "No model version is live, or the server stops",
    "504": "The deadline passed",
}
_GET_ERRORS = ("401", "403", "404", "405", "500", "503")
TIMEOUT = "([0-9]{1,8})([HMSmun])"  # gRPC's form of a deadline
_TIMEOUT_HEADER = {
    "name": "Grpc-Timeout",
    "in": "header",
    "description": "The deadline, such as 500m for 500 milliseconds or 2S for two seconds. By default 10 s.",
    "schema": {"type": "string", "pattern": f"^{TIMEOUT}$"},
}
# What str.isspace says of no character of it; regular expressions do not agree with it, nor with each other.
_NOT_BLANK = r"[^\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
# What protobuf's types are in JSON; 64-bit integers are strings, since JavaScript's numbers do not hold them.
_TYPES: dict[int, dict[str, Any]] = {
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer"},
    FieldDescriptor.CPPTYPE_INT64: {"type": "string"},
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.CPPTYPE_STRING: {"type": "string"},
}


def document(version: str, limits: Limits, *, with_tokens: bool) -> bytes:
    """The document as JSON; `version` is the program's."""
    schemas = messages.schemas()
    schemas["Headline"]["properties"]["text"] |= {"minLength": 1, "maxLength": limits.max_text_bytes, "pattern": _NOT_BLANK}
    schemas["Headline"]["not"] = {"required": ["postedAt", "posted_at"]}
    _describe(popularity_pb2.GetModelResponse.DESCRIPTOR, schemas)
    paths = {
        "/v1/predict": {
            "post": _post("Predicts how popular up to 128 headlines will be", "PredictRequest", "PredictResponse", "predict")
        },
        "/v1/explain": {
            "post": _post("Tells what moves the scores of up to 32 headlines", "ExplainRequest", "ExplainResponse", "explain")
        },
        "/v1/model": {
            "get": {
                "operationId": "model",
                "summary": "Tells what is served, how good it was on posts that it had not seen, and the limits of a request",
                "responses": {"200": _content("GetModelResponse", "What is served"), **_errors(_GET_ERRORS)},
            }
        },
    }
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Headline popularity",
            "version": version,
            "description": "The JSON form of headlines.v1.PopularityService.",
        },
        "servers": [{"url": "."}],  # also below a proxy's path
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if with_tokens:
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
    return msgspec.json.encode(found)


def _post(summary: str, request: str, response: str, name: str) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        "parameters": [_TIMEOUT_HEADER],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _schema(request)}}},
        "responses": {"200": _content(response, "One answer a headline, in their order"), **_errors(_ERRORS)},
    }


def _errors(codes: Iterable[str]) -> dict[str, Any]:
    return {code: _content("ErrorResponse", _ERRORS[code]) for code in codes}


def _content(name: str, description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _schema(name)}}}


def _schema(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _describe(message: Any, schemas: dict[str, Any]) -> None:  # noqa: ANN401
    """Add the schema of an answer that protobuf's json_format makes, and those of the messages in it."""
    properties = {it.json_name: _field(it, schemas) for it in message.fields}
    schemas[message.name] = {"title": message.name, "type": "object", "properties": properties, "additionalProperties": False}


def _field(described: FieldDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    kind = described.message_type
    if kind and kind.GetOptions().map_entry:
        return {"type": "object", "additionalProperties": _single(kind.fields_by_name["value"], schemas)}
    single = _single(described, schemas)
    return {"type": "array", "items": single} if described.is_repeated else single


def _single(described: FieldDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    if described.enum_type:
        return {"type": "string", "enum": [it.name for it in described.enum_type.values]}
    if kind := described.message_type:
        if kind.full_name == "google.protobuf.Timestamp":
            return {"type": "string", "format": "date-time"}
        if kind.name not in schemas:
            _describe(kind, schemas)
        return dict(_schema(kind.name))
    return _TYPES[described.cpp_type]
