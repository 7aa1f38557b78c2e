"""Noticing the usual ways in which training prompts goes wrong, and saying what to change."""

from __future__ import annotations

import math

import torch

from ptuning.config import RunConfig
from ptuning.errors import TrainingError


def check_finite(what: str, value: float, config: RunConfig, step: int) -> None:
    """Stops at a loss or gradient that is not a number.

    Args:
        what: is looked at.
        value: that it has.
        config: of the run.
        step: optimizer steps done.

    Raises:
        TrainingError: the value is infinite or not a number.
    """
    if math.isfinite(value):
        return
    training = config.training
    raise TrainingError(
        f"{what} became {value} by step {step} (learning_rate {training.learning_rate:g}, precision "
        f"{training.precision}), expected a finite number. Lower training.learning_rate to "
        f"{training.learning_rate / 5:g}, or set training.precision to fp32, and start again with --overwrite. "
        "The saved prompt, if there is one yet, is from before."
    )


def collapse_advice(config: RunConfig, metric: str, score: float, majority: float | None) -> str:
    """What to say when every validation row gets the same answer."""
    training, prompts = config.training, config.prompts
    against = "" if majority is None else f", as always giving the most frequent answer does ({majority:.3f})"
    other_std = 0.02 if prompts.init_std > 0.1 else 1.0
    start = f"prompts.init_std (now {prompts.init_std:g}; try {other_std:g}), or prompts.init to tokens"
    if prompts.reparameterization == "mlp":
        start = "or prompts.reparameterization to none"  # the MLP has one start
    return (
        f"every validation row gets the same answer: {metric} is {score:.3f}{against}. The prompts have collapsed or "
        f"not started to learn. Change training.learning_rate (now {training.learning_rate:g}; try a third or three "
        f"times that), {start}; more training.epochs (now {training.epochs}) help small data sets."
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on any device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def out_of_memory_error(config: RunConfig, error: BaseException) -> TrainingError:
    """The error for a batch that did not fit."""
    training = config.training
    batch = f"batch_tokens {training.batch_tokens}" if training.batch_tokens else f"batch_size {training.batch_size}"
    return TrainingError(
        f"a batch did not fit into memory ({batch}, accumulation {training.accumulation}): {error}. Halve "
        f"training.{batch.split()[0]} and double training.accumulation (as many examples a step), set "
        "training.gradient_checkpointing=true, lower data.max_length, or set training.precision to bf16; start again "
        "with --overwrite."
    )
