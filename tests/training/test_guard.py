from __future__ import annotations

import math

import pytest
import torch

from ptuning.config import RunConfig, load_config
from ptuning.training.guard import (
    collapse_advice,
    divergence,
    example_out_of_memory_error,
    is_out_of_memory,
    out_of_memory_error,
)


@pytest.fixture
def config() -> RunConfig:
    return load_config(
        None,
        {
            "task": "classification",
            "training.learning_rate": 0.05,
            "training.precision": "bf16",
            "training.epochs": 10,
        },
    )


@pytest.mark.parametrize("what", ["the loss", "the norm of the gradients"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_said_with_what_to_change(value: float, what: str, config: RunConfig) -> None:
    assert divergence(what, value, config, 17) == (
        f"{what} became {value} by step 17 (learning_rate 0.05, precision bf16), expected a finite number. Lower "
        "training.learning_rate to 0.01, or set training.precision to fp32"
    )


def test_collapse_names_the_majority_score_and_the_settings_to_change(config: RunConfig) -> None:
    advice = collapse_advice(config, "accuracy", 0.52, 0.52)
    assert advice == (
        "every validation row gets the same answer: accuracy is 0.520, as always giving the most frequent answer does "
        "(0.520). The prompts have collapsed or not started to learn. Change training.learning_rate (now 0.05; try a "
        "third or three times that), prompts.init_std (now 1; try 0.02), or prompts.init to tokens; more "
        "training.epochs (now 10) help small data sets."
    )
    assert "most frequent answer does" not in collapse_advice(config, "accuracy", 0.52, None)


def test_collapse_with_the_mlp_names_no_start_that_it_does_not_have() -> None:
    mlp = {"prompts.reparameterization": "mlp", "training.learning_rate": 0.01}
    config = load_config(None, {"task": "classification", **mlp})
    advice = collapse_advice(config, "accuracy", 0.52, None)
    assert "three times that), or prompts.reparameterization to none; more training.epochs" in advice
    assert "init" not in advice
    config = load_config(None, {"task": "classification", **mlp, "training.learning_rate": 0.002})
    advice = collapse_advice(config, "accuracy", 0.52, None)
    assert "training.head_learning_rate (now 0.002; try 0.01), or prompts.reparameterization to none" in advice


def test_memory_errors_of_every_device_are_known() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 20.48 GiB)"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_an_error_that_speaks_of_memory_is_not_one_of_the_device(config: RunConfig) -> None:
    error = out_of_memory_error(config, torch.OutOfMemoryError("CUDA out of memory"))
    assert "out of memory" in str(error) and not is_out_of_memory(error)


def test_out_of_memory_outside_of_steps_says_which_settings_need_less(config: RunConfig) -> None:
    assert str(out_of_memory_error(config, torch.OutOfMemoryError("tried to allocate 2 GiB"))) == (
        "memory ran out outside of a training step (micro_batch_tokens None, precision bf16): tried to allocate 2 GiB. "
        "Set training.micro_batch_tokens to 1024; start again with --overwrite."
    )
    settings = {"training.micro_batch_tokens": 512, "training.precision": "fp32"}
    cut = load_config(None, {"task": "classification", **settings})
    assert str(out_of_memory_error(cut, MemoryError("full"))) == (
        "memory ran out outside of a training step (micro_batch_tokens 512, precision fp32): full. Set "
        "training.micro_batch_tokens to 256, or set training.precision to bf16; start again with --overwrite."
    )


def test_an_example_that_does_not_fit_alone_says_which_settings_need_less(config: RunConfig) -> None:
    assert str(example_out_of_memory_error(config, 384, torch.OutOfMemoryError("tried to allocate 2 GiB"))) == (
        "a batch did not fit into memory, not even one example of it alone (384 positions): tried to allocate 2 GiB. "
        "Lower data.max_length, or set training.gradient_checkpointing=true; start again with --overwrite."
    )
    settings = {"training.gradient_checkpointing": True, "training.precision": "fp32"}
    recomputing = load_config(None, {"task": "classification", **settings})
    assert str(example_out_of_memory_error(recomputing, 384, MemoryError("full"))).endswith(
        "Lower data.max_length, or set training.precision to bf16; start again with --overwrite."
    )
