"""The head that asks a backbone for words: which one a kind of task needs on which backbone."""

from __future__ import annotations

from typing import Any

from torch import nn

from ptuning.backbones.pieces import PieceTokens, piece_tokens
from ptuning.errors import ConfigError
from ptuning.heads import AnswerHead, ScoresTokens, VerbalizerHead
from ptuning.tasks.kind import TaskKind
from ptuning.tasks.patterned import label_word_ids
from ptuning.tasks.patterns import answers_in_pieces


def make_verbalizer(
    kind: TaskKind, tokenizer: Any, language_modeling_head: ScoresTokens, *, length_penalty: float = 0.0
) -> nn.Module:
    """Makes the head of a kind with label words.

    Args:
        kind: with its pattern and words.
        tokenizer: of the backbone.
        language_modeling_head: of the backbone.
        length_penalty: of answers of several tokens that fill blanks; see `AnswerHead`.

    Raises:
        ConfigError: the kind has no label words, the backbone cannot be asked for them, or `length_penalty` is for
            answers that there are not.
    """
    words, is_choice = label_word_ids(kind, tokenizer), kind.head_kind == "choice"
    pieces = piece_tokens(tokenizer)
    if pieces is not None and asks_each_answer(kind, tokenizer):
        if words and is_choice:
            raise ConfigError(
                f"head.words for right and wrong are {len(words[0])} and {len(words[1])} tokens, expected one each on "
                "a backbone that fills blanks. Give others, or leave {choice} out of data.pattern, so that the choices "
                "themselves fill the mask."
            )
        return AnswerHead(language_modeling_head, pieces.start, pieces.end, length_penalty=length_penalty)
    if length_penalty:
        raise ConfigError(
            f"head.length_penalty is {length_penalty:g}, which is for answers of several tokens that GLM fills into a "
            f"blank, but here there are {_asked_otherwise(pieces)}. Leave it out."
        )
    if pieces is not None:
        return VerbalizerHead(language_modeling_head, words, pieces.start, is_choice=is_choice, reads_pieces=True)
    return VerbalizerHead(language_modeling_head, words, int(tokenizer.mask_token_id), is_choice=is_choice)


def asks_each_answer(kind: TaskKind, tokenizer: Any) -> bool:
    """Whether each answer is a sequence of its own, which has one score."""
    if piece_tokens(tokenizer) is None:
        return False
    words = label_word_ids(kind, tokenizer)
    return not words or bool(answers_in_pieces(words)[0])


def _asked_otherwise(pieces: PieceTokens | None) -> str:
    return "masks" if pieces is None else "label words of one token"
