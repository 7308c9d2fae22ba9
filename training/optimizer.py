"""RMSprop that touches only the rows of an embedding that a batch uses."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf


class RowwiseRMSprop:
    """`keras.optimizers.RMSprop` given dense gradients, at the cost of the rows that a batch uses.

        optimizer = RowwiseRMSprop(keras.optimizers.RMSprop(1e-3), table, others)
        optimizer.apply(rows, row_gradients, gradients)         # within a tf.function or not

    A row that no example of a batch uses has zero gradient: RMSprop leaves its weights as they are and multiplies its
    running average by rho. So that average is brought up to date when its row is next used, by rho to the power of
    the steps passed; what comes out is exact but for rounding.

    The reference is the optimizer given dense gradients: the gradients of a word that occurs several times in a batch are
    summed, and the sum is squared. Keras' own `fit` gives the optimizer one gradient for each occurrence, which it squares
    before it adds them up, so its running averages, and with them its steps, are slightly different ones.
    """

    def __init__(self, reference: keras.optimizers.RMSprop, table: tf.Variable, others: Sequence[tf.Variable]) -> None:
        """Optimise `table` [rows, units] row by row and `others` whole, with the settings of `reference`.

        Raises ValueError if `reference` does more than RMSprop with a constant learning rate.
        """
        config = reference.get_config()
        unsupported = {
            "momentum": config["momentum"] != 0,
            "centered": config["centered"],
            "weight_decay": config["weight_decay"] is not None,
            "clipnorm": config["clipnorm"] is not None,
            "clipvalue": config["clipvalue"] is not None,
            "global_clipnorm": config["global_clipnorm"] is not None,
            "use_ema": config["use_ema"],
            "loss_scale_factor": config["loss_scale_factor"] is not None,
            "gradient_accumulation_steps": config["gradient_accumulation_steps"] is not None,
            "a learning rate schedule": not isinstance(config["learning_rate"], float),
        }
        if asked := [name for name, is_asked in unsupported.items() if is_asked]:
            raise ValueError(f"row-wise RMSprop does not support {', '.join(asked)}")
        self._learning_rate: float = config["learning_rate"]
        self._rho: float = config["rho"]
        self._epsilon: float = config["epsilon"]
        self._table = table
        self._others = list(others)
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._updated_at = tf.Variable(tf.zeros(table.shape[0], tf.int64), trainable=False)  # step of a row's last update
        self._row_averages = tf.Variable(tf.zeros_like(table), trainable=False)  # as they were at that step
        self._averages = [tf.Variable(tf.zeros_like(other), trainable=False) for other in self._others]

    @property
    def variables(self) -> list[tf.Variable]:
        """Everything that, beside the weights, determines the steps to come."""
        return [self.step, self._updated_at, self._row_averages, *self._averages]

    def apply(self, rows: tf.Tensor, row_gradients: tf.Tensor, gradients: Sequence[tf.Tensor]) -> None:
        """One step: `row_gradients` [n, units] for distinct `rows` [n] of the table, `gradients` for the others in order."""
        step = self.step.assign_add(1)
        passed = tf.cast(step - tf.gather(self._updated_at, rows), tf.float32)
        decay = tf.pow(self._rho, passed)[:, None]
        averages = decay * tf.gather(self._row_averages, rows) + (1 - self._rho) * tf.square(row_gradients)
        self._row_averages.scatter_update(tf.IndexedSlices(averages, rows))
        self._updated_at.scatter_update(tf.IndexedSlices(tf.fill(tf.shape(rows), step), rows))
        self._table.scatter_sub(tf.IndexedSlices(self._increment(row_gradients, averages), rows))
        for other, average, gradient in zip(self._others, self._averages, gradients, strict=True):
            average.assign(self._rho * average + (1 - self._rho) * tf.square(gradient))
            other.assign_sub(self._increment(gradient, average))

    def averages(self) -> list[npt.NDArray[np.float32]]:
        """The running averages of squared gradients as of now: the table's, then the others' in order."""
        passed = tf.cast(self.step - self._updated_at, tf.float32)
        table = tf.pow(self._rho, passed)[:, None] * self._row_averages
        return [table.numpy(), *(average.numpy() for average in self._averages)]

    def _increment(self, gradient: tf.Tensor, average: tf.Tensor) -> tf.Tensor:
        return self._learning_rate * gradient / tf.sqrt(average + self._epsilon)
