"""Publishes a model version with the weights that training starts from: `python tests/untrained_version.py MODELS [GAIN]`.

Its scores hardly depend on the words, unless GAIN multiplies the words' vectors.
"""

import sys
from pathlib import Path

import keras

from service.model import artifact
from service.model.labels import Label
from service.model.preprocessing import Headline, Preprocessor
from training import export, model
from training.publish import new_version

WORDS = "a after at by city council for in is market new of on over park report says the to votes wins"
OUTLETS = {"gazette": 1.5, "herald": -0.5}
EVALUATION = {"main_auc": 0.75, "main_pair_accuracy": 0.66, "main_pair_gap": 0.12, "aux_pair_gap": 0.2, "rows": 10.0}
HEADLINES = [
    Headline("City votes on new park", 1_464_000_000.0, "Gazette"),
    Headline("The market wins", 1_464_050_000.0, "nobody"),
    Headline("!!!", 1_464_100_000.5, ""),
]


def publish(models, gain=1.0):
    network = model.build(seed=8)
    embedding = network.get_layer("embedding")
    embedding.set_weights([gain * weights for weights in embedding.get_weights()])
    vocabulary = ["", "[UNK]", *WORDS.split()]
    info = artifact.ModelInfo(
        created_at=artifact.Time(1_464_200_000.0),
        synthetic=True,
        vocabulary_size=len(vocabulary),
        outlet_levels=OUTLETS,
        label=Label("above_median", ("retweets", "likes"), threshold=12.0),
        parts={"training": artifact.Part(80, 0.5, artifact.Time(1_460_000_000.0), artifact.Time(1_464_000_000.0))},
        settings={"seed": 8},
        evaluation=EVALUATION,
        libraries={"keras": keras.__version__},
        data_checksum="0" * 64,
    )
    with new_version(models) as staging:
        export.export(staging.path, network)
        examples = export.examples(staging.path, Preprocessor(vocabulary, OUTLETS), HEADLINES)
        artifact.write(staging.path, artifact.Contents(info, vocabulary, examples))


if __name__ == "__main__":
    publish(Path(sys.argv[1]), *map(float, sys.argv[2:]))
