"""A pooler for a checkpoint that has none: drawn at random, never trained, and saved with the head that reads it.

Source: what `from_pretrained` makes of a pooler that is missing (transformers' `BertPooler`, weights from
N(0, initializer_range)), which THUDM/P-tuning-v2 then freezes together with the backbone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DrawnPooler(nn.Module):
    """A frozen dense layer and tanh on the first token, as BERT's and RoBERTa's own. Computed in fp32.

    Args:
        hidden_size: width of hidden states.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.requires_grad_(False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(batch_size, seq_len, hidden_size) -> (batch_size, hidden_size)."""
        first: Tensor = self.dense(hidden_states[:, 0].to(self.dense.weight.dtype))
        return first.tanh()


def draw_pooler(hidden_size: int, *, std: float, generator: torch.Generator) -> DrawnPooler:
    """Draws a pooler's weights from N(0, std); biases are 0.

    Args:
        hidden_size: width of hidden states.
        std: standard deviation.
        generator: source of the numbers. One that depends on the run's seed alone makes a run that goes on draw the
            same ones, whatever its prompts started from.
    """
    pooler = DrawnPooler(hidden_size)
    nn.init.normal_(pooler.dense.weight, std=std, generator=generator)
    nn.init.zeros_(pooler.dense.bias)
    return pooler
