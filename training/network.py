"""The network without padding: computes what Keras computes, several times faster.

* Padding stands before the words with its input gate shut, so the state is still zero at the first word; with a mask,
  where the padding stands changes nothing. A batch is as wide as its longest headline needs.
* Each distinct word of a batch is projected by the LSTM's kernel once.
* The LSTM is unrolled, and each width is traced once. XLA would take longer to compile than it saves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from service.model.preprocessing import AUX_FEATURES
from training.batches import Batch, batches
from training.features import Examples
from training.model import DENSE_LAYERS, LSTM_UNITS
from training.settings import MERGES

_PREDICTED_AT_ONCE = 512  # rows: enough that starting an operation costs nothing beside it
_SHUT = -1e9  # an input gate's activation that lets nothing in

Dropout = Callable[[tf.Tensor], tf.Tensor]


class Network:
    """A model of `training.model.build`, computed from its own weights as they are when it is called."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.table: tf.Variable = model.get_layer("embedding").embeddings.value
        self.others: list[tf.Variable] = [weight.value for weight in model.trainable_weights if weight.value is not self.table]
        self._merge = next(layer for layer in model.layers if layer.name in MERGES)
        self._logits = by_width(self._forward_batch)

    @property
    def weights(self) -> list[tf.Variable]:
        """The table of embeddings and all others."""
        return [self.table, *self.others]

    def logits(self, examples: Examples) -> npt.NDArray[np.float64]:
        """The outputs before the sigmoid, [rows, 2]: main_output's and aux_output's."""
        logits = np.empty((len(examples), 2))
        for batch in batches(examples, _PREDICTED_AT_ONCE):
            logits[batch.rows] = self._logits(batch)
        return logits

    def predict(self, examples: Examples) -> npt.NDArray[np.float32]:
        """The outputs, [rows, 2]: main_output's and aux_output's."""
        return (1 / (1 + np.exp(-self.logits(examples)))).astype(np.float32)

    def forward(
        self, rows: tf.Tensor, positions: tf.Tensor, aux: tf.Tensor, *, drop_state: Dropout = lambda state: state
    ) -> tf.Tensor:
        """The logits [batch, 2] of a batch whose words have the embeddings `rows` [words, 512].

        `positions` [width, batch] and `aux` [batch, 5] are the Batch's; `drop_state` is applied to the LSTM's last state.
        """
        cell = self.model.get_layer("lstm").cell
        kernel, recurrent, bias = (_reorder(weight.value) for weight in (cell.kernel, cell.recurrent_kernel, cell.bias))
        padding = tf.concat([tf.fill([1, LSTM_UNITS], _SHUT), tf.zeros([1, 3 * LSTM_UNITS])], axis=1)
        projected = tf.concat([padding, rows @ kernel + bias], axis=0)
        state = drop_state(tf.custom_gradient(_read)(tf.gather(projected, positions), recurrent))

        if self._merge.name != "concatenate":
            aux = self._dense("aux_projection", aux)
        hidden = self._merge([state, aux])
        for name in DENSE_LAYERS:
            hidden = tf.nn.relu(self._dense(name, hidden))
        return tf.concat([self._dense("main_output", hidden), self._dense("aux_output", state)], axis=1)

    def _forward_batch(self, words: tf.Tensor, positions: tf.Tensor, aux: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        del targets
        return self.forward(tf.gather(self.table, words), positions, aux)

    def _dense(self, name: str, inputs: tf.Tensor) -> tf.Tensor:
        layer = self.model.get_layer(name)
        return inputs @ layer.kernel.value + layer.bias.value


def _read(inputs: tf.Tensor, recurrent: tf.Tensor) -> tuple[tf.Tensor, Callable[..., tuple[tf.Tensor, tf.Tensor]]]:
    """The LSTM's last state [batch, units] for its words' `inputs` [width, batch, 4 x units], and its gradient function.

    The gradient is written out because the one that TensorFlow derives has three times as many operations, and in a network
    this small a step costs what launching operations costs.
    """
    state = memory = tf.zeros([tf.shape(inputs)[1], LSTM_UNITS])
    steps = []
    for word in tf.unstack(inputs):
        before = state, memory
        activations = word + state @ recurrent
        gates, candidate = tf.sigmoid(activations[:, : 3 * LSTM_UNITS]), tf.tanh(activations[:, 3 * LSTM_UNITS :])
        input_gate, forget, output_gate = tf.split(gates, 3, axis=1)
        memory = forget * memory + input_gate * candidate
        bounded = tf.tanh(memory)
        state = output_gate * bounded
        steps.append((*before, gates, candidate, bounded))

    def differentiate(d_state: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        states, memories, gates, candidates, bounded = (tf.stack(values) for values in zip(*steps, strict=True))
        input_gate, forget, output_gate = tf.split(gates, 3, axis=2)
        # Local derivatives: of the memory with respect to the activations (of the state, for the output gate), and of the state
        # with respect to the memory.
        d_gates = tf.concat([candidates, memories, bounded], axis=2) * gates * (1 - gates)
        d_activations_factor = tf.concat([d_gates, input_gate * (1 - tf.square(candidates))], axis=2)
        d_memory_factor = output_gate * (1 - tf.square(bounded))
        d_memory = tf.zeros_like(d_state)
        d_activations = []
        words = zip(*map(tf.unstack, (d_activations_factor, d_memory_factor, forget)), strict=True)
        for word_d_activations, word_d_memory, kept in reversed(list(words)):
            d_memory += d_state * word_d_memory
            d_activations.append(tf.concat([d_memory, d_memory, d_state, d_memory], axis=1) * word_d_activations)
            d_state = tf.matmul(d_activations[-1], recurrent, transpose_b=True)
            d_memory *= kept
        d_inputs = tf.stack(d_activations[::-1])
        return d_inputs, tf.tensordot(states, d_inputs, [[0, 1], [0, 1]])

    return state, differentiate


def by_width(function: Callable[..., Any]) -> Callable[[Batch], Any]:
    """`function` of a batch's words, positions, aux and targets, compiled once for each width."""

    @cache
    def compiled(width: int) -> Callable[..., Any]:
        signature = [
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([width, None], tf.int32),
            tf.TensorSpec([None, len(AUX_FEATURES)], tf.float32),
            tf.TensorSpec([None], tf.float32),
        ]
        function_of_width: Callable[..., Any] = tf.function(function, input_signature=signature, autograph=False)
        return function_of_width

    return lambda batch: compiled(len(batch.positions))(batch.words, batch.positions, batch.aux, batch.targets)


def _reorder(weight: tf.Tensor) -> tf.Tensor:
    """Keras' order of gates (in, forget, cell, out) to ours, where the three sigmoids stand together."""
    input_gate, forget, cell, output_gate = tf.split(weight, 4, axis=-1)
    return tf.concat([input_gate, forget, output_gate, cell], axis=-1)
