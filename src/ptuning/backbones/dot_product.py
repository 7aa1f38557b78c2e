"""Scaled dot-product attention where torch's own kernel is not the fastest: on a CPU, in steps.

torch's fused kernel keeps no attention weights, which is worth it for long sequences. Its backward on a CPU costs more
than the matrix products it is made of: three to eight times as much in bfloat16, whatever the length, and half as much
again in float32 on short sequences (measured by `benchmarks/attention_on_cpu.py`; the numbers are in
docs/performance.md). Letters in shape comments: B batch, H heads, Q queries, K keys, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ptuning.backbones.dropout import dropout as drop

_LONGEST_IN_FLOAT32 = 96  # queries


def is_faster_in_steps(query: Tensor) -> bool:
    """Whether `attention_in_steps` is faster than torch's fused kernel.

    Args:
        query: (batch_size, num_heads, num_queries, head_dim).
    """
    if query.device.type != "cpu":
        return False
    return query.dtype == torch.bfloat16 or (query.dtype == torch.float32 and query.shape[2] <= _LONGEST_IN_FLOAT32)


def attention_in_steps(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *, scale: float, dropout: float
) -> tuple[Tensor, Tensor]:
    """Computes softmax(scale * query key^T + bias) value.

    Args:
        query: (batch_size, num_heads, num_queries, head_dim).
        key: (batch_size, num_heads, num_keys, head_dim).
        value: as `key`.
        bias: added to the scaled scores, broadcastable to (batch_size, num_heads, num_queries, num_keys), or None.
        scale: multiplies the scores.
        dropout: probability of dropping an attention weight.

    Returns:
        The context, (batch_size, num_heads, num_queries, head_dim), and the weights, (batch_size, num_heads,
        num_queries, num_keys).
    """
    scores = torch.matmul(query * scale, key.transpose(-1, -2))  # (B, H, Q, K)
    weights = functional.softmax(scores if bias is None else scores + bias, dim=-1)
    if dropout > 0.0:
        weights = drop(weights, dropout)
    return torch.matmul(weights, value), weights
