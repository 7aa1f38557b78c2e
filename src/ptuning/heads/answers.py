"""A head without parameters of its own: how likely the backbone finds the answer that fills the blank of each sequence.

Source: THUDM/GLM `model/downstream.py` (`ClozeModel`), for answers of several tokens.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptuning.heads.asking import ScoresTokens, where_asked


class AnswerHead(nn.Module):
    """Answers that stand in pieces, scored token by token by the backbone's own language-modeling head.

    A sequence is a text with a blank, and behind it the start of a piece and an answer. Its score is the sum of the
    log-probabilities, over the whole vocabulary, of the answer's tokens and of its end, each asked for at the token in
    front of it. Nothing is trained and nothing saved here.

    Args:
        language_modeling_head: (…, hidden_size) -> (…, vocab_size), frozen. It belongs to the backbone.
        start_token_id: of the piece's start.
        end_token_id: of what is asked for behind the answer.
        length_penalty: scores are divided by the number of summed terms to this power: 0 for sums, 1 for means.
    """

    reads_pieces: ClassVar[bool] = True

    def __init__(
        self,
        language_modeling_head: ScoresTokens,
        start_token_id: int,
        end_token_id: int,
        *,
        length_penalty: float = 0.0,
    ) -> None:
        super().__init__()
        self.start_token_id = start_token_id
        self.end_token_id = end_token_id
        self.length_penalty = length_penalty
        # A tuple keeps the backbone's head out of this module's parameters, and so out of what is saved.
        self._language_modeling_head = (language_modeling_head,)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor, input_ids: Tensor) -> Tensor:
        """Scores the answer of each sequence.

        Args:
            hidden_states: (batch_size, seq_len, hidden_size).
            attention_mask: (batch_size, seq_len), 1 for real tokens, which stand in front.
            input_ids: (batch_size, seq_len), in which the answers are looked for.

        Returns:
            (batch_size,), in float32 at least.

        Raises:
            DataError: a sequence has no start of a piece, or several.
        """
        is_start = where_asked(input_ids, attention_mask, self.start_token_id, 1, "starts of a piece")
        in_piece = is_start.int().cumsum(1).bool() & attention_mask.bool()  # (B, N)
        has_next = F.pad(in_piece[:, 1:], (0, 1), value=False)
        following = torch.where(has_next, input_ids.roll(-1, 1), self.end_token_id)  # (B, N), what is asked for
        rows = in_piece.nonzero()[:, 0]  # (T,), all tokens of pieces
        return self.score(hidden_states[in_piece], following[in_piece], rows, in_piece.sum(1))

    def score(self, states: Tensor, following: Tensor, rows: Tensor, counts: Tensor) -> Tensor:
        """Scores answers from the states at their places.

        Args:
            states: (num_places, hidden_size).
            following: (num_places,), the token that is asked for at each.
            rows: (num_places,), the sequence that each is in.
            counts: (batch_size,), places of each sequence.

        Returns:
            (batch_size,), in float32 at least.
        """
        logits: Tensor = self._language_modeling_head[0](states)  # (T, vocab_size)
        logits = logits if logits.dtype.itemsize >= 4 else logits.float()
        each = -F.cross_entropy(logits, following, reduction="none")  # (T,)
        scores = each.new_zeros(len(counts)).index_add(0, rows, each)  # (B,)
        return scores / counts.to(scores.dtype) ** self.length_penalty if self.length_penalty else scores
