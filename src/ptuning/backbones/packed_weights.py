"""Linear layers of a frozen backbone on a CPU, with weights laid out once for the products of forward and backward.

A weight that never changes need not be rearranged in every product, as oneDNN does with plain ones. It is kept in its
blocked form twice: for the forward, and transposed for the gradient of the input, made when that is first asked for.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn

from ptuning.backbones.sharding import is_sharded

MOST_BYTES = 1 << 30
"""What both forms may take together; larger backbones go without."""

_DTYPES = (torch.float32, torch.bfloat16)
_ROWS = 4096  # of the other factor, for which the form is chosen; it serves all numbers of rows


def can_pack_weights(trunk: nn.Module) -> bool:
    """Whether linear layers of an encoder gain from it: on x86 CPUs, in float32 or bfloat16, within `MOST_BYTES`."""
    linears = _frozen_linears(trunk)
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not linears or not has_onednn or platform.machine() not in ("x86_64", "AMD64"):
        return False
    if any(linear.weight.device.type != "cpu" or linear.weight.dtype not in _DTYPES for linear in linears):
        return False
    if is_sharded(trunk):  # whole weights would be kept here
        return False
    is_bf16 = any(linear.weight.dtype == torch.bfloat16 for linear in linears)
    if is_bf16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return 2 * sum(linear.weight.nbytes for linear in linears) <= MOST_BYTES


class PackedWeights:
    """Makes the frozen linear layers of an encoder run with packed weights, until removed.

    Args:
        trunk: the encoder, such that `can_pack_weights`. Its weights are not to change meanwhile.
    """

    def __init__(self, trunk: nn.Module) -> None:
        self._linears = _frozen_linears(trunk)
        for linear in self._linears:
            linear.forward = _PackedLinear(linear)  # type: ignore[assignment,method-assign]

    def remove(self) -> None:
        """Puts the layers back as they were."""
        for linear in self._linears:
            del linear.forward


def _frozen_linears(trunk: nn.Module) -> list[nn.Linear]:
    found = [module for module in trunk.modules() if type(module) is nn.Linear]
    return [module for module in found if not any(parameter.requires_grad for parameter in module.parameters())]


class _PackedLinear:
    """Stands in for `nn.Linear.forward`: (…, in_features) -> (…, out_features)."""

    def __init__(self, linear: nn.Linear) -> None:
        self._linear = linear
        self._forward: Tensor | None = None  # both are made when they are first asked for
        self._backward: Tensor | None = None

    def __reduce__(self) -> tuple[type[_PackedLinear], tuple[nn.Linear]]:
        return _PackedLinear, (self._linear,)  # a packed weight cannot be copied

    def __call__(self, inputs: Tensor) -> Tensor:
        linear = self._linear
        if inputs.dtype != linear.weight.dtype or inputs.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return nn.functional.linear(inputs, linear.weight, linear.bias)
        if self._forward is None:
            self._forward = _packed(linear.weight.detach())
        if not (inputs.requires_grad and torch.is_grad_enabled()):
            return _product(inputs, self._forward, linear.bias)
        if self._backward is None:
            self._backward = _packed(linear.weight.detach().t().contiguous())
        output: Tensor = _Product.apply(inputs, self._forward, self._backward, linear.bias)  # type: ignore[no-untyped-call]
        return output


class _Product(torch.autograd.Function):
    """A product with gradients for its input alone."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, forward: Tensor, backward: Tensor, bias: Tensor | None) -> Tensor:
        ctx.packed = backward
        return _product(inputs, forward, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _product(gradients[0].contiguous(), ctx.packed, None), None, None, None


def _packed(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
    return packed


def _product(inputs: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")
    return product
