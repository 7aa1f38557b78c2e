"""The pooler that a checkpoint was pretrained with, apart from its encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def take_pooler(model: Any) -> nn.Module | None:
    """Removes the pooler from a model, so that it does not run where nobody reads it, and returns it."""
    pooler = getattr(model, "pooler", None)
    if not isinstance(pooler, nn.Module):
        return None
    model.pooler = None
    activation = getattr(model, "pooler_activation", None)  # ALBERT keeps the two apart
    if activation is not None:
        model.pooler_activation = None
        return FirstTokenPooler(pooler, activation)
    return pooler


class FirstTokenPooler(nn.Module):
    """A linear layer and an activation on the first token's hidden state."""

    def __init__(self, dense: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.dense = dense
        self.activation = activation

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch_size, seq_len, hidden_size) -> (batch_size, hidden_size)."""
        pooled: torch.Tensor = self.activation(self.dense(hidden_states[:, 0]))
        return pooled
