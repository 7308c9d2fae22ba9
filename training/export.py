"""The trained network in the forms that serving loads: a SavedModel and, beside it, the same function compiled for CPUs.

Two facts make the fast forms exact. An embedding row times the LSTM's input kernel plus bias is a constant, so the
512-wide product is done once, here. And a padding row whose input gate is driven shut leaves a zero state at zero, so that
padding before the words does what a mask does, and a row may be as short as its words.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from service.errors import DataError
from service.model.artifact import CPU_MODEL, Example
from service.model.preprocessing import AUX_FEATURES, PADDING, SEQUENCE_LENGTH, Headline, Preprocessor
from training.model import OUTPUTS, build
from training.settings import Merge

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int32]

# Lengths of cpu.tflite's signatures, in words. Of 82,618 real headlines 26 % have at most 8 words, 81 % at most 12, 98.7 % at
# most 16, all but three at most 24, and the longest has 43. On one core a call costs 0.7 us a word, 0.19 us more for each word
# of each row, and 2 us a word if the rows are not as many as the time before. By these figures a lone headline takes 11 us
# with these lengths and 13 us with two fewer; moving any of them by two words changes that by less than 5 %.
LENGTHS = (8, 12, 16, 24, 48, SEQUENCE_LENGTH)

_ROWS = 256  # that `serve` computes at a time: their embeddings take 52 MB

# Its sigmoid is 0 in float32; unlike minus infinity it makes no NaN of a zero weight.
_SHUT = -1e4


def export(directory: Path, model: keras.Model) -> None:
    """Write the SavedModel and assets.extra/cpu.tflite of a trained model into `directory`.

    `model` is the guide's network with any merge. The SavedModel has two signatures, which both take `aux_input` float32
    [rows, 5] and `main_input` int32 and give `main_output` and `aux_output`, float32 [rows, 1]:

    serving_default  the plain Keras graph; main_input [rows, 100] with padding after the words
    trimmed          the folded table; main_input [rows, any length] with padding before the words

    cpu.tflite has the second for each of LENGTHS, as words_<length>. Raises DataError if a weight is not a finite number,
    and OSError if a file cannot be written.
    """
    for variable in model.weights:
        if not np.isfinite(variable.numpy()).all():
            raise DataError(f"the training has diverged: weights of {variable.path} are not finite; try a lower learning rate")
    tf.config.experimental.enable_tensor_float_32_execution(False)
    folded = _Folded(model)
    _save(
        directory,
        {"serving_default": _trace_plain(model), "trimmed": folded.trace_trimmed()},
        {variable.path: variable.value for variable in model.weights} | {"folded": folded.table},
    )
    cpu_model = directory / CPU_MODEL
    cpu_model.parent.mkdir(exist_ok=True)
    cpu_model.write_bytes(_compile(folded, directory.parent))


def restore(directory: Path, merge: Merge) -> keras.Model:
    """The Keras model of an exported version, which was trained with this `merge`."""
    model = build(merge)
    saved = tf.saved_model.load(str(directory)).weights
    for variable in model.weights:
        variable.assign(saved[variable.path])
    return model


def serve(directory: Path) -> Callable[[Ids, Floats], Floats]:
    """The exported `serving_default` on a CPU.

    It takes main_input [n, 100] and aux_input [n, 5] and gives float32 [n, 2]: main_output and aux_output.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)
    with tf.device("/CPU:0"):
        loaded = tf.saved_model.load(str(directory))
    signature = loaded.signatures["serving_default"]

    def call(main_input: Ids, aux_input: Floats) -> Floats:
        answer = np.empty((len(main_input), 2), np.float32)
        for start in range(0, len(answer), _ROWS):
            rows = slice(start, start + _ROWS)
            with tf.device("/CPU:0"):
                outputs = signature(main_input=tf.constant(main_input[rows]), aux_input=tf.constant(aux_input[rows]))
            answer[rows] = np.hstack([outputs["main_output"], outputs["aux_output"]])
        return answer

    return call


def examples(directory: Path, preprocessor: Preprocessor, headlines: Sequence[Headline]) -> list[Example]:
    """What the exported model makes of `headlines`, for the server to reproduce before the version goes live."""
    rows = preprocessor.encode(headlines)
    main_input = np.full((len(headlines), SEQUENCE_LENGTH), PADDING, np.int32)
    main_input[np.arange(SEQUENCE_LENGTH) < rows.lengths[:, None]] = rows.ids
    outputs = serve(directory)(main_input, rows.aux).tolist()
    ids = [row[:length].tolist() for row, length in zip(main_input, rows.lengths, strict=True)]
    return [Example(*row) for row in zip(headlines, ids, rows.aux.tolist(), *zip(*outputs, strict=True), strict=True)]


