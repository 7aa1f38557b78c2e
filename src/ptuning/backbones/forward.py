"""What one forward through a backbone uses: which prompts each layer gets, fixed when the forward starts.

The attention functions find the forward that is running through a variable of their thread, so threads do not see each
other's prompts. A layer that gradient checkpointing runs again in the backward is run with the forward it first ran
with, whatever has changed since.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import local
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ptuning.backbones.masks import of_dtype, widen_bias, widen_mask
from ptuning.errors import BackboneError, PromptError

if TYPE_CHECKING:
    from ptuning.backbones.packing import PackedBatch  # which knows the families, as they know this module

Capture = Callable[[int, Tensor, Tensor], None]
Observe = Callable[[int, Tensor], None]


class _Running(local):
    forward: PromptedForward | None = None


_running = _Running()  # not a context variable, which torch.compile cannot follow


@dataclass(frozen=True)
class Block:
    """One layer's virtual tokens.

    Attributes:
        key: (batch_size or 1, num_kv_heads, prompt_length, head_dim).
        value: as `key`.
        mask: (batch_size, prompt_length) bool, True where the row has a real virtual token; None when all are.
        layer: the layer's number.
    """

    key: Tensor
    value: Tensor
    mask: Tensor | None
    layer: int

    @property
    def length(self) -> int:
        """Virtual tokens, padding included."""
        return self.key.shape[2]


@dataclass(frozen=True)
class Blocks:
    """The virtual tokens of all prompted layers. L is their number.

    Attributes:
        layers: the L layer numbers that have a block.
        prompts: (L, 2, batch_size or 1, num_kv_heads, prompt_length, head_dim). Axis 1 is key, then value; size 1 for
            the batch means the same for every row. None where there are no layers.
        mask: (num_layers, batch_size, prompt_length) bool, True where a row has a real virtual token; None when every
            row has all of them.
    """

    layers: tuple[int, ...] = ()
    prompts: Tensor | None = None
    mask: Tensor | None = None


class PromptedForward:
    """The prompts of one forward, and what its layers share.

    Args:
        layer_numbers: each self-attention module and the numbers of the layers it serves, in running order (more
            than one where layers share a module).
        blocks: the virtual tokens of each prompted layer.
        eager: whether attention modules of our own must compute weights step by step.
        capture: when given, called with the number, the keys and the values of every layer, without virtual tokens.
        observe: when given, called with the number of every prompted layer and the attention on its virtual tokens,
            (batch_size, num_heads, num_queries), a share of 1.
        packing: the sequences that the one row of this forward is made of; None where each has a row of its own.
    """

    def __init__(
        self,
        layer_numbers: Mapping[nn.Module, tuple[int, ...]],
        blocks: Blocks,
        *,
        eager: bool = False,
        capture: Capture | None = None,
        observe: Observe | None = None,
        packing: PackedBatch | None = None,
    ) -> None:
        self.layer_numbers = layer_numbers
        self.blocks = blocks
        self.eager = eager
        self.capture = capture
        self.observe = observe
        self.packing = packing
        self.used: set[int] = set()
        self.previous: PromptedForward | None = None
        self._calls: dict[nn.Module, int] = {}
        self._cast: dict[torch.dtype, dict[int, Block]] = {}
        self._shared: dict[tuple[Any, ...], tuple[tuple[Any, ...], Any]] = {}
        self._unwrapped: list[tuple[nn.Module, Any]] = []

    @property
    def is_watched(self) -> bool:
        """Whether someone looks at what its layers compute."""
        return self.capture is not None or self.observe is not None

    @staticmethod
    def running() -> PromptedForward | None:
        """Returns the forward that is running in this thread, or None."""
        return _running.forward

    def start(self) -> None:
        """Makes this the running forward."""
        self.previous = _running.forward
        _running.forward = self

    def stop(self) -> None:
        """Ends it and puts back what ran before."""
        _running.forward = self.previous
        self.previous = None
        for module, function in self._unwrapped:
            module._gradient_checkpointing_func = function
        self._unwrapped.clear()

    @contextmanager
    def again(self) -> Iterator[None]:
        """Runs part of the model once more with the prompts of this forward."""
        before = _running.forward
        _running.forward = self
        try:
            yield
        finally:
            _running.forward = before

    def follow_checkpointing(self, modules: list[nn.Module]) -> None:
        """Makes layers that are checkpointed in this forward recompute with this forward's prompts.

        Args:
            modules: modules that transformers can checkpoint.

        Raises:
            BackboneError: checkpointing is of the reentrant kind, which would lose the prompts' gradients.
        """
        for module in modules:
            if not (getattr(module, "gradient_checkpointing", False) and module.training and torch.is_grad_enabled()):
                continue
            function: Any = module._gradient_checkpointing_func
            if getattr(function, "keywords", {}).get("use_reentrant") is not False:  # torch takes True when not told
                raise BackboneError(
                    "gradient checkpointing is reentrant, which drops gradients of prompts on a frozen backbone. "
                    "Set use_reentrant=False among the checkpointing's keyword arguments."
                )
            self._unwrapped.append((module, function))
            module._gradient_checkpointing_func = functools.partial(_checkpoint, self, function)  # type: ignore[assignment]

    def insert(self, module: nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Block | None]:
        """Puts a layer's virtual tokens in front of its real keys and values.

        Args:
            module: the attention module that asks.
            key: (batch_size, num_kv_heads, seq_len, head_dim), after any rotation.
            value: as `key`.

        Returns:
            key and value, (batch_size, num_kv_heads, prompt_length + seq_len, head_dim), and the block that was put
            there; unchanged and None for a module or layer without prompts.

        Raises:
            PromptError: the block is for another batch size or other heads.
        """
        if module not in self.layer_numbers:
            return key, value, None
        layer = self._layer(module)
        if self.capture is not None:
            self.capture(layer, key, value)
        if layer not in self.blocks.layers:
            return key, value, None
        block = self._block(layer, key.dtype)
        batch_size, num_kv_heads, _, head_dim = key.shape
        if (
            block.key.shape[0] not in (1, batch_size)
            or block.key.shape[1] != num_kv_heads
            or block.key.shape[3] != head_dim
        ):
            raise PromptError(
                f"layer {layer} has prompts (batch_size, num_kv_heads, prompt_length, head_dim) = "
                f"{tuple(block.key.shape)}, but its keys are {tuple(key.shape)}. "
                "Make the prompts for this backbone, with one row for each sequence."
            )
        self.used.add(layer)
        front_value = block.value if value.dtype == key.dtype else self._block(layer, value.dtype).value
        front_key = block.key.expand(batch_size, -1, -1, -1)  # (B, H, P, D)
        front_value = front_value.expand(batch_size, -1, -1, -1)  # (B, H, P, D)
        return torch.cat([front_key, key], dim=2), torch.cat([front_value, value], dim=2), block

    def hand_out(self, module: nn.Module) -> tuple[Tensor | None, Tensor | None]:
        """Gives the virtual tokens of a layer to what runs it apart from this forward.

        Args:
            module: the layer's attention module, one of this forward's.

        Returns:
            (2, batch_size or 1, num_kv_heads, prompt_length, head_dim) and the mask, (batch_size, prompt_length) bool
            or None; None and None for a layer without prompts.
        """
        layer, blocks = self._layer(module), self.blocks
        if blocks.prompts is None or layer not in blocks.layers:
            return None, None
        self.used.add(layer)
        each = self.once(("each layer",), (blocks.prompts,), blocks.prompts.unbind)
        return each[blocks.layers.index(layer)], None if blocks.mask is None else blocks.mask[layer]

    def _block(self, layer: int, dtype: torch.dtype) -> Block:
        """A layer's block in the dtype of its keys, those of all layers cast at once when the first one asks."""
        if dtype not in self._cast:
            layers, prompts, mask = self.blocks.layers, self.blocks.prompts, self.blocks.mask
            assert prompts is not None
            each = prompts.to(dtype).flatten(0, 1).unbind(0)  # 2 * L of (B or 1, H, P, D)
            self._cast[dtype] = {
                number: Block(each[2 * i], each[2 * i + 1], None if mask is None else mask[number], number)
                for i, number in enumerate(layers)
            }
        return self._cast[dtype][layer]

    def widened_mask(
        self,
        mask: Tensor | None,
        block: Block,
        *,
        num_queries: int,
        num_keys: int,
        is_causal: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Tensor | None:
        """`widen_mask`, done once for all layers that share a mask and a block mask."""
        widened: Tensor | None = self.once(
            ("mask", is_causal, dtype),
            (mask, block.mask),
            lambda: widen_mask(
                mask,
                block.mask,
                num_queries=num_queries,
                num_keys=num_keys,
                num_virtual=block.length,
                is_causal=is_causal,
                dtype=dtype,
                device=device,
            ),
        )
        return widened

    def widened_bias(self, bias: Tensor, num_virtual: int) -> Tensor:
        """`widen_bias`, done once for all layers that share a position bias."""
        widened: Tensor = self.once(("bias", num_virtual), (bias,), lambda: widen_bias(bias, num_virtual))
        return widened

    def as_bool(self, mask: Tensor) -> Tensor:
        """A mask of zeros and ones as bool, made once for all layers that share it."""
        made: Tensor = self.once(("bool",), (mask,), lambda: mask.bool())
        return made

    def as_additive(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """A bool mask as one that is added to scores, made once for all layers that share it."""
        made: Tensor = self.once(("additive", dtype), (mask,), lambda: of_dtype(mask, dtype))
        return made

    def once(self, what: tuple[Any, ...], objects: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """Makes what layers share when the first of them asks, and returns it.

        Args:
            what: what it is, and the plain values that it is made from.
            objects: the objects that it is made from. They are kept, so that no id is used again while the entry lives.
            make: makes it.
        """
        if torch.compiler.is_compiling():  # a layer by itself, with nobody to share; ids would compile it each time
            return make()
        key = (*what, *map(id, objects))
        if key not in self._shared:
            self._shared[key] = (objects, make())
        return self._shared[key][1]

    def _layer(self, module: nn.Module) -> int:
        """The layer that a module serves at this call."""
        numbers = self.layer_numbers[module]
        if len(numbers) == 1:
            return numbers[0]
        count = self._calls.get(module, 0)
        self._calls[module] = count + 1
        return numbers[count]


def _checkpoint(
    forward: PromptedForward, checkpoint: Callable[..., Any], function: Callable[..., Any], *args: Any
) -> Any:
    def with_prompts(*inputs: Any) -> Any:
        with forward.again():
            return function(*inputs)

    return checkpoint(with_prompts, *args)
