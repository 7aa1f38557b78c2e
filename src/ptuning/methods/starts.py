"""What virtual tokens among the input start from: random numbers, or embeddings of tokens that the backbone knows.

Source: Lester et al. 2021, section 3.2, for the vocabulary and the labels. There the vocabulary is its most frequent
tokens; tokenizers do not say which those are, so here it is all that stand for text (`ordinary_ids`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# Rows that were kept free in training: BERT's, Gemma's, and those that fill up RoBERTa's vocabulary.
_UNUSED = re.compile(r"\[unused\d+\]|<unused\d+>|madeupword\d+")


def from_noise(shape: tuple[int, ...], std: float, generator: torch.Generator) -> Tensor:
    """Draws (mixture, prompt_length, embedding_size) from N(0, std)."""
    return torch.empty(shape).normal_(std=std, generator=generator)


def ordinary_ids(tokenizer: Any, vocab_size: int) -> Tensor:
    """The ids of tokens that stand for text.

    Left out are special tokens, those that the tokenizer names as unused, and rows of the embeddings that it has no
    token for.

    Args:
        tokenizer: a transformers tokenizer.
        vocab_size: rows of the embeddings.

    Returns:
        (num_tokens,) int64, rising.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {*tokenizer.all_special_ids, *(number for number, token in added.items() if token.special)}
    known = {number for token, number in tokenizer.get_vocab().items() if not _UNUSED.fullmatch(token)}
    return torch.tensor(sorted(number for number in known - special if 0 <= number < vocab_size), dtype=torch.long)


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
    weight: Tensor, words: Sequence[Sequence[int]], ordinary: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """The mean embedding of each label's tokens, then tokens of the vocabulary.

    Args:
        weight: (vocab_size, embedding_size).
        words: token ids of each label.
        ordinary: (num_tokens,), ids of the tokens that may follow.
        count: how many virtual tokens.
        generator: draws those.

    Returns:
        (count, embedding_size) in float32.
    """
    means = [from_ids(weight, torch.tensor(list(ids)), len(ids)).mean(0) for ids in words[:count]]
    others = from_ids(weight, ordinary, count - len(means), generator)
    return torch.cat([torch.stack(means), others])
