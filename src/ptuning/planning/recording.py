"""Tensors without memory, on which a program runs as ever, and a record of what it would have held and computed.

The program is the real one: torch's fake tensors have shapes, types and a device, and every operation gives what it
would give, but no numbers. So what a step keeps for its backward is not estimated by formulas a family at a time: it is
what this version of torch, transformers and this package keeps.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from ptuning.errors import BackboneError


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what tensors take together while they live, and what products cost.

    Args:
        device_type: of the tensors that count.

    Attributes:
        live: bytes that are held now.
        peak: the most that was held since `restart`.
        operations: of matrix products since `restart`, a multiplication and an addition being two.
    """

    def __init__(self, device_type: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device_type = device_type
        self._storages: dict[int, weakref.ref[Any]] = {}
        self.live = self.peak = self.operations = 0

    def restart(self) -> None:
        """Begins a new record; what lives stays counted."""
        gc.collect(1)
        self.peak, self.operations = self.live, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        result = func(*args, **given)
        packet = getattr(func, "_overloadpacket", func)
        formula = _OPERATIONS.get(packet) or flop_registry.get(packet)
        if formula is not None:
            self.operations += int(formula(*args, **given, out_val=result))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.device.type == self._device_type:
                self._see(value)
        return result

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return

        def forget(_: Any) -> None:
            del self._storages[key]
            self.live -= size

        self._storages[key] = weakref.ref(storage, forget)
        self.live += size
        self.peak = max(self.peak, self.live)


def _packed_product(inputs: Tensor, packed: Tensor, *args: Any, out_val: Any = None) -> int:
    return 2 * inputs.numel() * packed.shape[0]


def _attention_on_cpu(query: Tensor, key: Tensor, value: Tensor, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]


def _attention_backward_on_cpu(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *args: Any, out_val: Any = None, **kwargs: Any
) -> int:
    return int(sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]


# What torch's own table lacks.
_OPERATIONS: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_on_cpu,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_on_cpu,
}
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    _OPERATIONS[torch.ops.mkldnn._linear_pointwise] = _packed_product


class ShapesAlone:
    """Where tensors have no memory.

    Args:
        device: what is traced for. The tensors say that they are on the CPU, or else on torch's `meta` device: a build
            of torch without CUDA has no operations for tensors that say they are there.
        under_autocast: whether products are computed under autocast, which `meta` does not have.

    Attributes:
        recorder: of everything that happens in `running`.
        device: that they say they are on.
    """

    def __init__(self, device: torch.device, *, under_autocast: bool = False) -> None:
        self._is_gpu = device.type != "cpu"
        self.device = torch.device("meta" if self._is_gpu and not under_autocast else "cpu")
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.recorder = Recorder(self.device.type)

    @contextmanager
    def running(self, *, making: bool = False) -> Iterator[Recorder]:
        """All tensors that are made in this block are without memory. Nothing in it can ask for a tensor's numbers.

        Not for several threads at once: how modules convert their parameters is another for as long.

        Args:
            making: whether modules are made, whose tensors are to be on the device at once.

        Raises:
            BackboneError: something in it did ask.
        """
        with ExitStack() as stack:
            stack.enter_context(_conversion_by_replacement())
            stack.enter_context(self._fake)
            stack.enter_context(self.recorder)
            if making:
                stack.enter_context(self.device)
            stack.enter_context(_Functions(self._is_gpu))
            try:
                yield self.recorder
            except (DataDependentOutputException, DynamicOutputShapeException) as error:
                raise BackboneError(
                    f"no plan can be made of this model: its forward asks for the numbers of a tensor ({error}), and a "
                    "plan has shapes alone. Plan it with head.kind linear, or try it with training.max_steps=2."
                ) from error


@contextmanager
def _conversion_by_replacement() -> Iterator[None]:
    """`module.to()` and its siblings replace parameters that change, and leave others alone.

    torch would swap what is in the two tensors, and refuses to where a weak reference exists, as fake tensors have.
    """
    before = nn.Module._apply
    nn.Module._apply = _apply  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module._apply = before  # type: ignore[method-assign]


def _apply(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    for part in module.modules() if recurse else (module,):
        with torch.no_grad():
            for name, parameter in part._parameters.items():
                changed = None if parameter is None else change(parameter)
                if parameter is not None and changed is not None and changed is not parameter:
                    part._parameters[name] = nn.Parameter(changed, requires_grad=parameter.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = change(buffer)
    return module


class _Functions(TorchFunctionMode):
    """Functions that are others for tensors without memory, or on a GPU.

    Args:
        is_gpu: whether attention and dropout are those of a GPU, which no other device has: a fused kernel that keeps
            no weights, and a mask of one byte.
    """

    def __init__(self, is_gpu: bool) -> None:
        super().__init__()
        self._is_gpu = is_gpu

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is Tensor.__deepcopy__:
            return _copy(args[0])
        if self._is_gpu and func is functional.scaled_dot_product_attention:
            return _fused(*args, **given)
        if self._is_gpu and func is functional.dropout:
            return _masked(*args, **given)
        return func(*args, **given)


def _copy(tensor: Tensor) -> Tensor:
    """A deep copy; torch's own would look where the numbers are."""
    copied = tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(copied, requires_grad=tensor.requires_grad)
    return copied.requires_grad_(tensor.requires_grad)


def _masked(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`dropout` by the kernel of a GPU."""
    if not training or p == 0.0:
        return input
    output: Tensor = torch.native_dropout(input, p, True)[0]
    return output


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention`, by name of the kernel that a GPU runs when there is a mask."""
    if enable_gqa:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    bias = attn_mask
    if bias is not None:
        bias = torch.zeros_like(bias, dtype=query.dtype) if bias.dtype == torch.bool else bias.to(query.dtype)
        bias = bias.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    has_backward = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    output: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, has_backward, dropout_p, is_causal, scale=scale
    )[0]
    return output
