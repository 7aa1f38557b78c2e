"""The large backbones by name: a transformers config of each, with the numbers of its published config.json.

Source of the numbers of T5: the paper (Raffel et al. 2020, section 3.7) and the config.json of t5-3b and t5-11b, which
PaddleNLP repeats (`paddlenlp/transformers/t5/configuration.py`). Of umT5: google-research/t5x,
`examples/scalable_t5/umt5/pretrain_xl.gin` and `pretrain_xxl.gin`, which take mT5's sizes and a vocabulary of 256,384.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig

from ptuning.backbones import glm

_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_XLM_ROBERTA = {"vocab_size": 250_880, "max_position_embeddings": 514, "pad_token_id": 1, **_DROPOUT}
_GLM = {
    "vocab_size": 50_304,
    "max_sequence_length": 1024,
    "embedding_dropout_prob": 0.0,
    "attention_dropout_prob": 0.0,
    "output_dropout_prob": 0.0,
}

_T5 = {"d_model": 1024, "d_kv": 128, "num_layers": 24, "vocab_size": 32_128, "dropout_rate": 0.0}
_UMT5 = {"d_kv": 64, "num_layers": 24, "vocab_size": 256_384, "feed_forward_proj": "gated-gelu", "dropout_rate": 0.0}

SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "deberta-v2-xxlarge": (
        "deberta-v2",
        {
            "vocab_size": 128_100,
            "hidden_size": 1536,
            "num_hidden_layers": 48,
            "num_attention_heads": 24,
            "intermediate_size": 6144,
            "max_position_embeddings": 512,
            "type_vocab_size": 0,
            "relative_attention": True,
            "max_relative_positions": -1,
            "position_buckets": 256,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "conv_kernel_size": 3,
            "conv_act": "gelu",
            **_DROPOUT,
        },
    ),
    "glm-2b": (glm.MODEL_TYPE, {**_GLM, "hidden_size": 2048, "num_layers": 36, "num_attention_heads": 32}),
    "glm-10b": (glm.MODEL_TYPE, {**_GLM, "hidden_size": 4096, "num_layers": 48, "num_attention_heads": 64}),
    "eurobert-2.1b": (
        "eurobert",
        {
            "vocab_size": 128_256,
            "hidden_size": 2304,
            "num_hidden_layers": 32,
            "num_attention_heads": 18,
            "num_key_value_heads": 6,
            "intermediate_size": 6144,
            "max_position_embeddings": 8192,
            "pad_token_id": 128_001,
            "attention_dropout": 0.0,
        },
    ),
    "t5-3b": ("t5", {**_T5, "d_ff": 16_384, "num_heads": 32}),
    "t5-11b": ("t5", {**_T5, "d_ff": 65_536, "num_heads": 128}),
    "umt5-xl": ("umt5", {**_UMT5, "d_model": 2048, "d_ff": 5120, "num_heads": 32}),
    "umt5-xxl": ("umt5", {**_UMT5, "d_model": 4096, "d_ff": 10_240, "num_heads": 64}),
    "xlm-roberta-xl": (
        "xlm-roberta-xl",
        {
            "hidden_size": 2560,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "intermediate_size": 10_240,
            **_XLM_ROBERTA,
        },
    ),
    "xlm-roberta-xxl": (
        "xlm-roberta-xl",
        {
            "hidden_size": 4096,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "intermediate_size": 16_384,
            **_XLM_ROBERTA,
        },
    ),
}
"""Name -> model type and its numbers. Of T5 and umT5 the encoder alone is made."""

TINY = {
    "vocab_size": 100,
    "pad_token_id": 0,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_heads": 4,
}
"""What replaces them where it is only to be seen that all runs."""


def write_config(name: str, directory: Path, *, tiny: bool) -> None:
    """Writes the `config.json` of a large backbone, or of a tiny one of its family, to a directory."""
    model_type, numbers = SIZES[name]
    own = {key: value for key, value in TINY.items() if key in numbers} if tiny else {}
    AutoConfig.for_model(model_type, **{**numbers, **own}).save_pretrained(directory)
