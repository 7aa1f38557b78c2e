"""Validation rows through the models of all processes: each runs a part of the batches that one process would run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    parts = processes.gather_to_main(run_batches(model, examples, own, tokenizer, entries=entries, heads=heads))
    if parts is None:
        return None
    found = {index: logits for part in parts for index, logits in part.items()}
    return [found[index] for index in range(len(examples))]
