"""The keys and values that a backbone itself computes for a text, at every layer: a start for prompts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ptuning.backbones.routing import Route, RoutedPrompts


@torch.no_grad()
def capture_keys_values(model: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Runs a backbone and returns what its attention sees.

    Args:
        model: a supported model without prompts attached. Run in eval mode; its modes are put back.
        input_ids: (batch_size, seq_len).
        attention_mask: (batch_size, seq_len), 1 for real tokens.

    Returns:
        (num_layers, 2, num_kv_heads, num_tokens, head_dim) float32, the real tokens of all rows one after the other.
        Axis 1 is key (after any rotation), then value.
    """
    captured: dict[int, tuple[Tensor, Tensor]] = {}
    route = Route(model, lambda batch_size: RoutedPrompts({}), captured=captured)
    modes = [module for module in route.trunk.modules() if module.training]
    try:
        route.trunk.eval()
        route.trunk(input_ids=input_ids, attention_mask=attention_mask)
    finally:
        route.remove()
        for module in modes:
            module.training = True
    real = attention_mask.bool()  # (B, N)
    layers = [torch.stack(captured[layer]) for layer in range(route.num_layers)]  # each (2, B, H, N, D)
    return torch.stack([layer.permute(0, 2, 1, 3, 4)[:, :, real] for layer in layers]).float()
