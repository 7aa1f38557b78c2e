"""Prompts through transformers' attention interface: one registered name per base implementation.

`ptuning_sdpa` does what `sdpa` does, after putting the running forward's virtual tokens in front of key and value
and widening the mask. The same name is registered for masks, since without it transformers hands attention no mask
at all. A module that the running forward does not know (cross-attention, another model with the same config) goes
straight to the base function.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ptuning.backbones.direction import is_switched
from ptuning.backbones.dot_product import attention_in_steps, attention_on_front, is_faster_in_steps
from ptuning.backbones.families import find_trunk, has_capped_scores, has_local_attention
from ptuning.backbones.forward import Block, Observe, PromptedForward
from ptuning.backbones.masks import of_dtype, widen_padding_mask
from ptuning.backbones.packing import packed_attention
from ptuning.errors import BackboneError

PREFIX = "ptuning_"
BASES = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention")

AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]


# Configs that call our attention and how many attached models share each (models may share a config object).
_users: dict[int, tuple[Any, int]] = {}


def take_attention(config: Any) -> None:
    """Makes the modules of a config call our attention, until `give_back_attention`.

    Raises:
        BackboneError: prompts cannot go through the implementation it names.
    """
    _, users = _users.get(id(config), (config, 0))
    if not users:
        config._attn_implementation = _prompted_name(config._attn_implementation)
    _users[id(config)] = (config, users + 1)


def give_back_attention(config: Any) -> None:
    """Undoes one `take_attention`; the last one puts the base implementation's name back."""
    _, users = _users.pop(id(config), (config, 1))  # a deep copy of a model has a config that is not here
    if users > 1:
        _users[id(config)] = (config, users - 1)
    else:
        config._attn_implementation = config._attn_implementation.removeprefix(PREFIX)


def _prompted_name(base: str | None) -> str:
    """Returns the registered name for a base implementation, and registers it on first use."""
    if base not in BASES:
        raise BackboneError(
            f"the backbone's attention implementation is {base!r}, expected one of {', '.join(BASES)}. "
            "Load the backbone with attn_implementation='sdpa'."
        )
    name = PREFIX + base
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, _prompted_attention(base))
        AttentionMaskInterface.register(name, _unless_packed(ALL_MASK_ATTENTION_FUNCTIONS[base]))
    return name


def _prompted_attention(base: str) -> AttentionFunction:
    widen = _widen_flash if "flash" in base else _widen_flex if "flex" in base else partial(_widen_dense, base)

    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        forward = PromptedForward.running()
        if forward is not None:
            num_keys = key.shape[2]
            if module in forward.layer_numbers and is_switched(getattr(module, "config", None)):
                kwargs["is_causal"] = False  # whatever flag the module has of its own: without padding there is no mask
            key, value, block = forward.insert(module, key, value)
            if forward.packing is not None and module in forward.layer_numbers:
                return _packed(forward, block, query, key, value, **kwargs), None
            if block is not None:
                attention_mask = widen(forward, block, module, query, num_keys, attention_mask, kwargs)
                if forward.observe is not None:
                    _observe(forward.observe, block, query, key, attention_mask, **kwargs)
                if base == "sdpa" and is_faster_in_steps(query, key) and kwargs.get("softcap") is None:
                    return _sdpa_in_steps(forward, query, key, value, attention_mask, **kwargs)
        named: Any = _with_base_name(module, base) if "flash" in base else module
        return _base_attention(base, module)(named, query, key, value, attention_mask, **kwargs)

    return attention


class _StandIn:
    """An object with some attributes of its own; all others are those of what it stands in for."""

    def __init__(self, other: Any, **own: Any) -> None:
        self.__dict__.update(own, _other=other)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._other, name)


def _with_base_name(module: nn.Module, base: str) -> _StandIn:
    """The module as the library's function is to see it: it looks for a flash kernel by the name in the config."""
    return _StandIn(module, config=_StandIn(module.config, _attn_implementation=base))


def _unless_packed(make_mask: Callable[..., Any]) -> Callable[..., Any]:
    def mask(*args: Any, **kwargs: Any) -> Any:
        forward = PromptedForward.running()
        if forward is not None and forward.packing is not None:
            return None  # its layers make their own
        return make_mask(*args, **kwargs)

    return mask


