"""Linear layers of a frozen backbone whose weights are stored in 8 or 4 bits.

Only weights are rounded, never what goes through them. A product restores its weight in the precision of its input,
forward and backward, and keeps nothing of full size between the two: a layer computes what an ordinary one with the
rounded weight does, and a backward through it costs no memory for weights.

The formats and their kernels are bitsandbytes'. Its own layers are not used: `Linear8bitLt` rounds what goes through it
too (LLM.int8), and one layer for both formats is less than two.

`int8`: 255 even steps between plus and minus the largest entry of each block of 64. `nf4`: 16 steps as far apart as a
normal distribution wants them (Dettmers et al. 2023, QLoRA, section 3). A block's largest entry is kept in float32, so
a weight takes 8.5 or 4.5 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from ptuning.backbones.families import Family, layers_with_attention
from ptuning.backbones.weight_samples import sample_weight
from ptuning.errors import ConfigError, MissingDependencyError

Quantization = Literal["none", "int8", "nf4"]
QUANTIZATIONS: tuple[Quantization, ...] = ("none", "int8", "nf4")

BITS: dict[Quantization, float] = {"int8": 8.5, "nf4": 4.5}
"""What an entry of a weight takes, its share of the block's largest entry counted."""

_BLOCK = 64
_PIECE = 1 << 20  # entries that are rounded at once: rounding needs several times their size


@dataclass(frozen=True)
class StoredWeight:
    """What can be asked of a rounded weight without restoring it, under the names that a tensor has.

    Attributes:
        shape: (out_features, in_features).
        dtype: of the layer's other parameters, and of what usually goes through it.
        device: where it is.
    """

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


