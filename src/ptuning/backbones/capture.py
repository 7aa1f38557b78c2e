"""The keys and values that a backbone itself computes for a text, at every layer: a start for prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ptuning.backbones.forward import Blocks
from ptuning.backbones.routing import Route, RoutedPrompts


@torch.no_grad()
def capture_keys_values(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    token_type_ids: Tensor | None = None,
    *,
    layers: Sequence[int] | None = None,
    tokens: Tensor | None = None,
    **more: Tensor,
) -> Tensor:
    """Runs a backbone and returns what its attention sees. Kept are the wanted layers and tokens only.

    Args:
        model: a supported model without prompts attached. Run in eval mode; its modes are put back.
        input_ids: (batch_size, seq_len).
        attention_mask: (batch_size, seq_len), 1 for real tokens.
        token_type_ids: (batch_size, seq_len), or None where the backbone has none.
        layers: L layer numbers; all of them by default.
        tokens: (num_tokens,) indexes into the real tokens of all rows, one row after the other; all by default.
        **more: what else the backbone takes, such as `position_ids`.

    Returns:
        (L, 2, num_kv_heads, num_tokens, head_dim) float32. Axis 1 is key (after any rotation), then value.
    """
    places = attention_mask.nonzero()  # (real tokens, 2)
    rows, columns = (places if tokens is None else places[tokens.to(places.device)]).unbind(1)
    captured: dict[int, Tensor] = {}

    def keep(layer: int, key: Tensor, value: Tensor) -> None:
        if layers is None or layer in layers:
            picked = [states[rows, :, columns].transpose(0, 1) for states in (key, value)]  # each (H, num_tokens, D)
            captured[layer] = torch.stack(picked).float()

    route = Route(model, lambda batch_size: RoutedPrompts(Blocks()), capture=keep)
    modes = [module for module in route.trunk.modules() if module.training]
    inputs = more if token_type_ids is None else {**more, "token_type_ids": token_type_ids}
    try:
        route.trunk.eval()
        route.trunk(input_ids=input_ids, attention_mask=attention_mask, **inputs)
    finally:
        route.remove()
        for module in modes:
            module.training = True
    return torch.stack([captured[layer] for layer in (range(route.num_layers) if layers is None else layers)])
