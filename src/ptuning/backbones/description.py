"""What a backbone is, in numbers that do not depend on its family."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from ptuning.backbones.direction import Direction, direction_of
from ptuning.backbones.families import FAMILIES, Family, attention_modules, position_limit
from ptuning.backbones.quantization import quantized_linears


@dataclass(frozen=True)
class BackboneDescription:
    """A backbone's numbers.

    Attributes:
        model_type: transformers' name of the family.
        num_layers: self-attention layers, counted as they run (a shared layer counts each time).
        hidden_size: width of hidden states.
        num_heads: attention heads.
        num_kv_heads: key/value heads; fewer than num_heads in grouped-query models.
        head_dim: width of one head.
        vocab_size: rows of the token embedding.
        max_positions: tokens that fit its positions, or None where there is no limit.
        num_parameters: all parameters, whatever they are stored in.
        num_transformer_parameters: those without the embeddings, the base of the paper's ratio.
        initializer_range: standard deviation that its own layers started from.
        attention_direction: which way its tokens see, from left to right or both ways.
    """

    model_type: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int | None
    num_parameters: int
    num_transformer_parameters: int
    initializer_range: float = 0.02
    attention_direction: Direction = "bidirectional"

    @property
    def recorded_direction(self) -> Direction | None:
        """Which way its tokens see, where that is to be said: of decoders, those of an encoder's family among them."""
        is_decoder = FAMILIES[self.model_type].is_decoder or self.attention_direction == "causal"
        return self.attention_direction if is_decoder else None

    def architecture(self) -> dict[str, Any]:
        """What a saved prompt must agree with: numbers, and of decoders which way they look."""
        wanted = ["model_type", "num_layers", "hidden_size", "num_heads", "num_kv_heads", "head_dim", "vocab_size"]
        if self.recorded_direction is not None:
            wanted.append("attention_direction")
        return {name: value for name, value in asdict(self).items() if name in wanted}


def describe_trunk(trunk: nn.Module, family: Family) -> BackboneDescription:
    """Describes an encoder found by `find_trunk`."""
    config: Any = trunk.config
    num_heads = int(config.num_attention_heads)
    head_dim = getattr(config, "d_kv", None) or getattr(config, "head_dim", None)
    if family.model_type == "deberta-v2":
        head_dim = getattr(config, "attention_head_size", None)
    embeddings = {id(p) for m in trunk.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    parameters = list({id(p): p for p in trunk.parameters()}.values())
    in_few_bits = sum(linear.weight.shape.numel() for linear in set(quantized_linears(trunk).values()))
    return BackboneDescription(
        model_type=family.model_type,
        num_layers=len(attention_modules(trunk, family)),
        hidden_size=int(config.hidden_size),
        num_heads=num_heads,
        num_kv_heads=int(getattr(config, "num_key_value_heads", None) or num_heads),
        head_dim=int(head_dim or config.hidden_size // num_heads),
        vocab_size=int(config.vocab_size),
        max_positions=position_limit(config, family),
        num_parameters=in_few_bits + sum(p.numel() for p in parameters),
        num_transformer_parameters=in_few_bits + sum(p.numel() for p in parameters if id(p) not in embeddings),
        initializer_range=float(getattr(config, "initializer_range", None) or 0.02),
        attention_direction=direction_of(family, config),
    )
