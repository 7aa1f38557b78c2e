"""Output layers: from the backbone's hidden states to a task's logits."""

from ptuning.heads.linear import HeadKind, PooledHead, TokenHead, make_head
from ptuning.heads.pooling import Pooling, pool

__all__ = ["HeadKind", "PooledHead", "Pooling", "TokenHead", "make_head", "pool"]
