"""A head without parameters of its own: how likely the backbone finds each label's words at the masks of a pattern.

Source: Schick and Schuetze, EACL 2021, arXiv 2001.07676, for pattern and verbalizer. Labels of several tokens, theirs
of arXiv 2009.07118, are scored here at all masks at once, so that training has one forward a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ptuning.errors import DataError


class VerbalizerHead(nn.Module):
    """The label words at the masks, scored by the backbone's own language-modeling head.

    A label's score is the mean log-probability of its tokens: of the first at the first mask, the second at the second,
    and so on. It is the mean and not the sum, since every further token makes a sum smaller: long labels would lose by
    their length. Nothing is trained and nothing saved here.

    Args:
        language_modeling_head: (…, hidden_size) -> (…, vocab_size), frozen. It belongs to the backbone.
        word_ids: token ids of each label's words, in label order; of a choice, those for right and for wrong.
        mask_token_id: where the words are asked for. Each sequence has as many as the longest label has tokens.
        is_choice: whether a sequence gets one score, that of the first words less that of the second.
    """

    def __init__(
        self,
        language_modeling_head: nn.Module,
        word_ids: Sequence[Sequence[int]],
        mask_token_id: int,
        *,
        is_choice: bool = False,
    ) -> None:
        super().__init__()
        assert len(word_ids) > 1 and all(word_ids)  # `tasks.patterns` refuses others
        lengths = [len(ids) for ids in word_ids]
        self.num_masks = max(lengths)
        self.mask_token_id = mask_token_id
        self.is_choice = is_choice
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
        is_mask = input_ids.eq(self.mask_token_id) & attention_mask.bool()
        counts = is_mask.sum(1)
        if bool(counts.ne(self.num_masks).any()):
            wrong = int(counts.ne(self.num_masks).nonzero()[0])
            raise DataError(
                f"sequence {wrong} of a batch has {int(counts[wrong])} masks (token {self.mask_token_id}), expected "
                f"{self.num_masks}: one for each token of the longest label word. Encode rows with the kind that the "
                "head was made for, whose pattern has {mask}."
            )
        logits: Tensor = self._language_modeling_head[0](hidden_states[is_mask])  # (batch_size * num_masks, vocab_size)
        logits = logits if logits.dtype.itemsize >= 4 else logits.float()
        by_mask = logits.log_softmax(-1).view(len(input_ids), self.num_masks, logits.shape[-1])  # (B, num_masks, vocab)
        word_ids, is_asked = self._buffers["_word_ids"], self._buffers["_is_asked"]
        assert word_ids is not None and is_asked is not None
        places = torch.arange(self.num_masks, device=word_ids.device)
        of_tokens = by_mask[:, places, word_ids]  # (B, num_labels, num_masks)
        scores: Tensor = of_tokens.masked_fill(~is_asked, 0.0).sum(-1) / is_asked.sum(-1)
        return scores[:, 0] - scores[:, 1] if self.is_choice else scores
