"""What virtual tokens among the input start from: random numbers, or embeddings of tokens that the backbone knows.

Source: Lester et al. 2021, section 3.2, for the vocabulary and the labels. There the vocabulary is its most frequent
tokens; tokenizers do not say which those are, so here it is all of them but special ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def from_noise(shape: tuple[int, ...], std: float, generator: torch.Generator) -> Tensor:
    """Draws (mixture, prompt_length, embedding_size) from N(0, std)."""
    return torch.empty(shape).normal_(std=std, generator=generator)


def from_vocabulary(weight: Tensor, special: Sequence[int], count: int, generator: torch.Generator) -> Tensor:
    """Picks the embeddings of tokens at random, none twice as long as there are enough.

    Args:
        weight: (vocab_size, embedding_size).
        special: token ids that are not picked.
        count: how many.
        generator: source of the choice.

    Returns:
        (count, embedding_size) in float32.
    """
    ordinary = torch.ones(len(weight), dtype=torch.bool)
    ordinary[[number for number in special if 0 <= number < len(weight)]] = False
    return from_ids(weight, ordinary.nonzero().squeeze(1), count, generator)


def from_ids(weight: Tensor, ids: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """The embeddings of given tokens, in order or drawn; repeated where there are fewer than `count`.

    Args:
        weight: (vocab_size, embedding_size).
        ids: (num_tokens,).
        count: how many.
        generator: draws without repetition; None takes them in order.

    Returns:
        (count, embedding_size) in float32.
    """
    order = torch.arange(len(ids)) if generator is None else torch.randperm(len(ids), generator=generator)
    chosen = ids[order.repeat(count // len(ids) + 1)[:count]]
    return weight[chosen.to(weight.device)].detach().float().cpu()


def from_labels(
    weight: Tensor, words: Sequence[Sequence[int]], special: Sequence[int], count: int, generator: torch.Generator
) -> Tensor:
    """The mean embedding of each label's tokens, then tokens of the vocabulary.

    Args:
        weight: (vocab_size, embedding_size).
        words: token ids of each label.
        special: token ids that are not picked from the vocabulary.
        count: how many virtual tokens.
        generator: source of those.

    Returns:
        (count, embedding_size) in float32.
    """
    means = [from_ids(weight, torch.tensor(list(ids)), len(ids)).mean(0) for ids in words[:count]]
    others = from_vocabulary(weight, special, count - len(means), generator)
    return torch.cat([torch.stack(means), others])
