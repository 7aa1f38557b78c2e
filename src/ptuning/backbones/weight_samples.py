"""Some entries of a weight, by which it is known again whatever it is stored in."""

from __future__ import annotations

import torch
from torch import Tensor

_ENTRIES = 64


@torch.no_grad()
def sample_weight(weight: Tensor) -> bytes:
    """Returns up to 64 evenly spaced entries, rounded to bfloat16 (so storage in float32 and bfloat16 agree).

    Args:
        weight: of any shape, on any device; only what is picked is copied.
    """
    whole = weight.full_tensor() if hasattr(weight, "full_tensor") else weight  # sharded: all processes take part
    flat = whole.detach().reshape(-1)
    last, count = flat.numel() - 1, min(_ENTRIES, flat.numel())
    # In whole numbers: the same entries on every device.
    places = [last * place // max(count - 1, 1) for place in range(count)]
    picked = flat[torch.tensor(places, dtype=torch.long, device=flat.device)]
    sample: bytes = picked.to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes()
    return sample
