"""From one hidden state a token to one vector a sequence."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ptuning.errors import ConfigError

Pooling = Literal["cls", "mean", "last", "pooler"]


def pool(hidden_states: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """Pools hidden states over the real tokens.

    Args:
        hidden_states: (batch_size, seq_len, hidden_size).
        attention_mask: (batch_size, seq_len), 1 for real tokens, padding on the right (for `mean` and `last` anywhere).
        pooling: `cls` and `pooler` take the first token, `mean` the mean over real tokens, `last` the last real one.

    Returns:
        (batch_size, hidden_size).

    Raises:
        ConfigError: there is no such pooling.
    """
    if pooling in ("cls", "pooler"):
        return hidden_states[:, 0]
    if pooling == "last":
        places = torch.arange(hidden_states.shape[1], device=hidden_states.device)
        last = (attention_mask.long() * places).argmax(1)  # (batch_size,)
        return hidden_states[torch.arange(hidden_states.shape[0], device=hidden_states.device), last]
    if pooling != "mean":
        raise ConfigError(f"pooling must be one of {', '.join(get_args(Pooling))}, got {pooling!r}. Set head.pooling.")
    real = attention_mask.unsqueeze(-1).to(hidden_states.dtype)  # (batch_size, seq_len, 1)
    return (hidden_states * real).sum(1) / real.sum(1)