@final
class QuantizedLinear(nn.Linear):
    """A frozen linear layer with a rounded weight: (…, in_features) -> (…, out_features).

    It is a subclass since PEFT and others find linear layers by their type. `weight` is a `StoredWeight`.

    Args:
        weight: (out_features, in_features), where and in what precision it may be.
        bias: (out_features,), or None.
        quantization: `int8` or `nf4`.
        device: where it goes.
        dtype: of the bias.

    Attributes:
        sample: what `sample_weight` gave for the weight before it was rounded.

    Raises:
        MissingDependencyError: bitsandbytes is not installed.
    """

    codes: Tensor
    scales: Tensor

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        quantization: Quantization,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would make a weight
        self.out_features, self.in_features = weight.shape
        self.quantization: Quantization = quantization
        self.sample = sample_weight(weight)
        codes, scales = _round(weight.detach(), quantization, device)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales.view(torch.int32))  # as bits, which `.to(dtype)` leaves alone
        self._dtype = dtype
        moved = None if bias is None else nn.Parameter(bias.detach().to(device, dtype), requires_grad=False)
        self.register_parameter("bias", moved)

    @classmethod
    def outline(cls, linear: nn.Linear, quantization: Quantization) -> QuantizedLinear:
        """What an ordinary layer would become, its sizes alone: codes mean nothing. For plans, without bitsandbytes."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made.out_features, made.in_features = linear.out_features, linear.in_features
        made.quantization, made.sample, made._dtype = quantization, b"", linear.weight.dtype
        for name, empty in zip(("codes", "scales"), _empty(linear.weight, quantization), strict=True):
            made.register_buffer(name, empty if name == "codes" else empty.view(torch.int32))
        made.register_parameter("bias", linear.bias)
        return made

    @property
    def weight(self) -> StoredWeight:  # type: ignore[override]
        """What is known of the weight without restoring it."""
        dtype = self._dtype if self.bias is None else self.bias.dtype
        return StoredWeight(torch.Size((self.out_features, self.in_features)), dtype, self.codes.device)

    def restored(self, dtype: torch.dtype) -> Tensor:
        """The rounded weight as numbers: (out_features, in_features)."""
        return _restore(self.codes, self.scales, self.quantization, (self.out_features, self.in_features), dtype)

    def forward(self, input: Tensor) -> Tensor:
        """(…, in_features) -> (…, out_features)."""
        shape = (self.out_features, self.in_features)
        output: Tensor = _Product.apply(input, self.codes, self.scales, self.bias, self.quantization, shape)  # type: ignore[no-untyped-call]
        return output

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.quantization}"


class _Product(torch.autograd.Function):
    """A product with gradients for its input and its bias, which restores its weight each time."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        codes: Tensor,
        scales: Tensor,
        bias: Tensor | None,
        quantization: Quantization,
        shape: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(codes, scales)
        ctx.quantization, ctx.shape = quantization, shape
        return nn.functional.linear(inputs, _restore(codes, scales, quantization, shape, inputs.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient, (codes, scales) = gradients[0], ctx.saved_tensors
        of_input = of_bias = None
        if ctx.needs_input_grad[0]:
            of_input = gradient @ _restore(codes, scales, ctx.quantization, ctx.shape, gradient.dtype)
        if ctx.needs_input_grad[3]:
            of_bias = gradient.flatten(0, -2).sum(0) if gradient.ndim > 1 else gradient
        return of_input, None, None, of_bias, None, None


def quantize_layers(
    trunk: nn.Module, family: Family, quantization: Quantization, *, device: torch.device, dtype: torch.dtype
) -> None:
    """Replaces the linear layers inside an encoder's layers, one by one, each weight freed before the next is taken.

    Embeddings, norms, convolutions and linear layers outside of the encoder's layers stay as they are.

    Args:
        trunk: the encoder; its weights may be anywhere, a memory-mapped file among others.
        family: its family.
        quantization: `int8` or `nf4`.
        device: where the rounded weights go.
        dtype: of the biases.

    Raises:
        MissingDependencyError: bitsandbytes is not installed.
    """
    for layer, _ in layers_with_attention(trunk, family):
        quantize_linears(layer, quantization, device=device, dtype=dtype)


def quantize_linears(layer: nn.Module, quantization: Quantization, *, device: torch.device, dtype: torch.dtype) -> None:
    """Replaces the linear layers inside one layer of an encoder; arguments as of `quantize_layers`."""
    for parent in list(layer.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                made = QuantizedLinear(child.weight, child.bias, quantization, device=device, dtype=dtype)
                setattr(parent, name, made.train(child.training))


def outline_quantized_layers(trunk: nn.Module, family: Family, quantization: Quantization) -> None:
    """Replaces the linear layers that `quantize_layers` would by ones of the same sizes, without numbers."""
    for layer, _ in layers_with_attention(trunk, family):
        for parent in list(layer.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear:
                    setattr(parent, name, QuantizedLinear.outline(child, quantization).train(child.training))


def quantized_linears(model: nn.Module) -> dict[str, QuantizedLinear]:
    """The layers with rounded weights of a model, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}


def quantization_of(model: nn.Module) -> Quantization:
    """What the weights of a model's layers are rounded to."""
    return next((module.quantization for module in quantized_linears(model).values()), "none")


def as_quantization(name: str) -> Quantization:
    """Returns a quantization that works here, by its name.

    Raises:
        ConfigError: there is none of this name.
        MissingDependencyError: bitsandbytes, which it needs, is not installed.
    """
    for known in QUANTIZATIONS:
        if name == known:
            if known != "none":
                _functional()
            return known
    raise ConfigError(f"quantization is {name!r}, expected {', '.join(QUANTIZATIONS)}. Use one of these.")


def _round(weight: Tensor, quantization: Quantization, device: torch.device) -> tuple[Tensor, Tensor]:
    """Codes, (num_blocks, bytes a block) uint8, and the largest entry of each block, (num_blocks,) float32."""
    functional = _functional()
    codes, scales = _empty(weight, quantization, device)
    flat = weight.reshape(-1)
    for start in range(0, flat.numel(), _PIECE):
        piece = flat[start : start + _PIECE].to(device, torch.float32)
        piece = nn.functional.pad(piece, (0, -piece.numel() % _BLOCK))
        if quantization == "int8":
            found, state = functional.quantize_blockwise(piece, code=_even_steps(device), blocksize=_BLOCK)
        else:
            found, state = functional.quantize_4bit(
                piece, blocksize=_BLOCK, quant_type="nf4", compress_statistics=False
            )
        first = start // _BLOCK
        last = first + piece.numel() // _BLOCK
        codes[first:last] = found.view(last - first, -1)
        scales[first:last] = state.absmax
    return codes, scales


def _empty(weight: Tensor, quantization: Quantization, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Room for what `_round` gives."""
    device, num_blocks = device or weight.device, -(-weight.numel() // _BLOCK)
    codes = torch.empty(num_blocks, _BLOCK if quantization == "int8" else _BLOCK // 2, dtype=torch.uint8, device=device)
    return codes, torch.empty(num_blocks, dtype=torch.float32, device=device)


def _restore(
    codes: Tensor, scales: Tensor, quantization: Quantization, shape: tuple[int, int], dtype: torch.dtype
) -> Tensor:
    if isinstance(codes, FakeTensor):  # a plan's, without numbers
        return codes.new_empty(shape, dtype=dtype)
    functional = _functional()
    largest = scales.view(torch.float32)
    kernel_dtype = torch.float32 if dtype == torch.float64 else dtype
    blocks = (codes.shape[0], _BLOCK)
    if quantization == "int8":
        state = functional.QuantState(
            absmax=largest, code=_even_steps(codes.device), blocksize=_BLOCK, dtype=kernel_dtype
        )
        restored = functional.dequantize_blockwise(codes, state)
    else:
        state = functional.QuantState(
            absmax=largest, shape=blocks, blocksize=_BLOCK, quant_type="nf4", dtype=kernel_dtype
        )
        restored = functional.dequantize_4bit(codes.view(-1, 1), state)
    weight: Tensor = restored.view(-1)[: shape[0] * shape[1]].view(shape).to(dtype)
    return weight


@cache
def _even_steps(device: torch.device) -> Tensor:
    """(256,) float32, ascending: 255 even steps from -1 to 1, zero twice."""
    steps: Tensor = _functional().create_linear_map(signed=True, total_bits=8)
    return steps.to(device)


@cache
def _functional() -> Any:
    try:
        from bitsandbytes import functional
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "weights in 8 or 4 bits need the package bitsandbytes, which is not installed. Install it: "
            'pip install "ptuning[quantization]"'
        ) from error
    return functional
