"""A backbone with random weights, put straight into what it is stored in: never whole in another form.

Its modules begin on the meta device. One layer after another gets real tensors, its family's own start, and is rounded
before the next is made.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModel

from ptuning.backbones.families import find_trunk, layers_with_attention
from ptuning.backbones.loading import Backbone
from ptuning.backbones.quantization import Quantization, quantize_linears, quantized_linears

STORAGES: dict[str, tuple[torch.dtype, Quantization]] = {
    "fp32": (torch.float32, "none"),
    "bf16": (torch.bfloat16, "none"),
    "int8": (torch.bfloat16, "int8"),
    "nf4": (torch.bfloat16, "nf4"),
}
"""Name -> the precision of products and of all that is not rounded, and what layers' weights are rounded to."""


def random_backbone(name: str, config: Any, storage: str, device: torch.device) -> Backbone:
    """Makes a backbone, frozen, on its device, stored as a key of `STORAGES` says."""
    dtype, quantization = STORAGES[storage]
    torch.manual_seed(0)
    with torch.device("meta"):
        model: Any = AutoModel.from_config(config, dtype=dtype)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    trunk, family = find_trunk(model)
    for layer, _ in layers_with_attention(trunk, family):
        _materialize(model, layer, device)
        if quantization != "none":
            quantize_linears(layer, quantization, device=device, dtype=dtype)
    _materialize(model, model, device)
    return Backbone(model.requires_grad_(False).eval(), family, source=name, name=name, revision=None)


def stored_bytes(model: nn.Module) -> int:
    """What a model's parameters and buffers take."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values())


@torch.no_grad()
def _materialize(model: Any, part: nn.Module, device: torch.device) -> None:
    """Gives the modules of a part that are on the meta device real tensors, and their family's own start."""
    rounded = set(quantized_linears(part).values())
    for module in part.modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if module in rounded or not any(tensor.is_meta for tensor in own):
            continue
        module.to_empty(device=device, recurse=False)
        model._init_weights(module)
