"""The linear head that answers a kind of task on a backbone: one place for training and for saved prompts.

A head that asks for words is made in `verbalizing.py`.
"""

from __future__ import annotations

import torch
from torch import nn

from ptuning.backbones.loading import Backbone
from ptuning.heads import Pooling, make_head
from ptuning.tasks.kind import TaskKind


def linear_head(
    kind: TaskKind,
    backbone: Backbone,
    *,
    pooling: Pooling,
    pooler: nn.Module | None = None,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Makes a linear head with a random start.

    Args:
        kind: of the task.
        backbone: whose hidden states it reads.
        pooling: where the kind pools.
        pooler: for `pooling: pooler`, where it is another one than the backbone's own.
        dropout: on what the head reads.
        generator: source of the start.

    Raises:
        ConfigError: `pooling: pooler`, and there is none.
    """
    return make_head(
        kind.head_kind,
        backbone.description.hidden_size,
        kind.num_outputs,
        pooling=pooling,
        pooler=backbone.pooler if pooler is None else pooler,
        dropout=dropout,
        generator=generator,
    )
