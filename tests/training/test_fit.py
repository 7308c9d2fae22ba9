"""Fitting: the loop is Keras' mathematics, repeatable, and goes on where it was killed."""

import hashlib
import logging
import os
import re
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from service.errors import UsageError
from service.model.labels import ABOVE_MEDIAN, Label
from service.model.preprocessing import SEQUENCE_LENGTH
from training.batches import WIDTHS, batches, bucket_by_length, collate
from training.checkpoint import open_checkpoint
from training.features import Examples, Features
from training.fit import Fit, Trainer, _hide, digest, fit, time_left
from training.model import OUTPUTS, build
from training.network import Network
from training.settings import MERGES, Settings

SETTINGS = Settings(learning_rate=3e-3, batch_size=32, averaging=0.35, word_dropout=0.0)  # large steps, as there are few


def make_examples(rows: int, seed: int, longest: int = 8) -> Examples:
    """Posts whose first word and outlet level say how popular they are."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, longest + 1, rows)
    ids = random.integers(1, 200, lengths.sum()).astype(np.int32)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    aux = random.normal(size=(rows, 5)).astype(np.float32)
    signal = aux[:, 4] + np.where(ids[offsets[:-1]] < 100, 1.0, -1.0) + random.normal(size=rows, scale=0.3)
    labels = (signal > 0).astype(np.float32)
    return Examples(ids, offsets, aux, labels, labels, np.arange(rows, dtype=float), np.zeros(rows, np.int32))


def make_features(seed: int = 0) -> Features:
    parts = (make_examples(rows, seed + i) for i, rows in enumerate((960, 240, 240)))
    label = Label(ABOVE_MEDIAN, ("likes",), threshold=1.0)
    return Features([], {}, {}, label, None, np.zeros(0), (960, 1200, 1440), *parts)


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
    batch = collate(examples, np.arange(32))
    with tf.GradientTape() as tape:
        outputs = model([padded(examples), examples.aux], training=True)
        losses = [keras.losses.binary_crossentropy(examples.labels[:, None], outputs[name]) for name in OUTPUTS]
        loss = tf.reduce_mean(losses[0]) + 0.2 * tf.reduce_mean(losses[1])
    expected = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
    table, others = Trainer(model, Settings(embedding_decay=0), steps=1).gradients(*map(tf.constant, batch[:4]))
    dense = tf.convert_to_tensor(expected[0]).numpy()
    np.testing.assert_allclose(table.numpy(), dense[batch.words], rtol=1e-4, atol=1e-7)
    assert not np.delete(dense, batch.words, axis=0).any()
    for ours, keras_own in zip(others, expected[1:], strict=True):
        np.testing.assert_allclose(ours.numpy(), keras_own.numpy(), rtol=1e-4, atol=1e-7)


def test_word_dropout_hides_whole_words_and_leaves_the_others():
    rows = tf.ones([1000, 4])
    hidden = _hide(rows, 0.3, tf.constant([1, 2], tf.int64)).numpy()
    assert set(np.unique(hidden)) == {0.0, 1.0}
    assert (np.ptp(hidden, axis=1) == 0).all()
    assert 0.25 < (hidden[:, 0] == 0).mean() < 0.35
    assert _hide(rows, 0.3, None) is rows
    assert _hide(rows, 0.0, tf.constant([1, 2], tf.int64)) is rows


def test_every_row_is_in_one_batch_with_others_of_its_length_in_an_order_of_the_seed():
    lengths = np.random.default_rng(0).integers(1, 15, 1000)
    dealt, same, other = (bucket_by_length(lengths, 32, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert sorted(np.concatenate(dealt)) == list(range(1000))
    assert [len(rows) for rows in dealt] == [32] * 31 + [8]
    assert all(map(np.array_equal, dealt, same))
    assert not all(map(np.array_equal, dealt, other))
    alike = [len(set(np.searchsorted(WIDTHS, lengths[rows]))) == 1 for rows in dealt]
    assert sum(alike) >= len(dealt) - 4  # but for the rows that are left in the end
    # Short and long ones come in turns, not one after another.
    assert len({int(np.searchsorted(WIDTHS, lengths[rows[0]])) for rows in dealt[:8]}) > 1


def test_a_batch_holds_each_word_once_and_padding_before_the_words():
    examples = Examples(
        ids=np.array([7, 3, 7, 5], np.int32),
        offsets=np.array([0, 3, 4]),
        aux=np.arange(10, dtype=np.float32).reshape(2, 5),
        labels=np.array([0, 1], np.float32),
        targets=np.array([0.25, 0.75], np.float32),
        posted_at=np.zeros(2),
        outlet=np.zeros(2, np.int32),
    )
    (batch,) = batches(examples, 32)
    assert batch.words.tolist() == [3, 5, 7]
    assert batch.positions.T.tolist() == [[0, 0, 0, 0, 0, 3, 1, 3], [0, 0, 0, 0, 0, 0, 0, 2]]
    assert (batch.aux == examples.aux).all()
    assert batch.targets.tolist() == [0.25, 0.75]


@pytest.fixture(scope="module")
def undisturbed(features) -> Fit:
    return fit(features, SETTINGS)


def test_a_fit_learns_and_stops_and_keeps_the_best_weights(features, undisturbed):
    losses = [epoch.validation.main for epoch in undisturbed.history]
    assert min(losses) == losses[undisturbed.best_epoch] < 0.55  # .69 knows nothing
    assert len(losses) < SETTINGS.epochs
    assert len(losses) == undisturbed.best_epoch + 1 + SETTINGS.patience
    outputs = undisturbed.model.predict([padded(features.validation), features.validation.aux], verbose=0)
    for i, name in enumerate(OUTPUTS):
        scores = outputs[name][:, 0].astype(np.float64)
        assert scores.mean() == pytest.approx(features.validation.labels.mean(), abs=1e-5)  # a score is a probability
        logits = np.log(scores / (1 - scores)) - undisturbed.calibration[i].intercept
        labels = features.validation.labels
        loss = np.mean(np.logaddexp(0, logits) - labels * logits)
        assert loss == pytest.approx(undisturbed.history[undisturbed.best_epoch].validation[i], abs=1e-5)


def test_the_seed_decides_the_weights(features):
    one = replace(SETTINGS, epochs=1)
    first, same, other = (fingerprint(fit(features, settings)) for settings in (one, one, replace(one, seed=1)))
    assert first == same != other


def test_weights_that_are_no_numbers_end_the_fit(features):
    aux = np.full_like(features.training.aux, np.nan)
    with pytest.raises(UsageError, match="epoch 1 left weights that are not finite: learning_rate"):
        fit(replace(features, training=replace(features.training, aux=aux)), SETTINGS)


@pytest.mark.usefixtures("undisturbed")
def test_products_are_not_rounded_to_tf32():
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


def test_curves_for_tensorboard(features, tmp_path):
    fitted = fit(features, replace(SETTINGS, epochs=2), tensorboard=tmp_path)
    for part in ("training", "validation"):
        (file,) = (tmp_path / part).iterdir()
        events = [tf.compat.v1.Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(file))]
        curves = {(v.tag, e.step): float(tf.make_ndarray(v.tensor)) for e in events for v in e.summary.value}
        for number, epoch in enumerate(fitted.history):
            for output, loss in zip(OUTPUTS, getattr(epoch, part), strict=True):
                assert curves[f"{output}_loss", number + 1] == pytest.approx(loss)


def test_a_fit_killed_after_any_epoch_ends_as_if_nothing_had_been(undisturbed, tmp_path):
    for epoch in (1, 3):
        with job(tmp_path) as process:
            for line in process.stderr:
                if f"epoch {epoch}," in line:
                    process.send_signal(signal.SIGKILL)
                    break
        assert process.returncode == -signal.SIGKILL
    with job(tmp_path) as process:
        told, said = process.communicate()
    assert process.returncode == 0, said
    assert re.search(r"after epoch [3-9]", said)
    assert told.strip() == fingerprint(undisturbed)
    assert list(tmp_path.iterdir()) == []  # a finished job leaves nothing


def test_a_finished_fit_whose_export_failed_is_not_fitted_again(features, tmp_path, caplog):
    settings = replace(SETTINGS, epochs=1)
    name = digest(features, settings)
    with pytest.raises(OSError, match="full"), open_checkpoint(tmp_path, name) as checkpoint:
        first = fit(features, settings, checkpoint)
        raise OSError("the disk is full")
    with caplog.at_level("INFO"), open_checkpoint(tmp_path, name) as checkpoint:
        second = fit(features, settings, checkpoint)
    assert [record.message for record in caplog.records if record.name == "training.fit"] == [
        "resuming the interrupted fit after epoch 1"
    ]
    assert fingerprint(first) == fingerprint(second)
    assert first.calibration == second.calibration


def test_the_digest_names_data_and_settings(features):
    assert digest(features, SETTINGS) == digest(make_features(), Settings(**asdict(SETTINGS)))
    changed = make_features()
    changed.validation.labels[0] = 1 - changed.validation.labels[0]
    names = {digest(features, SETTINGS), digest(features, replace(SETTINGS, seed=1)), digest(changed, SETTINGS)}
    assert len(names) == 3


def fingerprint(fitted: Fit) -> str:
    return hashlib.sha256(b"".join(weight.numpy().tobytes() for weight in fitted.model.weights)).hexdigest()


def job(models: Path) -> subprocess.Popen:
    """This file as a program: the fit that `undisturbed` is, with a checkpoint."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, __file__, models], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def main(models: Path) -> None:
    logging.basicConfig(level=logging.INFO)
    with open_checkpoint(models, digest(make_features(), SETTINGS)) as checkpoint:
        print(fingerprint(fit(make_features(), SETTINGS, checkpoint)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))


def test_the_time_left_is_told_by_the_usual_step_and_not_by_those_that_compile():
    steps = np.full(20, 0.004)
    steps[[0, 3, 7]] = 7.0
    moments = np.concatenate(([100.0], 100 + np.cumsum(steps))).tolist()
    assert time_left(moments, 2520) == "about 10 s left"
    assert time_left(moments, 100_020) == "about 7 min left"
    assert time_left(moments, 20) == "about 0 s left"
