"""The network: the two-input, two-output model of the Keras functional-API guide, with a mask for the padding.

main_input  int32 [B, 100]   word ids, 0: padding
  embedding (10000 x 512) -> lstm (32)
  lstm -> aux_output [B, 1]                              popularity from the words alone
aux_input   float32 [B, 5]
  concatenate[lstm, aux_input] -> dense -> dense_1 -> dense_2 (64 each) -> main_output [B, 1]
"""

from __future__ import annotations

import keras
from keras import layers

from service.model.preprocessing import AUX_FEATURES, SEQUENCE_LENGTH
from training.settings import Merge

WORDS = 10_000  # rows of the embedding: the highest word id and one
EMBEDDING_UNITS = 512
LSTM_UNITS = 32
DENSE_UNITS = 64
DENSE_LAYERS = ("dense", "dense_1", "dense_2")
OUTPUTS = ("main_output", "aux_output")

_MERGE_LAYERS = {
    "concatenate": layers.Concatenate,
    "add": layers.Add,
    "multiply": layers.Multiply,
    "average": layers.Average,
    "maximum": layers.Maximum,
    "dot": layers.Dot,
}


def build(merge: Merge = "concatenate", *, seed: int = 0) -> keras.Model:
    """The network with fresh weights, which `seed` determines; 5,200,610 parameters if `merge` is concatenate.

    Its inputs are main_input int32 [B, 100] and aux_input float32 [B, 5]; its outputs, by name, main_output and aux_output
    float32 [B, 1]. Every `merge` but concatenate needs two vectors of one length: aux_input is then projected to 32 units.
    """
    seeds = iter(range(seed * 100, seed * 100 + 100))  # one each, as equal seeds would give layers of equal shape equal weights

    def glorot() -> keras.Initializer:
        return keras.initializers.GlorotUniform(seed=next(seeds))

    def dense(units: int, activation: str | None, name: str) -> layers.Dense:
        return layers.Dense(units, activation=activation, kernel_initializer=glorot(), name=name)

    main_input = keras.Input((SEQUENCE_LENGTH,), dtype="int32", name="main_input")
    embedding = layers.Embedding(
        WORDS,
        EMBEDDING_UNITS,
        embeddings_initializer=keras.initializers.RandomUniform(seed=next(seeds)),
        mask_zero=True,
        name="embedding",
    )(main_input)
    lstm = layers.LSTM(
        LSTM_UNITS,
        kernel_initializer=glorot(),
        recurrent_initializer=keras.initializers.Orthogonal(seed=next(seeds)),
        name="lstm",
    )(embedding)
    aux_output = dense(1, "sigmoid", "aux_output")(lstm)

    aux_input = keras.Input((len(AUX_FEATURES),), name="aux_input")
    aux = aux_input if merge == "concatenate" else dense(LSTM_UNITS, None, "aux_projection")(aux_input)
    options = {"axes": 1} if merge == "dot" else {}
    hidden = _MERGE_LAYERS[merge](name=merge, **options)([lstm, aux])
    for name in DENSE_LAYERS:
        hidden = dense(DENSE_UNITS, "relu", name)(hidden)
    main_output = dense(1, "sigmoid", "main_output")(hidden)
    return keras.Model([main_input, aux_input], {"main_output": main_output, "aux_output": aux_output})
