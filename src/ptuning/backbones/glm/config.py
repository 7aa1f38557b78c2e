"""The settings of a GLM of 2021/22, read from the `config.json` that its checkpoints carry.

That file says `model_type: glm`, which is another model today (GLM-4), and transformers would build that one from it.
So the file is known by its fields, before any Auto class sees it, and the config has a model type of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import PretrainedConfig

from ptuning.errors import BackboneError

MODEL_TYPE = "glm2021"

_GELU = ("gelu_tanh", "gelu_erf")
_POOL_TOKENS = ("cls", "start", "pad")
# What the published file has, and a config of transformers has under another name or must not keep.
_NOT_KEPT = ("model_type", "auto_map", "transformers_version", "architectures", "_name_or_path", "_commit_hash")

_DERIVED = ("max_position_embeddings", "intermediate_size", "head_dim")  # from other fields


class Glm2021Config(PretrainedConfig):  # type: ignore[no-untyped-call]
    """Settings of a GLM of 2021/22. Names are those of the published files; defaults are those of GLM-large.

    Attributes:
        vocab_size: rows of the word embeddings; the tokenizer's size rounded up.
        hidden_size: width of hidden states.
        num_layers: layers; `num_hidden_layers` is another name for it.
        num_attention_heads: heads, which share the width.
        max_sequence_length: M; the tables of positions and block positions have M + 1 rows.
        block_position_encoding: whether there are two tables of positions. Only true is implemented.
        relative_encoding: whether positions are relative. Only false is implemented.
        attention_scale: a device against overflow in float16 that changes no result; it is not needed here.
        embedding_dropout_prob: of the sum of embeddings.
        attention_dropout_prob: of the attention weights.
        output_dropout_prob: of what attention and feed-forward put out.
        layernorm_epsilon: of all norms.
        hidden_act: `gelu_tanh`, which the model was trained with, or `gelu_erf`, which the hub's remote code computes.
        initializer_range: standard deviation that random weights start from.
        use_scaled_init_for_output_weights: whether the last matrices of attention and feed-forward start smaller, by
            the square root of twice the number of layers.
        pool_token: which token the original's linear head reads. Not read here: heads have settings of their own.
        pad_token_id: not needed by the model.

    Raises:
        BackboneError: a field asks for what is not implemented, or sizes do not fit together.

    Source: THUDM/GLM, `arguments.py` and `model/modeling_glm.py`; the hub's `configuration_glm.py`.
    """

    model_type = MODEL_TYPE
    attribute_map: ClassVar[dict[str, str]] = {
        "num_hidden_layers": "num_layers",
        "hidden_dropout_prob": "output_dropout_prob",
        "attention_probs_dropout_prob": "attention_dropout_prob",
        "embedding_dropout": "embedding_dropout_prob",
        "layer_norm_eps": "layernorm_epsilon",
    }

    vocab_size: int = 30592
    hidden_size: int = 1024
    num_layers: int = 24
    num_attention_heads: int = 16
    max_sequence_length: int = 512
    block_position_encoding: bool = True
    relative_encoding: bool = False
    attention_scale: float = 1.0
    embedding_dropout_prob: float = 0.1
    attention_dropout_prob: float = 0.1
    output_dropout_prob: float = 0.1
    layernorm_epsilon: float = 1e-5
    hidden_act: str = "gelu_tanh"
    initializer_range: float = 0.02
    use_scaled_init_for_output_weights: bool = True
    pool_token: str = "cls"
    pad_token_id: int | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        _check(self)

    @property
    def max_position_embeddings(self) -> int:
        """Rows of each table of positions."""
        return self.max_sequence_length + 1

    @property
    def intermediate_size(self) -> int:
        """Width inside the feed-forward."""
        return 4 * self.hidden_size

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_published(cls, values: Mapping[str, Any]) -> Glm2021Config:
        """Makes a config from the content of a `config.json` that `is_glm_2021`."""
        config = cls(**{name: value for name, value in values.items() if name not in (*_NOT_KEPT, *_DERIVED)})
        for name in _DERIVED:
            if values.get(name) not in (None, getattr(config, name)):
                raise BackboneError(
                    f"the config of this GLM (2021) has {name} {values[name]!r}, expected {getattr(config, name)}, "
                    f"which follows from its other sizes. Leave {name} out of its config.json, or correct it."
                )
        return config


def is_glm_2021(values: Mapping[str, Any]) -> bool:
    """Whether the content of a `config.json` is that of a GLM of 2021/22.

    Today's `glm` and `glm4` have `num_hidden_layers` and `max_position_embeddings`; ChatGLM has `num_layers` and
    `max_sequence_length`, but no `block_position_encoding`.
    """
    if values.get("model_type") == MODEL_TYPE:
        return True  # written by this package
    has_layers = "num_layers" in values or "num_hidden_layers" in values
    return has_layers and "block_position_encoding" in values and "max_sequence_length" in values


def _check(config: Glm2021Config) -> None:
    """Refuses what is not implemented, by the name of its field."""
    found: list[tuple[str, str]] = []
    if config.relative_encoding:
        found.append(("relative_encoding", "false (relative positions are not implemented)"))
    if not config.block_position_encoding:
        found.append(("block_position_encoding", "true (a model without block positions is not implemented)"))
    if getattr(config, "performer", False):
        found.append(("performer", "false (its attention is not implemented)"))
    if config.hidden_act not in _GELU:
        found.append(("hidden_act", f"one of {', '.join(_GELU)}"))
    if config.pool_token not in _POOL_TOKENS:
        found.append(("pool_token", f"one of {', '.join(_POOL_TOKENS)}"))
    for name in ("vocab_size", "hidden_size", "num_layers", "num_attention_heads", "max_sequence_length"):
        size = getattr(config, name)
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            found.append((name, "a whole number of at least 1"))
    epsilon: object = config.layernorm_epsilon
    if not isinstance(epsilon, int | float) or isinstance(epsilon, bool) or not epsilon > 0:
        found.append(("layernorm_epsilon", "a number above 0"))
    if found:
        name, expected = found[0]
        raise BackboneError(
            f"the config of this GLM (2021) has {name} {getattr(config, name)!r}, expected {expected}. "
            "Use one of the published checkpoints, or correct its config.json."
        )
    if config.hidden_size % config.num_attention_heads:
        raise BackboneError(
            f"the config of this GLM (2021) has hidden_size {config.hidden_size} and num_attention_heads "
            f"{config.num_attention_heads}, expected a width that the heads divide. Correct its config.json."
        )
