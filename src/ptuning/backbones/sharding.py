"""A frozen backbone whose weights are divided among processes, and gathered a layer at a time (FSDP2 of torch).

Each process keeps an equal part of every weight. A layer's weights are gathered before the layer runs, forward and
backward, and the others' parts dropped behind it; the embeddings and what else stands outside of layers are there from
the beginning of a forward to the end. All processes must run the backbone the same number of times, forward and
backward. Prompts and heads stay whole: what they were given is not divided.

Source: https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed, nn

from ptuning.backbones.families import find_trunk, layers_with_attention
from ptuning.backbones.loading import Backbone


def shard_backbone(backbone: Backbone, device: torch.device) -> None:
    """Divides a backbone's weights among all processes, before prompts are attached to it.

    Args:
        backbone: whole, the same in all processes; mostly in the memory of the CPU, from where each layer goes to the
            device by itself.
        device: of this process; where its parts end up, and what is gathered.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    _ = backbone.description, backbone.identity  # read from whole weights, and remembered
    trunk, family = find_trunk(backbone.model)
    embeddings: Any = trunk.get_input_embeddings()  # type: ignore[operator]
    # What T5 has around its encoder holds the embeddings once more, and would keep them whole.
    around = [] if trunk is backbone.model else list(backbone.model.named_children())
    tied = [name for name, child in around if getattr(child, "weight", None) is embeddings.weight]
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for layer, _ in layers_with_attention(trunk, family):
        fully_shard(layer, mesh=mesh)
    fully_shard(trunk, mesh=mesh)
    for name in tied:
        setattr(backbone.model, name, embeddings)
    if backbone.pooler is not None:
        backbone.pooler.to(device)


def is_sharded(model: nn.Module) -> bool:
    """Whether a backbone's weights are divided among processes."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    from torch.distributed.tensor import DTensor  # takes a while to import

    return any(isinstance(parameter, DTensor) for parameter in model.parameters())
