"""Fitting: the loop is Keras' mathematics, repeatable, and goes on where it was killed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from service.preprocessing import SEQUENCE_LENGTH
from training.batches import WIDTHS, batches, deal, lay_out
from training.checkpoint import open_checkpoint
from training.features import Examples, Features
from training.fit import Settings, Trainer, digest, fit
from training.model import MERGES, OUTPUTS, build
from training.network import Network


def make_examples(rows: int, seed: int, longest: int = 10) -> Examples:
    """Posts whose first word and outlet level say how popular they are."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, longest + 1, rows)
    ids = random.integers(1, 200, lengths.sum()).astype(np.int32)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    aux = random.normal(size=(rows, 5)).astype(np.float32)
    signal = aux[:, 4] + np.where(ids[offsets[:-1]] < 100, 1.0, -1.0) + random.normal(size=rows)
    return Examples(ids, offsets, aux, (signal > 0).astype(np.float32), np.arange(rows, dtype=float), np.zeros(rows, np.int32))


def make_features(seed: int = 0) -> Features:
    parts = (make_examples(rows, seed + i) for i, rows in enumerate((960, 240, 240)))
    return Features([], {}, [], 1.0, (960, 1200, 1440), *parts)


def padded(examples: Examples) -> np.ndarray:
    ids = np.zeros((len(examples), SEQUENCE_LENGTH), np.int32)
    for i, (start, end) in enumerate(zip(examples.offsets, examples.offsets[1:], strict=False)):
        ids[i, : end - start] = examples.ids[start:end]
    return ids


@pytest.fixture(scope="module")
def features() -> Features:
    return make_features()


@pytest.mark.parametrize("merge", MERGES)
def test_the_loop_computes_what_the_keras_model_computes(merge):
    examples = make_examples(64, seed=1, longest=SEQUENCE_LENGTH if merge == "concatenate" else 8)
    model = build(merge, seed=3)
    for bias in (weight for weight in model.weights if weight.path.endswith("bias")):
        bias.assign(np.random.default_rng(0).normal(size=bias.shape, scale=0.1))
    outputs = model.predict([padded(examples), examples.aux], verbose=0)
    ours = Network(model).predict(examples)
    for column, name in enumerate(OUTPUTS):
        np.testing.assert_allclose(ours[:, column], outputs[name][:, 0], atol=1e-6)


def test_its_gradients_are_those_of_keras():
    examples = make_examples(32, seed=2)
    model = build(seed=4)
    batch = lay_out(examples, np.arange(32))
    with tf.GradientTape() as tape:
        outputs = model([padded(examples), examples.aux], training=True)
        losses = [keras.losses.binary_crossentropy(examples.labels[:, None], outputs[name]) for name in OUTPUTS]
        loss = tf.reduce_mean(losses[0]) + 0.2 * tf.reduce_mean(losses[1])
    expected = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
    table, others = Trainer(model, Settings()).gradients(*map(tf.constant, batch[:4]))
    dense = tf.convert_to_tensor(expected[0]).numpy()
    np.testing.assert_allclose(table.numpy(), dense[batch.words], rtol=1e-4, atol=1e-7)
    assert not np.delete(dense, batch.words, axis=0).any()
    for ours, keras_own in zip(others, expected[1:], strict=True):
        np.testing.assert_allclose(ours.numpy(), keras_own.numpy(), rtol=1e-4, atol=1e-7)


def test_a_fit_learns_and_is_calibrated_and_repeatable(features):
    settings = Settings(epochs=4)
    first, second, other = fit(features, settings), fit(features, settings), fit(features, Settings(epochs=4, seed=1))
    print(first.history)
    for weight, same, differs in zip(first.model.weights, second.model.weights, other.model.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), same.numpy())
        assert (weight.numpy() != differs.numpy()).any()
    assert first.history == second.history
