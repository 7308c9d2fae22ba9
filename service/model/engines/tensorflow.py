"""TensorFlow: the engine for GPUs, which also runs on any CPU."""

from __future__ import annotations

import errno
import gc
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import PurePosixPath
from uuid import uuid4

import numpy as np

from service.errors import VersionError
from service.model.artifact import Artifact
from service.model.engines import probe
from service.model.engines.layout import Cost, Floats, Ids
from service.model.preprocessing import AUX_FEATURES

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read once, as TensorFlow is imported

import tensorflow as tf

# On two cores a call costs 0.3 ms and 10 us a step, and 0.35 us for each word of each row; from 256 rows on a row gets dearer.
_CPU_COST = Cost(call=1600, call_per_word=50, largest_call=256)

# On a GPU a step costs the same for one row as for thousands, so a batch is one call; 4,096 rows of 100 words take 275 MB.
_GPU_COST = Cost(call=0, call_per_word=4096, largest_call=4096)

logger = logging.getLogger(__name__)


class Engine:
    """Runs the SavedModel's signature `trimmed`."""

    name = "tensorflow"
    inline = False

    def __init__(self) -> None:
        # What importing TensorFlow made stays; no later collection need look at it, which would hold up everybody for long.
        gc.freeze()
        # TF32 would move a score by up to 5e-4.
        tf.config.experimental.enable_tensor_float_32_execution(False)
        gpus = tf.config.list_physical_devices("GPU")
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        self._gpus = len(gpus)
        self._cost = _GPU_COST if gpus else _CPU_COST
        logger.info("TensorFlow %s runs on %s", tf.__version__, f"{len(gpus)} GPU(s)" if gpus else "the CPU")

    def gpu_memory(self) -> int | None:
        """What TensorFlow has handed out of the memory that it holds on the GPUs, in bytes."""
        if not self._gpus:
            return None
        try:
            return sum(int(tf.config.experimental.get_memory_info(f"GPU:{i}")["current"]) for i in range(self._gpus))
        except tf.errors.OpError:  # the first call opens the GPUs, and others may have filled one
            return 0

    def load(self, artifact: Artifact) -> Model:
        """Load the version's SavedModel.

        Raises VersionError if TensorFlow cannot, OSError if a GPU has no memory left or cannot be used now.
        """
        self._open_gpus()
        try:
            model = Model(artifact.files, self._cost)
            # The probe alone does not find this: a GPU reads zeros beyond the table's end, where a CPU raises an error.
            if len(artifact.vocabulary) > model.table_rows:
                raise ValueError(f"its table has {model.table_rows} rows for a vocabulary of {len(artifact.vocabulary)} words")
            probe(model, len(artifact.vocabulary))
        except MemoryError:  # no verdict on the version
            raise
        except tf.errors.ResourceExhaustedError as error:
            raise _full() from error
        except Exception as error:  # TensorFlow raises whatever the damage makes it stumble over
            if self._gpus and isinstance(error, tf.errors.InternalError):  # such as a copy to a GPU that is nearly full
                raise _unusable(error) from error
            # The operating system's errors are no verdict either. They have a number; what TensorFlow cannot parse has none.
            if isinstance(error, OSError) and error.errno:
                raise
            raise VersionError(f"saved_model.pb: TensorFlow cannot run it: {type(error).__name__}: {_reason(error)}") from error
        return model

    def _open_gpus(self) -> None:
        """Let TensorFlow open the GPUs, if it has not yet; raises OSError if it cannot, as when other processes fill one."""
        try:
            tf.config.list_logical_devices("GPU")
        except tf.errors.OpError as error:
            raise _unusable(error) from error


class Model:
    """The signature `trimmed`: the folded table and what follows the embedding, 5.2 MB. The embedding itself is let go."""

    def __init__(self, files: Mapping[str, bytes], cost: Cost) -> None:
        self._cost = cost
        # A copy in memory, for the files may have changed since they were checked.
        directory = f"ram://{uuid4().hex}"
        try:
            for name, data in files.items():
                if not name.startswith("assets.extra/"):
                    tf.io.gfile.makedirs(f"{directory}/{PurePosixPath(name).parent}")
                    with tf.io.gfile.GFile(f"{directory}/{name}", "wb") as file:
                        file.write(data)
            loaded = tf.saved_model.load(directory)
            self._run = loaded.signatures["trimmed"]
            self._weights = self._run.variables  # which the signature itself refers to but weakly
            self.table_rows = int(loaded.weights["folded"].shape[0])
            # Reference cycles hold the rest, and what is left of the version before: 19 MB a load.
            del loaded
            gc.collect()
        finally:
            with suppress(tf.errors.NotFoundError):  # nothing was written; why says the error that is on its way
                tf.io.gfile.rmtree(directory)

    def predict(self, ids: Ids, lengths: Ids, aux: Floats) -> Floats:
        """See service.model.engines.Model; raises OSError if a GPU has no memory left or cannot be used now."""
        answer = np.empty((len(lengths), 2), np.float32)
        if not len(answer):
            return answer
        try:
            for rows, main_input, aux_input in self._cost.calls(ids, lengths, lengths, aux):
                outputs = self._run(main_input=tf.constant(main_input), aux_input=tf.constant(aux_input))
                answer[rows, :1] = outputs["main_output"]
                answer[rows, 1:] = outputs["aux_output"]
        except tf.errors.ResourceExhaustedError as error:
            raise _full() from error
        except tf.errors.InternalError as error:
            if self._cost is _GPU_COST:  # such as a library of the GPU's that finds no memory for itself
                raise _unusable(error) from error
            raise
        return answer

    def warm(self) -> None:
        """Run few, many and the most rows, short and long: any other shape takes no longer the first time than later."""
        rows = 1
        while rows <= self._cost.largest_call:
            for width in (1, 16):
                self.predict(
                    np.ones(rows * width, np.int32),
                    np.full(rows, width, np.int32),
                    np.zeros((rows, len(AUX_FEATURES)), np.float32),
                )
            rows *= 2


def _full() -> OSError:
    """Other processes share a GPU's memory and may soon leave some, so this is worth another try, unlike a MemoryError."""
    return OSError(errno.ENOMEM, "TensorFlow has no memory left")


def _unusable(error: tf.errors.OpError) -> OSError:
    return OSError(errno.EBUSY, f"TensorFlow cannot use a GPU now: {_reason(error)}")


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
