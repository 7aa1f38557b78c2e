"""The gradients of a step, from batches that are cut where they do not fit into memory.

The batch is what a loss is the mean over and what a step is made of; how much of it goes through the model at once
is another matter. A batch that is cut has the gradient of the whole one, up to the order in which products are
summed: the mean loss of each piece is weighted by its share of the terms. Only dropout draws other numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache
from torch import Tensor

from ptuning.config import RunConfig
from ptuning.data.batching import Batch, Example, collate, evaluation_batches, join_batches
from ptuning.inference import TOKENS_AT_ONCE
from ptuning.model import PromptedModel, trained_parameters
from ptuning.tasks import TaskKind
from ptuning.training.guard import example_out_of_memory_error, is_out_of_memory
from ptuning.training.reporting import Reporter

Chosen = Mapping[int, tuple[int, list[Example]]]
"""What goes through the model together: for each candidate the part that its batch is of, and the examples."""


def tokens_at_once(config: RunConfig) -> int:
    """Positions of a batch without gradients, padding included."""
    return config.training.micro_batch_tokens or max(config.training.batch_tokens or 0, TOKENS_AT_ONCE)


class MicroBatches:
    """Runs batches forward and backward, each in as many pieces as fit into memory.

    Where memory runs out, the gradients of the step are made once more with pieces of half the size, down to single
    examples. The size that fits is kept for all steps to come.

    Args:
        model: for each candidate with an entry of its bank, and for each part of each candidate with a head.
        kinds: of the parts.
        padding: token id and token type at padded positions.
        accelerator: runs the backward.
        config: of the training; `training.micro_batch_tokens` is the size to begin with.
        report: told which size fits.
    """

    def __init__(
        self,
        model: PromptedModel,
        kinds: Sequence[TaskKind],
        *,
        padding: tuple[int, int],
        accelerator: Accelerator,
        config: RunConfig,
        report: Reporter,
    ) -> None:
        self._model, self._kinds, self._padding, self._accelerator = model, list(kinds), padding, accelerator
        self._device = next(iter(trained_parameters(model).values())).device
        self._config, self._report = config, report
        self._limit = config.training.micro_batch_tokens  # positions a piece
        self._running: tuple[int, int] = 0, 0  # of the piece that is run: positions, and examples

    def backward(self, batches: Sequence[Chosen], accumulation: int) -> list[tuple[int, Tensor]]:
        """Gives the trained parameters, which have no gradients so far, those of a step.

        Args:
            batches: of the step, as they share a forward.
            accumulation: how many batches of a candidate there are, whose gradients have the mean taken.

        Returns:
            For each batch and candidate its number and its mean loss, on the model's device.

        Raises:
            TrainingError: a single example does not fit into memory.
        """
        too_large: int | None = None
        while True:
            try:
                losses = [found for batch in batches for found in self._run(batch, accumulation)]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                positions, num_examples = self._running
                if num_examples == 1:
                    raise example_out_of_memory_error(self._config, positions, error) from error
                too_large, self._limit = positions, positions // 2
            else:
                if too_large is not None:
                    self._report.note(
                        f"{too_large} positions at once did not fit into memory: from here on batches go through the "
                        f"model in pieces of at most {self._limit}, with the gradients of whole ones. Set "
                        f"training.micro_batch_tokens to {self._limit} to start with that."
                    )
                return losses
            # The error is gone here, and with it what the failed piece had computed.
            self._model.zero_grad(set_to_none=True)  # some of this step's gradients may be half there
            clear_device_cache(garbage_collection=True)

    def _run(self, batch: Chosen, accumulation: int) -> list[tuple[int, Tensor]]:
        num_terms = self._num_terms(batch)
        losses: dict[int, Tensor] = {}
        for piece in self._cut(batch):
            examples = [example for _, own in piece.values() for example in own]
            self._running = _positions(examples), len(examples)
            own_terms = self._num_terms(piece)
            weighted = {
                number: loss * (own_terms[number] / max(num_terms[number], 1))  # 0 of 0 words may be asked
                for number, loss in self._losses(piece).items()
            }
            self._accelerator.backward(torch.stack(list(weighted.values())).sum() / accumulation)
            for number, loss in weighted.items():
                losses[number] = losses[number] + loss.detach() if number in losses else loss.detach()
        return [(number, losses[number]) for number in batch]

    def _num_terms(self, batch: Chosen) -> dict[int, int]:
        return {number: self._kinds[part].num_terms(examples) for number, (part, examples) in batch.items()}

    def _cut(self, batch: Chosen) -> list[Chosen]:
        """Cuts a batch into pieces within the limit, the longest examples first; in its own order inside each."""
        if self._limit is None:
            return [batch]
        rows = [(number, example) for number, (_, examples) in batch.items() for example in examples]
        pieces: list[Chosen] = []
        for indices in evaluation_batches(
            [example.length for _, example in rows],
            batch_tokens=self._limit,
            num_sequences=[len(example.sequences) for _, example in rows],
        ):
            piece: dict[int, tuple[int, list[Example]]] = {}
            for index in sorted(indices):
                number, example = rows[index]
                piece.setdefault(number, (batch[number][0], []))[1].append(example)
            pieces.append(piece)
        return pieces

    def _losses(self, piece: Chosen) -> dict[int, Tensor]:
        """Runs what candidates learn from in one forward: the mean loss of each."""
        batches = self._collate(piece)
        joined = join_batches(list(batches.values()))
        heads = {number: number * len(self._kinds) + part for number, (part, _) in piece.items()}
        entries, rows = [], []
        for number, batch in batches.items():
            entries += [number] * len(batch.input_ids)
            rows += [heads[number]] * len(batch.input_ids)
        outputs = self._model(
            joined.input_ids,
            joined.attention_mask,
            joined.token_type_ids,
            entries=entries if len(self._model.bank) > 1 else None,
            heads=rows,
            lower_states=None if self._model.lower_states is None else self._model.lower_states.of(joined),
        )
        logits = {output.head: output.logits for output in outputs}
        return {
            number: self._kinds[part].loss(logits[heads[number]], batches[number])
            for number, (part, _) in piece.items()
        }

    def _collate(self, piece: Chosen) -> dict[int, Batch]:
        """The batch of each candidate, all as long as the longest."""
        seq_len = max(example.length for _, examples in piece.values() for example in examples)
        return {
            number: collate(examples, *self._padding, seq_len=seq_len).to(self._device)
            for number, (_, examples) in piece.items()
        }


def _positions(examples: Sequence[Example]) -> int:
    """Positions that examples take together, padding included."""
    return max(example.length for example in examples) * sum(len(example.sequences) for example in examples)
