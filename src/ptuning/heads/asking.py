"""What heads without parameters ask, and where in a sequence they ask it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ptuning.errors import DataError


class ScoresTokens(Protocol):
    """A backbone's own language-modeling head."""

    def __call__(self, hidden_states: Tensor) -> Tensor:
        """(…, hidden_size) -> (…, vocab_size)."""

    def of_tokens(self, hidden_states: Tensor, token_ids: Tensor) -> Tensor:
        """(…, hidden_size) and (num_tokens,) -> (…, num_tokens): those scores alone."""


def where_asked(input_ids: Tensor, attention_mask: Tensor, token_id: int, count: int, what: str) -> Tensor:
    """Finds a token, the same number of times in each sequence.

    Args:
        input_ids: (batch_size, seq_len).
        attention_mask: (batch_size, seq_len), 1 for real tokens.
        token_id: that is looked for.
        count: how often it stands in a sequence.
        what: it is, for messages, in the plural.

    Returns:
        (batch_size, seq_len) bool.

    Raises:
        DataError: it stands another number of times in a sequence.
    """
    found = input_ids.eq(token_id) & attention_mask.bool()
    counts = found.sum(1)
    if bool(counts.ne(count).any()):
        wrong = int(counts.ne(count).nonzero()[0])
        raise DataError(
            f"sequence {wrong} of a batch has {int(counts[wrong])} {what} (token {token_id}), expected {count}: "
            "one for each token of the longest label word. Encode rows with the kind that the head was made for, whose "
            "pattern has {mask}."
        )
    return found
