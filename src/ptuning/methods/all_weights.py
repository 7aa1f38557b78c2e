"""Fine-tuning: all weights of the backbone are trained, on a copy of its own where others use it.

They are kept in float32; where the precision is bf16, products are computed in it under autocast, since a step of the
optimizer would be lost in the rounding of bf16 weights.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from ptuning.backbones.loading import Backbone
from ptuning.errors import BackboneError
from ptuning.methods.adaptation import Adaptation, ModelInputs


@final
class AllWeights(Adaptation):
    """All weights of a backbone that nobody else uses.

    Args:
        model: the encoder, of `with_own_weights`.
        precision: of the matrix products.
    """

    name: ClassVar[str] = "fine-tuning"

    def __init__(self, model: nn.Module, *, precision: Literal["fp32", "bf16"]) -> None:
        super().__init__()
        self._precision = precision
        self._model = (model,)  # a tuple, since the model that trains has it already

    def attach(self, trunk: nn.Module) -> None:
        self._model[0].requires_grad_(True)

    def remove(self) -> None:
        self._model[0].requires_grad_(False)

    def running(self, inputs: ModelInputs) -> AbstractContextManager[Any]:
        if self._precision == "fp32":
            return nullcontext()
        return torch.autocast(inputs.input_ids.device.type, torch.bfloat16)

    def options(self) -> dict[str, Any]:
        return {"precision": self._precision}

    def saved_tensors(self) -> dict[str, Tensor]:
        return {}

    def saved_weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self._model[0].named_parameters()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over saved weights, whose names and shapes were checked."""
        with torch.no_grad():
            for name, parameter in self._model[0].named_parameters():
                parameter.copy_(tensors[name])


def with_own_weights(backbone: Backbone, *, is_spare: bool = False) -> Backbone:
    """A backbone whose weights may change, in float32.

    Args:
        backbone: to begin with; stays as it is, unless it is spare.
        is_spare: whether nobody needs it as it is. Its weights are taken over then, and are in memory once.

    Raises:
        BackboneError: its weights are rounded to a few bits.
    """
    if backbone.quantization != "none":
        raise BackboneError(
            f"fine-tuning trains all weights, but those of {backbone.name} are stored in {backbone.quantization}, "
            "which has no gradients. Load it without quantization, or use p-tuning-v2 or lora."
        )
    model = backbone.model if is_spare else copy.deepcopy(backbone.model)
    return replace(backbone, model=model.float())
