"""Publishes a small model version with random weights: `python tests/tiny_version.py MODELS`.

The layout and the network are the real ones; the vocabulary is short and the layers are narrow, so that it takes seconds.
"""

import sys
from pathlib import Path

import keras

from service import artifact
from service.preprocessing import SEQUENCE_LENGTH, Headline, Preprocessor
from training import export

WORDS = "a after at by city council for in is market new of on over park report says the to votes wins"
OUTLETS = {"gazette": 1.5, "herald": -0.5}
HEADLINES = [
    Headline("City votes on new park", 1_464_000_000.0, "Gazette"),
    Headline("The market wins", 1_464_050_000.0, "nobody"),
    Headline("!!!", 1_464_100_000.5, ""),
]


def build(vocabulary_size):
    keras.utils.set_random_seed(8)
    spread = keras.initializers.RandomNormal(stddev=0.7)
    main_input = keras.Input((SEQUENCE_LENGTH,), dtype="int32", name="main_input")
    aux_input = keras.Input((5,), name="aux_input")
    x = keras.layers.Embedding(vocabulary_size, 8, mask_zero=True, embeddings_initializer=spread, name="embedding")(main_input)
    lstm = keras.layers.LSTM(32, kernel_initializer=spread, name="lstm")(x)
    aux_output = keras.layers.Dense(1, activation="sigmoid", kernel_initializer=spread, name="aux_output")(lstm)
    x = keras.layers.concatenate([lstm, aux_input])
    x = keras.layers.Dense(16, activation="relu")(x)
    main_output = keras.layers.Dense(1, activation="sigmoid", kernel_initializer=spread, name="main_output")(x)
    return keras.Model([main_input, aux_input], [main_output, aux_output])


def publish(models):
    vocabulary = ["", "[UNK]", *WORDS.split()]
    info = artifact.ModelInfo(
        created_at=1_464_200_000.0,
        synthetic=True,
        vocabulary_size=len(vocabulary),
        outlet_levels=OUTLETS,
        label=artifact.Label("above_median", 12.0, ("retweets", "likes")),
        parts={"training": artifact.Part(80, 0.5, 1_460_000_000.0, 1_464_000_000.0)},
        settings={"seed": 8},
        evaluation={"main_auc": 0.75, "rows": 10.0},
        libraries={"keras": keras.__version__},
        data_checksum="0" * 64,
    )
    with artifact.publish(models) as staging:
        export.export(staging.path, build(len(vocabulary)))
        artifact.write_vocabulary(staging.path, vocabulary)
        artifact.write_info(staging.path, info)
        examples = export.examples(staging.path, Preprocessor(vocabulary, OUTLETS), HEADLINES)
        artifact.write_examples(staging.path, examples)


if __name__ == "__main__":
    publish(Path(sys.argv[1]))
