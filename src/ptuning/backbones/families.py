"""The supported families: where each keeps its self-attention, and how it knows positions.

One row a family, so that adding one is adding a row (and, outside transformers' attention interface, a module in
`native/`). `ptuning backbones` prints this table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ptuning.backbones import glm
from ptuning.backbones.native import deberta, deberta_v2, megatron_bert, mpnet
from ptuning.errors import BackboneError

PositionKind = Literal["absolute", "from_padding", "with_blocks", "biased_input", "rotary", "relative"]
NativeForward = Callable[..., Any]

POSITION_NOTES: dict[PositionKind, str] = {
    "absolute": "learned absolute positions 0, 1, 2, …",
    "from_padding": "learned absolute positions that start behind the padding index",
    "with_blocks": "learned absolute positions 0, 1, 2, …, and positions in a block",
    "biased_input": "relative positions, learned absolute ones where position_biased_input is set",
    "rotary": "rotary positions",
    "relative": "relative position bias",
}


@dataclass(frozen=True)
class Family:
    """What is particular to one family.

    Attributes:
        model_type: transformers' name for it.
        attention_path: path from the trunk to each self-attention module; each `*` runs over a module list.
        positions: how the family encodes positions.
        native_forward: replaces the attention module's forward where the family does not use the attention interface.
        gradient_checkpointing: whether transformers can checkpoint it.
        can_compile: torch.compile can follow its layers.
        is_encoder_of_seq2seq: the trunk is the encoder of an encoder-decoder model.
        is_decoder: a language model from left to right, whose attention can be switched (`direction.py`).
        heeds_is_decoder: an encoder that `is_decoder` in its config makes causal; other encoders look both ways
            whatever that field says.
        caps_scores: attention scores go through a tanh, which sdpa cannot compute.
        window_is_a_distance: `sliding_window` is how far a token sees to each side, itself not counted.
        padding_index: behind which positions start, where that is not the config's pad token (MPNet fixes it).
        is_glm: GLM of 2021/22, whose weights and tokenizers are read here and which fills blanks in pieces (`glm`).
    """

    model_type: str
    attention_path: str
    positions: PositionKind
    native_forward: NativeForward | None = None
    gradient_checkpointing: bool = True
    can_compile: bool = True
    is_encoder_of_seq2seq: bool = False
    is_decoder: bool = False
    heeds_is_decoder: bool = False
    caps_scores: bool = False
    window_is_a_distance: bool = False
    padding_index: int | None = None
    is_glm: bool = False

    @property
    def part(self) -> str:
        """What of the model is meant, in brackets, where it is not an encoder by itself."""
        return " (encoder)" if self.is_encoder_of_seq2seq else " (decoder)" if self.is_decoder else ""

    @property
    def takes_shifted_positions(self) -> bool:
        """Whether `positions: shifted` means anything here (rotary and relative positions refuse it)."""
        return self.positions not in ("rotary", "relative")

    @property
    def can_end_at_first_token(self) -> bool:
        """Whether the last layer can be computed for the first token alone: BERT's layout and the interface."""
        return self.attention_path == _BERT_PATH and self.native_forward is None

    @property
    def attention(self) -> tuple[str, ...]:
        """Base implementations of attention that prompts can go through here (flash needs its own package)."""
        if self.native_forward is not None or self.positions == "relative":
            return ("sdpa", "eager")  # flash and flex take no position bias
        if self.caps_scores:
            return ("eager", "flex")  # these have windows too, which flash cannot show virtual tokens to
        return ("sdpa", "eager", "flash", "flex")


