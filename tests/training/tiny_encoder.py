"""A sentence encoder of two small layers with random weights, in the files of a real one."""

import json

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WIDTH, HEADS, LAYERS, INNER, POSITIONS = 24, 3, 2, 48, 40
WORDS = ["a", "city", "closes", "council", "every", "new", "on", "park", "school", "storm", "the", "votes", "wins"]


def write(directory, seed=0, prefix="", **config):
    """Write it, and return its weights by name."""
    directory.mkdir(parents=True, exist_ok=True)
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *WORDS,
        *"abcdefghijklmnopqrstuvwxyz",
        *(f"##{it}" for it in "abcdefghijklmnopqrstuvwxyz0123456789"),
    ]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    tokenizer.enable_padding(length=POSITIONS)  # as the real one's, which counts for nothing
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": WIDTH,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "intermediate_size": INNER,
        "max_position_embeddings": POSITIONS,
        "layer_norm_eps": 1e-12,
    }
    (directory / "config.json").write_text(json.dumps(settings | config))
    random = np.random.default_rng(seed)

    def weight(*shape):
        return random.normal(size=shape, scale=0.4).astype(np.float32)

    weights = {
        "embeddings.word_embeddings.weight": weight(len(vocabulary), WIDTH),
        "embeddings.position_embeddings.weight": weight(POSITIONS, WIDTH),
        "embeddings.token_type_embeddings.weight": weight(2, WIDTH),
        "embeddings.LayerNorm.weight": 1 + weight(WIDTH),
        "embeddings.LayerNorm.bias": weight(WIDTH),
    }
    for i in range(LAYERS):
        for name, out, into in (
            ("attention.self.query", WIDTH, WIDTH),
            ("attention.self.key", WIDTH, WIDTH),
            ("attention.self.value", WIDTH, WIDTH),
            ("attention.output.dense", WIDTH, WIDTH),
            ("intermediate.dense", INNER, WIDTH),
            ("output.dense", WIDTH, INNER),
        ):
            weights[f"encoder.layer.{i}.{name}.weight"] = weight(out, into)
            weights[f"encoder.layer.{i}.{name}.bias"] = weight(out)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            weights[f"encoder.layer.{i}.{name}.weight"] = 1 + weight(WIDTH)
            weights[f"encoder.layer.{i}.{name}.bias"] = weight(WIDTH)
    save_file({prefix + name: value for name, value in weights.items()}, directory / "model.safetensors")
    return weights, tokenizer
