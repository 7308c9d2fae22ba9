"""Arrays through one loaded model version: two engines behind one face.

`litert` runs what export compiled for CPUs and has no TensorFlow in its process. `tensorflow` runs the SavedModel and is the
engine for GPUs. Both answer what the version's `serving_default` answers, to 1e-5, whatever else is in the batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from glob import glob
from importlib import import_module
from importlib.util import find_spec
from typing import Literal, Protocol

import numpy as np

from service.errors import UsageError
from service.model import throttle
from service.model.artifact import Artifact
from service.model.engines.layout import Floats, Ids
from service.model.preprocessing import AUX_FEATURES, UNKNOWN

# A GPU's device node: of NVIDIA's driver, and of Windows' for Linux.
GPU_DEVICES = ("/dev/nvidia[0-9]*", "/dev/dxg")

_PROBED = 256  # words at a time

logger = logging.getLogger(__name__)


class Model(Protocol):
    """One loaded version. One call at a time, from any thread."""

    def predict(self, ids: Ids, lengths: Ids, aux: Floats) -> Floats:
        """Both outputs, float32 [n, 2]: main_output and aux_output.

        `ids` int32 [sum of lengths] are the rows' word ids one row after another, `lengths` int32 [n] are from 1 to 100, `aux`
        is float32 [n, 5]. n may be 0.
        """

    def warm(self) -> None:
        """Make every shape ready, so that the first call takes no longer than the later ones."""


class Engine(Protocol):
    """A way of running model versions."""

    name: str
    inline: bool  # a call is short and needs no thread beside the event loop's

    def gpu_memory(self) -> int | None:
        """Bytes in use on the GPUs; None if the engine uses none. From any thread."""

    def load(self, artifact: Artifact) -> Model:
        """Raises VersionError if this engine cannot run the version, or it answers some word with no finite number.

        OSError and MemoryError say nothing about the version: another try may succeed.
        """


def choose(
    name: Literal["auto", "litert", "tensorflow"] = "auto", *, list_devices: Callable[[str], Sequence[str]] = glob
) -> Engine:
    """The engine to run for the whole life of the process.

    "auto" is TensorFlow if there are both a GPU's device node and TensorFlow, else LiteRT. `list_devices` gives the paths
    that match a pattern. Raises UsageError if the engine is not installed, and says which extra installs it.
    """
    if name == "auto":
        devices = [path for pattern in GPU_DEVICES for path in list_devices(pattern)]
        if not devices:
            chosen, reason = "litert", "no GPU"
        elif not find_spec("tensorflow"):
            chosen, reason = "litert", f"a GPU ({devices[0]}), but TensorFlow is not installed; the extra 'gpu' installs it"
        else:
            chosen, reason = "tensorflow", f"a GPU ({devices[0]}) and TensorFlow"
    else:
        chosen, reason = name, "asked for"
    package, extra = {"litert": ("ai_edge_litert", "service"), "tensorflow": ("tensorflow", "gpu")}[chosen]
    if not find_spec(package):
        raise UsageError(f"engine {chosen} is not installed; in a checkout of this project: pip install ./protos '.[{extra}]'")
    logger.info("engine %s: %s", chosen, reason)
    engine: Engine = import_module(f"service.model.engines.{chosen}").Engine()
    return engine


def probe(model: Model, vocabulary_size: int) -> None:
    """Ask a model for each word of its vocabulary once; raises ValueError if an answer is not a probability.

    That the table has a row for every word and that its numbers are finite shows here, not in a caller's request.
    """
    for start in range(UNKNOWN, vocabulary_size, _PROBED):
        ids = np.full((min(_PROBED, vocabulary_size - start), 2), UNKNOWN, np.int32)
        ids[:, 0] += np.arange(start - UNKNOWN, start - UNKNOWN + len(ids), dtype=np.int32)
        answer = model.predict(ids.ravel(), np.full(len(ids), 2, np.int32), np.zeros((len(ids), len(AUX_FEATURES)), np.float32))
        wrong = np.flatnonzero(~((answer >= 0) & (answer <= 1)).all(axis=1))
        if len(wrong):
            raise ValueError(
                f"its answer to the word with id {start + wrong[0]} is not a probability: {answer[wrong[0]].tolist()}"
            )
        throttle.pause()
