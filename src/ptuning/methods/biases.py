"""BitFit: the biases of a backbone are trained, and nothing else of it.

A trained bias is the backbone's own plus a change that starts at 0. The change is added to what the layer gives, in
float32 storage whatever the backbone is stored in, so the backbone itself stays bit for bit what it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from ptuning.errors import BackboneError
from ptuning.methods.adaptation import Adaptation

_PREFIX = "bias_changes."


@final
class Biases(Adaptation):
    """Changes of the biases of all linear layers and norms of an encoder, norms of a family's own (DeBERTa) among them.

    Args:
        trunk: the encoder.
        family: its name, for messages.

    Raises:
        BackboneError: it has no biases.

    Source: Ben Zaken et al. 2022, section 3. Biases that are bare parameters of an attention module, as DeBERTa's of
        query and value, are left as they are.
    """

    name: ClassVar[str] = "bitfit"

    def __init__(self, trunk: nn.Module, family: str) -> None:
        super().__init__()
        found = {name: module for name, module in trunk.named_modules() if _has_bias(module)}
        if not found:
            raise BackboneError(
                f"method bitfit trains biases, but a {family} has none in its linear layers and norms. Use lora or "
                "p-tuning-v2."
            )
        self._names = list(found)
        self.changes = nn.ParameterList(torch.zeros(_size(found[name])) for name in self._names)
        self._handles: list[Any] = []

    def attach(self, trunk: nn.Module) -> None:
        for number, name in enumerate(self._names):
            self._handles.append(trunk.get_submodule(name).register_forward_hook(self._add(number)))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _add(self, number: int) -> Any:
        def add(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            changed: Tensor = output + self.changes[number].to(output.dtype)
            return changed

        return add

    def saved_tensors(self) -> dict[str, Tensor]:
        return {_PREFIX + name: self.changes[i].detach() for i, name in enumerate(self._names)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over saved changes, whose names and shapes were checked."""
        with torch.no_grad():
            for number, name in enumerate(self._names):
                self.changes[number].copy_(tensors[_PREFIX + name])


def _has_bias(module: nn.Module) -> bool:
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if not isinstance(bias, Tensor):
        return False
    if isinstance(module, nn.Linear | nn.LayerNorm):
        return True
    return isinstance(weight, Tensor) and weight.shape == bias.shape  # a norm, whose weight is a scale


def _size(module: nn.Module) -> int:
    bias: Any = module.bias
    return int(bias.numel())
