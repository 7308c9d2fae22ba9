"""The generated code is what the .proto says, and the API's numbers are the ones that callers were given."""

import subprocess
import sys
from pathlib import Path

import pytest

from headlines.v1 import popularity_pb2

PROTOS = Path(popularity_pb2.__file__).parents[2]

NUMBERS = {
    "Headline": {"text": 1, "posted_at": 2, "outlet": 3},
    "Prediction": {"main_output": 1, "aux_output": 2, "word_count": 3, "unknown_word_count": 4, "outlet_known": 5, "best": 6},
    "PredictRequest": {"headlines": 1},
    "PredictResponse": {"predictions": 1, "model_version": 2},
    "PredictStreamRequest": {"id": 1, "headlines": 2},
    "PredictStreamResponse": {"id": 1, "response": 2, "error": 3},
    "Error": {"code": 1, "message": 2, "violations": 3},
    "FieldViolation": {"field": 1, "description": 2},
    "ExplainRequest": {"headlines": 1},
    "ExplainResponse": {"explanations": 1, "model_version": 2},
    "Explanation": {"prediction": 1, "words": 2, "outlet_effect": 3, "time_effect": 4},
    "WordEffect": {"word": 1, "known": 2, "main_effect": 3, "aux_effect": 4, "start": 5, "end": 6},
    "GetModelRequest": {},
    "GetModelResponse": {
        "name": 1,
        "version": 2,
        "digest": 3,
        "trained_at": 4,
        "loaded_at": 5,
        "synthetic": 6,
        "engine": 7,
        "vocabulary_size": 8,
        "sequence_length": 9,
        "aux_features": 10,
        "outlets": 11,
        "label": 12,
        "label_threshold": 13,
        "evaluation": 14,
        "limits": 15,
        "versions": 16,
        "label_description": 17,
        "frozen_features": 18,
        "outlet_count": 19,
        "label_change": 20,
        "first_post_at": 21,
        "last_post_at": 22,
    },
    "Limits": {"max_headlines": 1, "max_text_bytes": 2, "max_message_bytes": 3, "max_explain_rows": 4},
    "ModelVersion": {"version": 1, "digest": 2, "state": 3, "error": 4},
}


def test_field_numbers_stay_as_they_were_given_out():
    messages = popularity_pb2.DESCRIPTOR.message_types_by_name
    assert {name: {field.name: field.number for field in message.fields} for name, message in messages.items()} == NUMBERS


def test_generated_code_is_fresh(tmp_path):
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", "-I", PROTOS),
            *(f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")),
            PROTOS / "headlines/v1/popularity.proto",
        ],
        check=True,
    )
    made = sorted((tmp_path / "headlines/v1").iterdir())
    assert len(made) == 3
    for path in made:
        assert path.read_text() == (PROTOS / "headlines/v1" / path.name).read_text(), "run `make protos`"
