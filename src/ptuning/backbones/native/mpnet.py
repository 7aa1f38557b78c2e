"""MPNet: attention with one relative position bias for all layers, and the output projection inside the module."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ptuning.backbones.forward import PromptedForward
from ptuning.backbones.native.fused import attend, split_heads


def prompted_forward(
    module: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    position_bias: Tensor | None = None,
    output_attentions: bool = False,
    **kwargs: Any,
) -> Any:
    """Stands in for `MPNetSelfAttention.forward`; returns (output,) or (output, weights).

    Virtual tokens have no relative position: their bias is zero.
    """
    forward = PromptedForward.running()
    if forward is None or module not in forward.layer_numbers:
        return type(module).forward(
            module, hidden_states, attention_mask, position_bias, output_attentions=output_attentions, **kwargs
        )
    query = split_heads(module.q(hidden_states), module.attention_head_size)
    key = split_heads(module.k(hidden_states), module.attention_head_size)
    value = split_heads(module.v(hidden_states), module.attention_head_size)
    num_keys = key.shape[2]
    key, value, block = forward.insert(module, key, value)
    if block is not None:
        attention_mask = forward.widened_mask(
            attention_mask,
            block,
            num_queries=num_keys,
            num_keys=num_keys,
            is_causal=False,
            dtype=query.dtype,  # added to the scores
            device=query.device,
        )
        position_bias = None if position_bias is None else forward.widened_bias(position_bias, block.length)
    bias = attention_mask if position_bias is None else position_bias
    if attention_mask is not None and position_bias is not None:
        bias = position_bias + attention_mask
    context, weights = attend(
        query,
        key,
        value,
        bias,
        forward=forward,
        block=block,
        scale=module.attention_head_size**-0.5,
        dropout=module.dropout.p if module.training else 0.0,
        with_weights=output_attentions,
    )
    return (module.o(context), weights) if output_attentions else (module.o(context),)
