"""How alike the prompts of two tasks are, layer by layer.

Attention does not change when the virtual tokens of a layer change places, so token 3 of one task has nothing to do
with token 3 of another, and a measure must not depend on their order. Here every virtual token is matched with the one
of the other task that points in the most similar direction; the mean cosine of these matches, both ways, is the
similarity. It is 1 for the same set of directions in any order, and needs no equal prompt lengths.

Source: greedy matching as in BERTScore (Zhang et al., ICLR 2020, arXiv 1904.09675), with the mean of both ways for its
F1. SPoT (Vu et al., ACL 2022, arXiv 2110.07904) compares prompts by the cosine of their means, or by the mean cosine of
all pairs. Neither depends on the order, but the first sees the mean token alone, and by the second a prompt of unlike
tokens is unlike itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional

MEASURE = "mean cosine of best matches, both ways"

_DRAWS = 16


@dataclass(frozen=True)
class Similarity:
    """Of prompts of several tasks at each layer that all of them have; or of one task's layers with each other.

    Attributes:
        between: `tasks` or `layers`.
        layers: that are compared.
        pairs: names of two tasks, or two layers.
        keys: between tasks, for each pair a value at each of `layers`; between layers, one value for each pair.
        values: as `keys`, of the values.
        chance: what prompts of these sizes have whose directions are drawn at random, on average.
    """

    between: str
    layers: tuple[int, ...]
    pairs: tuple[tuple[str, str], ...]
    keys: tuple[tuple[float, ...], ...]
    values: tuple[tuple[float, ...], ...]
    chance: float


def best_match(first: Tensor, second: Tensor) -> float:
    """The mean cosine of best matches, both ways.

    Args:
        first: (num_tokens, width) vectors, in any order.
        second: (other_num_tokens, width).

    Returns:
        In [-1, 1]; 1 for equal sets of directions.
    """
    cosines = functional.normalize(first.double(), dim=-1) @ functional.normalize(second.double(), dim=-1).t()
    return float((cosines.amax(0).mean() + cosines.amax(1).mean()) / 2)


def compare_tasks(prompts: Sequence[Tensor], layers: Sequence[Sequence[int]], names: Sequence[str]) -> Similarity:
    """Compares the prompts of tasks on one backbone.

    Args:
        prompts: of each task, (num_prompted_layers, 2, num_kv_heads, prompt_length, head_dim); lengths may differ.
        layers: of each task.
        names: of each task.
    """
    shared = tuple(sorted(set.intersection(*map(set, layers))))
    tokens = [
        _tokens(own[[list(placed).index(layer) for layer in shared]])
        for own, placed in zip(prompts, layers, strict=True)
    ]
    pairs = list(combinations(range(len(names)), 2))
    found = [
        [[best_match(tokens[i][at, axis], tokens[j][at, axis]) for at in range(len(shared))] for i, j in pairs]
        for axis in (0, 1)
    ]
    keys, values = (tuple(map(tuple, one)) for one in found)
    sizes = [(tokens[i].shape[2], tokens[j].shape[2], tokens[i].shape[3]) for i, j in pairs]
    return Similarity("tasks", shared, tuple((names[i], names[j]) for i, j in pairs), keys, values, _chance(sizes))


def compare_layers(prompts: Tensor, layers: Sequence[int]) -> Similarity:
    """Compares the layers of one task with each other.

    Every layer has weights of its own, which make keys and values, so a direction of one layer means nothing at
    another: what is above chance comes from how the prompts were made, such as by one MLP for all layers.

    Args:
        prompts: (num_prompted_layers, 2, num_kv_heads, prompt_length, head_dim).
        layers: of the prompts.
    """
    tokens = _tokens(prompts)
    pairs = list(combinations(range(len(layers)), 2))
    keys, values = (tuple((best_match(tokens[i, axis], tokens[j, axis]),) for i, j in pairs) for axis in (0, 1))
    named = tuple((str(layers[i]), str(layers[j])) for i, j in pairs)
    length, width = tokens.shape[2:]
    return Similarity("layers", tuple(layers), named, keys, values, _chance([(length, length, width)]))


def _tokens(prompts: Tensor) -> Tensor:
    """(L, 2, H, P, D) -> (L, 2, P, H * D): each virtual token's key, or value, of all heads."""
    return prompts.float().cpu().transpose(2, 3).flatten(3)


def _chance(sizes: Sequence[tuple[int, int, int]]) -> float:
    """The mean of `best_match` for directions that are drawn at random, over pairs (tokens, other tokens, width)."""
    generator = torch.Generator().manual_seed(0)
    drawn = {
        size: sum(
            best_match(
                torch.randn(size[0], size[2], generator=generator), torch.randn(size[1], size[2], generator=generator)
            )
            for _ in range(_DRAWS)
        )
        / _DRAWS
        for size in sorted(set(sizes))
    }
    return sum(drawn[size] for size in sizes) / len(sizes)
