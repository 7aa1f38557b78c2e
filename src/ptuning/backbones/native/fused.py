"""The step that the families here share: softmax(scores) times values, fused or step by step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    *,
    scale: float,
    dropout: float,
    eager: bool,
) -> tuple[Tensor, Tensor | None]:
    """Attention with an additive bias.

    Args:
        query: (batch_size, num_heads, num_queries, head_dim).
        key: (batch_size, num_heads, num_keys, head_dim).
        value: as `key`.
        bias: added to the scaled scores, broadcastable to (batch_size, num_heads, num_queries, num_keys), or None.
        scale: multiplies the scores.
        dropout: probability of dropping an attention weight.
        eager: whether to compute the weights step by step.

    Returns:
        The context, (batch_size, num_queries, num_heads * head_dim), and the weights when eager.
    """
    weights: Tensor | None = None
    if eager:
        scores = torch.matmul(query, key.transpose(-1, -2)) * scale
        weights = functional.softmax(scores if bias is None else scores + bias, dim=-1)
        weights = functional.dropout(weights, dropout, training=dropout > 0.0)
        context = torch.matmul(weights, value)
    else:
        context = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=dropout, scale=scale
        )
    return context.transpose(1, 2).flatten(2), weights


def split_heads(states: Tensor, head_dim: int) -> Tensor:
    """(batch_size, seq_len, num_heads * head_dim) -> (batch_size, num_heads, seq_len, head_dim)."""
    return states.view(*states.shape[:-1], -1, head_dim).transpose(1, 2)
