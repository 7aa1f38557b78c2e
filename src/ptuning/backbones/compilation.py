"""Layers compiled by torch.compile: one function for all layers of a backbone, its prompts among what goes in.

What finds prompts for a layer stays outside: the running forward, its caches, hooks and gradient checkpointing. The
compiled function gets the virtual tokens of one layer as tensors and opens a forward of this layer alone, so that the
attention inside asks for its prompts as it always does. Sizes are symbols, so that batches of other lengths run what
is there. Compiled separately are: no padding in the batch, layers whose input needs no gradient (the first one),
training and evaluation, batches of one row.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as symbols_config
from transformers.modeling_layers import GradientCheckpointingLayer

from ptuning.backbones.families import Family, layers_with_attention
from ptuning.backbones.forward import Blocks, PromptedForward
from ptuning.errors import BackboneError, ConfigError

BACKEND = "inductor"
_MOST_GRAPHS = 128  # torch's own limit of 8 is less than what the kinds of layers and batches above can make

# transformers checkpoints a layer in its `forward`; where it does in `__call__`, that is outside already
_CHECKPOINTS_IN_FORWARD = "__call__" not in vars(GradientCheckpointingLayer)


def require_compilable(family: Family, config: Any) -> None:
    """Makes sure that the layers of a backbone can be compiled.

    Raises:
        ConfigError: not those of this family, or not with its implementation of attention.
    """
    if not family.can_compile:
        raise ConfigError(
            f"training.compile is on, but layers of {family.model_type} read a number back from a tensor, which "
            "torch.compile cannot follow. Turn it off."
        )
    attention = str(config._attn_implementation)
    if not attention.endswith(("sdpa", "eager")):
        raise ConfigError(
            f"training.compile is on, but the backbone was loaded with {attention} attention, expected sdpa or eager. "
            "Set training.attention to one of these, or turn training.compile off."
        )


class CompiledLayers:
    """Makes the layers of an encoder run compiled wherever they see prompts, until removed.

    Args:
        trunk: the encoder, of a backbone that passed `require_compilable`.
        family: its family.
    """

    def __init__(self, trunk: nn.Module, family: Family) -> None:
        self._family = family
        self._run = torch.compile(_run_layer, fullgraph=True, dynamic=True, backend=BACKEND)
        self._layers: list[Any] = []
        for layer, attention in layers_with_attention(trunk, family):
            layer.forward = partial(self._forward, layer, attention)
            self._layers.append(layer)

    def remove(self) -> None:
        """Puts the layers back as they were."""
        for layer in self._layers:
            del layer.forward

    def _forward(self, layer: Any, attention: nn.Module, *args: Any, **kwargs: Any) -> Any:
        forward = PromptedForward.running()
        if forward is None or attention not in forward.layer_numbers or forward.is_watched:
            return type(layer).forward(layer, *args, **kwargs)
        run = partial(self._compiled, layer, attention, forward.eager, *forward.hand_out(attention), kwargs)
        if _CHECKPOINTS_IN_FORWARD and _is_checkpointed(layer):
            return layer._gradient_checkpointing_func(run, *args)
        return run(*args)

    def _compiled(self, *args: Any) -> Any:
        try:
            with (
                torch._dynamo.config.patch(recompile_limit=_MOST_GRAPHS),
                # two sizes that happen to be equal need not be in the next batch
                symbols_config.patch(use_duck_shape=False),  # type: ignore[attr-defined]
            ):
                return self._run(*args)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = " ".join(str(error).strip().splitlines()[:2]).rstrip(".")
            raise BackboneError(
                f"the layers of this {self._family.model_type} do not compile: {reason}. "
                "On a CPU torch.compile needs a C++ compiler, on a GPU Triton. Set training.compile to false."
            ) from error


def _is_checkpointed(layer: Any) -> bool:
    return getattr(layer, "gradient_checkpointing", False) and layer.training and torch.is_grad_enabled()


def _run_layer(
    layer: Any,
    attention: nn.Module,
    eager: bool,
    prompts: Tensor | None,
    mask: Tensor | None,
    kwargs: dict[str, Any],
    *args: Any,
) -> Any:
    """What is compiled.

    Args:
        layer: to run.
        attention: the self-attention module in it.
        eager: whether attention modules of our own must compute weights step by step.
        prompts: (2, batch_size or 1, num_kv_heads, prompt_length, head_dim), or None where the layer has none.
        mask: (batch_size, prompt_length) bool, True where a row has a real virtual token; None when all are.
        kwargs: of the layer.
        args: of the layer.
    """
    blocks = Blocks()
    if prompts is not None:
        blocks = Blocks((0,), prompts.unsqueeze(0), None if mask is None else mask.unsqueeze(0))
    forward = type(layer).forward
    if _CHECKPOINTS_IN_FORWARD and isinstance(layer, GradientCheckpointingLayer):
        forward = forward.__wrapped__
    with PromptedForward({attention: (0,)}, blocks, eager=eager).again():
        return forward(layer, *args, **kwargs)
