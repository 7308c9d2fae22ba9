"""Both engines answer what the version's `serving_default` answers, whatever else is in the batch."""

import csv
import errno
import gzip
import itertools
import logging
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import UsageError, VersionError
from service.model.artifact import CPU_MODEL, Artifact
from service.model.engines import choose
from service.model.engines.layout import Cost
from service.model.preprocessing import VOCABULARY_HEAD, Headline, Preprocessor
from service.model.preprocessing.rules_2 import words
from training.export import export, serve
from training.model import WORDS, build

TOLERANCE = 1e-5
ENGINES = ("litert", "tensorflow")
REAL_DATA = Path(os.environ.get("HEADLINES_REAL_DATA", Path(__file__).parents[2] / "../shared/data/headlines.csv.gz"))


class Exported(NamedTuple):
    artifact: Artifact
    serving_default: object  # training.export.serve's


def read(directory: Path, vocabulary=range(WORDS)) -> Artifact:
    """A version's files, as the engines need them."""
    files = {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    return Artifact(directory, 1, "", files, info=None, vocabulary=[str(i) for i in vocabulary], examples=())


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network with weights as large as training makes them, so that a difference shows in the outputs."""
    model = build(seed=3)
    random = np.random.default_rng(3)
    for variable in model.weights:
        if variable.path.startswith("embedding"):
            variable.assign(variable.numpy() * 6)
        else:
            variable.assign_add(random.normal(0, 0.15, variable.shape))
    directory = tmp_path_factory.mktemp("version")
    export(directory, model)
    return Exported(read(directory), serve(directory))


@pytest.fixture(scope="module", params=ENGINES)
def model(request, exported):
    model = choose(request.param).load(exported.artifact)
    model.warm()
    return model


class Pool(NamedTuple):
    """Rows to make batches of, and what serving_default answers to them."""

    rows: list  # of int32 [length]
    aux: np.ndarray
    expected: np.ndarray

    def predict(self, model, chosen):
        rows = [self.rows[i] for i in chosen]
        lengths = np.array([len(row) for row in rows], np.int32)
        return model.predict(np.concatenate(rows), lengths, self.aux[list(chosen)])


def pool(serving_default, rows, aux):
    padded = np.zeros((len(rows), 100), np.int32)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    expected = serving_default(padded, aux)
    assert expected.std(axis=0).min() > 0.01  # else a wrong answer would be as good as a right one
    return Pool(rows, aux, expected)


@pytest.fixture(scope="module")
def ragged(exported):
    """Every length from 1 to 100, the longest and the shortest often; every kind of word."""
    random = np.random.default_rng(4)
    lengths = [*range(1, 101), *[1] * 20, *[100] * 20, *random.integers(1, 25, 460)]
    rows = [random.integers(1, WORDS, length, dtype=np.int32) for length in lengths]
    rows[0][:] = WORDS - 1
    rows[1][:] = 1
    return pool(exported.serving_default, rows, random.normal(size=(len(rows), 5)).astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(chosen=st.lists(st.integers(0, 599), min_size=1, max_size=300))
def test_random_batches(model, ragged, chosen):
    np.testing.assert_allclose(ragged.predict(model, chosen), ragged.expected[chosen], rtol=0, atol=TOLERANCE)


def test_each_length_alone_and_all_at_once(model, ragged):
    for i in range(100):
        np.testing.assert_allclose(ragged.predict(model, [i]), ragged.expected[[i]], rtol=0, atol=TOLERANCE)
    everything = range(len(ragged.rows))
    np.testing.assert_allclose(ragged.predict(model, everything), ragged.expected, rtol=0, atol=TOLERANCE)


def test_no_row_is_an_empty_answer(model):
    answer = model.predict(np.empty(0, np.int32), np.empty(0, np.int32), np.empty((0, 5), np.float32))
    assert answer.shape == (0, 2)
    assert answer.dtype == np.float32


def test_another_thread_may_call(model, ragged):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(ragged.predict(model, range(50))))
    thread.start()
    thread.join()
    np.testing.assert_allclose(answers[0], ragged.expected[:50], rtol=0, atol=TOLERANCE)


def test_an_answer_stays_as_it_was_given(model, ragged):
    first = ragged.predict(model, [7])
    kept = first.copy()
    ragged.predict(model, [8])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.skipif(not REAL_DATA.exists(), reason=f"no real data at {REAL_DATA}; HEADLINES_REAL_DATA says where it is")
def test_real_headlines(exported):
    """All of them give the same with both engines, and a sample of them what serving_default gives."""
    with gzip.open(REAL_DATA, "rt", encoding="utf-8", newline="") as file:
        headlines = [Headline(row["headline"], i * 977.0, row["outlet"]) for i, row in enumerate(csv.DictReader(file))]
    counts = Counter(itertools.chain.from_iterable(words(headline.text) for headline in headlines))
    vocabulary = [*VOCABULARY_HEAD, *(word for word, _ in counts.most_common(WORDS - 2))]
    outlets = sorted({headline.outlet for headline in headlines})
    rows = Preprocessor(vocabulary, {outlet: i / 10 - 1 for i, outlet in enumerate(outlets)}).encode(headlines)

    answers = []
    for name in ENGINES:
        model = choose(name).load(exported.artifact)
        answers.append(model.predict(rows.ids, rows.lengths, rows.aux))
    np.testing.assert_allclose(*answers, rtol=0, atol=TOLERANCE)

    ends = np.cumsum(rows.lengths)
    sample = np.arange(0, len(headlines), 25)
    chosen = [rows.ids[ends[i] - rows.lengths[i] : ends[i]] for i in sample]
    expected = pool(exported.serving_default, chosen, rows.aux[sample]).expected
    for answer in answers:
        np.testing.assert_allclose(answer[sample], expected, rtol=0, atol=TOLERANCE)


def test_long_rows_do_not_set_the_length_of_others():
    cost = Cost(call=0, call_per_word=20, largest_call=128)
    lengths = np.array([10] * 31 + [100] + [10] * 32, np.int32)
    ids = np.arange(1, lengths.sum() + 1, dtype=np.int32)
    calls = list(cost.calls(ids, lengths, lengths, np.zeros((64, 5), np.float32)))
    assert sorted(call.main_input.shape for call in calls) == [(1, 100), (63, 10)]


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 100), min_size=1, max_size=60),
    cost=st.builds(Cost, st.integers(0, 2000), st.integers(0, 50), st.integers(1, 40)),
    bucket=st.sampled_from([1, 8, 100]),
)
def test_calls_hold_every_row_once_with_its_words_at_the_end(lengths, cost, bucket):
    lengths = np.array(lengths, np.int32)
    widths = -(-lengths // bucket) * bucket
    ids = np.arange(1, lengths.sum() + 1, dtype=np.int32)
    aux = np.arange(len(lengths) * 5, dtype=np.float32).reshape(-1, 5)
    ends = np.cumsum(lengths)
    seen = []
    for call in cost.calls(ids, lengths, widths, aux):
        rows = np.arange(len(lengths))[call.rows]
        assert len(rows) <= cost.largest_call
        assert call.main_input.shape == (len(rows), widths[rows].max())
        np.testing.assert_array_equal(call.aux_input, aux[rows])
        for i, line in zip(rows, call.main_input, strict=True):
            assert line[line > 0].tolist() == ids[ends[i] - lengths[i] : ends[i]].tolist()
            assert not line[: len(line) - lengths[i]].any()
        seen.extend(rows.tolist())
    assert sorted(seen) == list(range(len(lengths)))


def test_litert_needs_no_tensorflow(exported):
    script = """
import sys
from pathlib import Path
import numpy as np
from service.model.artifact import CPU_MODEL, Artifact
from service.model.engines import choose
files = {CPU_MODEL: Path(sys.argv[1]).read_bytes()}
model = choose("litert").load(Artifact(Path(), 1, "", files, None, ["", "[UNK]", "city"], ()))
model.warm()
assert model.predict(np.array([2], np.int32), np.array([1], np.int32), np.zeros((1, 5), np.float32)).shape == (1, 2)
assert not {"tensorflow", "keras"} & set(sys.modules)
"""
    path = exported.artifact.path / CPU_MODEL
    run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_tensorflow_leaves_nothing_in_its_memory_file_system_and_computes_in_float32(exported):
    tf.config.experimental.enable_tensor_float_32_execution(True)
    engine = choose("tensorflow")
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
    engine.load(exported.artifact)
    assert tf.io.gfile.glob("ram://*") == []


def _damage(exported, name, data):
    files = {**exported.artifact.files, name: data}
    return Artifact(exported.artifact.path, 1, "", files, None, exported.artifact.vocabulary, ())


def _without_numbers(exported, name):
    """The same file with a row of the folded table that is not a number."""
    data = exported.artifact.files[name]
    loaded = tf.saved_model.load(str(exported.artifact.path))
    (table,) = (variable for variable in loaded.signatures["trimmed"].variables if variable.shape == (WORDS, 128))
    row = table[77].numpy()
    assert data.count(row.tobytes()) == 1
    return data.replace(row.tobytes(), np.full_like(row, np.nan).tobytes())


@pytest.mark.parametrize("damage", ["empty", "cut", "other", "not numbers"])
def test_litert_refuses_what_it_cannot_run(exported, damage):
    good = exported.artifact.files[CPU_MODEL]
    data = {"empty": b"", "cut": good[:4_000_000], "other": b"no model at all" * 100}.get(damage)
    artifact = _damage(exported, CPU_MODEL, _without_numbers(exported, CPU_MODEL) if data is None else data)
    with pytest.raises(VersionError, match=r"cpu\.tflite"):
        choose("litert").load(artifact)


@pytest.mark.parametrize("damage", ["empty", "cut", "other", "not numbers", "no weights"])
def test_tensorflow_refuses_what_it_cannot_run(exported, damage):
    weights = "variables/variables.data-00000-of-00001"
    good = exported.artifact.files["saved_model.pb"]
    artifact = {
        "empty": lambda: _damage(exported, "saved_model.pb", b""),
        "cut": lambda: _damage(exported, "saved_model.pb", good[: len(good) // 2]),
        "other": lambda: _damage(exported, "saved_model.pb", b"no model at all" * 100),
        "not numbers": lambda: _damage(exported, weights, _without_numbers(exported, weights)),
        "no weights": lambda: _damage(exported, weights, b""),
    }[damage]()
    with pytest.raises(VersionError, match=r"saved_model\.pb"):
        choose("tensorflow").load(artifact)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (MemoryError(), MemoryError),
        (tf.errors.ResourceExhaustedError(None, None, "out of memory"), OSError),
        (OSError(24, "Too many open files"), OSError),
    ],
    ids=["memory", "GPU memory", "descriptors"],
)
def test_a_shortage_is_no_verdict_on_the_version(error, raised):
    class Files(dict):
        """Files at which TensorFlow's copying of them stops."""

        def items(self):
            raise error

    with pytest.raises(raised):
        choose("tensorflow").load(Artifact(Path("1"), 1, "", Files(), info=None, vocabulary=[], examples=()))


def _raiser(error):
    def fail(*_args, **_names):
        raise error

    return fail


@pytest.fixture
def gpu_engine(monkeypatch):
    """The engine as it is on a machine with a GPU; TensorFlow computes on the CPU all the same."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [f"/physical_device:{kind}:0"])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda *_: None)
    return choose("tensorflow")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("config.list_logical_devices", "cudaSetDevice() on GPU:0 failed. Status: out of memory"),
        ("constant", "Failed copying input tensor: Dst tensor is not initialized."),
    ],
    ids=["opened", "used"],
)
def test_a_gpu_that_cannot_be_used_is_no_verdict_on_the_version(exported, gpu_engine, monkeypatch, function, message):
    with monkeypatch.context() as patch:
        patch.setattr(f"tensorflow.{function}", _raiser(tf.errors.InternalError(None, None, message)))
        with pytest.raises(OSError, match=f"TensorFlow cannot use a GPU now: {re.escape(message)}"):
            gpu_engine.load(exported.artifact)
    gpu_engine.load(exported.artifact)


def test_a_gpu_that_cannot_be_opened_has_no_memory_in_use(gpu_engine, monkeypatch):
    full = tf.errors.InternalError(None, None, "cudaSetDevice() on GPU:0 failed. Status: out of memory")
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", _raiser(full))
    assert gpu_engine.gpu_memory() == 0


def test_a_gpu_s_memory_that_is_full_is_no_verdict_on_the_version(exported, monkeypatch):
    engine = choose("tensorflow")
    model = engine.load(exported.artifact)
    full = tf.errors.ResourceExhaustedError(None, None, "Graph execution error:\n\nOOM when allocating tensor")
    monkeypatch.setattr(tf, "constant", _raiser(full))
    for attempt in (lambda: engine.load(exported.artifact), model.warm):
        with pytest.raises(OSError, match="no memory left") as raised:
            attempt()
        assert raised.value.errno == errno.ENOMEM


# TensorFlow compares the sizes, since a GPU raises no error for a word beyond the table.
@pytest.mark.parametrize(
    ("name", "reason"), [("litert", "cannot run it"), ("tensorflow", f"{WORDS} rows for a vocabulary of {WORDS + 1} words")]
)
def test_a_vocabulary_larger_than_the_table_is_refused(exported, name, reason):
    with pytest.raises(VersionError, match=reason):
        choose(name).load(read(exported.artifact.path, range(WORDS + 1)))


@pytest.mark.parametrize(
    ("devices", "chosen", "reason"),
    [
        ([], "litert", "no GPU"),
        (["/dev/nvidia0", "/dev/nvidia1"], "tensorflow", "/dev/nvidia0"),
        (["/dev/dxg"], "tensorflow", "/dev/dxg"),
        (["/dev/nvidiactl", "/dev/nvidia-uvm"], "litert", "no GPU"),
    ],
)
def test_auto_is_tensorflow_where_there_is_a_gpu(devices, chosen, reason, caplog, tmp_path):
    for device in devices:
        (tmp_path / device.removeprefix("/dev/")).touch()
    found = lambda pattern: [f"/dev/{path.name}" for path in tmp_path.glob(pattern.removeprefix("/dev/"))]  # noqa: E731
    with caplog.at_level(logging.INFO, "service.model.engines"):
        engine = choose("auto", list_devices=lambda pattern: sorted(found(pattern)))
    assert engine.name == chosen
    assert engine.inline == (chosen == "litert")
    assert [reason in record.getMessage() for record in caplog.records if record.name == "service.model.engines"] == [True]


def test_auto_is_litert_where_tensorflow_is_not_installed(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with caplog.at_level(logging.INFO, "service.model.engines"):
        engine = choose("auto", list_devices=lambda pattern: [pattern.replace("[0-9]*", "0")])
    assert engine.name == "litert"
    assert "TensorFlow is not installed" in caplog.text


@pytest.mark.parametrize(
    ("name", "package", "extra"), [("litert", "ai_edge_litert", "service"), ("tensorflow", "tensorflow", "gpu")]
)
def test_an_engine_that_is_not_installed_is_told_with_its_extra(name, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"in a checkout of this project: pip install \./protos '\.\[{extra}\]'"):
        choose(name)
