"""The loss of examples that are several sequences with a score each, of which one is right."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ptuning.data.batching import Batch
from ptuning.tasks.kind import in_full_precision, labels_of


def choice_loss(scores: Tensor, batch: Batch) -> Tensor:
    """Returns the mean cross entropy of the right sequences.

    Args:
        scores: (num_sequences,), of all examples one after the other; their numbers of sequences may differ.
        batch: with labels, the number of the right sequence of each example.
    """
    sizes = batch.choices or (1,) * len(batch.examples)
    parts = torch.split(in_full_precision(scores), list(sizes))
    # A missing choice has probability 0.
    padded = pad_sequence(list(parts), batch_first=True, padding_value=float("-inf"))  # (batch_size, num_choices)
    return F.cross_entropy(padded, labels_of(batch))
