"""Attention masks with columns for the virtual tokens, which come in front of the real ones.

Letters in shape comments: B batch, Q queries, K real keys, P virtual tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def widen_mask(
    mask: Tensor | None,
    prompt_mask: Tensor | None,
    *,
    num_queries: int,
    num_keys: int,
    num_virtual: int,
    is_causal: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor | None:
    """Puts the virtual tokens' columns in front of a 4-D attention mask.

    Args:
        mask: (batch_size or 1, num_heads or 1, num_queries or 1, num_keys), bool with True where attention is
            allowed, or additive; None where every query sees every key (or, if `is_causal`, every earlier one).
        prompt_mask: (batch_size, num_virtual) bool, True where the row has a real virtual token; None when all are.
        num_queries: queries a row.
        num_keys: real keys a row.
        num_virtual: virtual tokens a row, padding included.
        is_causal: whether a missing mask stands for a causal one.
        dtype: of a mask that was missing: bool, or the floating-point dtype of an additive one, as the attention at
            hand takes it.
        device: where to build a mask that was missing.

    Returns:
        (batch_size or 1, num_heads or 1, num_queries or 1, num_virtual + num_keys) of the mask's dtype, or None when
        everything is visible.
    """
    if mask is None and is_causal and num_queries > 1:
        # A base function handed no mask would build a causal one itself, and count virtual tokens as positions.
        mask = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).tril(num_keys - num_queries)
        mask = of_dtype(mask[None, None], dtype)  # (1, 1, Q, K)
    if mask is None:
        if prompt_mask is None:
            return None
        widened = functional.pad(prompt_mask[:, None, None, :], (0, num_keys), value=True)  # (B, 1, 1, P + K)
        return of_dtype(widened, dtype)
    if prompt_mask is None:
        return functional.pad(mask, (num_virtual, 0), value=True if mask.dtype == torch.bool else 0.0)
    columns = of_dtype(prompt_mask[:, None, None, :], mask.dtype)  # (B, 1, 1, P)
    batch_size = max(mask.shape[0], columns.shape[0])
    columns = columns.expand(batch_size, mask.shape[1], mask.shape[2], -1)
    return torch.cat([columns, mask.expand(batch_size, -1, -1, -1)], dim=-1)


def of_dtype(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask as it is, or as an additive one: 0 where attention is allowed, else the lowest number."""
    if dtype == torch.bool:
        return visible
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)


def widen_bias(bias: Tensor, num_virtual: int) -> Tensor:
    """Puts zeros for virtual tokens in front of a position bias (…, num_keys): they have no relative position."""
    return functional.pad(bias, (num_virtual, 0))


def widen_padding_mask(
    mask: Tensor | None,
    prompt_mask: Tensor | None,
    *,
    batch_size: int,
    num_keys: int,
    num_virtual: int,
    device: torch.device,
) -> Tensor | None:
    """The same for the 2-D padding mask that flash attention takes: (batch_size, num_virtual + num_keys), or None."""
    if mask is None and prompt_mask is None:
        return None
    front = (
        prompt_mask if prompt_mask is not None else torch.ones(batch_size, num_virtual, dtype=torch.bool, device=device)
    )
    back = mask if mask is not None else torch.ones(batch_size, num_keys, dtype=torch.bool, device=device)
    return torch.cat([front.to(back.dtype), back], dim=-1)
