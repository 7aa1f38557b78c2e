"""Validation rows through the models of all processes: each runs a part of the batches that one process would run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ptuning.backbones.sharding import is_sharded
from ptuning.data.batching import Example
from ptuning.inference import batches_of_examples, run_batches
from ptuning.model import PromptedModel
from ptuning.training.processes import Processes


def run_together(
    processes: Processes,
    model: PromptedModel,
    examples: Sequence[Example],
    tokenizer: Any,
    *,
    entries: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    batch_tokens: int,
) -> list[Tensor] | None:
    """Runs examples as `run_examples` does.

    Args:
        processes: of the run; all call this with the same examples.
        model: with the same weights everywhere.
        examples: of `run_examples`.
        tokenizer: of `run_examples`.
        entries: of `run_examples`.
        heads: of `run_examples`.
        batch_tokens: of `run_examples`.

    Returns:
        What `run_examples` returns, on process 0; None on the others.
    """
    batches = batches_of_examples(examples, batch_tokens)
    own = batches[processes.index :: processes.count]
    if is_sharded(model.backbone):  # whose weights are gathered by all at once: each runs as many batches
        own += batches[:1] * (-(-len(batches) // processes.count) - len(own))
    ran = run_batches(model, examples, own, tokenizer, entries=entries, heads=heads)
    parts = processes.gather_to_main(_packed(ran))
    if parts is None:
        return None
    found = {index: logits for part in parts for index, logits in _unpacked(*part).items()}
    return [found[index] for index in range(len(examples))]


def _packed(found: Mapping[int, Tensor]) -> tuple[list[tuple[int, ...]], Tensor]:
    """Index and shape of each tensor, and all their numbers in one: a view would be sent with all that it views."""
    numbers = [logits.reshape(-1) for logits in found.values()]
    return [(index, *logits.shape) for index, logits in found.items()], torch.cat([torch.empty(0), *numbers])


def _unpacked(what: Sequence[tuple[int, ...]], numbers: Tensor) -> dict[int, Tensor]:
    parts = torch.split(numbers, [math.prod(shape) for _, *shape in what])
    return {index: part.view(shape) for (index, *shape), part in zip(what, parts, strict=True)}
