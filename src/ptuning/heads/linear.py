"""Linear heads: on a pooled vector, or on every token. Started from N(0, 0.02) with biases 0; computed in fp32.

Source: THUDM/P-tuning-v2 `model/*_classification.py` and its siblings: dropout, then one linear layer.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ptuning.errors import ConfigError
from ptuning.heads.pooler import DrawnPooler
from ptuning.heads.pooling import Pooling, pool

HeadKind = Literal["sequence", "choice", "token", "span"]


def _linear(hidden_size: int, num_outputs: int, generator: torch.Generator | None) -> nn.Linear:
    linear = nn.Linear(hidden_size, num_outputs)
    nn.init.normal_(linear.weight, std=0.02, generator=generator)
    nn.init.zeros_(linear.bias)
    return linear


class PooledHead(nn.Module):
    """One output vector a sequence.

    Args:
        hidden_size: width of hidden states.
        num_outputs: logits a sequence.
        pooling: how tokens become one vector.
        pooler: for `pooling: pooler`, frozen, called on hidden states. The backbone's own is not saved; one that was
            drawn at random is part of the head and saved with it.
        dropout: on the pooled vector.
        squeeze: whether a single output loses its axis (one score a choice).
        generator: source of the random start.
    """

    def __init__(
        self,
        hidden_size: int,
        num_outputs: int,
        *,
        pooling: Pooling,
        pooler: nn.Module | None = None,
        dropout: float = 0.0,
        squeeze: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if pooling == "pooler" and pooler is None:
            raise ConfigError(
                "head.pooling is `pooler`, but the backbone's checkpoint has no pretrained pooler. "
                "Use `cls`, `mean` or `last`, or set head.missing_pooler to draw for a random one."
            )
        self.pooling: Pooling = pooling
        self.squeeze = squeeze
        self.dropout = nn.Dropout(dropout)
        self.linear = _linear(hidden_size, num_outputs, generator)
        # A tuple keeps the backbone's pooler out of this module's parameters, and so out of what is saved.
        self._pooler = (pooler,)
        self.pooler = pooler if pooling == "pooler" and isinstance(pooler, DrawnPooler) else None

    def forward(self, hidden_states: Tensor, attention_mask: Tensor, input_ids: Tensor | None = None) -> Tensor:
        """(batch_size, seq_len, hidden_size) and its mask -> (batch_size, num_outputs), or (batch_size,) squeezed."""
        pooler = self._pooler[0]
        if self.pooling == "pooler" and pooler is not None:
            pooled = pooler(hidden_states)
        else:
            pooled = pool(hidden_states, attention_mask, self.pooling)
        logits: Tensor = self.linear(self.dropout(pooled.to(self.linear.weight.dtype)))
        return logits.squeeze(-1) if self.squeeze else logits


def has_drawn_pooler(head: nn.Module) -> bool:
    """Whether a head reads a pooler that was drawn at random, and so saves it."""
    return isinstance(head, PooledHead) and head.pooler is not None


def reads_first_token(head: nn.Module) -> bool:
    """Whether a head reads nothing but the first token's hidden state."""
    return isinstance(head, PooledHead) and head.pooling in ("cls", "pooler")


class TokenHead(nn.Module):
    """One output vector a token.

    Args:
        hidden_size: width of hidden states.
        num_outputs: logits a token.
        dropout: on the hidden states.
        generator: source of the random start.
    """

    def __init__(
        self, hidden_size: int, num_outputs: int, *, dropout: float = 0.0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = _linear(hidden_size, num_outputs, generator)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor, input_ids: Tensor | None = None) -> Tensor:
        """(batch_size, seq_len, hidden_size) -> (batch_size, seq_len, num_outputs)."""
        logits: Tensor = self.linear(self.dropout(hidden_states.to(self.linear.weight.dtype)))
        return logits


def make_head(
    kind: HeadKind,
    hidden_size: int,
    num_outputs: int,
    *,
    pooling: Pooling,
    pooler: nn.Module | None = None,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
) -> PooledHead | TokenHead:
    """Makes the head that a task kind asks for. A span head has no dropout, as in the official code.

    Raises:
        ConfigError: `pooling: pooler` without a pretrained pooler.
    """
    if kind == "token":
        return TokenHead(hidden_size, num_outputs, dropout=dropout, generator=generator)
    if kind == "span":
        return TokenHead(hidden_size, num_outputs, generator=generator)
    return PooledHead(
        hidden_size,
        num_outputs,
        pooling=pooling,
        pooler=pooler,
        dropout=dropout,
        squeeze=kind == "choice",
        generator=generator,
    )
