"""Fits the network: a plain TensorFlow training loop that skips padding and updates only the embeddings in use.

    with open_checkpoint(models, digest(features, settings)) as checkpoint:
        fitted = fit(features, settings, checkpoint)
        ...                                                 # export fitted.model

A step is fast because it computes no padding (`training.network`), updates only the embeddings that the batch uses
(`training.optimizer`), and its batch has been collated by another thread (`training.batches`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from service.errors import UsageError
from service.model.artifact import Teacher
from service.model.preprocessing import FIRST_WORD
from training import calibration
from training.batches import Batch, batches
from training.calibration import Calibration
from training.checkpoint import Checkpoint, State
from training.features import Examples, Features
from training.model import OUTPUTS, build
from training.network import Network, by_width
from training.optimizer import RowwiseRMSprop
from training.settings import Settings

CHECKPOINT_VERSION = 3  # raise it if the same settings give other weights than before, so that no older state is used
_ESTIMATE_EVERY = 20  # steps between two estimates of the time left
_EMA_UPDATES_PER_SPAN = 8  # averaging five million weights takes as long as a few steps

# What tf.summary.scalar writes; that function itself comes with TensorBoard, which only the reader of the curves needs.
_SCALAR = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class="DATA_CLASS_SCALAR"
)

_log = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]


class Losses(NamedTuple):
    """Binary cross-entropy of each output with the targets, in nats per row."""

    main: float
    aux: float


class Epoch(NamedTuple):
    """The losses after an epoch, without dropout."""

    training: Losses  # of evenly spaced rows, as many as the validation part has
    validation: Losses


@dataclass(frozen=True)
class Fit:
    """A fitted network and its history."""

    model: keras.Model  # the best epoch's weights, the calibration in its output layers
    history: tuple[Epoch, ...]
    best_epoch: int  # from 0
    calibration: tuple[Calibration, Calibration]  # of main_output and aux_output


def digest(features: Features, settings: Settings, teacher: Teacher | None = None) -> str:
    """A digest of the job, 16 hex digits: of the data, settings and libraries that decide the result of a fit."""
    taught_by = None if teacher is None else asdict(teacher)
    decides = [CHECKPOINT_VERSION, asdict(settings), taught_by, tf.__version__, keras.__version__]
    hashed = hashlib.sha256(json.dumps(decides).encode())
    for part in (features.training, features.validation):
        for array in (part.ids, part.offsets, part.aux, part.labels, part.targets):
            hashed.update(array.tobytes())
    return hashed.hexdigest()[:16]


def fit(
    features: Features,
    settings: Settings,
    checkpoint: Checkpoint | None = None,
    *,
    vectors: Vectors | None = None,
    tensorboard: Path | None = None,
) -> Fit:
    """Train the network on the training split until the validation loss of main_output stops falling.

    The weights of the best epoch are restored. Then each output is calibrated on the validation part's labels: an intercept,
    since the share of popular posts drifts, and if a teacher has softened the targets a slope too, since probabilities that
    were learned from them are too near to one half.

    `vectors` [words, at most 512] are what the embeddings of the vocabulary's words after VOCABULARY_HEAD begin with, scaled by
    `settings.vector_scale` and with zeros for the rest.

    With a checkpoint the state is saved after each epoch, and an interrupted fit resumes; it ends with the same weights, bit
    for bit, as one that was not interrupted. The same seed gives the same weights on the same machine. For this TensorFlow's
    operations are made deterministic and TF32 is turned off, for the whole process.

    `tensorboard` is a directory for learning curves.

    Raises UsageError if weights overflow or `tensorboard` is not writable.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)
    tf.config.experimental.enable_op_determinism()
    training, validation = features.training, features.validation
    sample = _subsample(training, len(validation))
    steps = -(-len(training) // settings.batch_size)
    model = build(settings.merge, seed=settings.seed)
    if vectors is not None and settings.vector_scale:
        _begin_with(model, settings.vector_scale * vectors)
    trainer = Trainer(model, settings, steps)
    history: list[Epoch] = []
    if checkpoint and (state := checkpoint.load()):
        history = trainer.restore(state)
        _log.info("resuming the interrupted fit after epoch %d", len(history))
    reporter = _Reporter(settings.epochs, steps, tensorboard)
    if not _is_over(history, settings):
        _log.info(
            "training in epochs of %d steps until %d in a row without a lower validation loss; the first steps take longest",
            steps,
            settings.patience,
        )
    while not _is_over(history, settings):
        number = len(history)
        random = np.random.default_rng([settings.seed, number])
        for batch in reporter.progress(batches(training, settings.batch_size, random), number):
            trainer.step(batch)
        if not trainer.is_finite():
            raise UsageError(f"epoch {number + 1} left weights that are not finite: learning_rate is too high")
        with trainer.ema_weights():
            history.append(Epoch(trainer.losses(sample), trainer.losses(validation)))
            if _best(history) == number:
                trainer.save_best()
        if checkpoint:
            checkpoint.save(trainer.state(history))
        reporter.show(history)
    trainer.restore_best()
    is_taught = not np.array_equal(training.targets, training.labels)
    calibrated = trainer.calibrate(validation, with_slope=is_taught)
    return Fit(trainer.network.model, tuple(history), _best(history), calibrated)


def _begin_with(model: keras.Model, vectors: Vectors) -> None:
    table = model.get_layer("embedding").embeddings
    values = table.numpy()
    values[FIRST_WORD : FIRST_WORD + len(vectors)] = 0
    values[FIRST_WORD : FIRST_WORD + len(vectors), : vectors.shape[1]] = vectors[:, : values.shape[1]]
    table.assign(values)


class Trainer:
    """A network in training: its steps, the exponential moving average (EMA) of its weights, and the best weights so far."""

    def __init__(self, model: keras.Model, settings: Settings, steps: int) -> None:
        """`model` comes from `training.model.build` and is trained in place. An epoch has `steps` steps."""
        self.network = Network(model)
        self._steps_per_ema_update = max(1, round(settings.averaging * steps / _EMA_UPDATES_PER_SPAN))  # steps
        self._settings = settings
        self._optimizer = RowwiseRMSprop(
            keras.optimizers.RMSprop(settings.learning_rate), self.network.table, self.network.others
        )
        self._ema = [tf.Variable(weight, trainable=False) for weight in self.network.weights]
        self._best = [weight.numpy() for weight in self.network.weights]
        self._update_compiled = by_width(self._update)

    def step(self, batch: Batch) -> None:
        """Update the weights with a batch."""
        self._update_compiled(batch)

    def is_finite(self) -> bool:
        """Whether all weights are finite. The loss does not show it: TensorFlow's ReLU turns NaN into 0 on CPUs."""
        return all(np.isfinite(weight.numpy()).all() for weight in self.network.weights)

    def losses(self, examples: Examples) -> Losses:
        """The mean losses on these rows."""
        logits, targets = self.network.logits(examples), examples.targets[:, None]
        main, aux = np.mean(np.logaddexp(0, logits) - targets * logits, axis=0)
        return Losses(float(main), float(aux))

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """Within the block the weights are their EMA, if the settings ask for one."""
        if not self._settings.averaging:
            yield
            return
        own = [weight.numpy() for weight in self.network.weights]
        _assign(self.network.weights, self._ema)
        yield
        _assign(self.network.weights, own)

    def save_best(self) -> None:
        """Save the current weights as the best."""
        self._best = [weight.numpy() for weight in self.network.weights]

    def restore_best(self) -> None:
        """Restore the best weights."""
        _assign(self.network.weights, self._best)

    def calibrate(self, examples: Examples, *, with_slope: bool) -> tuple[Calibration, Calibration]:
        """Fold into each output layer the calibration that fits these rows' labels best."""
        main, aux = (
            calibration.fit(logits, examples.labels, with_slope=with_slope) for logits in self.network.logits(examples).T
        )
        for name, found in zip(OUTPUTS, (main, aux), strict=True):
            layer = self.network.model.get_layer(name)
            layer.kernel.value.assign(layer.kernel.value * found.slope)
            layer.bias.value.assign(layer.bias.value * found.slope + found.intercept)
        return main, aux

    def state(self, history: Sequence[Epoch]) -> State:
        """The state that the next epochs depend on, by name."""
        losses = np.array([(*epoch.training, *epoch.validation) for epoch in history])
        best = {f"best_{i}": weight for i, weight in enumerate(self._best)}
        return {"history": losses, **best, **{name: variable.numpy() for name, variable in self._variables().items()}}

    def restore(self, state: State) -> list[Epoch]:
        """Resume from a state; returns its history."""
        for name, variable in self._variables().items():
            variable.assign(state[name])
        self._best = [state[f"best_{i}"] for i in range(len(self._best))]
        return [Epoch(Losses(*losses[:2]), Losses(*losses[2:])) for losses in state["history"].tolist()]

    def gradients(
        self, words: tf.Tensor, positions: tf.Tensor, aux: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The loss's gradients for a Batch's arrays: of the embeddings of `words`, and of `network.others` in order.

        `seed` [2] determines the dropout; without it there is none.
        """
        settings = self._settings
        word_seed, row_seed, state_seed = (None, None, None) if seed is None else tf.unstack(tf.random.split(seed, 3))
        rows = tf.gather(self.network.table, words)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([rows, *self.network.others])
            logits = self.network.forward(
                _hide(_drop(rows, settings.embedding_dropout, row_seed), settings.word_dropout, word_seed),
                positions,
                aux,
                drop_state=lambda state: _drop(state, settings.state_dropout, state_seed),
            )
            losses = tf.nn.sigmoid_cross_entropy_with_logits(tf.repeat(targets[:, None], 2, axis=1), logits)
            main_loss, aux_loss = tf.unstack(tf.reduce_mean(losses, axis=0))
            loss = main_loss + settings.aux_loss_weight * aux_loss
            if settings.embedding_decay:
                loss += settings.embedding_decay * tf.reduce_sum(tf.square(rows))
        row_gradients, *gradients = tape.gradient(loss, [rows, *self.network.others])
        return row_gradients, gradients

    def _update(self, words: tf.Tensor, positions: tf.Tensor, aux: tf.Tensor, targets: tf.Tensor) -> None:
        seed = tf.stack([tf.constant(self._settings.seed, tf.int64), self._optimizer.step])
        self._optimizer.apply(words, *self.gradients(words, positions, aux, targets, seed))
        if self._settings.averaging:
            tf.cond(self._optimizer.step % self._steps_per_ema_update == 0, self._update_ema, lambda: None)

    def _update_ema(self) -> None:
        # A plain mean at first: the first update discards the untrained weights.
        number = self._optimizer.step // self._steps_per_ema_update
        share = tf.maximum(1 - math.exp(-1 / _EMA_UPDATES_PER_SPAN), 1 / tf.cast(number, tf.float32))
        for average, weight in zip(self._ema, self.network.weights, strict=True):
            average.assign_add(share * (weight - average))

    def _variables(self) -> dict[str, tf.Variable]:
        groups = {"weight": self.network.weights, "optimizer": self._optimizer.variables, "average": self._ema}
        return {f"{group}_{i}": variable for group, variables in groups.items() for i, variable in enumerate(variables)}


def _drop(values: tf.Tensor, rate: float, seed: tf.Tensor | None) -> tf.Tensor:
    """Dropout: zeroes a share of the values, and scales the rest up to keep the mean."""
    if seed is None or not rate:
        return values
    kept = tf.random.stateless_uniform(tf.shape(values), seed) >= rate
    return tf.where(kept, values / (1 - rate), 0.0)


def _hide(rows: tf.Tensor, rate: float, seed: tf.Tensor | None) -> tf.Tensor:
    """Word dropout: a share of the words is as if it were blank (Iyyer et al., Deep Unordered Composition, 2015)."""
    if seed is None or not rate:
        return rows
    return tf.where(tf.random.stateless_uniform([tf.shape(rows)[0], 1], seed) >= rate, rows, 0.0)


def _assign(variables: Iterable[tf.Variable], values: Iterable[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _best(history: Sequence[Epoch]) -> int:
    return min(range(len(history)), key=lambda number: history[number].validation.main)


def _is_over(history: Sequence[Epoch], settings: Settings) -> bool:
    return len(history) >= settings.epochs or (bool(history) and len(history) - 1 - _best(history) >= settings.patience)


def _subsample(examples: Examples, rows: int) -> Examples:
    """About `rows` evenly spaced examples."""
    chosen = np.unique(np.linspace(0, len(examples) - 1, min(rows, len(examples)), dtype=np.int64))
    lengths = np.diff(examples.offsets)[chosen]
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    at = np.repeat(examples.offsets[chosen] - offsets[:-1], lengths) + np.arange(offsets[-1])
    columns = {name: getattr(examples, name)[chosen] for name in ("aux", "labels", "targets", "posted_at", "outlet")}
    return Examples(ids=examples.ids[at], offsets=offsets, **columns)


def time_left(moments: Sequence[float], steps: int) -> str:
    """How long an epoch of `steps` steps still takes, in words; `moments`, in seconds, are its beginning and its steps' ends.

    The median ignores the few steps that take a thousand times as long, because TensorFlow compiles for each new width.
    """
    seconds = float(np.median(np.diff(moments))) * (steps - len(moments) + 1)
    return f"about {seconds:.0f} s left" if seconds < 100 else f"about {seconds / 60:.0f} min left"


class _Reporter:
    """Shows how a fit goes: a bar with the time left on a terminal, a line for each epoch, curves for TensorBoard."""

    def __init__(self, epochs: int, steps: int, tensorboard: Path | None) -> None:
        self._epochs = epochs
        self._steps = steps
        self._console = Console(stderr=True)
        self._began = time.monotonic()
        self._writers = {}
        if tensorboard is not None:
            try:
                self._writers = {part: tf.summary.create_file_writer(str(tensorboard / part)) for part in Epoch._fields}
            except tf.errors.OpError as error:
                raise UsageError(f"tensorboard is {tensorboard}; it must be a directory that can be written to") from error

    def progress(self, items: Iterable[Batch], number: int) -> Iterator[Batch]:
        """The batches of an epoch, with a bar that shows the time it still takes, once that can be known."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
        )
        with Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal) as bar:
            epoch = bar.add_task(f"epoch {number + 1} of at most {self._epochs}", total=self._steps, left="")
            moments = [time.monotonic()]
            for item in items:
                yield item
                moments.append(time.monotonic())
                if len(moments) % _ESTIMATE_EVERY == 0:
                    bar.update(epoch, left=time_left(moments, self._steps))
                bar.advance(epoch)

    def show(self, history: Sequence[Epoch]) -> None:
        """Report the last epoch's losses."""
        number, epoch = len(history), history[-1]
        parts = "; ".join(f"{part} {losses.main:.4f}, {losses.aux:.4f}" for part, losses in epoch._asdict().items())
        took = time.monotonic() - self._began
        line = f"epoch {number}, {took:.0f} s: loss of main, aux output: {parts} (best: epoch {_best(history) + 1})"
        if self._console.is_terminal:
            self._console.print(line, highlight=False, soft_wrap=True)
        else:
            _log.info("%s", line)
        for part, writer in self._writers.items():
            with writer.as_default(step=number):
                for output, loss in zip(OUTPUTS, getattr(epoch, part), strict=True):
                    tf.summary.write(f"{output}_loss", tf.constant(loss, tf.float32), metadata=_SCALAR)
            writer.flush()
