"""DeBERTa v2 and v3: disentangled attention with bucketed relative positions.

Virtual tokens get the content-to-content term alone, with the same scale as for real tokens,
sqrt(head_dim * (1 + number of position terms)). The optional convolution after the first layer runs on real tokens
as in the library, where padding is zeroed, so that a row does not depend on its padding.

Source: THUDM/P-tuning-v2 `model/debertaV2.py`, which departs from this in showing the convolution a pad.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ptuning.backbones.forward import PromptedForward
from ptuning.backbones.native.fused import attend, split_heads, widen_visible


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
    query = split_heads(module.query_proj(hidden_states), module.attention_head_size)
    key = split_heads(module.key_proj(hidden_states), module.attention_head_size)
    value = split_heads(module.value_proj(hidden_states), module.attention_head_size)
    batch_size, num_heads, num_keys, _ = key.shape
    num_terms = 1 + sum(term in module.pos_att_type for term in ("c2p", "p2c"))

    scores: Tensor | None = None
    if module.relative_attention:
        relative = module.disentangled_attention_bias(
            query.flatten(0, 1), key.flatten(0, 1), relative_pos, module.pos_dropout(rel_embeddings), num_terms
        )
        if isinstance(relative, Tensor):
            scores = relative.view(batch_size, num_heads, num_keys, num_keys)
    key, value, block = forward.insert(module, key, value)
    visible, scores = widen_visible(forward, block, attention_mask, scores)
    bias = query.new_zeros(()).expand_as(visible) if scores is None else scores
    context, weights = attend(
        query,
        key,
        value,
        bias.masked_fill(~visible, torch.finfo(query.dtype).min),
        forward=forward,
        block=block,
        scale=1.0 / math.sqrt(module.attention_head_size * num_terms),
        dropout=module.dropout.p if module.training else 0.0,
        with_weights=output_attentions,
    )
    return context, weights if output_attentions else None
