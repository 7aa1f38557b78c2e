from __future__ import annotations

import math

import pytest
import torch

from ptuning.config import RunConfig, load_config
from ptuning.errors import TrainingError
from ptuning.training.guard import check_finite, collapse_advice, is_out_of_memory, out_of_memory_error


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
def test_what_is_no_number_stops_with_what_to_change(value: float, what: str, config: RunConfig) -> None:
    with pytest.raises(TrainingError) as caught:
        check_finite(what, value, config, 17)
    assert str(caught.value) == (
        f"{what} became {value} by step 17 (learning_rate 0.05, precision bf16), expected a finite number. Lower "
        "training.learning_rate to 0.01, or set training.precision to fp32, and start again with --overwrite. "
        "The saved prompt, if there is one yet, is from before."
    )


def test_a_finite_number_passes(config: RunConfig) -> None:
    check_finite("the loss", 1e30, config, 17)


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
    config = load_config(None, {"task": "classification", "prompts.reparameterization": "mlp"})
    advice = collapse_advice(config, "accuracy", 0.52, None)
    assert "three times that), or prompts.reparameterization to none; more training.epochs" in advice
    assert "init" not in advice


def test_memory_errors_of_every_device_are_known() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_out_of_memory_says_which_settings_need_less(config: RunConfig) -> None:
    error = out_of_memory_error(config, torch.OutOfMemoryError("tried to allocate 2 GiB"))
    assert str(error) == (
        "a batch did not fit into memory (batch_size 16, accumulation 1): tried to allocate 2 GiB. Halve "
        "training.batch_size and double training.accumulation (as many examples a step), set "
        "training.gradient_checkpointing=true, lower data.max_length, or set training.precision to bf16; start again "
        "with --overwrite."
    )
    by_tokens = load_config(None, {"task": "classification", "training.batch_tokens": 512})
    assert "Halve training.batch_tokens and" in str(out_of_memory_error(by_tokens, MemoryError()))
