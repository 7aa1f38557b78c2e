"""Examples through a prompted model without gradients: each gets the logits it would get alone, in input order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ptuning.backbones.sharding import is_sharded
from ptuning.data.batching import Example, collate, evaluation_batches
from ptuning.model import PromptedModel

TOKENS_AT_ONCE = 4096
"""Positions of a batch, padding included, where nothing else is said."""


def run_examples(
    model: PromptedModel,
    examples: Sequence[Example],
    tokenizer: Any,
    *,
    entries: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    batch_tokens: int = TOKENS_AT_ONCE,
    advance: Callable[[int], object] = lambda done: None,
) -> list[Tensor]:
    """Runs examples, of one task or of several mixed in the same batches.

    Args:
        model: put into eval mode, and back into the mode it was in.
        examples: of any kinds of task.
        tokenizer: of the backbone, for its padding.
        entries: bank entry of each example; without it entry 0 of a bank with one.
        heads: head of each example; without it head 0.
        batch_tokens: positions a batch at most.
        advance: called with the number of examples of each batch that is done.

    Returns:
        For each example, on the CPU in float32 and without padding: (num_outputs,) for sequences, (seq_len,
        num_outputs) for tokens and spans, (num_choices,) for choices.
    """
    found = run_batches(
        model,
        examples,
        batches_of_examples(examples, batch_tokens),
        tokenizer,
        entries=entries,
        heads=heads,
        advance=advance,
    )
    return [found[index] for index in range(len(examples))]


def batches_of_examples(examples: Sequence[Example], batch_tokens: int = TOKENS_AT_ONCE) -> list[list[int]]:
    """Returns the indexes of the examples in each of the batches that `run_examples` makes."""
    sizes = [len(example.sequences) for example in examples]
    return evaluation_batches([e.length for e in examples], batch_tokens=batch_tokens, num_sequences=sizes)


def run_batches(
    model: PromptedModel,
    examples: Sequence[Example],
    batches: Sequence[Sequence[int]],
    tokenizer: Any,
    *,
    entries: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    advance: Callable[[int], object] = lambda done: None,
) -> dict[int, Tensor]:
    """Runs some batches of examples as `run_examples` runs all of them.

    Args:
        model: of `run_examples`.
        examples: of `run_examples`.
        batches: indexes of examples.
        tokenizer: of `run_examples`.
        entries: of `run_examples`.
        heads: of `run_examples`.
        advance: of `run_examples`.

    Returns:
        The logits of the examples in these batches, by their indexes.
    """
    sizes = [len(example.sequences) for example in examples]
    results: dict[int, Tensor] = {}
    device = next(model.backbone.parameters()).device
    was_training = model.training
    model.eval()
    try:
        # a sharded backbone keeps what it gathers, and inference tensors cannot be used in training
        with torch.no_grad() if is_sharded(model.backbone) else torch.inference_mode():
            for indices in batches:
                # Labels of several kinds do not mix, and none are needed.
                members = [replace(examples[index], label=None) for index in indices]
                batch = collate(members, *padding_ids(tokenizer)).to(device)
                outputs = model(
                    batch.input_ids,
                    batch.attention_mask,
                    batch.token_type_ids,
                    entries=_for_sequences(entries, indices, sizes),
                    heads=_for_sequences(heads, indices, sizes),
                    lower_states=None if model.lower_states is None else model.lower_states.of(batch),
                )
                of_sequence: dict[int, Tensor] = {}
                for output in outputs:
                    logits = output.logits.float().cpu()
                    of_sequence |= dict(zip(output.rows.tolist(), logits, strict=True))
                sequence = 0
                for index, member in zip(indices, members, strict=True):
                    own = [of_sequence[sequence + i] for i in range(sizes[index])]
                    sequence += sizes[index]
                    results[index] = _unpadded(own, member)
                advance(len(indices))
    finally:
        model.train(was_training)
    return results


def padding_ids(tokenizer: Any) -> tuple[int, int]:
    """Returns the token id and the token type of padding; 0 where the tokenizer has none (padding is masked)."""
    return int(getattr(tokenizer, "pad_token_id", None) or 0), int(getattr(tokenizer, "pad_token_type_id", None) or 0)


def _for_sequences(values: Sequence[int] | None, indices: Sequence[int], sizes: Sequence[int]) -> list[int] | None:
    """A value an example -> a value a sequence."""
    return None if values is None else [values[index] for index in indices for _ in range(sizes[index])]


def _unpadded(logits: Sequence[Tensor], example: Example) -> Tensor:
    if logits[0].ndim == 0:
        return torch.stack(list(logits))  # (num_choices,)
    if logits[0].ndim == 1:
        return logits[0]  # (num_outputs,)
    return logits[0][: len(example.sequences[0])]  # (seq_len, num_outputs)
