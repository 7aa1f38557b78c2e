"""Gradient checkpointing: layers are computed again in the backward, to save memory."""

from __future__ import annotations

from typing import Any

from torch import nn


def is_recomputing(model: nn.Module) -> bool:
    """Whether any layer of a model is computed again in the backward."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def start_recomputing(model: Any) -> None:
    """Turns gradient checkpointing on, without reentrance, which would lose the gradients of prompts."""
    options = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):  # what transformers 5.24 calls it
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def stop_recomputing(model: Any) -> None:
    """Turns gradient checkpointing off."""
    if hasattr(model, "activation_checkpointing_disable"):
        model.activation_checkpointing_disable()
    else:
        model.gradient_checkpointing_disable()
