"""How large keys and values are: the length that one head sees of one token, on average."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ptuning.prompts.bank import PromptBank
from ptuning.prompts.deep_prompts import DeepPrompts

_DIGITS = 4


def mean_norms(keys_values: Tensor) -> Tensor:
    """The Euclidean norm over a head's width, its mean over heads and tokens.

    Args:
        keys_values: (num_layers, 2, num_kv_heads, num_tokens, head_dim). Axis 1 is key, then value.

    Returns:
        (num_layers, 2) float32.
    """
    norms: Tensor = torch.linalg.vector_norm(keys_values.float(), dim=-1)  # (L, 2, H, T)
    return norms.mean(dim=(2, 3))


@torch.no_grad()
def entry_norms(bank: PromptBank, index: int = 0) -> dict[str, Any] | None:
    """The norms of an entry of a bank as JSON, or None where it has no virtual tokens.

    Args:
        bank: of prompts, on any device.
        index: of the entry.

    Returns:
        `layers`, its layer numbers, and `keys` and `values`, a mean norm for each, rounded to four digits.
    """
    prompts = cast(DeepPrompts, bank.prompts[index])
    if prompts.prompt_length == 0:
        return None
    keys, values = mean_norms(prompts()).t().tolist()
    return {
        "layers": list(bank.entries[index].layers),
        "keys": [round(norm, _DIGITS) for norm in keys],
        "values": [round(norm, _DIGITS) for norm in values],
    }
