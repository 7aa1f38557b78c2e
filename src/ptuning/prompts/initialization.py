"""Ways to start prompts.

The normal start is drawn by `DeepPrompts` itself. Starting from real tokens gives virtual tokens the statistics that
the frozen backbone is used to at every layer: `pick_tokens` says which, and the backbone is asked for theirs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ptuning.errors import PromptError
from ptuning.prompts.bank import Entry


def pick_tokens(num_tokens: int, prompt_length: int, generator: torch.Generator | None = None) -> Tensor:
    """Picks the real tokens that virtual ones start from.

    Args:
        num_tokens: how many there are.
        prompt_length: how many to pick. With fewer tokens than that, they are repeated in order.
        generator: picks tokens at random without repetition; None picks the first ones.

    Returns:
        (prompt_length,) int64, in [0, num_tokens).

    Raises:
        PromptError: there are no tokens.
    """
    if num_tokens == 0:
        raise PromptError("there are no tokens to start prompts from. Give a text, or training data that is not empty.")
    order = torch.arange(num_tokens) if generator is None else torch.randperm(num_tokens, generator=generator)
    return order.repeat(prompt_length // num_tokens + 1)[:prompt_length]


def draw_like(real: Tensor, prompt_length: int, generator: torch.Generator) -> Tensor:
    """Draws virtual tokens from a normal distribution with the statistics of real ones.

    Args:
        real: (num_layers, 2, num_kv_heads, num_tokens, head_dim), keys and values of real tokens.
        prompt_length: how many to draw.
        generator: source of the numbers.

    Returns:
        (num_layers, 2, num_kv_heads, prompt_length, head_dim); mean and standard deviation are those of each layer, key
        or value, head and place in it.

    Raises:
        PromptError: there are fewer than two tokens.
    """
    if real.shape[3] < 2:
        raise PromptError(
            f"there are {real.shape[3]} tokens to take the deviation of keys and values from, expected at least 2. "
            "Give training data that are not empty."
        )
    mean, deviation = real.mean(3, keepdim=True), real.std(3, keepdim=True)
    shape = (*real.shape[:3], prompt_length, real.shape[4])
    return mean + deviation * torch.empty(shape).normal_(generator=generator)


def from_saved(saved: Tensor, entry: Entry, *, wanted: Entry, prompt_length: int) -> Tensor:
    """Uses another prompt, as it is.

    Args:
        saved: (num_prompted_layers, 2, num_kv_heads, prompt_length, head_dim).
        entry: its layers and positions.
        wanted: those of the new prompt.
        prompt_length: of the new prompt.

    Returns:
        `saved`.

    Raises:
        PromptError: the saved prompt is of other layers, another length or other positions.
    """
    if (entry, saved.shape[3]) != (wanted, prompt_length):
        raise PromptError(
            f"the saved prompt has {_words(entry, saved.shape[3])}, expected {_words(wanted, prompt_length)}. "
            "Set prompts.layers, prompts.prompt_length and prompts.positions to those it has."
        )
    return saved


def _words(entry: Entry, prompt_length: int) -> str:
    layers = ", ".join(str(layer) for layer in entry.layers)
    return f"layers {layers}, prompt_length {prompt_length} and {entry.positions} positions"
