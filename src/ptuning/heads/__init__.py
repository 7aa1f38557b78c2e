"""Output layers: from the backbone's hidden states to a task's logits."""

from ptuning.heads.linear import HeadKind, PooledHead, TokenHead, has_drawn_pooler, make_head, reads_first_token
from ptuning.heads.pooler import DrawnPooler, draw_pooler
from ptuning.heads.pooling import Pooling, pool
from ptuning.heads.verbalizer import VerbalizerHead

__all__ = [
    "DrawnPooler",
    "HeadKind",
    "PooledHead",
    "Pooling",
    "TokenHead",
    "VerbalizerHead",
    "draw_pooler",
    "has_drawn_pooler",
    "make_head",
    "pool",
    "reads_first_token",
]