_BERT_PATH = "encoder.layer.*.attention.self"
_DECODER_PATH = "layers.*.self_attn"
_T5_PATH = "block.*.layer.0.SelfAttention"

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family(
            "albert",
            "encoder.albert_layer_groups.*.albert_layers.*.attention",
            "absolute",
            gradient_checkpointing=False,
        ),
        Family("bert", _BERT_PATH, "absolute", heeds_is_decoder=True),
        Family("camembert", _BERT_PATH, "from_padding", heeds_is_decoder=True),
        Family(
            "deberta",
            _BERT_PATH,
            "biased_input",
            native_forward=deberta.prompted_forward,
            can_compile=False,  # transformers keeps the span of relative positions in a tensor
        ),
        Family("deberta-v2", _BERT_PATH, "biased_input", native_forward=deberta_v2.prompted_forward),
        Family("distilbert", "transformer.layer.*.attention", "absolute"),
        Family("electra", _BERT_PATH, "absolute", heeds_is_decoder=True),
        Family("ernie", _BERT_PATH, "absolute", heeds_is_decoder=True),
        Family("eurobert", "layers.*.self_attn", "rotary"),
        Family("gemma", _DECODER_PATH, "rotary", is_decoder=True),
        Family("gemma2", _DECODER_PATH, "rotary", is_decoder=True, caps_scores=True),
        Family("gemma3_text", _DECODER_PATH, "rotary", is_decoder=True),
        Family("glm", _DECODER_PATH, "rotary", is_decoder=True),
        Family(glm.MODEL_TYPE, "transformer.layers.*.attention", "with_blocks", is_glm=True),
        Family("glm4", _DECODER_PATH, "rotary", is_decoder=True),
        Family("llama", _DECODER_PATH, "rotary", is_decoder=True),
        Family(
            "megatron-bert",
            _BERT_PATH,
            "absolute",
            native_forward=megatron_bert.prompted_forward,
            heeds_is_decoder=True,
        ),
        Family("mistral", _DECODER_PATH, "rotary", is_decoder=True),
        Family("modernbert", "layers.*.attn", "rotary"),
        Family(
            "mpnet",
            "encoder.layer.*.attention.attn",
            "from_padding",
            native_forward=mpnet.prompted_forward,
            gradient_checkpointing=False,
            padding_index=1,
        ),
        Family("mt5", _T5_PATH, "relative", is_encoder_of_seq2seq=True, heeds_is_decoder=True),
        Family("nomic_bert", "layers.*.self_attn", "rotary"),
        Family("qwen2", _DECODER_PATH, "rotary", is_decoder=True),
        Family("qwen3", _DECODER_PATH, "rotary", is_decoder=True),
        Family("roberta", _BERT_PATH, "from_padding", heeds_is_decoder=True),
        Family("t5", _T5_PATH, "relative", is_encoder_of_seq2seq=True, heeds_is_decoder=True),
        Family(
            "t5gemma",
            "layers.*.self_attn",
            "rotary",
            is_encoder_of_seq2seq=True,
            caps_scores=True,
            window_is_a_distance=True,
        ),
        Family("umt5", _T5_PATH, "relative", is_encoder_of_seq2seq=True, heeds_is_decoder=True),
        Family("xlm-roberta", _BERT_PATH, "from_padding", heeds_is_decoder=True),
        Family("xlm-roberta-xl", _BERT_PATH, "from_padding", heeds_is_decoder=True),
    )
}


def find_family(config: Any) -> Family:
    """Returns the family of a transformers config.

    Raises:
        BackboneError: the model type is not supported; the message lists those that are.
    """
    model_type = getattr(config, "model_type", type(config).__name__)
    family = FAMILIES.get(model_type)
    if family is None:
        raise BackboneError(
            f"the backbone is of type `{model_type}`, which cannot be given prompts. Supported types: "
            f"{', '.join(sorted(FAMILIES))}. Use a backbone of one of these."
        )
    return family


def find_trunk(model: nn.Module) -> tuple[nn.Module, Family]:
    """Finds the encoder inside a model, with or without a head: the module that takes token ids and runs the layers.

    Raises:
        BackboneError: the model's family is not supported, or the model does not have its parts where the family
            has them.
    """
    config = getattr(model, "config", None)
    if config is None:
        raise BackboneError(
            f"the model is a {type(model).__name__} without a config, expected a transformers PreTrainedModel. "
            "Load it with transformers' Auto classes or ptuning.load_backbone."
        )
    family = find_family(config)
    trunk = getattr(model, "base_model", model)
    if family.is_encoder_of_seq2seq:
        trunk = trunk.encoder if hasattr(trunk, "encoder") else trunk
    attention_modules(trunk, family)
    return trunk, family


def attention_modules(trunk: nn.Module, family: Family) -> list[nn.Module]:
    """Returns the self-attention module of each layer, in the order in which layers run.

    A module that runs several times (ALBERT shares its layers) is listed once for each time.

    Raises:
        BackboneError: the trunk does not have its attention where the family has it.
    """
    try:
        modules = _modules_at(trunk, family.attention_path)
    except AttributeError as error:
        raise BackboneError(
            f"{type(trunk).__name__} has no self-attention at `{family.attention_path}`, where the {family.model_type} "
            "family has it. Pass a model of transformers' own class, not wrapped and not changed."
        ) from error
    if family.model_type == "albert":
        modules = _in_running_order(trunk.config, modules)
    return list(modules)


