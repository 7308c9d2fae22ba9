"""Fits the network: a plain TensorFlow loop that computes no padding and updates only the embeddings that it used.

    with open_checkpoint(models, digest(features, settings)) as checkpoint:
        fitted = fit(features, settings, checkpoint)
        ...                                                 # export fitted.model

What makes it quick, and leaves the mathematics as Keras has them:

* A batch holds headlines of like length and is as wide as the longest of them. Padding stands before the words with its
  input gate shut, so the state is still zero at the first word; with a mask, where the padding stands changes nothing.
* Each distinct word of a batch is projected by the LSTM's kernel once.
* The LSTM is unrolled, and each width is traced once. XLA would take longer to compile than it saves.
* RMSprop touches the embeddings of the batch alone, see `training.optimizer`.
* A thread lays out the next batches while a step runs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from service.preprocessing import AUX_FEATURES
from training.batches import Batch, batches
from training.checkpoint import Checkpoint, State
from training.features import Examples, Features
from training.model import DENSE_LAYERS, LSTM_UNITS, OUTPUTS, Merge, build
from training.optimizer import RowwiseRMSprop

Floats = npt.NDArray[np.float32]

_PREDICTED_AT_ONCE = 512  # rows: enough that starting an operation costs nothing beside it
_AVERAGED_EVERY = 16  # steps: to average five million weights takes as long as a few steps
_SHUT = -1e9  # an input gate's activation that lets nothing in

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What decides a fit's result, beside its data."""

    merge: Merge = "concatenate"  # how the words' state meets the auxiliary features; the others are there to compare with
    seed: int = 0  # of first weights, order and dropout
    epochs: int = 50  # at most; early stopping ends a fit long before
    patience: int = 3  # epochs without a better validation loss of main_output until it stops
    batch_size: int = 32  # headlines a step
    learning_rate: float = 1e-3  # RMSprop's, as Keras has it
    aux_loss_weight: float = 0.2  # aux_output's loss beside main_output's: enough to train the words, too little to lead
    embedding_dropout: float = 0.5
    state_dropout: float = 0.3
    averaging: float = 0.998


class Losses(NamedTuple):
    """Binary cross-entropy of each output, in nats a row."""

    main: float
    aux: float


class Epoch(NamedTuple):
    """The losses after an epoch, without dropout."""

    training: Losses  # of evenly spaced rows, as many as the validation part has
    validation: Losses


@dataclass(frozen=True)
class Fit:
    """A fitted network and how it came about."""

    model: keras.Model  # the best epoch's weights, the intercepts in its output biases
    history: tuple[Epoch, ...]
    best_epoch: int  # from 0
    intercepts: tuple[float, float]  # what was added to the biases of main_output and aux_output


def digest(features: Features, settings: Settings) -> str:
    """Names the job: what of the data, the settings and the libraries decides a fit's result, as 16 hex digits."""
    hashed = hashlib.sha256(json.dumps([asdict(settings), tf.__version__, keras.__version__]).encode())
    for part in (features.training, features.validation):
        for array in (part.ids, part.offsets, part.aux, part.labels):
            hashed.update(array.tobytes())
    return hashed.hexdigest()[:16]


