"""Dropout on a CPU from 16-bit random numbers, four to a draw.

torch draws one number of the generator for every element, which on a CPU is a sixth of a training step. Here a 64-bit
number is drawn for four elements. The probability is rounded to a multiple of 1/65536, and the scale is that of the
rounded one, so that expectations stay exact. The default generator is used: seeds and saved random states hold.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_LEVELS = 1 << 16


def dropout(values: Tensor, probability: float) -> Tensor:
    """Zeroes elements at random and scales the others, as `torch.nn.functional.dropout` does in training.

    Args:
        values: of any shape.
        probability: of zeroing an element, in [0, 1].
    """
    # What is compiled has random numbers of its own, made where they are used.
    if values.device.type != "cpu" or not 0.0 < probability < 1.0 or torch.compiler.is_compiling():
        return functional.dropout(values, probability)
    below = min(round(probability * _LEVELS), _LEVELS - 1)
    count = values.numel()
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(1 << 63), None)
    numbers = draws.view(torch.int16)[:count].view(values.shape)
    return torch.where(numbers >= below - _LEVELS // 2, values * (_LEVELS / (_LEVELS - below)), 0.0)


class CheapDropout:
    """Makes the dropout modules of a model draw as `dropout` does, until removed.

    Args:
        model: whose `nn.Dropout` modules are meant.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [module for module in model.modules() if type(module) is nn.Dropout]
        self._before = [module.__dict__.get("forward") for module in self._modules]
        for module in self._modules:
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]

    def remove(self) -> None:
        """Puts the modules back as they were."""
        for module, forward in zip(self._modules, self._before, strict=True):
            del module.forward
            if forward is not None:
                module.forward = forward  # type: ignore[method-assign]


def _forward(module: Any, values: Tensor) -> Tensor:
    return dropout(values, module.p) if module.training else values
