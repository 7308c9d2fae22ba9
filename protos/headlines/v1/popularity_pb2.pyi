from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Headline(_message.Message):
    __slots__ = ("text", "posted_at", "outlet")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    POSTED_AT_FIELD_NUMBER: _ClassVar[int]
    OUTLET_FIELD_NUMBER: _ClassVar[int]
    text: str
    posted_at: _timestamp_pb2.Timestamp
    outlet: str
    def __init__(self, text: _Optional[str] = ..., posted_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., outlet: _Optional[str] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("main_output", "aux_output", "word_count", "unknown_word_count", "outlet_known", "best")
    MAIN_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    AUX_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    WORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_WORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    OUTLET_KNOWN_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    main_output: float
    aux_output: float
    word_count: int
    unknown_word_count: int
    outlet_known: bool
    best: float
    def __init__(self, main_output: _Optional[float] = ..., aux_output: _Optional[float] = ..., word_count: _Optional[int] = ..., unknown_word_count: _Optional[int] = ..., outlet_known: bool = ..., best: _Optional[float] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("headlines",)
    HEADLINES_FIELD_NUMBER: _ClassVar[int]
    headlines: _containers.RepeatedCompositeFieldContainer[Headline]
    def __init__(self, headlines: _Optional[_Iterable[_Union[Headline, _Mapping]]] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("predictions", "model_version")
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    predictions: _containers.RepeatedCompositeFieldContainer[Prediction]
    model_version: int
    def __init__(self, predictions: _Optional[_Iterable[_Union[Prediction, _Mapping]]] = ..., model_version: _Optional[int] = ...) -> None: ...

class PredictStreamRequest(_message.Message):
    __slots__ = ("id", "headlines")
    ID_FIELD_NUMBER: _ClassVar[int]
    HEADLINES_FIELD_NUMBER: _ClassVar[int]
    id: int
    headlines: _containers.RepeatedCompositeFieldContainer[Headline]
    def __init__(self, id: _Optional[int] = ..., headlines: _Optional[_Iterable[_Union[Headline, _Mapping]]] = ...) -> None: ...

class PredictStreamResponse(_message.Message):
    __slots__ = ("id", "response", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: int
    response: PredictResponse
    error: Error
    def __init__(self, id: _Optional[int] = ..., response: _Optional[_Union[PredictResponse, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message", "violations")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    violations: _containers.RepeatedCompositeFieldContainer[FieldViolation]
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., violations: _Optional[_Iterable[_Union[FieldViolation, _Mapping]]] = ...) -> None: ...

class FieldViolation(_message.Message):
    __slots__ = ("field", "description")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    field: str
    description: str
    def __init__(self, field: _Optional[str] = ..., description: _Optional[str] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("headlines",)
    HEADLINES_FIELD_NUMBER: _ClassVar[int]
    headlines: _containers.RepeatedCompositeFieldContainer[Headline]
    def __init__(self, headlines: _Optional[_Iterable[_Union[Headline, _Mapping]]] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("explanations", "model_version")
    EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    explanations: _containers.RepeatedCompositeFieldContainer[Explanation]
    model_version: int
    def __init__(self, explanations: _Optional[_Iterable[_Union[Explanation, _Mapping]]] = ..., model_version: _Optional[int] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("prediction", "words", "outlet_effect", "time_effect")
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    OUTLET_EFFECT_FIELD_NUMBER: _ClassVar[int]
    TIME_EFFECT_FIELD_NUMBER: _ClassVar[int]
    prediction: Prediction
    words: _containers.RepeatedCompositeFieldContainer[WordEffect]
    outlet_effect: float
    time_effect: float
    def __init__(self, prediction: _Optional[_Union[Prediction, _Mapping]] = ..., words: _Optional[_Iterable[_Union[WordEffect, _Mapping]]] = ..., outlet_effect: _Optional[float] = ..., time_effect: _Optional[float] = ...) -> None: ...

class WordEffect(_message.Message):
    __slots__ = ("word", "known", "main_effect", "aux_effect", "start", "end")
    WORD_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    MAIN_EFFECT_FIELD_NUMBER: _ClassVar[int]
    AUX_EFFECT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    word: str
    known: bool
    main_effect: float
    aux_effect: float
    start: int
    end: int
    def __init__(self, word: _Optional[str] = ..., known: bool = ..., main_effect: _Optional[float] = ..., aux_effect: _Optional[float] = ..., start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("name", "version", "digest", "trained_at", "loaded_at", "synthetic", "engine", "vocabulary_size", "sequence_length", "aux_features", "outlets", "label", "label_threshold", "evaluation", "limits", "versions", "label_description", "frozen_features", "outlet_count", "label_change", "first_post_at", "last_post_at")
    class EvaluationEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TRAINED_AT_FIELD_NUMBER: _ClassVar[int]
    LOADED_AT_FIELD_NUMBER: _ClassVar[int]
    SYNTHETIC_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    AUX_FEATURES_FIELD_NUMBER: _ClassVar[int]
    OUTLETS_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LABEL_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    LABEL_DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FEATURES_FIELD_NUMBER: _ClassVar[int]
    OUTLET_COUNT_FIELD_NUMBER: _ClassVar[int]
    LABEL_CHANGE_FIELD_NUMBER: _ClassVar[int]
    FIRST_POST_AT_FIELD_NUMBER: _ClassVar[int]
    LAST_POST_AT_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    digest: str
    trained_at: _timestamp_pb2.Timestamp
    loaded_at: _timestamp_pb2.Timestamp
    synthetic: bool
    engine: str
    vocabulary_size: int
    sequence_length: int
    aux_features: _containers.RepeatedScalarFieldContainer[str]
    outlets: _containers.RepeatedScalarFieldContainer[str]
    label: str
    label_threshold: float
    evaluation: _containers.ScalarMap[str, float]
    limits: Limits
    versions: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    label_description: str
    frozen_features: _containers.RepeatedScalarFieldContainer[str]
    outlet_count: int
    label_change: str
    first_post_at: _timestamp_pb2.Timestamp
    last_post_at: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., digest: _Optional[str] = ..., trained_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., loaded_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., synthetic: bool = ..., engine: _Optional[str] = ..., vocabulary_size: _Optional[int] = ..., sequence_length: _Optional[int] = ..., aux_features: _Optional[_Iterable[str]] = ..., outlets: _Optional[_Iterable[str]] = ..., label: _Optional[str] = ..., label_threshold: _Optional[float] = ..., evaluation: _Optional[_Mapping[str, float]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., versions: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ..., label_description: _Optional[str] = ..., frozen_features: _Optional[_Iterable[str]] = ..., outlet_count: _Optional[int] = ..., label_change: _Optional[str] = ..., first_post_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_post_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_headlines", "max_text_bytes", "max_message_bytes", "max_explain_rows")
    MAX_HEADLINES_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_EXPLAIN_ROWS_FIELD_NUMBER: _ClassVar[int]
    max_headlines: int
    max_text_bytes: int
    max_message_bytes: int
    max_explain_rows: int
    def __init__(self, max_headlines: _Optional[int] = ..., max_text_bytes: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., max_explain_rows: _Optional[int] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("version", "digest", "state", "error")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[ModelVersion.State]
        STATE_LOADING: _ClassVar[ModelVersion.State]
        STATE_LIVE: _ClassVar[ModelVersion.State]
        STATE_FAILED: _ClassVar[ModelVersion.State]
        STATE_RETIRED: _ClassVar[ModelVersion.State]
    STATE_UNSPECIFIED: ModelVersion.State
    STATE_LOADING: ModelVersion.State
    STATE_LIVE: ModelVersion.State
    STATE_FAILED: ModelVersion.State
    STATE_RETIRED: ModelVersion.State
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    version: int
    digest: str
    state: ModelVersion.State
    error: str
    def __init__(self, version: _Optional[int] = ..., digest: _Optional[str] = ..., state: _Optional[_Union[ModelVersion.State, str]] = ..., error: _Optional[str] = ...) -> None: ...