def _trace_plain(model: keras.Model) -> tf.types.experimental.ConcreteFunction:
    """The model as Keras runs it, without cuDNN: Keras traces that in wherever there is a GPU, and it runs on no CPU."""
    plain = keras.Model(_tensors(model, "main_input", "aux_input"), _tensors(model, *OUTPUTS))
    lstm = plain.get_layer("lstm")
    use_cudnn, lstm.use_cudnn = lstm.use_cudnn, False
    try:
        return _trace(lambda main_input, aux_input: plain([main_input, aux_input], training=False), SEQUENCE_LENGTH)
    finally:
        lstm.use_cudnn = use_cudnn


class _Folded:
    """The network with embedding, input kernel and bias folded into one row a word, and padding before the words."""

    def __init__(self, model: keras.Model) -> None:
        cell = model.get_layer("lstm").cell
        # In float64, so that the table is rounded once.
        table = model.get_layer("embedding").embeddings.numpy().astype(np.float64) @ cell.kernel.numpy() + cell.bias.numpy()
        table[PADDING] = 0
        table[PADDING, : cell.units] = _SHUT  # Keras' order of gates: input, forget, candidate, output
        self.table = tf.Variable(table, dtype=tf.float32, trainable=False)
        self._recurrent = cell.recurrent_kernel
        self._head = keras.Model(_tensors(model, "lstm", "aux_input"), _tensors(model, *OUTPUTS))
        kept = [self._recurrent, *self._head.weights]
        self.weights = {variable.path: variable.value for variable in kept} | {"folded": self.table}

    def trace_trimmed(self) -> tf.types.experimental.ConcreteFunction:
        """For any number of rows of any one length."""

        def run(main_input: tf.Tensor, aux_input: tf.Tensor) -> Sequence[tf.Tensor]:
            words = tf.gather(self.table, tf.transpose(main_input))  # [length, rows, 4 x units]
            _, state, _ = tf.while_loop(
                lambda t, *_: t < tf.shape(words)[0],
                lambda t, state, memory: (t + 1, *self._step(words[t], state, memory)),
                (1, *self._step(words[0])),
                parallel_iterations=1,
            )
            return self._finish(state, aux_input)

        return _trace(run, None)

    def trace_unrolled(self, length: int) -> tf.types.experimental.ConcreteFunction:
        """For any number of rows of `length` words."""

        def run(main_input: tf.Tensor, aux_input: tf.Tensor) -> Sequence[tf.Tensor]:
            first, *rest = tf.unstack(tf.gather(self.table, tf.transpose(main_input)), length)
            state, memory = self._step(first)
            for word in rest:
                state, memory = self._step(word, state, memory)
            return self._finish(state, aux_input)

        return _trace(run, length)

    def _step(
        self, word: tf.Tensor, state: tf.Tensor | None = None, memory: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """One word a row, [rows, 4 x units]; before the first word, state and memory are zero and cost nothing."""
        gates = word if state is None else word + tf.matmul(state, self._recurrent)
        take, keep, candidate, give = tf.split(gates, 4, axis=1)
        taken = tf.sigmoid(take) * tf.tanh(candidate)
        memory = taken if memory is None else tf.sigmoid(keep) * memory + taken
        return tf.sigmoid(give) * tf.tanh(memory), memory

    def _finish(self, state: tf.Tensor, aux_input: tf.Tensor) -> Sequence[tf.Tensor]:
        outputs: Sequence[tf.Tensor] = self._head([state, aux_input], training=False)
        return outputs


def _compile(folded: _Folded, work: Path) -> bytes:
    """All lengths in one file, which shares the table. What it takes meanwhile is in `work`, and goes with it after a kill."""
    signatures = {f"words_{length}": folded.trace_unrolled(length) for length in LENGTHS}
    with tempfile.TemporaryDirectory(dir=work) as directory:
        _save(Path(directory), signatures, folded.weights)
        compiled: bytes = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=list(signatures)).convert()
    return compiled


def _trace(
    run: Callable[[tf.Tensor, tf.Tensor], Sequence[tf.Tensor]], length: int | None
) -> tf.types.experimental.ConcreteFunction:
    """The graph of `run(main_input, aux_input)`, which gives the two outputs, for any number of rows."""
    return tf.function(
        lambda main_input, aux_input: dict(zip(OUTPUTS, run(main_input, aux_input), strict=True)), autograph=False
    ).get_concrete_function(
        tf.TensorSpec([None, length], tf.int32, "main_input"),
        tf.TensorSpec([None, len(AUX_FEATURES)], tf.float32, "aux_input"),
    )


def _save(
    directory: Path,
    signatures: Mapping[str, tf.types.experimental.ConcreteFunction],
    weights: Mapping[str, tf.Variable],
) -> None:
    """A SavedModel of nothing but these graphs and the weights that they use."""
    saved = tf.Module()
    saved.weights = dict(weights)
    try:
        tf.saved_model.save(saved, str(directory), signatures=dict(signatures))
    except tf.errors.OpError as error:
        # TensorFlow's own file system ends its messages so: "PATH; No space left on device [Op:...]".
        raise OSError(errno.EIO, error.message.rpartition("; ")[2].partition(" [")[0], str(directory)) from error


def _tensors(model: keras.Model, *layers: str) -> list[keras.KerasTensor]:
    return [model.get_layer(name).output for name in layers]
