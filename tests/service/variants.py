"""Versions like the shared one, with another model.json."""

import json
import shutil

from service.model import artifact, engines
from service.model.preprocessing import TIME_FEATURES, Preprocessor

FROZEN = dict(zip(TIME_FEATURES, (0.25, -0.5, 0.0, 0.125), strict=True))


def variant(models, version, **changes):
    """Make the directory `version` of version 1 of `models`: model.json is changed so, and the examples fit it."""
    shutil.copytree(models / "1", version)
    path = version / artifact.INFO
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    artifact.write_checksums(version)
    read = artifact.read(version)
    preprocessor = Preprocessor(read.vocabulary, read.info.outlet_levels, read.info.preprocessing, read.info.frozen)
    examples = []
    for example in read.examples:
        rows = preprocessor.encode([example.headline])
        [outputs] = engines.choose("litert").load(read).predict(rows.ids, rows.lengths, rows.aux).tolist()
        examples.append(artifact.Example(example.headline, rows.ids.tolist(), rows.aux[0].tolist(), *outputs))
    artifact.write(version, artifact.Contents(read.info, read.vocabulary, examples))
    return version
