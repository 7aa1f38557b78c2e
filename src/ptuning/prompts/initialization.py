"""Ways to start prompts.

Plain functions that return (num_prompted_layers, 2, num_kv_heads, prompt_length, head_dim).

The normal start is drawn by `DeepPrompts` itself. Starting from real tokens gives virtual tokens the statistics that
the frozen backbone is used to at every layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ptuning.errors import PromptError


def from_keys_values(
    keys_values: Tensor, *, layers: Sequence[int], prompt_length: int, generator: torch.Generator | None = None
) -> Tensor:
    """Picks tokens from what a backbone computed.

    Args:
        keys_values: (num_layers, 2, num_kv_heads, num_tokens, head_dim), one entry for each real token.
        layers: the prompted layers.
        prompt_length: how many tokens to pick. With fewer tokens than that, they are repeated in order.
        generator: picks tokens at random without repetition; None picks the first ones.

    Raises:
        PromptError: there are no tokens.
    """
    num_tokens = keys_values.shape[3]
    if num_tokens == 0:
        raise PromptError("there are no tokens to start prompts from. Give a text, or training data that is not empty.")
    order = torch.arange(num_tokens) if generator is None else torch.randperm(num_tokens, generator=generator)
    picked = order.repeat(prompt_length // num_tokens + 1)[:prompt_length].to(keys_values.device)
    return keys_values[list(layers)].index_select(3, picked)


def from_saved(saved: Tensor, *, num_prompted_layers: int, prompt_length: int) -> Tensor:
    """Uses another prompt, as it is.

    Args:
        saved: (num_prompted_layers, 2, num_kv_heads, prompt_length, head_dim).
        num_prompted_layers: what the new prompt has.
        prompt_length: what the new prompt has.

    Raises:
        PromptError: the saved prompt has another number of layers or another length.
    """
    if saved.shape[0] != num_prompted_layers or saved.shape[3] != prompt_length:
        raise PromptError(
            f"the saved prompt has {saved.shape[0]} layers and prompt_length {saved.shape[3]}, expected "
            f"{num_prompted_layers} and {prompt_length}. Set prompts.layers and prompts.prompt_length to those it has."
        )
    return saved