def layers_with_attention(trunk: nn.Module, family: Family) -> list[tuple[nn.Module, nn.Module]]:
    """Returns the modules of whole layers, each once, and the self-attention in each."""
    layer_path = family.attention_path.rpartition("*")[0] + "*"
    return list(zip(_modules_at(trunk, layer_path), _modules_at(trunk, family.attention_path), strict=True))


def _modules_at(trunk: nn.Module, path: str) -> Sequence[nn.Module]:
    modules: Sequence[nn.Module] = [trunk]
    for step in path.split("."):
        if step == "*":
            modules = [child for module in modules for child in cast(nn.ModuleList, module)]
        elif step.isdigit():
            modules = [cast(nn.ModuleList, module)[int(step)] for module in modules]
        else:
            modules = [getattr(module, step) for module in modules]
    return modules


def _in_running_order(config: Any, modules: Sequence[nn.Module]) -> list[nn.Module]:
    """ALBERT runs each group of `inner_group_num` layers num_hidden_layers / num_hidden_groups times in a row."""
    inner = config.inner_group_num
    groups = [modules[start : start + inner] for start in range(0, len(modules), inner)]
    per_group = config.num_hidden_layers / config.num_hidden_groups
    return [module for layer in range(config.num_hidden_layers) for module in groups[int(layer / per_group)]]


def position_limit(config: Any, family: Family) -> int | None:
    """Returns how many positions real tokens may take, or None where the family has no such limit."""
    if family.positions == "relative" or not has_absolute_positions(config, family):
        return None if family.positions != "rotary" else int(config.max_position_embeddings)
    limit = int(config.max_position_embeddings)
    return limit - _padding_index(config, family) - 1 if family.positions == "from_padding" else limit


def _padding_index(config: Any, family: Family) -> int:
    return int(config.pad_token_id if family.padding_index is None else family.padding_index)


def has_capped_scores(family: Family, config: Any) -> bool:
    """Whether attention scores go through a tanh here, or can: transformers then has no sdpa, with a cap or without.

    Args:
        family: the backbone's family.
        config: its transformers config.
    """
    return family.caps_scores or getattr(config, "attn_logit_softcapping", None) is not None


def has_local_attention(config: Any, layer: int) -> bool:
    """Whether a layer's tokens see a window of real tokens alone.

    Args:
        config: transformers config of the trunk.
        layer: its number.
    """
    if getattr(config, "sliding_window", None) is None:
        return False
    types = getattr(config, "layer_types", None)
    return types is None or types[layer] == "sliding_attention"


def has_absolute_positions(config: Any, family: Family) -> bool:
    """Whether learned absolute positions are added to the embeddings."""
    if family.positions == "biased_input":
        return bool(getattr(config, "position_biased_input", True))
    return family.positions in ("absolute", "from_padding", "with_blocks")


def shifted_positions(
    family: Family,
    config: Any,
    shift: Tensor,
    *,
    input_ids: Tensor | None,
    batch_size: int,
    seq_len: int,
    position_ids: Tensor | None,
) -> Tensor:
    """Returns position ids (batch_size, seq_len), or of the shape that was given, with each row's own shift added.

    Args:
        family: the backbone's family.
        config: its transformers config.
        shift: (batch_size,) int64, each row's prompt length.
        input_ids: (batch_size, seq_len), or None when embeddings were given.
        batch_size: rows.
        seq_len: tokens a row.
        position_ids: what the caller gave, (batch_size or 1, seq_len), or None. Of a family with blocks also
            (batch_size or 1, 2, seq_len): positions, which are shifted, then positions in a block, which are not.

    Source: the official code moves positions through the past length; RoBERTa-like families count only tokens that
        are not padding, and padding keeps the padding index.
    """
    shift = shift.unsqueeze(1)  # (B, 1)
    if family.positions == "with_blocks" and position_ids is not None and position_ids.ndim == 3:
        moved = torch.add(position_ids[:, 0], shift)  # (B, seq_len)
        return torch.stack([moved, position_ids[:, 1].expand_as(moved)], dim=1)  # (B, 2, seq_len)
    if family.positions != "from_padding":
        base = torch.arange(seq_len, device=shift.device).unsqueeze(0) if position_ids is None else position_ids
        return torch.add(base, shift)
    padding_idx = _padding_index(config, family)
    if position_ids is not None:
        return torch.where(position_ids == padding_idx, position_ids, position_ids + shift)
    if input_ids is None:
        counted = torch.arange(1, seq_len + 1, device=shift.device).expand(batch_size, -1)
        return torch.add(counted + padding_idx, shift)
    real = input_ids.ne(padding_idx).long()  # (B, seq_len)
    return torch.add((real.cumsum(1) + shift) * real, padding_idx)
