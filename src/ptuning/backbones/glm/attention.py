"""Self-attention of GLM (2021), through transformers' attention interface.

Letters in shape comments: B batch, N tokens, H heads, D head width, C hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ptuning.backbones.glm.config import Glm2021Config


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention step by step: what the interface calls `eager`, found by this name.

    Args:
        module: the attention module.
        query: (batch_size, num_heads, num_queries, head_dim).
        key: (batch_size, num_heads, num_keys, head_dim).
        value: as `key`.
        attention_mask: added to the scores, (batch_size or 1, num_heads or 1, num_queries or 1, num_keys), or None.
        scaling: of the scores.
        dropout: probability of dropping an attention weight.

    Returns:
        (batch_size, num_queries, num_heads, head_dim), and the weights (batch_size, num_heads, num_queries, num_keys).
    """
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = functional.dropout(torch.softmax(scores, dim=-1), dropout, training=dropout > 0.0)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def mark_output(linear: nn.Linear) -> nn.Linear:
    """Marks what a layer adds to the residual with: its random weights start smaller."""
    linear.is_output = True  # type: ignore[assignment]
    return linear


def is_output(module: nn.Module) -> bool:
    """Whether a module was marked so."""
    return bool(getattr(module, "is_output", False))


class Glm2021Attention(nn.Module):
    """Multi-head self-attention; what sees what is in the mask alone.

    Args:
        config: of the model.
        layer_idx: number of its layer.
    """

    def __init__(self, config: Glm2021Config, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = False
        self.num_heads = config.num_attention_heads
        self.scaling = config.head_dim**-0.5
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)  # rows: all of q, of k, of v
        self.dense = mark_output(nn.Linear(config.hidden_size, config.hidden_size))
        self.attention_dropout = nn.Dropout(config.attention_dropout_prob)
        self.output_dropout = nn.Dropout(config.output_dropout_prob)

    def forward(self, hidden_states: Tensor, attention_mask: Any = None) -> Tensor:
        """(batch_size, seq_len, hidden_size) -> the same; `attention_mask` in the form of the base implementation."""
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, N, D)
            for part in self.query_key_value(hidden_states).chunk(3, dim=-1)
        )
        implementation = str(self.config._attn_implementation)
        attend: Any = eager_attention_forward
        if implementation != "eager":
            attend = ALL_ATTENTION_FUNCTIONS[implementation]
        context, _ = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout.p if self.training else 0.0,
            scaling=self.scaling,
        )
        output: Tensor = self.output_dropout(self.dense(context.flatten(2)))  # (B, N, C)
        return output
