"""A run killed with SIGKILL at any moment, and resumed, ends as one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ptuning.config import load_config
from ptuning.training.run import train

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL"),
    pytest.mark.xdist_group("killed"),  # all are killed once, before the first test
]

# 24 rows in batches of 4, 2 batches a step: 3 steps an epoch. Dropout of every kind is on.
BY_SIZE = {
    "prompts.dropout": 0.1,
    "head.dropout": 0.2,
    "training.epochs": 3,
    "training.batch_size": 4,
    "training.accumulation": 2,
    "training.checkpoint_steps": 2,
}
BY_TOKENS = {
    "prompts.reparameterization": "mlp",
    "prompts.reparameterization_size": 8,
    "prompts.dropout": 0.1,
    "training.epochs": 3,
    "training.batch_tokens": 48,
    "training.accumulation": 3,
    "training.schedule": "exponential_per_epoch",
    "training.weight_decay": 0.01,
}
IN_PIECES = {**BY_SIZE, "training.batch_size": 12, "training.micro_batch_tokens": 40, "training.checkpoint_steps": 1}
AVERAGED = {
    **BY_SIZE,
    "prompts.gate": "values",
    "training.value_learning_rate": 0.03,
    "training.weight_averaging": "ema",
    "training.averaging_decay": 0.3,
}
SETTINGS = {"size": BY_SIZE, "tokens": BY_TOKENS, "pieces": IN_PIECES, "averaged": AVERAGED}
# (settings, the moments at which it dies, one after another)
CASES = {
    "before the first checkpoint": ("size", ["step 1"]),
    "in the middle of an epoch": ("size", ["step 5"]),
    "twice": ("size", ["step 3", "step 3"]),
    "right after an evaluation": ("size", ["evaluated 2"]),
    "with half a line of metrics": ("size", ["line-half-written 1"]),
    "between prompt and checkpoint": ("size", ["prompt-saved 1"]),
    "in the middle of a checkpoint": ("size", ["tensors-written 3"]),
    "while checkpoints are exchanged": ("size", ["checkpoint-aside 1"]),
    "after the last evaluation": ("size", ["evaluated 3"]),
    "with batches by tokens": ("tokens", ["step 5"]),
    "with batches by tokens, after an evaluation": ("tokens", ["evaluated 2"]),
    "with batches in pieces": ("pieces", ["step 2"]),
    "with a gate, a rate of values, and averages": ("averaged", ["step 5"]),
    "with averages, after an evaluation": ("averaged", ["evaluated 2"]),
}


@dataclass(frozen=True)
class Killed:
    """Runs that were killed: where each is, and the settings it has."""

    directories: dict[str, Path]
    settings: Callable[[str, Path], dict[str, Any]]


@pytest.fixture(scope="module")
def killed(tiny_backbone: Path, tiny_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Killed:
    top = tmp_path_factory.mktemp("killed")

    def settings(name: str, directory: Path) -> dict[str, Any]:
        return {
            "task": "classification",
            "backbone": str(tiny_backbone),
            "data.path": str(tiny_data("classification")),
            "prompts.prompt_length": 4,
            "training.device": "cpu",
            "training.precision": "fp32",
            "output": str(directory),
            **SETTINGS[name],
        }

    plan, directories = [], {}
    for case, (name, moments) in CASES.items():
        directories[case] = top / case.replace(" ", "-")
        for index, moment in enumerate(moments):
            overrides = settings(name, directories[case])
            plan.append({"moment": moment, "overrides": overrides, "resume": index > 0})
    (top / "plan.json").write_text(json.dumps(plan))
    script = Path(__file__).with_name("killed.py")
    done = subprocess.run([sys.executable, script, top / "plan.json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [signal.SIGKILL] * len(plan), done.stderr
    return Killed(directories, settings)


@pytest.fixture(scope="module")
def whole(killed: Killed, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    runs = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in SETTINGS:
        directory = tmp_path_factory.mktemp("whole") / "run"
        runs[name] = directory, train(load_config(None, killed.settings(name, directory)))
    torch.set_num_threads(threads)
    return runs


def _lines(directory: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_ends_as_one_that_was_not(
    case: str, killed: Killed, whole: dict[str, tuple[Path, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _ = CASES[case]
    expected_directory, expected = whole[name]
    directory = killed.directories[case]
    torch.rand(9)  # whatever this process has drawn must not matter
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    result = train(load_config(None, killed.settings(name, directory)), resume=True)
    torch.set_num_threads(threads)

    assert (result.best_epoch, result.steps, result.metrics) == (expected.best_epoch, expected.steps, expected.metrics)
    assert _lines(directory) == _lines(expected_directory)
    for file in ("prompt/prompts.safetensors", "checkpoints/last/tensors.safetensors"):
        found, wanted = load_file(directory / file), load_file(expected_directory / file)
        assert found.keys() == wanted.keys()
        assert [key for key in wanted if not torch.equal(found[key], wanted[key])] == []
    assert not [path for path in directory.rglob(".*") if path.is_dir()]  # nothing half written is left
