"""A forward that starts at a higher layer, on hidden states that the layers below gave before.

Layers below the lowest prompted one see tokens alone, and the backbone is frozen: what they give for a sequence never
changes. `LateStart` records it, and later puts it where those layers would have been computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from ptuning.backbones.families import Family
from ptuning.errors import BackboneError


def can_start_late(trunk: nn.Module, family: Family) -> bool:
    """Whether lower layers can be left out.

    Not where layers share weights (ALBERT), where the first one makes the position bias of the others (T5), or where
    a convolution stands behind it (some DeBERTa-v2).
    """
    has_convolution = getattr(getattr(trunk, "encoder", None), "conv", None) is not None
    return family.model_type != "albert" and family.positions != "relative" and not has_convolution


class LateStart:
    """The layers of a backbone below a given one, to be run once and then left out.

    Args:
        trunk: the encoder, without prompts so far: two tokens are run to see what its layers return.
        family: its family.
        first_layer: the lowest layer that still has to be computed, at least 1.

    Raises:
        BackboneError: layers of this family cannot be left out.
    """

    def __init__(self, trunk: nn.Module, family: Family, first_layer: int) -> None:
        if not can_start_late(trunk, family):
            raise BackboneError(
                f"the lower layers of this {family.model_type} cannot be left out: its layers share weights, or the "
                "first one computes what the others need. Set training.trunk_reuse to off."
            )
        self._trunk = trunk
        layers = _layers(trunk, family)
        self._below = layers[:first_layer]
        self._first = layers[first_layer]
        self._returns_tuple = False
        handle = self._below[-1].register_forward_hook(self._see_form)
        try:
            tokens = torch.ones(1, 2, dtype=torch.long, device=next(trunk.parameters()).device)
            self.record({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
        finally:
            handle.remove()

    def _see_form(self, module: nn.Module, args: Any, output: Any) -> None:
        self._returns_tuple = isinstance(output, tuple)  # with the attention weights, which nobody reads

    @torch.no_grad()
    def record(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Runs the layers below.

        Args:
            inputs: keyword arguments of the trunk: input_ids, attention_mask and what else it takes.

        Returns:
            What enters the first layer, (batch_size, seq_len, hidden_size).
        """

        def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raise _Reached(args[0] if args else kwargs["hidden_states"])

        handle = self._first.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self._trunk(**inputs)
        except _Reached as reached:
            return reached.hidden_states
        finally:
            handle.remove()
        raise AssertionError("the trunk ran without its layers")

    @contextmanager
    def started(self, hidden_states: Tensor) -> Iterator[None]:
        """Forwards in this block start with recorded hidden states, (batch_size, seq_len, hidden_size).

        The tokens are still given, for masks and positions.
        """
        given = (hidden_states, None) if self._returns_tuple else hidden_states
        before = [module.__dict__.get("forward") for module in self._below]
        try:
            for module in self._below:
                module.forward = lambda *args, **kwargs: given
            yield
        finally:
            for module, forward in zip(self._below, before, strict=True):
                del module.forward
                if forward is not None:
                    module.forward = forward


class _Reached(Exception):
    """No error: the way out of a forward."""

    def __init__(self, hidden_states: Tensor) -> None:
        super().__init__()
        self.hidden_states = hidden_states


def _layers(trunk: nn.Module, family: Family) -> list[nn.Module]:
    """The modules of whole layers, in running order."""
    module: Any = trunk
    for step in family.attention_path.split(".*")[0].split("."):
        module = getattr(module, step)
    return list(cast(nn.ModuleList, module))
