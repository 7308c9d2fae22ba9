"""Row-wise RMSprop is Keras' RMSprop given dense gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.optimizer import RowwiseRMSprop


def test_it_agrees_with_keras_given_dense_gradients_after_200_steps():
    random = np.random.default_rng(0)
    first = [random.normal(size=size).astype(np.float32) for size in ((500, 8), (8, 3), (3,))]
    ours, keras_own = ([tf.Variable(weight) for weight in first] for _ in range(2))
    settings = {"learning_rate": 3e-3, "rho": 0.93, "epsilon": 1e-6}
    optimizer = RowwiseRMSprop(keras.optimizers.RMSprop(**settings), ours[0], ours[1:])
    reference = keras.optimizers.RMSprop(**settings)
    reference_weights = [keras.Variable(weight) for weight in keras_own]
    reference.build(reference_weights)

    def loss(embeddings, kernel, bias):
        return tf.reduce_mean(tf.square(tf.tanh(embeddings @ kernel + bias) - 0.3))

    for _ in range(200):
        # As words are: a few in every batch and often several times, most of them seldom, some never.
        words = np.minimum(random.pareto(0.7, 40) * 3, 480).astype(np.int32)
        dense = [weight.value for weight in reference_weights]
        with tf.GradientTape() as tape:
            value = loss(tf.gather(dense[0], words), *dense[1:])
        gradients = tape.gradient(value, dense)
        reference.apply([tf.convert_to_tensor(gradient) for gradient in gradients], reference_weights)

        rows, positions = np.unique(words, return_inverse=True)
        with tf.GradientTape() as tape:
            used = tf.gather(ours[0], rows)
            tape.watch(used)
            value = loss(tf.gather(used, positions), *ours[1:])
        row_gradients, *gradients = tape.gradient(value, [used, *ours[1:]])
        optimizer.apply(rows, tf.convert_to_tensor(row_gradients), gradients)

    for weight, expected, start in zip(ours, reference_weights, first, strict=True):
        np.testing.assert_allclose(weight.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)
        assert np.abs(weight.numpy() - start).max() > 0.05
    for average, expected in zip(optimizer.averages(), reference._velocities, strict=True):
        np.testing.assert_allclose(average, expected.numpy(), rtol=1e-4, atol=1e-5)
        assert average.any()


@pytest.mark.parametrize(
    "option",
    [
        {"momentum": 0.9},
        {"centered": True},
        {"weight_decay": 0.01},
        {"use_ema": True},
        {"global_clipnorm": 1.0},
        {"clipnorm": 1.0},
        {"clipvalue": 1.0},
        {"loss_scale_factor": 2.0},
        {"gradient_accumulation_steps": 2},
        {"learning_rate": keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)},
    ],
    ids=lambda option: next(iter(option)),
)
def test_it_refuses_what_it_does_not_do(option):
    name = "schedule" if "learning_rate" in option else next(iter(option))
    with pytest.raises(ValueError, match=name):
        RowwiseRMSprop(keras.optimizers.RMSprop(**option), tf.Variable(tf.zeros([2, 2])), [])
