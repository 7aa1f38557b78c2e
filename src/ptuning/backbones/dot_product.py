"""Scaled dot-product attention where torch's own kernel is not the fastest: in training on a CPU, in steps.

torch's fused kernel keeps no attention weights, which is worth it for long sequences. Its backward on a CPU costs more
than the matrix products that it is made of, above all in bfloat16: `benchmarks/attention_on_cpu.py` measures it, and
docs/performance.md has the numbers. Letters in shape comments: B batch, H heads, Q queries, K keys, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ptuning.backbones.dropout import dropout as drop

# Queries up to which steps are faster, and their weights still small.
_LONGEST = {torch.float32: 96, torch.bfloat16: 512}


def is_faster_in_steps(query: Tensor, key: Tensor) -> bool:
    """Whether `attention_in_steps` is to be used: the backward makes the difference, so only where there will be one.

    Args:
        query: (batch_size, num_heads, num_queries, head_dim).
        key: (batch_size, num_heads, num_keys, head_dim), with gradients where prompts are among them or below.
    """
    has_backward = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad)
    return has_backward and query.device.type == "cpu" and query.shape[2] <= _LONGEST.get(query.dtype, 0)


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


@torch.no_grad()
def attention_on_front(
    query: Tensor, key: Tensor, bias: Tensor | None, *, scale: float, num_front: int, cap: float | None = None
) -> Tensor:
    """Computes how much of each query's attention falls on the keys in front, in float32 at least.

    Args:
        query: (batch_size, num_heads, num_queries, head_dim).
        key: (batch_size, num_kv_heads, num_keys, head_dim).
        bias: added to the scaled scores, or bool with True where attention is allowed, broadcastable to (batch_size,
            num_heads, num_queries, num_keys); None where every query sees every key.
        scale: multiplies the scores.
        num_front: keys that count.
        cap: what scaled scores are held below by a tanh, before the bias; None where they are not.

    Returns:
        (batch_size, num_heads, num_queries), each in [0, 1].
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    key = key.to(dtype).repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = torch.matmul(query.to(dtype) * scale, key.transpose(-1, -2))  # (B, H, Q, K)
    if cap is not None:
        scores = torch.tanh(scores / cap) * cap
    if bias is not None and bias.dtype == torch.bool:
        scores = scores.masked_fill(~bias, torch.finfo(dtype).min)
    elif bias is not None:
        scores = scores + bias
    return functional.softmax(scores, dim=-1)[..., :num_front].sum(-1)
