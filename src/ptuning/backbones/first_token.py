"""The last layer for the first token alone.

A head that reads nothing but the first token's hidden state needs of the last layer that token's query, attention
output and feed-forward, and the keys and values of all tokens. The rest is left out; what is left is the same number
for number, up to the order in which products are summed. Letters in shape comments: B batch, N tokens, H heads,
D head width, C hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ptuning.backbones.direction import direction_of
from ptuning.backbones.families import Family, attention_modules
from ptuning.backbones.forward import PromptedForward


def can_end_at_first_token(trunk: nn.Module, family: Family) -> bool:
    """Whether the last layer can be computed for the first token alone.

    It is for BERT's layout and attention through the interface; not for a decoder, whose first token sees nothing but
    itself, nor where someone has put a forward of their own on the modules that would be replaced.
    """
    if not family.can_end_at_first_token or direction_of(family, trunk.config) == "causal":
        return False
    return not any("forward" in module.__dict__ for module in _replaced(trunk, family))


class FirstTokenOnly:
    """Makes the last layer of an encoder return (batch_size, 1, hidden_size), until removed.

    Args:
        trunk: the encoder, with attention through transformers' interface.
        family: its family; the two must be such that `can_end_at_first_token`.
    """

    def __init__(self, trunk: nn.Module, family: Family) -> None:
        self._modules = _replaced(trunk, family)
        forwards: tuple[Callable[..., Any], ...] = (_attend, _add)
        for module, forward in zip(self._modules, forwards, strict=True):
            module.forward = MethodType(forward, module)

    def remove(self) -> None:
        """Puts the layer back as it was."""
        for module in self._modules:
            del module.forward


def _replaced(trunk: nn.Module, family: Family) -> tuple[Any, Any]:
    """The last layer's self-attention, and what projects its output and adds the residual."""
    layer: Any = trunk.get_submodule("encoder.layer")[-1]  # type: ignore[index]
    return attention_modules(trunk, family)[-1], layer.attention.output


def _attend(
    module: Any, hidden_states: Tensor, attention_mask: Any = None, *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """Stands in for `BertSelfAttention.forward` and its siblings'."""
    first = _first_tokens(hidden_states)  # (B, 1, C)
    query, key, value = (
        linear(states).unflatten(-1, (-1, module.attention_head_size)).transpose(1, 2)  # (B, H, 1 or N, D)
        for linear, states in ((module.query, first), (module.key, hidden_states), (module.value, hidden_states))
    )
    mask = attention_mask
    if isinstance(mask, Tensor) and mask.ndim == 4:
        mask = mask[:, :, :1]  # (B, 1, 1, N)
    elif hasattr(mask, "mask_mod"):  # flex attention's, whose slices have no function
        from torch.nn.attention.flex_attention import create_block_mask

        mask = create_block_mask(mask.mask_mod, mask.shape[0], None, 1, mask.shape[-1], device=first.device)
    context, weights = ALL_ATTENTION_FUNCTIONS[module.config._attn_implementation](
        module,
        query,
        key,
        value,
        mask,
        dropout=module.dropout.p if module.training else 0.0,
        scaling=module.scaling,
        is_causal=False,
    )
    return context.flatten(2), weights  # (B, 1, C)


def _add(module: Any, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
    """Stands in for `BertSelfOutput.forward` and its siblings': the residual of the first token."""
    added: Tensor = type(module).forward(module, hidden_states, _first_tokens(input_tensor))
    return added


def _first_tokens(states: Tensor) -> Tensor:
    """(B, N, C) -> (B, 1, C); of a packed row, (1, N, C) -> (1, B, C)."""
    forward = PromptedForward.running()
    packing = None if forward is None else forward.packing
    return states[:, :1] if packing is None else states[:, packing.starts]
