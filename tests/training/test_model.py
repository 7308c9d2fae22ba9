"""The network is the guide's: its names, shapes and parameters are what others load and convert."""

import numpy as np
import pytest

from training.model import build
from training.settings import MERGES


def test_it_is_the_network_of_the_guide():
    model = build()
    shapes = {layer.name: [tuple(weight.shape) for weight in layer.weights] for layer in model.layers}
    assert shapes == {
        "main_input": [],
        "embedding": [(10_000, 512)],
        "lstm": [(512, 128), (32, 128), (128,)],
        "aux_output": [(32, 1), (1,)],
        "aux_input": [],
        "concatenate": [],
        "dense": [(37, 64), (64,)],
        "dense_1": [(64, 64), (64,)],
        "dense_2": [(64, 64), (64,)],
        "main_output": [(64, 1), (1,)],
    }
    assert model.count_params() == 5_200_610
    assert [(tensor.name, tensor.shape, tensor.dtype) for tensor in model.inputs] == [
        ("main_input", (None, 100), "int32"),
        ("aux_input", (None, 5), "float32"),
    ]
    assert {name: tensor.shape for name, tensor in model.output.items()} == dict.fromkeys(
        ("main_output", "aux_output"), (None, 1)
    )
    activations = {layer.name: layer.activation.__name__ for layer in model.layers if hasattr(layer, "activation")}
    assert activations == {
        "lstm": "tanh",
        **dict.fromkeys(("aux_output", "main_output"), "sigmoid"),
        **dict.fromkeys(("dense", "dense_1", "dense_2"), "relu"),
    }


def test_a_score_does_not_depend_on_the_padding():
    model = build()
    ids = np.zeros((2, 100), np.int32)
    ids[0, :3] = ids[1, 50:53] = (5, 1, 9)
    for output in model.predict([ids, np.ones((2, 5), np.float32)], verbose=0).values():
        assert output[0] == pytest.approx(output[1], abs=1e-6)


@pytest.mark.parametrize("merge", [merge for merge in MERGES if merge != "concatenate"])
def test_other_merges_project_the_aux_input_to_the_size_of_the_state(merge):
    model = build(merge)
    assert model.get_layer("aux_projection").output.shape == (None, 32)
    assert model.get_layer(merge).output.shape == (None, 1 if merge == "dot" else 32)
    assert set(model.output) == {"main_output", "aux_output"}


def test_the_seed_decides_the_first_weights():
    weights, same, others = ([weight.numpy() for weight in build(seed=seed).weights] for seed in (1, 1, 2))
    kernels = [i for i, weight in enumerate(weights) if weight.ndim == 2]
    for i in kernels:
        np.testing.assert_array_equal(weights[i], same[i])
        assert not np.array_equal(weights[i], others[i])
    assert not np.array_equal(*(weights[i] for i in kernels if weights[i].shape == (64, 64)))  # dense_1 and dense_2