def fit(
    features: Features, settings: Settings, checkpoint: Checkpoint | None = None, *, tensorboard: Path | None = None
) -> Fit:
    """Train the network on the training part until the validation loss of main_output stops falling.

    The best epoch's weights are kept, and one intercept per output, fitted on the validation part, is added to that output's
    bias: the share of popular posts drifts, and a score shall mean a probability today.

    With a checkpoint the state is saved after each epoch and a fit that was interrupted goes on; it ends with the
    weights, bit for bit, of one that was not. The same seed gives the same weights on the same machine. For that TensorFlow's
    operations are made deterministic, and TF32 is turned off, for the whole process.

    `tensorboard` is a directory for the learning curves, beside the progress bar and the log lines.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)
    tf.config.experimental.enable_op_determinism()
    training, validation = features.training, features.validation
    sample = _thin(training, len(validation))
    trainer = Trainer(build(settings.merge, seed=settings.seed), settings)
    history: list[Epoch] = []
    if checkpoint and (state := checkpoint.load()):
        history = trainer.restore(state)
        _log.info("going on after epoch %d of the interrupted fit", len(history))
    curves = _Curves(settings.epochs, -(-len(training) // settings.batch_size), tensorboard)
    while not _is_over(history, settings):
        number = len(history)
        random = np.random.default_rng([settings.seed, number])
        for batch in curves.progress(batches(training, settings.batch_size, random), number):
            trainer.step(batch)
        with trainer.averaged():
            history.append(Epoch(trainer.losses(sample), trainer.losses(validation)))
            if _best(history) == number:
                trainer.keep()
        if checkpoint:
            checkpoint.save(trainer.state(history))
        curves.show(history)
    trainer.recall()
    return Fit(trainer.model, tuple(history), _best(history), trainer.calibrate(validation))


class Trainer:
    """The network's weights in training: their steps, their running average, the best so far."""

    def __init__(self, model: keras.Model, settings: Settings) -> None:
        """`model` is what `training.model.build` gives for `settings.merge`; its own weights are trained."""
        self.model = model
        self._settings = settings
        self._table: tf.Variable = model.get_layer("embedding").embeddings.value
        self._others: list[tf.Variable] = [
            weight.value for weight in model.trainable_weights if weight.value is not self._table
        ]
        self._weights = [self._table, *self._others]
        self._optimizer = RowwiseRMSprop(keras.optimizers.RMSprop(settings.learning_rate), self._table, self._others)
        self._average = [tf.Variable(weight, trainable=False) for weight in self._weights]
        self._best = [weight.numpy() for weight in self._weights]
        self._steps = _by_width(self._step)
        self._predictions = _by_width(self._predict)
        self._averaging = tf.function(self._update_average, autograph=False)

    def step(self, batch: Batch) -> None:
        """Learn from a batch."""
        self._steps(batch)
        if self._optimizer.step.numpy() % _AVERAGED_EVERY == 0:
            self._averaging()

    def gradients(self, batch: Batch) -> list[Floats]:
        """The gradients of the loss without dropout: of the embeddings of `batch.words`, then of the other weights in order."""
        row_gradients, gradients = self._gradients(*map(tf.constant, batch[:4]), seed=None)
        return [row_gradients.numpy(), *(gradient.numpy() for gradient in gradients)]

    def logits(self, examples: Examples) -> npt.NDArray[np.float64]:
        """The outputs before the sigmoid, main_output's and aux_output's: [rows, 2]."""
        logits = np.empty((len(examples), 2))
        for batch in batches(examples, _PREDICTED_AT_ONCE):
            logits[batch.rows] = self._predictions(batch)
        return logits

    def losses(self, examples: Examples) -> Losses:
        """The mean losses on these rows."""
        logits, labels = self.logits(examples), examples.labels[:, None]
        main, aux = np.mean(np.logaddexp(0, logits) - labels * logits, axis=0)
        return Losses(float(main), float(aux))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the weights are their running averages."""
        own = [weight.numpy() for weight in self._weights]
        _assign(self._weights, self._average)
        yield
        _assign(self._weights, own)

    def keep(self) -> None:
        """Remember the weights as the best."""
        self._best = [weight.numpy() for weight in self._weights]

    def recall(self) -> None:
        """Go back to the best weights."""
        _assign(self._weights, self._best)

    def calibrate(self, examples: Examples) -> tuple[float, float]:
        """Add to the outputs' biases what makes their mean probability on these rows the share of popular ones."""
        logits, share = self.logits(examples), float(examples.labels.mean())
        intercepts = _intercept(logits[:, 0], share), _intercept(logits[:, 1], share)
        for name, intercept in zip(OUTPUTS, intercepts, strict=True):
            self.model.get_layer(name).bias.value.assign_add([intercept])
        return intercepts

    def state(self, history: Sequence[Epoch]) -> State:
        """Everything that the next epochs depend on, by name."""
        losses = np.array([(*epoch.training, *epoch.validation) for epoch in history])
        best = {f"best_{i}": weight for i, weight in enumerate(self._best)}
        return {"history": losses, **best, **{name: variable.numpy() for name, variable in self._variables().items()}}

    def restore(self, state: State) -> list[Epoch]:
        """Go on from a state; the answer is its history."""
        for name, variable in self._variables().items():
            variable.assign(state[name])
        self._best = [state[f"best_{i}"] for i in range(len(self._best))]
        return [Epoch(Losses(*losses[:2]), Losses(*losses[2:])) for losses in state["history"].tolist()]

    def _variables(self) -> dict[str, tf.Variable]:
        groups = {"weight": self._weights, "optimizer": self._optimizer.variables, "average": self._average}
        return {f"{group}_{i}": variable for group, variables in groups.items() for i, variable in enumerate(variables)}

    def _step(self, words: tf.Tensor, positions: tf.Tensor, aux: tf.Tensor, labels: tf.Tensor) -> None:
        seed = tf.stack([tf.constant(self._settings.seed, tf.int64), self._optimizer.step])
        self._optimizer.apply(words, *self._gradients(words, positions, aux, labels, seed))

    def _gradients(
        self, words: tf.Tensor, positions: tf.Tensor, aux: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor | None
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        rows = tf.gather(self._table, words)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([rows, *self._others])
            logits = self._forward(rows, positions, aux, seed)
            losses = tf.nn.sigmoid_cross_entropy_with_logits(tf.repeat(labels[:, None], 2, axis=1), logits)
            main, aux_loss = tf.unstack(tf.reduce_mean(losses, axis=0))
            loss = main + self._settings.aux_loss_weight * aux_loss
        row_gradients, *gradients = tape.gradient(loss, [rows, *self._others])
        return row_gradients, gradients

    def _predict(self, words: tf.Tensor, positions: tf.Tensor, aux: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        del labels
        return self._forward(tf.gather(self._table, words), positions, aux, seed=None)

    def _forward(self, rows: tf.Tensor, positions: tf.Tensor, aux: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        """The network's logits [batch, 2] for the embeddings `rows` of a batch's words; a `seed` turns dropout on."""
        settings, layer = self._settings, self.model.get_layer
        seeds = [None, None] if seed is None else tf.unstack(tf.random.split(seed, 2))

        cell = layer("lstm").cell
        kernel, recurrent, bias = (_reorder(weight.value) for weight in (cell.kernel, cell.recurrent_kernel, cell.bias))
        projected = _drop(rows, settings.embedding_dropout, seeds[0]) @ kernel + bias
        padding = tf.concat([tf.fill([1, LSTM_UNITS], _SHUT), tf.zeros([1, 3 * LSTM_UNITS])], axis=1)
        state = memory = tf.zeros([tf.shape(positions)[1], LSTM_UNITS])
        for inputs in tf.unstack(tf.gather(tf.concat([padding, projected], axis=0), positions)):
            activations = inputs + state @ recurrent
            let_in, forget, let_out = tf.split(tf.sigmoid(activations[:, : 3 * LSTM_UNITS]), 3, axis=1)
            memory = forget * memory + let_in * tf.tanh(activations[:, 3 * LSTM_UNITS :])
            state = let_out * tf.tanh(memory)

        def dense(name: str, inputs: tf.Tensor) -> tf.Tensor:
            return inputs @ layer(name).kernel.value + layer(name).bias.value

        state = _drop(state, settings.state_dropout, seeds[1])
        projected_aux = aux if settings.merge == "concatenate" else dense("aux_projection", aux)
        hidden = layer(settings.merge)([state, projected_aux])
        for name in DENSE_LAYERS:
            hidden = tf.nn.relu(dense(name, hidden))
        return tf.concat([dense("main_output", hidden), dense("aux_output", state)], axis=1)

    def _update_average(self) -> None:
        # In the beginning a plain mean, as the first weights are no better than chance.
        step = tf.cast(self._optimizer.step // _AVERAGED_EVERY, tf.float32)
        share = tf.maximum(1 - self._settings.averaging**_AVERAGED_EVERY, 1 / step)
        for average, weight in zip(self._average, self._weights, strict=True):
            average.assign_add(share * (weight - average))


def _by_width(function: Callable[..., Any]) -> Callable[[Batch], Any]:
    """`function` of a batch's words, positions, aux and labels, compiled once for each width."""

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

    return lambda batch: compiled(len(batch.positions))(batch.words, batch.positions, batch.aux, batch.labels)


def _drop(values: tf.Tensor, rate: float, seed: tf.Tensor | None) -> tf.Tensor:
    """Dropout: a share of the values is 0 and the rest is scaled up, so that the mean stays."""
    if seed is None or not rate:
        return values
    kept = tf.random.stateless_uniform(tf.shape(values), seed) >= rate
    return tf.where(kept, values / (1 - rate), 0.0)


def _reorder(weight: tf.Tensor) -> tf.Tensor:
    """Keras' order of gates (in, forget, cell, out) to ours, where the three sigmoids stand together."""
    let_in, forget, cell, let_out = tf.split(weight, 4, axis=-1)
    return tf.concat([let_in, forget, let_out, cell], axis=-1)


def _assign(variables: Iterable[tf.Variable], values: Iterable[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _intercept(logits: npt.NDArray[np.float64], share: float) -> float:
    """What, added to all logits, makes their mean probability `share`: the intercept of least log loss."""
    low, high = -50.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.mean(1 / (1 + np.exp(-logits - middle))) < share else (low, middle)
    return (low + high) / 2


def _best(history: Sequence[Epoch]) -> int:
    return min(range(len(history)), key=lambda number: history[number].validation.main)


def _is_over(history: Sequence[Epoch], settings: Settings) -> bool:
    return len(history) >= settings.epochs or (bool(history) and len(history) - 1 - _best(history) >= settings.patience)


def _thin(examples: Examples, rows: int) -> Examples:
    """Evenly spaced examples, about `rows` of them."""
    chosen = np.unique(np.linspace(0, len(examples) - 1, min(rows, len(examples)), dtype=np.int64))
    lengths = np.diff(examples.offsets)[chosen]
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    at = np.repeat(examples.offsets[chosen] - offsets[:-1], lengths) + np.arange(offsets[-1])
    columns = {name: getattr(examples, name)[chosen] for name in ("aux", "labels", "posted_at", "outlet")}
    return Examples(ids=examples.ids[at], offsets=offsets, **columns)


class _Curves:
    """Shows how a fit goes: a bar with the time left on a terminal, a line for each epoch, curves for TensorBoard."""

    def __init__(self, epochs: int, steps: int, tensorboard: Path | None) -> None:
        self._epochs = epochs
        self._steps = steps
        self._console = Console(stderr=True)
        self._began = time.monotonic()
        self._writers = {
            part: tf.summary.create_file_writer(str(tensorboard / part)) for part in Epoch._fields if tensorboard is not None
        }

    def progress(self, items: Iterable[Batch], number: int) -> Iterator[Batch]:
        """The batches of an epoch, with a bar that shows the time it still takes."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal) as bar:
            yield from bar.track(items, self._steps, description=f"epoch {number + 1}, {self._epochs} at most")

    def show(self, history: Sequence[Epoch]) -> None:
        """Tell the last epoch's losses."""
        number, epoch = len(history), history[-1]
        parts = ", ".join(f"{part} {losses.main:.4f} and {losses.aux:.4f}" for part, losses in epoch._asdict().items())
        best = "the best yet" if _best(history) == number - 1 else f"best was epoch {_best(history) + 1}"
        line = f"epoch {number}, {time.monotonic() - self._began:.0f} s: losses of main_output and aux_output: {parts}; {best}"
        if self._console.is_terminal:
            self._console.print(line)
        else:
            _log.info("%s", line)
        for part, writer in self._writers.items():
            with writer.as_default(step=number):
                for output, loss in zip(OUTPUTS, getattr(epoch, part), strict=True):
                    tf.summary.scalar(f"{output}_loss", loss)
            writer.flush()
