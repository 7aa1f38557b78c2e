"""A backbone with random weights, put straight into what it is stored in: never whole in another form.

Its modules begin on the meta device. One layer after another gets real tensors, and is rounded before the next is made.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ptuning.backbones.configuring import configure
from ptuning.backbones.families import find_trunk, layers_with_attention
from ptuning.backbones.loading import Backbone
from ptuning.backbones.quantization import Quantization, quantize_linears

STORAGES: dict[str, tuple[torch.dtype, Quantization]] = {
    "fp32": (torch.float32, "none"),
    "bf16": (torch.bfloat16, "none"),
    "int8": (torch.bfloat16, "int8"),
    "nf4": (torch.bfloat16, "nf4"),
}
"""Name -> the precision of products and of all that is not rounded, and what layers' weights are rounded to."""

_STD = 0.02
_DRAWN = 1 << 20  # numbers; larger weights have them again and again, since to draw billions takes minutes


def random_backbone(name: str, directory: Path, storage: str, device: torch.device) -> Backbone:
    """Makes a backbone by its config alone, frozen, on its device.

    Args:
        name: what to call it.
        directory: with its `config.json`.
        storage: a key of `STORAGES`.
        device: where it goes.
    """
    dtype, quantization = STORAGES[storage]
    options = {"revision": None, "trust_remote_code": False}
    asked = configure(directory, options, attention="auto", attention_direction=None)
    with torch.device("meta"):
        model = asked.loader.from_config(asked.config, dtype=dtype, attn_implementation=asked.attention)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    noise = torch.randn(_DRAWN, generator=torch.Generator().manual_seed(0)).mul_(_STD).to(device, dtype)
    made: dict[nn.Parameter, nn.Parameter] = {}
    trunk, family = find_trunk(model)
    for layer, _ in layers_with_attention(trunk, family):
        _make_parameters(layer, noise, made)
        if quantization != "none":
            quantize_linears(layer, quantization, device=device, dtype=dtype)
            made.clear()  # or what was rounded would stay
    _make_parameters(model, noise, made)
    _make_buffers(model, device)
    return Backbone(
        model.requires_grad_(False).eval(),
        family,
        str(directory),
        name,
        None,
        eager=asked.is_eager,
        load_options=options,
    )


def stored_bytes(model: nn.Module) -> int:
    """What a model's parameters and buffers take."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values())


def _make_parameters(part: nn.Module, noise: torch.Tensor, made: dict[nn.Parameter, nn.Parameter]) -> None:
    """Gives the parameters of a part that are on the meta device numbers: drawn for matrices, those of a norm else.

    Args:
        part: of a model.
        noise: (count,), what matrices have, in its precision and on its device.
        made: for each parameter on the meta device the one that replaces it, so that tied ones stay tied.
    """
    for module in part.modules():
        for name, old in list(module._parameters.items()):
            if old is None or not old.is_meta:
                continue
            if old not in made:
                made[old] = nn.Parameter(_numbers(name, old, noise), requires_grad=False)
            module._parameters[name] = made[old]


def _numbers(name: str, shaped: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    if shaped.ndim < 2:  # of a norm, or a bias
        return torch.full(shaped.shape, float(name.endswith("weight")), dtype=shaped.dtype, device=noise.device)
    made = torch.empty(shaped.shape, dtype=shaped.dtype, device=noise.device)
    for piece in made.view(-1).split(len(noise)):
        piece.copy_(noise[: len(piece)])
    return made


@torch.no_grad()
def _make_buffers(model: nn.Module, device: torch.device) -> None:
    """Gives buffers that are on the meta device, positions and rotations, their family's numbers."""
    for module in model.modules():
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            module.to_empty(device=device, recurse=False)
            model._init_weights(module)  # type: ignore[operator]
