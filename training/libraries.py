"""Imports TensorFlow, Keras and Matplotlib as training needs them, whatever the user's own settings of theirs are."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from headlines.commands import native
from headlines.commands.progress import busy

# Keras' own settings would change what is trained, or break it: a float type, another backend, a bound on epochs.
_KERAS: dict[str, Any] = {"backend": "tensorflow", "floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last"}
_VARIABLES = {
    "KERAS_BACKEND": "tensorflow",
    "KERAS_HOME": os.devnull,  # where no keras.json is read or written
    "TF_USE_LEGACY_KERAS": "0",
    "MPLBACKEND": "agg",
}

_log = logging.getLogger(__name__)


def prepare() -> None:
    """Import TensorFlow and Keras. Logs which of the user's settings are ignored; native log lines are not shown."""
    for name in sorted(os.environ):
        if (name.startswith("KERAS_") and name != "KERAS_HOME") or name == "TF_USE_LEGACY_KERAS":
            if os.environ[name] != _VARIABLES.get(name):
                _log.warning("%s is ignored: training needs Keras on TensorFlow, with Keras' own defaults", name)
            del os.environ[name]
    _look_at_keras_json()
    os.environ.update(_VARIABLES)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its C++ logs CPU features and missing GPUs
    for library in ("tensorflow", "absl", "matplotlib"):  # they advise on how to write graphs, and on caches
        logging.getLogger(library).setLevel(logging.ERROR)
    _log.info("loading TensorFlow")
    with os.fdopen(os.dup(2), "w") as stderr, busy("loading TensorFlow", stderr), native.without_log():
        import keras  # noqa: F401
        import tensorflow as tf

        for gpu in tf.config.list_physical_devices("GPU"):  # else it takes all of their memory, beside a server or another fit
            tf.config.experimental.set_memory_growth(gpu, True)


def _look_at_keras_json() -> None:
    try:
        file = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "keras.json"
        settings = json.loads(file.read_text("utf-8"))
        ignored = [name for name, value in _KERAS.items() if settings.get(name, value) != value]
    except (OSError, RuntimeError, ValueError, AttributeError):  # none, no home, or none that Keras could read
        return
    if ignored:
        _log.warning("%s in %s is ignored: training needs Keras' own defaults", ", ".join(ignored), file)
