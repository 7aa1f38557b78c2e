"""The sequences of a batch in one row, without padding, for flex attention.

    a b c .
    d e . .   ─►   a b c d e f g h i · ·      a document is what a row was; the tail reaches a multiple of 16
    f g h i

A token sees the virtual tokens, which all documents share, and its own document. Documents stay whole, so what a query
sees beside the virtual tokens is one interval of keys, and distances inside a document are what they were. Letters in
shape comments: B documents, L longest, T tokens of the row, R of them real, V virtual tokens.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ptuning.backbones.direction import direction_of, window_counts_itself
from ptuning.backbones.families import Family, shifted_positions
from ptuning.errors import BackboneError, ConfigError

_MULTIPLE = 16  # matrix products are slow at odd sizes
_BLOCK = 128  # queries and keys that flex attention takes or leaves together


@dataclass(frozen=True)
class PackedBatch:
    """A batch as one row.

    Attributes:
        input_ids: (1, num_tokens), the tail being copies of a token.
        token_type_ids: (1, num_tokens), or None where the backbone has none.
        position_ids: (1, num_tokens), counted in each document, in the family's own way.
        first: (num_tokens,) int64, where the document of each token begins in the row. The tail is a document too.
        last: (num_tokens,) int64, where it ends.
        starts: (batch_size,) int64, where in the row each document's first token is.
        places: (num_real,) int64, where each real token stands in the flattened padded batch.
        batch_size: documents.
        seq_len: tokens a row of the padded batch.
        is_causal: whether a token sees nothing of its document behind itself.
        window_counts_itself: whether `sliding_window` of a layer with local attention is one more than how far it sees.
    """

    input_ids: Tensor
    token_type_ids: Tensor | None
    position_ids: Tensor
    first: Tensor
    last: Tensor
    starts: Tensor
    places: Tensor
    batch_size: int
    seq_len: int
    is_causal: bool = False
    window_counts_itself: bool = True

    def inputs(self) -> dict[str, Any]:
        """Keyword arguments of a trunk with prompts attached."""
        given: dict[str, Any] = {"input_ids": self.input_ids, "position_ids": self.position_ids, "packing": self}
        if self.token_type_ids is not None:
            given["token_type_ids"] = self.token_type_ids
        return given

    def pack(self, hidden_states: Tensor) -> Tensor:
        """(batch_size, seq_len, hidden_size) -> (1, num_tokens, hidden_size)."""
        return hidden_states.flatten(0, 1)[_with_tail(self.places)].unsqueeze(0)

    def unpack(self, hidden_states: Tensor) -> Tensor:
        """Gives each document a row again.

        Args:
            hidden_states: (1, num_tokens, hidden_size), or (1, batch_size, hidden_size) of first tokens alone.

        Returns:
            (batch_size, seq_len, hidden_size), zeros at padding; or (batch_size, 1, hidden_size).
        """
        if hidden_states.shape[1] != self.first.shape[0]:
            return hidden_states.transpose(0, 1)
        real = hidden_states[0, : self.places.shape[0]]  # (R, hidden_size)
        padded = real.new_zeros(self.batch_size * self.seq_len, real.shape[1])
        return padded.index_copy(0, self.places, real).view(self.batch_size, self.seq_len, -1)

    def block_mask(self, num_virtual: int, window: int | None, *, first_tokens_only: bool = False) -> Any:
        """What each token sees, as flex attention takes it.

        Which blocks are looked at is computed from the documents' ends, so that no mask of num_tokens times
        num_tokens is ever made.

        Args:
            num_virtual: virtual tokens in front of the keys.
            window: how far a token sees in a layer with local attention, to either side or, if causal, to its left;
                None in others.
            first_tokens_only: whether the queries are the documents' first tokens.

        Returns:
            A BlockMask of num_tokens (or batch_size) queries and num_virtual + num_tokens keys.
        """
        from torch.nn.attention.flex_attention import BlockMask

        low, high, num_keys, device = self.first, self.last, num_virtual + self.first.shape[0], self.first.device
        at = torch.arange(self.first.shape[0], device=device)
        if window is not None:
            low, high = torch.maximum(low, at - window), torch.minimum(high, at + window)
        if self.is_causal:
            high = at
        if first_tokens_only:
            low, high = low[self.starts], high[self.starts]
        low, high, num_queries = low + num_virtual, high + num_virtual, low.shape[0]
        # One number, but as a tensor: a kernel that is compiled for one prompt length then serves them all.
        virtual = torch.full_like(low, num_virtual)

        def visible(batch: Tensor, head: Tensor, query_index: Tensor, key_index: Tensor) -> Tensor:
            is_own = (key_index >= low[query_index]) & (key_index <= high[query_index])
            return (key_index < virtual[query_index]) | is_own

        missing = -num_queries % _BLOCK  # queries of the last block that are not there: they see nothing
        low_of_block = functional.pad(low, (0, missing), value=num_keys).view(-1, 1, _BLOCK)  # (queries / 128, 1, 128)
        high_of_block = functional.pad(high, (0, missing), value=-1).view(-1, 1, _BLOCK)
        start = torch.arange(0, num_keys, _BLOCK, device=device)  # (keys / 128,)
        end = start + _BLOCK - 1
        is_seen = (start < num_virtual) | ((low_of_block.amin(2) <= end) & (high_of_block.amax(2) >= start))
        is_whole = (low_of_block.amax(2) <= start) & (high_of_block.amin(2) >= end)
        if not missing:
            is_whole = is_whole | (end < num_virtual)
        return BlockMask.from_kv_blocks(
            *_block_list(is_seen & ~is_whole),
            *_block_list(is_whole),
            BLOCK_SIZE=_BLOCK,
            mask_mod=visible,
            seq_lengths=(num_queries, num_keys),
        )


def can_pack(family: Family, config: Any) -> bool:
    """Whether a backbone has the attention that packed batches need."""
    return "flex" in family.attention and str(config._attn_implementation).endswith("flex_attention")


def require_packing(family: Family, config: Any) -> None:
    """Makes sure that a backbone can run packed batches.

    Raises:
        ConfigError: it is not loaded with flex attention, or its family cannot be.
    """
    if "flex" not in family.attention:
        raise ConfigError(
            f"training.packing is on, which needs flex attention, but {family.model_type} has "
            f"{' and '.join(family.attention)} only. Set training.packing to auto."
        )
    if not can_pack(family, config):
        raise ConfigError(
            f"training.packing is on, but the backbone was loaded with {config._attn_implementation} attention, "
            "expected flex_attention. Set training.attention to flex_attention, or training.packing to auto."
        )


def pack_batch(
    family: Family, config: Any, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None
) -> PackedBatch:
    """Packs a padded batch.

    Args:
        family: the backbone's family.
        config: its transformers config.
        input_ids: (batch_size, seq_len).
        attention_mask: (batch_size, seq_len), 1 for real tokens, which stand together in each row; there is one.
        token_type_ids: (batch_size, seq_len), or None where the backbone has none.
    """
    batch_size, seq_len = input_ids.shape
    device = input_ids.device
    is_real = attention_mask.bool()
    places = is_real.flatten().nonzero().squeeze(1)  # (R,)
    num_real = places.shape[0]
    tail = _tail_of(num_real)
    lengths = is_real.sum(1)  # (B,)
    after = lengths.cumsum(0)  # (B,)
    document = places // seq_len  # (R,)
    first, last = (after - lengths)[document], after[document] - 1
    first = functional.pad(first, (0, tail), value=num_real)  # (T,)
    last = functional.pad(last, (0, tail), value=num_real + tail - 1)
    positions = shifted_positions(
        family,
        config,
        torch.zeros(1, dtype=torch.int64, device=device),
        input_ids=input_ids,
        batch_size=batch_size,
        seq_len=seq_len,
        position_ids=None,
    ).expand(batch_size, -1)
    taken = _with_tail(places)  # (T,)

    def packed(values: Tensor) -> Tensor:
        return values.flatten()[taken].unsqueeze(0)  # (1, T)

    return PackedBatch(
        input_ids=packed(input_ids),
        token_type_ids=None if token_type_ids is None else packed(token_type_ids),
        position_ids=packed(positions),
        first=first,
        last=last,
        starts=(after - lengths).clamp(max=num_real + tail - 1),  # a document without tokens has none
        places=places,
        batch_size=batch_size,
        seq_len=seq_len,
        is_causal=direction_of(family, config) == "causal",
        window_counts_itself=window_counts_itself(family, config),
    )


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block_mask: Any,
    *,
    scaling: float | None,
    dropout: float,
    softcap: float | None = None,
) -> Tensor:
    """Attention of a packed row.

    On a GPU it is compiled, once for all lengths. On a CPU it is torch's plain form, which has no gradients and makes
    all scores at once: for checks and short evaluations.

    Args:
        query: (1, num_heads, num_queries, head_dim): of all tokens, or of the first ones.
        key: (1, num_kv_heads, num_virtual + num_tokens, head_dim).
        value: as `key`.
        block_mask: of `PackedBatch.block_mask`.
        scaling: of the scores; None for 1 / sqrt(head_dim).
        dropout: of attention weights, which flex attention does not have.
        softcap: what scaled scores are held below by a tanh; None where they are not.

    Returns:
        (1, num_queries, num_heads, head_dim).

    Raises:
        BackboneError: dropout is not 0.
    """
    if dropout > 0.0:
        raise BackboneError(
            f"the backbone drops attention weights with probability {dropout}, which flex attention cannot. "
            "Set training.backbone_dropout to off, or training.attention to sdpa."
        )
    attend = _plain() if query.device.type == "cpu" else _compiled()
    cap = None if softcap is None else _capped(softcap)
    context = attend(query, key, value, score_mod=cap, block_mask=block_mask, scale=scaling, enable_gqa=True)
    return context.transpose(1, 2).contiguous()  # (1, Q, H, D)


@cache
def _compiled() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=True)
    return compiled


@cache
def _capped(softcap: float) -> Callable[..., Tensor]:
    """What flex attention does with each score: one function a number, so that nothing is compiled anew."""

    def cap(score: Tensor, batch: Tensor, head: Tensor, query_index: Tensor, key_index: Tensor) -> Tensor:
        return torch.tanh(score / softcap) * softcap

    return cap


@cache
def _plain() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    def attend(*args: Any, **kwargs: Any) -> Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
            context: Tensor = flex_attention(*args, **kwargs)
        return context

    return attend


def _tail_of(num_real: int) -> int:
    return -num_real % _MULTIPLE


def _with_tail(places: Tensor) -> Tensor:
    """(num_real,) -> (num_tokens,), the tail in the batch's first place."""
    return functional.pad(places, (0, _tail_of(places.shape[0])))


def _block_list(is_taken: Tensor) -> tuple[Tensor, Tensor]:
    """(query blocks, key blocks) bool -> how many key blocks each query block has, and which, those that it has first.

    Returns:
        (1, 1, query blocks) and (1, 1, query blocks, key blocks), int32.
    """
    order = torch.argsort(is_taken.byte(), dim=1, descending=True, stable=True)
    return is_taken.sum(1).int()[None, None], order.int()[None, None]
