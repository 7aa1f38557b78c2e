"""From one hidden state a token to one vector a sequence."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["cls", "mean", "last", "pooler"]


def pool(hidden_states: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """Pools hidden states over the real tokens.

    Args:
        hidden_states: (batch_size, seq_len, hidden_size).
        attention_mask: (batch_size, seq_len), 1 for real tokens, padding on the right.
        pooling: `cls` and `pooler` take the first token, `mean` the mean over real tokens, `last` the last real one.

    Returns:
        (batch_size, hidden_size).
    """
    if pooling in ("cls", "pooler"):
        return hidden_states[:, 0]
    if pooling == "last":
        last = attention_mask.long().sum(1) - 1  # (batch_size,)
        return hidden_states[torch.arange(hidden_states.shape[0], device=hidden_states.device), last]
    real = attention_mask.unsqueeze(-1).to(hidden_states.dtype)  # (batch_size, seq_len, 1)
    return (hidden_states * real).sum(1) / real.sum(1)
