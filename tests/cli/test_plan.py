"""`ptuning info --plan`: a table, JSON, and what wrong combinations are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptuning.backbones.loading import load_backbone
from ptuning.cli.plans import shown_bytes

Ptuning = Callable[..., Any]
RATE = ("--rate", "0.05")


def test_people_get_memory_largest_batch_and_time(ptuning: Ptuning, tiny_backbone: Path, tiny_data: Any) -> None:
    data = tiny_data("classification")
    result = ptuning(
        "info", "--plan", "--task", "classification", "--backbone", tiny_backbone, "--data", data, "--memory", 2, *RATE
    )
    assert (result.status, result.err) == (0, "")
    for said in ("p-tuning-v2 for classification", "activations of a batch", "it fits", "largest batch", "2 steps"):
        assert said in result.out
    assert "Assumed: rows of a batch have 64 tokens" in " ".join(result.out.split())


def test_json_has_the_numbers(ptuning: Ptuning, tiny_backbone: Path) -> None:
    arguments = ["--task", "classification", "--backbone", tiny_backbone, "--set", "training.batch_size=4", *RATE]
    found = json.loads(ptuning("info", "--plan", *arguments, "--json").out)
    description = load_backbone(tiny_backbone).description
    assert found["num_parameters"] == description.num_parameters
    assert found["num_transformer_parameters"] == description.num_transformer_parameters
    assert found["batch_size"] == 4 and found["largest_batch_size"] > 4
    for name in ("weights_bytes", "activation_bytes_per_batch", "optimizer_bytes", "peak_bytes", "seconds_per_step"):
        assert found[name] > 0, name
    assert found["optimizer_bytes"] == 8 * found["trained_parameters"]
    assert all(isinstance(said, str) for said in found["assumptions"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "DIR is missing, expected a run or its prompt/"),
        (["runs/a", "--plan", "--task", "regression"], "runs/a was given with --plan"),
        (["--plan"], "--plan was given without the task"),
        (["runs/a", "--memory", "8"], "say what to plan, and --plan is missing"),
        (["runs/a", "--set", "training.epochs=3"], "say what to plan, and --plan is missing"),
        (["--plan", "--task", "regression", "--memory", "0"], "--memory is 0, expected a number above 0"),
        (["--plan", "--task", "regression", "--rate", "nan"], "--rate is nan, expected a number above 0"),
        (["--plan", "--task", "regression", "--set", "training.batchsize=3"], "training.batch_size"),
    ],
)
def test_wrong_combinations_are_bad_usage(ptuning: Ptuning, arguments: list[str], said: str) -> None:
    result = ptuning("info", *arguments)
    assert (result.status, result.out) == (2, "") and said in result.err


def test_a_backbone_without_config_has_failed(ptuning: Ptuning, tmp_path: Path) -> None:
    result = ptuning("info", "--plan", "--task", "regression", "--backbone", tmp_path, *RATE)
    assert result.status == 1 and f"the backbone '{tmp_path}' was not found" in result.err


@pytest.mark.parametrize(
    ("count", "said"), [(999, "999 B"), (1000, "1 kB"), (12_345, "12.3 kB"), (999_600_000, "1 GB"), (2e13, "20 TB")]
)
def test_bytes_are_shown_in_powers_of_ten(count: int, said: str) -> None:
    assert shown_bytes(int(count)) == said
