"""Pieces, GLM's way to fill a blank: what fills it stands behind the text, and each of its tokens sees what is before.

    [CLS] No Weapons … ? [MASK] , … <eos>   <|startofpiece|> Yes
    the context, bidirectional              the piece, causal; nothing of the context sees it

    position  0 1 2 …                       that of the [MASK], for every token of the piece
    block     0 0 0 …                       1 2 …

A row says all of this itself: its piece begins at its start-of-piece token, and fills its first blank. So rows with and
without pieces share a batch, and nothing has to be carried beside token ids.

Source: Du et al., ACL 2022, arXiv 2103.10360, section 2.1; THUDM/GLM `tasks/data_utils.py` (`build_input_from_ids`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

START, END = "<|startofpiece|>", "<|endofpiece|>"  # as `backbones/glm` has them, without its imports


@dataclass(frozen=True)
class PieceTokens:
    """Token ids that pieces are made with.

    Attributes:
        start: in front of what fills a blank.
        end: what is asked for behind its last token.
        blank: in the text, where something is to be filled in.
    """

    start: int
    end: int
    blank: int

    @property
    def ids(self) -> frozenset[int]:
        """All three; a text that writes one of them out does not mean it."""
        return frozenset((self.start, self.end, self.blank))

    def inputs(self, input_ids: Tensor, has_piece: Tensor | None = None) -> dict[str, Tensor]:
        """What the backbone has to know of the pieces of a batch.

        Args:
            input_ids: (batch_size, seq_len), padded on the right.
            has_piece: (batch_size,) bool, rows in which a start-of-piece token is one; without it all of them.

        Returns:
            Keyword arguments of the backbone: `context_lengths` (batch_size,), all of a row without a piece; and
            `position_ids` (batch_size, 2, seq_len), positions and blocks.
        """
        seq_len = input_ids.shape[1]
        columns = torch.arange(seq_len, device=input_ids.device).expand_as(input_ids)  # (B, N)
        is_start = input_ids.eq(self.start)
        if has_piece is not None:
            is_start = is_start & has_piece.unsqueeze(1)
        context_lengths = torch.where(is_start, columns, seq_len).amin(1)  # (B,)
        blank = torch.where(input_ids.eq(self.blank), columns, seq_len - 1).amin(1)  # (B,)
        behind = columns - context_lengths.unsqueeze(1)  # (B, N), 0 at the start of the piece
        positions = torch.where(behind < 0, columns, blank.unsqueeze(1))
        return {
            "context_lengths": context_lengths,
            "position_ids": torch.stack([positions, (behind + 1).clamp(min=0)], dim=1),  # (B, 2, N)
        }


def piece_tokens(tokenizer: Any) -> PieceTokens | None:
    """Returns the tokens of pieces; None for a tokenizer of a backbone that fills blanks where they are."""
    ids = [tokenizer.convert_tokens_to_ids(token) for token in (START, END)]
    blank = getattr(tokenizer, "mask_token_id", None)
    is_there = all(
        number is not None and tokenizer.convert_ids_to_tokens(number) == token
        for number, token in zip(ids, (START, END), strict=True)
    )
    return PieceTokens(int(ids[0]), int(ids[1]), int(blank)) if is_there and blank is not None else None
