"""What is served, in words and figures: the answer to GetModel, whoever asks."""

from __future__ import annotations

from collections.abc import Sequence

from headlines.v1 import popularity_pb2
from service.model.version import Version
from service.predictor import Limits
from service.repository import Repository, State, VersionState

_LISTED_VERSIONS = 100
_LONGEST_ERROR = 1000  # characters

_STATES = {
    State.LOADING: popularity_pb2.ModelVersion.STATE_LOADING,
    State.LIVE: popularity_pb2.ModelVersion.STATE_LIVE,
    State.FAILED: popularity_pb2.ModelVersion.STATE_FAILED,
    State.RETIRED: popularity_pb2.ModelVersion.STATE_RETIRED,
}


class ModelDescription:
    """A GetModelResponse that is made anew when what it describes has changed."""

    def __init__(self, repository: Repository, model_name: str, limits: Limits, max_message_bytes: int) -> None:
        self._repository = repository
        self._model_name = model_name
        self._limits = popularity_pb2.Limits(
            max_headlines=limits.max_headlines,
            max_text_bytes=limits.max_text_bytes,
            max_message_bytes=max_message_bytes,
            max_explain_rows=limits.max_explain_rows,
        )
        self._described: tuple[Version | None, Sequence[VersionState]] = (None, ())
        self._serialized = b""

    def serialized(self) -> bytes:
        """The response's bytes, the same object until something changes; their number does not grow with the data."""
        live, states = self._repository.live, self._repository.states
        if not self._serialized or live is not self._described[0] or states != self._described[1]:
            self._described = live, states
            self._serialized = self._describe(live, states)
        return self._serialized

    def _describe(self, live: Version | None, states: Sequence[VersionState]) -> bytes:
        response = popularity_pb2.GetModelResponse(
            name=self._model_name, engine=self._repository.engine.name, limits=self._limits
        )
        others = [it for it in states if it.state is not State.LIVE]
        listed = [it for it in states if it.state is State.LIVE] + others[: _LISTED_VERSIONS - 1]
        for it in sorted(listed, key=lambda it: it.number, reverse=True):
            response.versions.add(version=it.number, digest=it.digest, state=_STATES[it.state], error=it.error[:_LONGEST_ERROR])
        if live:
            response.version = live.number
            response.digest = live.digest
            response.trained_at.FromNanoseconds(round(live.info.created_at * 1e9))
            response.loaded_at.FromNanoseconds(round(live.loaded_at * 1e9))
            if learned_from := live.info.parts.get("training"):
                response.first_post_at.FromNanoseconds(round(learned_from.first * 1e9))
                response.last_post_at.FromNanoseconds(round(learned_from.last * 1e9))
            response.synthetic = live.info.synthetic
            response.vocabulary_size = live.info.vocabulary_size
            response.sequence_length = live.info.sequence_length
            response.aux_features.extend(live.info.aux_features)
            response.frozen_features.extend(name for name in live.info.aux_features if name in live.info.frozen)
            response.outlets.extend(live.outlets)
            response.outlet_count = len(live.info.outlet_levels)
            response.label = live.info.label.rule
            response.label_threshold = live.info.label.threshold or 0.0
            response.label_description = live.info.label.describe()
            response.label_change = self._repository.label_change
            response.evaluation.update(live.info.evaluation)
        return response.SerializeToString()
