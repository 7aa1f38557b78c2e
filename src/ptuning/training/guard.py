"""Noticing the usual ways in which training prompts goes wrong, and saying what to change."""

from __future__ import annotations

import torch

from ptuning.config import METHODS, RunConfig
from ptuning.errors import PtuningError, TrainingError


def divergence(what: str, value: float, config: RunConfig, step: int) -> str:
    """What to say of a loss or gradient that is infinite or not a number.

    Args:
        what: is looked at.
        value: that it has.
        config: of the run.
        step: optimizer steps done.
    """
    training, rate = config.training, config.training.learning_rate or 0.0
    return (
        f"{what} became {value} by step {step} (learning_rate {rate:g}, precision "
        f"{training.precision}), expected a finite number. Lower training.learning_rate to "
        f"{rate / 5:g}, or set training.precision to fp32"
    )


def collapse_advice(config: RunConfig, metric: str, score: float, majority: float | None) -> str:
    """What to say when every validation row gets the same answer."""
    training, prompts = config.training, config.prompts
    against = "" if majority is None else f", as always giving the most frequent answer does ({majority:.3f})"
    same = f"every validation row gets the same answer: {metric} is {score:.3f}{against}."
    if not METHODS[config.method].has_deep_prompts:
        if training.learning_rate is None:
            return f"{same} That is what this method says of them; it is not trained by steps."
        return (
            f"{same} What {config.method} trains has collapsed or not started to learn. Change training.learning_rate "
            f"(now {training.learning_rate:g}; try a third or three times that); more training.epochs (now "
            f"{training.epochs}) help small data sets."
        )
    other_std = 0.02 if prompts.init_std > 0.1 else 1.0
    start = f"prompts.init_std (now {prompts.init_std:g}; try {other_std:g}), or prompts.init to tokens"
    if prompts.reparameterization == "mlp":
        start = "or prompts.reparameterization to none"  # the MLP has one start
        usual, of_head = METHODS[config.method].mlp_rates, training.head_learning_rate or training.learning_rate
        if usual is not None and of_head is not None and of_head < usual[1] and config.head.kind != "verbalizer":
            start = f"training.head_learning_rate (now {of_head:g}; try {usual[1]:g}), {start}"
    return (
        f"{same} The prompts have collapsed or not started to learn. Change training.learning_rate (now "
        f"{training.learning_rate:g}; try a third or three times that), {start}; more training.epochs (now "
        f"{training.epochs}) help small data sets."
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on any device."""
    if isinstance(error, PtuningError):
        return False  # it says so itself
    # MPS raises a plain RuntimeError, and so does CUDA outside torch's allocator.
    said = any(words in str(error) for words in ("out of memory", "can't allocate memory"))
    return said or isinstance(error, MemoryError | torch.OutOfMemoryError)


def out_of_memory_error(config: RunConfig, error: BaseException) -> TrainingError:
    """The error for memory that ran out in validation or before the first step; in a step, batches are cut."""
    training = config.training
    limit = training.micro_batch_tokens
    ways = [f"set training.micro_batch_tokens to {1024 if limit is None else max(limit // 2, 1)}"]
    return TrainingError(
        f"memory ran out outside of a training step (micro_batch_tokens {limit}, precision {training.precision}): "
        f"{error}. {_advice(config, ways)}"
    )


def example_out_of_memory_error(config: RunConfig, positions: int, error: BaseException) -> TrainingError:
    """The error for a single example that did not fit into memory in a step; no smaller batch would help."""
    ways = ["lower data.max_length"]
    if not config.training.gradient_checkpointing:
        ways.append("set training.gradient_checkpointing=true")
    return TrainingError(
        f"a batch did not fit into memory, not even one example of it alone ({positions} positions): {error}. "
        f"{_advice(config, ways)}"
    )


def sharded_out_of_memory_error(config: RunConfig, positions: int, error: BaseException) -> TrainingError:
    """The error for memory that ran out in a step on a sharded backbone, whose processes have to cut batches alike."""
    return TrainingError(
        f"a step on a sharded backbone did not fit into memory ({positions} positions at once): {error}. With "
        "training.sharding full, batches are not cut by themselves. "
        f"{_advice(config, [f'set training.micro_batch_tokens to {max(positions // 2, 1)}'])}"
    )


def _advice(config: RunConfig, ways: list[str]) -> str:
    if config.training.precision != "bf16":
        ways = [*ways, "set training.precision to bf16"]
    joined = ", or ".join(ways)
    return f"{joined[0].upper()}{joined[1:]}; start again with --overwrite."
