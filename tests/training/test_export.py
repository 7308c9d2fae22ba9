"""The exported forms answer what Keras answers, and can be loaded where they are served."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from file_limit import largest_file

from service.errors import DataError
from service.model.artifact import CPU_MODEL
from service.model.preprocessing import VOCABULARY_HEAD, Headline, Preprocessor
from training import export as module
from training.export import LENGTHS, examples, export, restore, serve
from training.model import build
from training.settings import MERGES

ROWS = 200


def _trained(merge="concatenate"):
    """A network with weights as large as training makes them, so that a difference shows in the outputs."""
    model = build(merge, seed=1)
    random = np.random.default_rng(1)
    for variable in model.weights:
        if variable.path.startswith("embedding"):
            variable.assign(variable.numpy() * 6)
        else:
            variable.assign_add(random.normal(0, 0.15, variable.shape))
    return model


@pytest.fixture(scope="module")
def rows():
    """Rows of 1 to 100 words with padding after them, and auxiliary features."""
    random = np.random.default_rng(2)
    lengths = np.r_[1, 100, random.integers(1, 9, ROWS // 2), random.integers(1, 101, ROWS // 2 - 2)]
    main_input = random.integers(1, 10_000, (ROWS, 100)).astype(np.int32)
    main_input[np.arange(100) >= lengths[:, None]] = 0
    return main_input, random.normal(size=(ROWS, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return _trained()


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory):
    """What is exported where there is a GPU, as far as Keras can see: that is where it would trace cuDNN in."""
    path = tmp_path_factory.mktemp("version")
    with pytest.MonkeyPatch.context() as patch:
        devices = tf.config.list_logical_devices
        patch.setattr(tf.config, "list_logical_devices", lambda kind=None: ["GPU:0"] if kind == "GPU" else devices(kind))
        export(path, model)
    return path


def _predict(model, main_input, aux_input):
    outputs = model.predict([main_input, aux_input], verbose=0)
    return np.hstack([outputs["main_output"], outputs["aux_output"]])


def _assert_answers(outputs, expected):
    np.testing.assert_allclose(np.hstack([outputs["main_output"], outputs["aux_output"]]), expected, rtol=0, atol=1e-5)


def test_a_fresh_process_without_keras_or_cudnn_gives_what_keras_gives(directory, model, rows, tmp_path):
    np.savez(tmp_path / "rows.npz", main_input=rows[0], aux_input=rows[1], expected=_predict(model, *rows))
    script = """
import sys
sys.modules["keras"] = None
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

rows = np.load(sys.argv[2])
signature = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
inputs = signature.structured_input_signature[1]
assert inputs["main_input"] == tf.TensorSpec([None, 100], tf.int32, "main_input"), inputs
assert inputs["aux_input"] == tf.TensorSpec([None, 5], tf.float32, "aux_input"), inputs
outputs = signature(main_input=tf.constant(rows["main_input"]), aux_input=tf.constant(rows["aux_input"]))
assert [outputs[name].shape for name in ("main_output", "aux_output")] == [(len(rows["expected"]), 1)] * 2
got = np.hstack([outputs["main_output"], outputs["aux_output"]])
np.testing.assert_allclose(got, rows["expected"], rtol=0, atol=1e-5)

saved = SavedModel()
with open(sys.argv[1] + "/saved_model.pb", "rb") as file:
    saved.ParseFromString(file.read())
graph = saved.meta_graphs[0].graph_def
operations = {node.op for part in (graph, *graph.library.function) for node in (part.node if part is graph else part.node_def)}
assert "MatMul" in operations
assert not [name for name in operations if "Cudnn" in name], operations
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(directory), str(tmp_path / "rows.npz")], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("merge", MERGES)
def test_every_merge_is_exported_in_all_forms(merge, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LENGTHS", (8,))
    model = _trained(merge)
    export(tmp_path, model)
    expected = _predict(model, *rows)
    assert expected.std(axis=0).min() > 0.01  # else a wrong answer would be as good as a right one
    np.testing.assert_allclose(serve(tmp_path)(*rows), expected, rtol=0, atol=1e-5)

    again = restore(tmp_path, merge)
    for one, other in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(one, other)

    main_input, aux_input = rows
    lengths = (main_input > 0).sum(1)
    before = np.stack([np.roll(row, 100 - length) for row, length in zip(main_input, lengths, strict=True)])
    trimmed = tf.saved_model.load(str(tmp_path)).signatures["trimmed"]
    _assert_answers(trimmed(main_input=before, aux_input=aux_input), expected)
    compiled = Interpreter(model_content=(tmp_path / CPU_MODEL).read_bytes()).get_signature_runner("words_8")
    short = lengths <= 8
    _assert_answers(compiled(main_input=before[short, 92:], aux_input=aux_input[short]), expected[short])


def test_the_cpu_form_has_every_length_and_one_table(directory):
    content = (directory / CPU_MODEL).read_bytes()
    signatures = Interpreter(model_content=content).get_signature_list()
    assert set(signatures) == {f"words_{length}" for length in LENGTHS}
    for signature in signatures.values():
        assert set(signature["inputs"]) == {"main_input", "aux_input"}
        assert set(signature["outputs"]) == {"main_output", "aux_output"}
    assert len(content) < 6_500_000


def test_the_saved_model_holds_the_weights_once_and_the_table(directory, model):
    variables = tf.train.list_variables(str(directory / "variables" / "variables"))
    sizes = [int(np.prod(shape)) for name, shape in variables if name.endswith("/.ATTRIBUTES/VARIABLE_VALUE")]
    assert sum(sizes) == model.count_params() + 10_000 * 128 == 5_200_610 + 1_280_000


@pytest.mark.usefixtures("directory")
def test_export_leaves_the_model_as_it_was_and_tf32_off(model):
    assert model.get_layer("lstm").use_cudnn == "auto"
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(bad, tmp_path):
    model = build()
    bias = model.get_layer("dense_1").bias
    bias.assign(np.full(bias.shape, bad, np.float32))
    with pytest.raises(DataError, match="dense_1/bias are not finite"):
        export(tmp_path, model)
    assert not list(Path(tmp_path).iterdir())


def test_examples_hold_the_rows_and_what_keras_makes_of_them(directory, model):
    preprocessor = Preprocessor([*VOCABULARY_HEAD, "park", "city"], {"gazette": 1.5})
    headlines = [
        Headline("City votes on park", 1_464_000_000.0, "Gazette"),
        Headline("park " * 130, 1_464_000_123.0),
        Headline("!!!", 1_464_009_999.5, "unknown"),
    ]
    found = examples(directory, preprocessor, headlines)
    assert [example.headline for example in found] == headlines
    assert [example.ids for example in found] == [[3, 1, 1, 2], [2] * 100, [1]]
    assert [example.aux[4] for example in found] == [1.5, 0, 0]
    padded = np.zeros((3, 100), np.int32)
    for row, example in zip(padded, found, strict=True):
        row[: len(example.ids)] = example.ids
    expected = _predict(model, padded, np.array([example.aux for example in found], np.float32))
    np.testing.assert_allclose([[e.main_output, e.aux_output] for e in found], expected, rtol=0, atol=1e-5)
    assert {type(example.main_output) for example in found} == {float}


def test_no_example_is_no_call(directory):
    assert examples(directory, Preprocessor(VOCABULARY_HEAD, {}), []) == []


def test_a_full_disk_is_an_os_error_that_names_the_directory(model, tmp_path):
    with largest_file(10**6), pytest.raises(OSError, match="too large") as error:
        export(tmp_path / "version", model)
    assert error.value.filename == str(tmp_path / "version")
