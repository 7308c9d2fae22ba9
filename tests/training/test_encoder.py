"""Sentence embeddings are BERT's, do not depend on what is embedded beside them, and are computed once."""

import hashlib
import logging
import math

import numpy as np
import pytest
import tiny_encoder
from scipy.special import erf, softmax

from service.errors import UsageError
from training import embeddings, encoder
from training.encoder import Encoder

TEXTS = ["Storm closes every school", "City council votes on new park", "A", "The storm wins", "x9 " * 60, "école 東京", ""]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    directory = tmp_path_factory.mktemp("encoder")
    weights, tokenizer = tiny_encoder.write(directory)
    return directory, weights, tokenizer


def bert(weights, ids):
    """One text through the encoder, in NumPy, as the papers write it."""

    def dense(inputs, name):
        return inputs @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(inputs, name):
        centred = inputs - inputs.mean(-1, keepdims=True)
        return (
            centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * weights[f"{name}.weight"]
            + weights[f"{name}.bias"]
        )

    hidden = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.position_embeddings.weight"][: len(ids)]
    hidden = norm(hidden + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    size = tiny_encoder.WIDTH // tiny_encoder.HEADS
    for i in range(tiny_encoder.LAYERS):
        name = f"encoder.layer.{i}"
        query, key, value = (dense(hidden, f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
        heads = []
        for start in range(0, tiny_encoder.WIDTH, size):
            own = slice(start, start + size)
            heads.append(softmax(query[:, own] @ key[:, own].T / math.sqrt(size), axis=-1) @ value[:, own])
        hidden = norm(hidden + dense(np.hstack(heads), f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm")
        inner = dense(hidden, f"{name}.intermediate.dense")
        inner = inner * (1 + erf(inner / math.sqrt(2))) / 2
        hidden = norm(hidden + dense(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    mean = hidden.mean(0)
    return mean / np.linalg.norm(mean)


def test_an_embedding_is_what_bert_computes(tiny):
    directory, weights, tokenizer = tiny
    tokenizer.no_padding()
    tokenizer.enable_truncation(tiny_encoder.POSITIONS)
    expected = [bert(weights, tokenizer.encode(text).ids) for text in TEXTS]
    found = Encoder(directory).embed(TEXTS)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found.astype(float), expected, atol=6e-4)  # float16's rounding


def test_an_embedding_does_not_depend_on_the_others(tiny):
    encoding = Encoder(tiny[0])
    many = [*TEXTS, *(f"storm {i}" for i in range(150))]
    together = encoding.embed(many)
    order = np.random.default_rng(0).permutation(len(many))
    assert np.array_equal(encoding.embed([many[i] for i in order]), together[order])
    assert np.array_equal(np.vstack([encoding.embed([text]) for text in many[:12]]), together[:12])
    assert encoding.embed([]).shape == (0, tiny_encoder.WIDTH)


def test_progress_is_told(tiny):
    told = []
    Encoder(tiny[0]).embed([f"storm {i}" for i in range(150)], lambda *now: told.append(now))
    assert told == sorted(told)
    assert told[-1] == (150, 150)
    assert len(told) > 2


def test_a_words_vector_is_the_mean_of_its_pieces(tiny):
    directory, weights, tokenizer = tiny
    table = weights["embeddings.word_embeddings.weight"]
    pieces = tokenizer.encode("parks", add_special_tokens=False)
    tokenizer.no_padding()
    pieces = tokenizer.encode("parks", add_special_tokens=False)
    assert pieces.tokens == ["park", "##s"]
    found = Encoder(directory).vectors(["parks", "storm"])
    np.testing.assert_allclose(found[0], table[pieces.ids].mean(0), rtol=1e-6)
    np.testing.assert_allclose(found[1], table[tokenizer.token_to_id("storm")], rtol=1e-6)
    assert Encoder(directory).vectors([]).shape == (0, tiny_encoder.WIDTH)


def test_weights_may_be_named_as_transformers_names_them(tiny, tmp_path):
    tiny_encoder.write(tmp_path / "other", prefix="bert.")
    assert np.array_equal(Encoder(tmp_path / "other").embed(TEXTS), Encoder(tiny[0]).embed(TEXTS))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", None, r"config\.json: No such file.*a directory with config\.json, tokenizer\.json"),
        ("model.safetensors", None, "model.safetensors: No such file"),
        ("config.json", b"{", "is not a BERT encoder that can be read"),
        ("config.json", b"{}", "is not a BERT encoder that can be read: 'model_type'"),
        ("config.json", b'{"model_type": "mpnet"}', "model_type is 'mpnet'; it must be bert"),
        ("model.safetensors", b"", "is not a BERT encoder that can be read"),
        ("model.safetensors", b"\xff" * 100, "is not a BERT encoder that can be read"),
        ("tokenizer.json", b"{}", r"tokenizer\.json: "),
        ("tokenizer.json", b"\xff\xfe", r"tokenizer\.json: "),
    ],
)
def test_what_is_no_encoder_is_refused_by_name(tmp_path, name, content, words):
    tiny_encoder.write(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=words):
        Encoder(tmp_path)


def test_another_kind_of_encoder_is_refused(tmp_path):
    tiny_encoder.write(tmp_path, hidden_act="relu")
    with pytest.raises(UsageError, match="hidden_act is 'relu'; it must be gelu"):
        Encoder(tmp_path)
    tiny_encoder.write(tmp_path, num_hidden_layers=3)
    with pytest.raises(UsageError, match=r"encoder\.layer\.2"):
        Encoder(tmp_path)


def test_an_encoder_is_known_by_its_weights(tiny, tmp_path):
    assert Encoder(tiny[0]).sha256 == hashlib.sha256((tiny[0] / "model.safetensors").read_bytes()).hexdigest()
    tiny_encoder.write(tmp_path, seed=1)
    assert Encoder(tmp_path).sha256 != Encoder(tiny[0]).sha256


def test_none_is_found_where_none_is_installed(monkeypatch):
    monkeypatch.setattr(encoder, "PACKAGE", "a_package_that_nobody_has")
    assert encoder.find() is None


class _Counting(Encoder):
    embedded = 0

    def embed(self, texts, tell=lambda done, of: None):
        self.embedded += len(texts)
        return super().embed(texts, tell)


def test_what_the_last_job_has_embedded_is_not_computed_again(tiny, tmp_path):
    encoding = _Counting(tiny[0])
    encoding.embedded = 0
    models = tmp_path / "models"
    models.mkdir()
    (models / f".embeddings-{encoding.sha256[:16]}.npz.killed").write_bytes(b"half")
    first = embeddings.embed(encoding, [*TEXTS, TEXTS[0]], models)
    assert encoding.embedded == len(TEXTS)
    assert np.array_equal(first, Encoder(tiny[0]).embed([*TEXTS, TEXTS[0]]))
    later = [TEXTS[2], "A new one", TEXTS[0]]
    assert np.array_equal(embeddings.embed(encoding, later, models), Encoder(tiny[0]).embed(later))
    assert encoding.embedded == len(TEXTS) + 1
    (kept,) = models.glob(".embeddings-*")  # not what a killed job left
    assert kept.stat().st_mode & 0o777 == 0o600
    assert len(np.load(kept)["keys"]) == 3  # this job's alone: it does not grow for ever
    assert embeddings.embed(encoding, [], models).shape == (0, tiny_encoder.WIDTH)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04" + b"\0" * 50, b"garbage"])
def test_a_damaged_cache_is_computed_again_and_said(tiny, tmp_path, caplog, damage):
    encoding = Encoder(tiny[0])
    expected = embeddings.embed(encoding, TEXTS, tmp_path)
    (kept,) = tmp_path.glob(".embeddings-*")
    kept.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(embeddings.embed(encoding, TEXTS, tmp_path), expected)
    assert "cannot be read" in caplog.text
    assert [*tmp_path.iterdir()] == [kept]


def test_a_cache_of_something_else_is_computed_again(tiny, tmp_path):
    encoding = Encoder(tiny[0])
    expected = embeddings.embed(encoding, TEXTS, tmp_path)
    (kept,) = tmp_path.glob(".embeddings-*")
    with kept.open("wb") as file:
        np.savez(file, keys=np.array(["x" * 32], "S32"), embeddings=np.zeros((1, 5), np.float16))
    assert np.array_equal(embeddings.embed(encoding, TEXTS, tmp_path), expected)
