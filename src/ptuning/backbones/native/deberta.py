"""DeBERTa (v1): disentangled attention, where a score has content-to-content and relative-position terms.

Virtual tokens get the content-to-content term alone, with the same scale as for real tokens,
sqrt(head_dim * (1 + number of position terms)).

Source: THUDM/P-tuning-v2 `model/deberta.py`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ptuning.backbones.forward import PromptedForward
from ptuning.backbones.native.fused import attend, widen_visible


def prompted_forward(
    module: Any,
    hidden_states: Tensor,
    attention_mask: Tensor,
    output_attentions: bool = False,
    query_states: Tensor | None = None,
    relative_pos: Tensor | None = None,
    rel_embeddings: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Stands in for `DisentangledSelfAttention.forward`; returns (context, weights or None)."""
    forward = PromptedForward.running()
    if forward is None or module not in forward.layer_numbers or query_states is not None:
        result: tuple[Tensor, Tensor | None] = type(module).forward(
            module, hidden_states, attention_mask, output_attentions, query_states, relative_pos, rel_embeddings
        )
        return result
    split = module.transpose_for_scores
    query, key, value = split(module.in_proj(hidden_states)).chunk(3, dim=-1)  # each (B, H, N, D)
    num_terms = 1 + len(module.pos_att_type)
    query = (query + split(module.q_bias[None, None, :])) / math.sqrt(module.attention_head_size * num_terms)
    value = value + split(module.v_bias[None, None, :])

    scores: Tensor | None = None
    if module.relative_attention and rel_embeddings is not None and relative_pos is not None:
        relative = module.disentangled_att_bias(query, key, relative_pos, module.pos_dropout(rel_embeddings), num_terms)
        scores = relative if isinstance(relative, Tensor) else None  # (B, H, N, N)
    key, value, block = forward.insert(module, key, value)
    visible, scores = widen_visible(forward, block, attention_mask, scores)
    # Under autocast the query is of the biases' dtype by now, and key and scores of the lower one.
    hidden = torch.finfo(key.dtype).min
    dropout = module.dropout.p if module.training else 0.0
    if module.head_logits_proj is not None:
        context, mixed = _talking_heads(module, query, key, value, scores, visible, hidden, dropout)
        if block is not None and forward.observe is not None:
            forward.observe(block.layer, mixed[..., : block.length].sum(-1))  # mixed weights may leave [0, 1]
        return context, mixed
    bias = key.new_zeros(()).expand_as(visible) if scores is None else scores
    context, weights = attend(
        query,
        key,
        value,
        bias.masked_fill(~visible, hidden),
        forward=forward,
        block=block,
        scale=1.0,
        dropout=dropout,
        with_weights=output_attentions,
    )
    return context, weights if output_attentions else None


def _talking_heads(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scores: Tensor | None,
    visible: Tensor,
    hidden: float,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """Heads that mix their scores before, and their weights after, the softmax: nothing to fuse."""
    logits = torch.matmul(query, key.transpose(-1, -2))
    logits = logits if scores is None else logits + scores
    logits = module.head_logits_proj(logits.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    weights = functional.softmax(logits.masked_fill(~visible, hidden), dim=-1)
    weights = functional.dropout(weights, dropout, training=dropout > 0.0)
    weights = module.head_weights_proj(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return torch.matmul(weights, value).transpose(1, 2).flatten(2), weights
