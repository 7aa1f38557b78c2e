"""The gradients of a step, from batches that are cut where they do not fit into memory.

The batch is what a loss is the mean over and what a step is made of; how much of it goes through the model at once
is another matter. A batch that is cut has the gradient of the whole one, up to the order in which products are
summed: the mean loss of each piece is weighted by its share of the terms. Only dropout draws other numbers.

Several processes share a batch in the same way, and add up their gradients when all batches of a step are through. That
sum is of prompts and head, a few megabytes, so little would be won by overlapping it with the backward as torch's
DistributedDataParallel does, which takes the mean over processes as if they had equal parts and all of them a part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache
from torch import Tensor

from ptuning.backbones.sharding import is_sharded
from ptuning.config import RunConfig
from ptuning.data.batching import Batch, Example, collate, evaluation_batches, join_batches
from ptuning.inference import TOKENS_AT_ONCE
from ptuning.model import PromptedModel, trained_parameters
from ptuning.tasks import TaskKind
from ptuning.training.guard import example_out_of_memory_error, is_out_of_memory, sharded_out_of_memory_error
from ptuning.training.processes import Processes
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
        processes: of the run, which share every batch; without them this one has all of it.
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
        processes: Processes | None = None,
        config: RunConfig,
        report: Reporter,
    ) -> None:
        self._model, self._kinds, self._padding, self._accelerator = model, list(kinds), padding, accelerator
        self._processes = processes or Processes(accelerator)
        self._is_sharded = is_sharded(model.backbone)
        self._parameters = list(trained_parameters(model).values())
        self._device = self._parameters[0].device
        self._config, self._report = config, report
        self._limit = config.training.micro_batch_tokens  # positions a piece
        self._running: tuple[int, int] = 0, 0  # of the piece that is run: positions, and examples
        self._reached: dict[frozenset[tuple[int, int]], list[bool]] = {}  # by the heads in use: which have gradients

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
                if self._is_sharded:  # the others wait for this one inside the model: none can begin again
                    raise sharded_out_of_memory_error(self._config, positions, error) from error
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
                return losses if self._processes.count == 1 else self._summed(batches, losses)
            # The error is gone here, and with it what the failed piece had computed.
            self._model.zero_grad(set_to_none=True)  # some of this step's gradients may be half there
            clear_device_cache(garbage_collection=True)

    def _run(self, batch: Chosen, accumulation: int) -> list[tuple[int, Tensor]]:
        num_terms = self._num_terms(batch)
        losses: dict[int, Tensor] = {}
        for piece, is_counted in self._pieces(batch):
            examples = [example for _, own in piece.values() for example in own]
            self._running = _positions(examples), len(examples)
            own_terms = self._num_terms(piece) if is_counted else dict.fromkeys(piece, 0)
            weighted = {
                number: loss * (own_terms[number] / max(num_terms[number], 1))  # 0 of 0 words may be asked
                for number, loss in self._losses(piece).items()
            }
            self._accelerator.backward(torch.stack(list(weighted.values())).sum() / accumulation)
            for number, loss in weighted.items():
                losses[number] = losses[number] + loss.detach() if number in losses else loss.detach()
        return [(number, losses.get(number, torch.zeros((), device=self._device))) for number in batch]

    def _summed(self, batches: Sequence[Chosen], losses: list[tuple[int, Tensor]]) -> list[tuple[int, Tensor]]:
        """Adds up the gradients of all processes, and their parts of the losses.

        A parameter that no batch of the step reaches has no gradient, as in one process, so that it does not decay.
        """
        heads = frozenset((number, part) for batch in batches for number, (part, _) in batch.items())
        if heads not in self._reached:
            found = torch.tensor([float(p.grad is not None) for p in self._parameters], device=self._device)
            self._processes.sum([found])
            self._reached[heads] = (found > 0).tolist()
        gradients = []
        for parameter, is_reached in zip(self._parameters, self._reached[heads], strict=True):
            if is_reached:
                if parameter.grad is None:  # by this process
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        values = torch.stack([loss.to(self._parameters[0].dtype) for _, loss in losses])
        self._processes.sum([*gradients, values])
        return [(number, value) for (number, _), value in zip(losses, values.unbind(), strict=True)]

    def _pieces(self, batch: Chosen) -> list[tuple[Chosen, bool]]:
        """What of a batch goes through the model of this process, piece by piece, and whether it counts.

        The processes of a sharded backbone run it equally often: one that has less to do repeats an example that
        does not count.
        """
        index, count = self._processes.index, self._processes.count
        own = [(piece, True) for piece in self._cut(_share(batch, index, count))]
        if self._is_sharded:
            most = max(len(self._cut(_share(batch, other, count))) for other in range(count))
            own += [(_first_of(batch), False)] * (most - len(own))
        return own

    def _num_terms(self, batch: Chosen) -> dict[int, int]:
        return {number: self._kinds[part].num_terms(examples) for number, (part, examples) in batch.items()}

    def _cut(self, batch: Chosen) -> list[Chosen]:
        """Cuts a batch into pieces within the limit, the longest examples first; in its own order inside each."""
        if self._limit is None:
            return [batch] if batch else []
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


def _share(batch: Chosen, index: int, count: int) -> Chosen:
    """Every so many-th example of a batch, counted through its candidates, so that all have about as many."""
    share: dict[int, tuple[int, list[Example]]] = {}
    before = 0
    for number, (part, examples) in batch.items():
        own = examples[(index - before) % count :: count]
        before += len(examples)
        if own:
            share[number] = part, own
    return share


def _first_of(batch: Chosen) -> Chosen:
    number, (part, examples) = next(iter(batch.items()))
    return {number: (part, examples[:1])}


def _positions(examples: Sequence[Example]) -> int:
    """Positions that examples take together, padding included."""
    return max(example.length for example in examples) * sum(len(example.sequences) for example in examples)
