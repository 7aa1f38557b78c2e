"""A head without parameters of its own: how likely the backbone finds each label's words where a pattern asks for them.

Source: Schick and Schuetze, EACL 2021, arXiv 2001.07676, for pattern and verbalizer. Labels of several tokens, theirs
of arXiv 2009.07118, are scored here at all masks at once, so that training has one forward a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ptuning.heads.asking import ScoresTokens, where_asked


class VerbalizerHead(nn.Module):
    """The label words at the masks, scored by the backbone's own language-modeling head.

    A label's score is the mean log-probability of its tokens: of the first at the first mask, the second at the second,
    and so on. It is the mean and not the sum, since every further token makes a sum smaller: long labels would lose by
    their length. Nothing is trained and nothing saved here.

    Where the backbone fills blanks by pieces, what is looked for is the start of the piece instead of masks, and words
    have one token each. Scores are then not normalized over the vocabulary, which would take the same number from all
    labels of a sequence: that changes no probability and no gradient, and the rest of the vocabulary is not scored.

    Args:
        language_modeling_head: of the backbone, frozen.
        word_ids: token ids of each label's words, in label order; of a choice, those for right and for wrong.
        mask_token_id: where the words are asked for. Each sequence has as many as the longest label has tokens.
        is_choice: whether a sequence gets one score, that of the first words less that of the second.
        reads_pieces: whether `mask_token_id` is the start of a piece.
    """

    def __init__(
        self,
        language_modeling_head: ScoresTokens,
        word_ids: Sequence[Sequence[int]],
        mask_token_id: int,
        *,
        is_choice: bool = False,
        reads_pieces: bool = False,
    ) -> None:
        super().__init__()
        assert len(word_ids) > 1 and all(word_ids)  # `tasks.patterns` refuses others
        lengths = [len(ids) for ids in word_ids]
        assert not reads_pieces or max(lengths) == 1  # `tasks.verbalizing` makes another head of others
        self.num_masks = max(lengths)
        self.mask_token_id = mask_token_id
        self.is_choice = is_choice
        self.reads_pieces = reads_pieces
        padded = torch.tensor([[*ids, *[0] * (self.num_masks - len(ids))] for ids in word_ids])
        # (num_labels, num_masks); a label that has fewer tokens does not ask for the last masks
        self.register_buffer("_word_ids", padded, persistent=False)
        self.register_buffer(
            "_is_asked", torch.arange(self.num_masks) < torch.tensor(lengths).unsqueeze(1), persistent=False
        )
        # A tuple keeps the backbone's head out of this module's parameters, and so out of what is saved.
        self._language_modeling_head = (language_modeling_head,)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor, input_ids: Tensor) -> Tensor:
        """Scores the words of each sequence.

        Args:
            hidden_states: (batch_size, seq_len, hidden_size).
            attention_mask: (batch_size, seq_len), 1 for real tokens.
            input_ids: (batch_size, seq_len), in which the masks are looked for.

        Returns:
            (batch_size, num_labels), or (batch_size,) for choices, in float32 at least.

        Raises:
            DataError: a sequence has another number of masks than the words have tokens.
        """
        what = "starts of a piece" if self.reads_pieces else "masks"
        is_mask = where_asked(input_ids, attention_mask, self.mask_token_id, self.num_masks, what)
        return self.score(hidden_states[is_mask], len(input_ids))

    def score(self, asked: Tensor, batch_size: int) -> Tensor:
        """Scores the words of each sequence, by the hidden states at its masks.

        Args:
            asked: (batch_size * num_masks, hidden_size).
            batch_size: sequences.

        Returns:
            As `forward`.
        """
        word_ids, is_asked = self._buffers["_word_ids"], self._buffers["_is_asked"]
        assert word_ids is not None and is_asked is not None
        score = self._language_modeling_head[0]
        if self.reads_pieces:
            scores = _whole(score.of_tokens(asked, word_ids[:, 0]))  # (B, num_labels)
        else:
            logits = _whole(score(asked))  # (batch_size * num_masks, vocab_size)
            by_mask = logits.log_softmax(-1).view(batch_size, self.num_masks, logits.shape[-1])
            places = torch.arange(self.num_masks, device=word_ids.device)
            of_tokens = by_mask[:, places, word_ids]  # (B, num_labels, num_masks)
            scores = of_tokens.masked_fill(~is_asked, 0.0).sum(-1) / is_asked.sum(-1)
        return scores[:, 0] - scores[:, 1] if self.is_choice else scores


def _whole(logits: Tensor) -> Tensor:
    return logits if logits.dtype.itemsize >= 4 else logits.float()


def reads_pieces(head: nn.Module) -> bool:
    """Whether a head looks for pieces, so that the backbone has to know where they begin."""
    return bool(getattr(head, "reads_pieces", False))
