"""Opening a prompted forward whenever a backbone runs: what is changed on a model, and how it is put back.

A `Route` changes three things on a model: the name of its attention implementation (or, outside the attention
interface, the forward of its attention modules), and a hook before and after its trunk. `remove` undoes all of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any, cast

from torch import Tensor, nn

from ptuning.backbones.families import (
    attention_modules,
    find_trunk,
    has_absolute_positions,
    position_limit,
    shifted_positions,
)
from ptuning.backbones.forward import Blocks, Capture, Observe, PromptedForward
from ptuning.backbones.interface import PREFIX, give_back_attention, take_attention
from ptuning.backbones.packing import PackedBatch
from ptuning.errors import BackboneError, PromptError

_MARK = "_ptuning_route"


@dataclass(frozen=True)
class RoutedPrompts:
    """The prompts for one forward.

    Attributes:
        blocks: virtual tokens of each prompted layer.
        shift: (batch_size,) int64, what to add to learned absolute positions, or None.
        longest_shift: the largest of `shift`.
    """

    blocks: Blocks
    shift: Tensor | None = None
    longest_shift: int = 0


class Route:
    """Shows a model's layers the prompts that `prompts_for` gives, at every forward until removed.

    Args:
        model: a transformers model of a supported family, with or without a head.
        prompts_for: called at the start of each forward with the number of sequences.
        eager: whether families with attention of our own compute weights step by step.
        capture: when given, called with the number, the keys and the values of every layer, without virtual tokens.

    Raises:
        BackboneError: the family or its attention implementation is not supported, or the model already has a route.
    """

    def __init__(
        self,
        model: nn.Module,
        prompts_for: Callable[[int], RoutedPrompts],
        *,
        eager: bool = False,
        capture: Capture | None = None,
    ) -> None:
        self.trunk, self.family = find_trunk(model)
        if hasattr(self.trunk, _MARK):
            raise BackboneError(
                f"this {type(self.trunk).__name__} already has prompts attached. Call detach() on what attach() "
                "returned first, or use one bank with several entries."
            )
        if (
            self.family.positions == "relative"
            and cast(Any, self.trunk.config)._attn_implementation == "flex_attention"
        ):
            # transformers 5.24 reads one bias for the whole batch beyond its end, with or without prompts
            raise BackboneError(
                f"flex attention does not work with the relative position bias of {self.family.model_type}. "
                "Load it with attn_implementation='sdpa'."
            )
        modules = attention_modules(self.trunk, self.family)
        self.config: Any = self.trunk.config
        self.num_layers = len(modules)
        self._prompts_for = prompts_for
        self._eager = eager
        self._capture = capture
        self._observe: Observe | None = None
        self._layer_numbers = {
            module: tuple(i for i, other in enumerate(modules) if other is module) for module in modules
        }
        self._checkpointable = [module for module in self.trunk.modules() if hasattr(module, "gradient_checkpointing")]
        self._signature = inspect.signature(type(self.trunk).forward)
        self._limit = position_limit(self.config, self.family)
        self._shifts = has_absolute_positions(self.config, self.family)
        self._configs: list[Any] = []
        self._forwards: dict[nn.Module, Any] = {}
        self._install(modules)

    @property
    def attention_modules(self) -> list[nn.Module]:
        """The self-attention modules, each once."""
        return list(self._layer_numbers)

    @contextmanager
    def watched(self, *, capture: Capture | None = None, observe: Observe | None = None) -> Iterator[None]:
        """Watches the forwards inside this block.

        Args:
            capture: called with the number, the keys and the values of every layer, without virtual tokens.
            observe: called with the number of every prompted layer and the attention on its virtual tokens.

        Raises:
            BackboneError: the implementation of attention is one that has no weights to look at.
        """
        attention = str(self.config._attn_implementation)
        if self.family.native_forward is None and not attention.endswith(("sdpa", "eager")):
            raise BackboneError(
                f"attention cannot be watched with {attention.removeprefix(PREFIX)}, expected sdpa or eager. "
                "Load the backbone with attn_implementation='sdpa'."
            )
        before = self._capture, self._observe
        self._capture, self._observe = capture, observe
        try:
            yield
        finally:
            self._capture, self._observe = before

    def remove(self) -> None:
        """Puts the model back as it was."""
        for handle in self._handles:
            handle.remove()
        for config in self._configs:
            give_back_attention(config)
        if self.family.native_forward is not None:
            for module, forward in self._forwards.items():
                del module.forward
                if forward is not None:
                    module.forward = forward
        delattr(self.trunk, _MARK)

    def _install(self, modules: list[nn.Module]) -> None:
        if self.family.native_forward is not None:
            for module in self._layer_numbers:
                # None but where someone has put a forward on the module itself, as accelerate's hooks do
                self._forwards[module] = module.__dict__.get("forward")
                module.forward = MethodType(self.family.native_forward, module)
        else:
            for config in {
                id(config): config for config in [self.config, *(cast(Any, m).config for m in modules)]
            }.values():
                take_attention(config)
                self._configs.append(config)
        object.__setattr__(self.trunk, _MARK, self)
        self._handles = [
            self.trunk.register_forward_pre_hook(self._before, with_kwargs=True),
            self.trunk.register_forward_hook(self._after, always_call=True),
        ]

    def _before(
        self, trunk: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        packing: PackedBatch | None = kwargs.pop("packing", None)
        call = self._signature.bind_partial(trunk, *args, **kwargs).arguments
        tokens = call.get("input_ids")
        tokens = call.get("inputs_embeds") if tokens is None else tokens
        if tokens is None:
            return args, kwargs  # the model's own error is the better one
        batch_size, seq_len = tokens.shape[:2]
        prompts = self._prompts_for(batch_size)
        self._check_length(seq_len if packing is None else packing.seq_len, prompts.longest_shift)
        if prompts.shift is not None and self._shifts:
            if call.get("cache") is not None or call.get("past_key_values") is not None:
                raise PromptError(
                    "positions are `shifted` and the forward was given a key/value cache, whose length would have to "
                    "be added once more. Pass use_cache=False, or use `positions: unshifted`."
                )
            position_ids = shifted_positions(
                self.family,
                self.config,
                prompts.shift.to(tokens.device),
                input_ids=call.get("input_ids"),
                batch_size=batch_size,
                seq_len=seq_len,
                position_ids=call.get("position_ids"),
            )
            args, kwargs = _with_position_ids(self._signature, trunk, args, kwargs, position_ids)
        elif self.family.is_decoder and packing is None and call.get("position_ids") is None:
            counted = _counted_positions(call.get("attention_mask"), seq_len)
            if counted is not None:
                args, kwargs = _with_position_ids(self._signature, trunk, args, kwargs, counted)
        forward = PromptedForward(
            self._layer_numbers,
            prompts.blocks,
            eager=self._eager,
            capture=self._capture,
            observe=self._observe,
            packing=packing,
        )
        forward.follow_checkpointing(self._checkpointable)
        forward.start()
        return args, kwargs

    def _after(self, trunk: nn.Module, args: Any, output: Any) -> None:
        forward = PromptedForward.running()
        if forward is None or forward.layer_numbers is not self._layer_numbers:
            return  # the forward failed before it was opened
        forward.stop()
        unseen = sorted(set(forward.blocks.layers) - forward.used)
        if output is not None and unseen:
            raise BackboneError(
                f"layers {unseen} ran without their prompts. The model's modules were replaced after attach() (by "
                "nn.DataParallel, for example). Attach to the model that runs, and use one process for each device."
            )

    def _check_length(self, seq_len: int, longest_shift: int) -> None:
        shift = longest_shift if self._shifts else 0
        if self._limit is not None and self.family.positions != "rotary" and seq_len + shift > self._limit:
            given = f"{seq_len} tokens" + (f" shifted by prompt_length {shift}" if shift else "")
            raise PromptError(
                f"the batch has {given}, but the backbone has {self._limit} positions. Use at most "
                f"{self._limit - shift} tokens" + (", or `positions: unshifted`." if shift else ".")
            )


def _counted_positions(attention_mask: Any, seq_len: int) -> Tensor | None:
    """Positions of real tokens from 0 on, so that padding on the left changes nothing: (batch_size, seq_len).

    Without prompts it would not, since rotary positions matter by their differences; keys of virtual tokens have none.

    Args:
        attention_mask: (batch_size, past and seq_len), 1 for real tokens. None where it is of another kind or missing.
        seq_len: tokens a row of this forward.
    """
    if not isinstance(attention_mask, Tensor) or attention_mask.ndim != 2:
        return None
    return (attention_mask.long().cumsum(1) - 1).clamp(min=0)[:, -seq_len:]


def _with_position_ids(
    signature: inspect.Signature, trunk: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], position_ids: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    names = list(signature.parameters)[1 : len(args) + 1]
    return (), {**dict(zip(names, args, strict=True)), **kwargs, "position_ids": position_ids}
