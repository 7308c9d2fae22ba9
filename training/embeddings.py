"""Sentence embeddings of a job's headlines, kept in MODELS for the next one: most of its headlines are the same.

MODELS/.embeddings-<first digits of the weights' SHA-256>.npz holds the last job's embeddings, by a digest of each text.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headlines.commands.progress import counting
from training.encoder import Embeddings, Encoder

_DIGITS = 16
_log = logging.getLogger(__name__)


def embed(encoder: Encoder, texts: Sequence[str], models: Path) -> Embeddings:
    """The embeddings of `texts`, [texts, width]; those of the last job are read instead of computed."""
    path = models / f".embeddings-{encoder.sha256[:_DIGITS]}.npz"
    keys = np.array(
        [hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest() for text in texts], "S32"
    )
    known, kept = _load(path, encoder.width)
    at = np.searchsorted(known, keys)
    found = np.empty((len(texts), encoder.width), np.float16)
    is_known = known[np.minimum(at, len(known) - 1)] == keys if len(known) else np.zeros(len(keys), bool)
    found[is_known] = kept[at[is_known]]
    missing = np.flatnonzero(~is_known)
    _, first, inverse = np.unique(keys[missing], return_index=True, return_inverse=True)
    if len(first):
        with counting("embedding headlines") as tell:
            found[missing] = encoder.embed([texts[i] for i in missing[first].tolist()], tell)[inverse]
        order, places = np.unique(keys, return_index=True)
        _save(path, order, found[places])
    return found


def _load(path: Path, width: int) -> tuple[npt.NDArray[np.bytes_], Embeddings]:
    none = np.empty(0, "S32"), np.empty((0, width), np.float16)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            keys, kept = arrays["keys"], arrays["embeddings"]
    except FileNotFoundError:
        return none
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        _log.warning("%s: cannot be read (%s); its embeddings are computed again", path, error)
        return none
    if keys.dtype != none[0].dtype or kept.dtype != none[1].dtype or kept.shape != (len(keys), width):
        _log.warning("%s: holds something else than embeddings; they are computed again", path)
        return none
    return keys, kept


def _save(path: Path, keys: npt.NDArray[np.bytes_], embeddings: Embeddings) -> None:
    """Replace the file. It only saves time, so that a full disk is no error."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{path.name}.*"):  # by a job that was killed; one that is alive only warns
            left.unlink(missing_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, keys=keys, embeddings=embeddings)
        temporary.replace(path)
    except OSError as error:
        _log.warning("%s: cannot be written (%s); the next fit computes its embeddings again", path, error.strerror or error)
        if temporary:
            temporary.unlink(missing_ok=True)