def _packed(
    forward: PromptedForward,
    block: Block | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> Tensor:
    packing = forward.packing
    assert packing is not None
    num_virtual = 0 if block is None else block.length
    is_first_only = query.shape[2] != key.shape[2] - num_virtual
    window = sliding_window
    if window is not None and packing.window_counts_itself:
        window -= 1
    block_mask = forward.once(
        ("packed", num_virtual, window, is_first_only),
        (),
        lambda: packing.block_mask(num_virtual, window, first_tokens_only=is_first_only),
    )
    return packed_attention(query, key, value, block_mask, scaling=scaling, dropout=dropout, softcap=softcap)


def _base_attention(base: str, module: nn.Module) -> AttentionFunction:
    if base == "eager":
        # Not in the interface: each family has its own in the file that defines its attention.
        eager: AttentionFunction = sys.modules[type(module).__module__].eager_attention_forward
        return eager
    found: AttentionFunction = ALL_ATTENTION_FUNCTIONS[base]
    return found


def _sdpa_in_steps(
    forward: PromptedForward,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers' sdpa function gives for these arguments, whose mask already says what is causal."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    bias = mask if mask is None or mask.dtype != torch.bool else forward.as_additive(mask, query.dtype)
    if position_bias is not None:
        bias = position_bias if bias is None else position_bias + bias
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    context, _ = attention_in_steps(query, key, value, bias, scale=scale, dropout=dropout)
    return context.transpose(1, 2).contiguous(), None  # (B, Q, H, D)


def _observe(
    observe: Observe,
    block: Block,
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    *,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> None:
    """Tells an observer what eager and sdpa attention give virtual tokens; mask and bias are widened already."""
    bias = mask
    if position_bias is not None and mask is not None:
        bias = position_bias + (of_dtype(mask, position_bias.dtype) if mask.dtype == torch.bool else mask)
    elif position_bias is not None:
        bias = position_bias
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    share = attention_on_front(query, key, bias, scale=scale, num_front=block.length, cap=softcap)
    observe(block.layer, share)


def _widen_dense(
    base: str,
    forward: PromptedForward,
    block: Block,
    module: nn.Module,
    query: Tensor,
    num_keys: int,
    mask: Tensor | None,
    kwargs: dict[str, Any],
) -> Tensor | None:
    is_causal = _is_causal(module, kwargs)
    if kwargs.get("position_bias") is not None:
        kwargs["position_bias"] = forward.widened_bias(kwargs["position_bias"], block.length)
    widened = forward.widened_mask(
        mask,
        block,
        num_queries=query.shape[2],
        num_keys=num_keys,
        is_causal=is_causal,
        dtype=torch.bool if base == "sdpa" else query.dtype,  # eager attention adds its mask to the scores
        device=query.device,
    )
    if widened is None and is_causal:
        kwargs["is_causal"] = False  # a single query, which sees everything
    return widened


def _is_causal(module: nn.Module, kwargs: dict[str, Any]) -> bool:
    is_causal = kwargs.get("is_causal")
    return bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)


def _widen_flash(
    forward: PromptedForward,
    block: Block,
    module: nn.Module,
    query: Tensor,
    num_keys: int,
    mask: Tensor | None,
    kwargs: dict[str, Any],
) -> Tensor | None:
    if kwargs.get("sliding_window") is not None:
        raise _windows_under_flash(is_capped="softcap" in kwargs)
    return widen_padding_mask(
        mask, block.mask, batch_size=query.shape[0], num_keys=num_keys, num_virtual=block.length, device=query.device
    )


def refuse_windows_under_flash(model: nn.Module, layers: Iterable[int]) -> None:
    """Makes sure that flash attention can show virtual tokens to all tokens of these layers.

    Args:
        model: of transformers, with or without a head.
        layers: those that are given virtual tokens.

    Raises:
        BackboneError: the model is of no supported family, or has flash attention and a window in one of these layers.
    """
    trunk, family = find_trunk(model)
    config: Any = trunk.config
    if "flash" in str(config._attn_implementation) and any(has_local_attention(config, layer) for layer in layers):
        raise _windows_under_flash(is_capped=has_capped_scores(family, config))


def _windows_under_flash(*, is_capped: bool) -> BackboneError:
    instead = "'eager' or 'flex_attention'" if is_capped else "'sdpa'"
    return BackboneError(
        "flash attention cannot show virtual tokens to every window of a layer with local attention. "
        f"Load this backbone with attn_implementation={instead}."
    )


def _widen_flex(
    forward: PromptedForward,
    block: Block,
    module: nn.Module,
    query: Tensor,
    num_keys: int,
    mask: Any,
    kwargs: dict[str, Any],
) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    is_causal = mask is None and query.shape[2] > 1 and _is_causal(module, kwargs)
    if mask is None and block.mask is None and not is_causal:
        return None
    num_virtual, prompt_mask = block.length, block.mask
    behind = num_keys - query.shape[2]

    def visible(batch: Tensor, head: Tensor, query_index: Tensor, key_index: Tensor) -> Tensor:
        is_virtual = key_index < num_virtual
        real: Tensor = torch.ones_like(is_virtual)
        if mask is not None:
            real = mask.mask_mod(batch, head, query_index, (key_index - num_virtual).clamp(min=0))
        elif is_causal:
            real = key_index - num_virtual <= query_index + behind
        virtual: Tensor = is_virtual
        if prompt_mask is not None:
            virtual = prompt_mask[batch, key_index.clamp(max=num_virtual - 1)]
        return torch.where(is_virtual, virtual, real)

    return forward.once(
        ("blocks", num_virtual, query.shape[2], is_causal),
        (mask, prompt_mask),
        lambda: create_block_mask(
            visible, query.shape[0], None, query.shape[2], num_virtual + num_keys, device=query.device
        ),
    )
