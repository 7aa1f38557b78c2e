"""The steps that families here share: softmax(scores) times values, fused or step by step, and what goes before."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ptuning.backbones.dot_product import attention_in_steps, attention_on_front, is_faster_in_steps
from ptuning.backbones.forward import Block, PromptedForward
from ptuning.backbones.masks import widen_bias


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    *,
    forward: PromptedForward,
    block: Block | None,
    scale: float,
    dropout: float,
    with_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    """Attention with an additive bias.

    Args:
        query: (batch_size, num_heads, num_queries, head_dim).
        key: (batch_size, num_heads, num_keys, head_dim).
        value: as `key`.
        bias: added to the scaled scores, broadcastable to (batch_size, num_heads, num_queries, num_keys), or None.
        forward: the running one.
        block: the layer's virtual tokens, in front of the keys, or None where it has none.
        scale: multiplies the scores.
        dropout: probability of dropping an attention weight.
        with_weights: whether the weights are wanted, and so computed step by step.

    Returns:
        The context, (batch_size, num_queries, num_heads * head_dim), and the weights when they are wanted or the
        forward computes step by step.
    """
    if block is not None and forward.observe is not None:
        forward.observe(block.layer, attention_on_front(query, key, bias, scale=scale, num_front=block.length))
    weights: Tensor | None = None
    eager = forward.eager or with_weights
    if eager or is_faster_in_steps(query, key):
        context, weights = attention_in_steps(query, key, value, bias, scale=scale, dropout=dropout)
    else:
        context = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=dropout, scale=scale
        )
    return context.transpose(1, 2).flatten(2), weights if eager else None


def split_heads(states: Tensor, head_dim: int) -> Tensor:
    """(batch_size, seq_len, num_heads * head_dim) -> (batch_size, num_heads, seq_len, head_dim)."""
    return states.view(*states.shape[:-1], -1, head_dim).transpose(1, 2)


def widen_visible(
    forward: PromptedForward, block: Block | None, attention_mask: Tensor, scores: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Mask and relative scores of disentangled attention, with columns for a layer's virtual tokens.

    Args:
        forward: the running one.
        block: the layer's virtual tokens, or None where it has none.
        attention_mask: (batch_size, 1, seq_len, seq_len) of zeros and ones.
        scores: the relative terms, (batch_size, num_heads, seq_len, seq_len), or None. Virtual tokens get zeros.

    Returns:
        Which keys each query sees, (batch_size, 1, seq_len, num_keys) bool, and the scores, as wide.
    """
    visible = forward.as_bool(attention_mask)
    if block is None:
        return visible, scores
    widened = forward.widened_mask(
        visible,
        block,
        num_queries=visible.shape[2],
        num_keys=visible.shape[3],
        is_causal=False,
        dtype=torch.bool,
        device=visible.device,
    )
    assert widened is not None
    return widened, None if scores is None else widen_bias(scores, block.length)
