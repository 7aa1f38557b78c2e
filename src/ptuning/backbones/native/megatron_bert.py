"""Megatron-BERT: BERT's attention, written before the attention interface."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ptuning.backbones.forward import PromptedForward
from ptuning.backbones.native.fused import attend, split_heads


def prompted_forward(
    module: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    encoder_hidden_states: Tensor | None = None,
    cache: Any = None,
    output_attentions: bool | None = False,
    **kwargs: Any,
) -> Any:
    """Stands in for `MegatronBertSelfAttention.forward`; returns (context, weights or None)."""
    forward = PromptedForward.running()
    if forward is None or module not in forward.layer_numbers or encoder_hidden_states is not None:
        return type(module).forward(
            module,
            hidden_states,
            attention_mask,
            encoder_hidden_states,
            cache,
            output_attentions,
            **kwargs,
        )
    query = split_heads(module.query(hidden_states), module.attention_head_size)
    key = split_heads(module.key(hidden_states), module.attention_head_size)
    value = split_heads(module.value(hidden_states), module.attention_head_size)
    cache = kwargs.get("past_key_values") if cache is None else cache  # its older name
    if cache is not None:  # a decoder's: real tokens only, prompts come in front of it each time
        real_tokens = getattr(cache, "self_attention_cache", cache)
        key, value = real_tokens.update(key, value, module.layer_idx)
    num_queries, num_keys = query.shape[2], key.shape[2]
    key, value, block = forward.insert(module, key, value)
    if block is not None:
        attention_mask = forward.widened_mask(
            attention_mask,
            block,
            num_queries=num_queries,
            num_keys=num_keys,
            is_causal=False,
            dtype=query.dtype,  # added to the scores
            device=query.device,
        )
    return attend(
        query,
        key,
        value,
        attention_mask,
        forward=forward,
        block=block,
        scale=module.attention_head_size**-0.5,
        dropout=module.dropout.p if module.training else 0.0,
        with_weights=bool(output_attentions),
    )
