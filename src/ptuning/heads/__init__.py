"""Output layers: from the backbone's hidden states to a task's logits."""

from ptuning.heads.answers import AnswerHead
from ptuning.heads.asking import ScoresTokens
from ptuning.heads.linear import HeadKind, PooledHead, TokenHead, has_drawn_pooler, make_head, reads_first_token
from ptuning.heads.pooler import DrawnPooler, draw_pooler
from ptuning.heads.pooling import Pooling, pool
from ptuning.heads.verbalizer import VerbalizerHead, reads_pieces

__all__ = [
    "AnswerHead",
    "DrawnPooler",
    "HeadKind",
    "PooledHead",
    "Pooling",
    "ScoresTokens",
    "TokenHead",
    "VerbalizerHead",
    "draw_pooler",
    "has_drawn_pooler",
    "make_head",
    "pool",
    "reads_first_token",
    "reads_pieces",
]
