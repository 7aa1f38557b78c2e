from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ptuning.evaluation import evaluate
from ptuning.model import PromptedModel, trained_parameters
from ptuning.training import execution
from ptuning.training.population import train_population
from ptuning.training.run import train

TinyRun = Callable[..., Any]
EMA = {"training.weight_averaging": "ema", "training.averaging_decay": 0.4}
STEPS = 3  # an epoch


def _saved(run: Path) -> dict[str, Tensor]:
    """The prompts and head of a run by the names that they have in training."""
    found = load_file(run / "prompt" / "prompts.safetensors")
    names = {"prompts": "bank.prompts.0.prompts"}
    return {names.get(name, name.replace("head.", "heads.0.", 1)): tensor for name, tensor in found.items()}


def _state(run: Path) -> dict[str, Tensor]:
    return load_file(run / "checkpoints" / "last" / "tensors.safetensors")


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """What is trained, after each step."""
    after: list[dict[str, Tensor]] = []
    make = execution.make_optimizer

    def watched(model: PromptedModel, configs: Any) -> torch.optim.AdamW:
        optimizer = make(model, configs)

        def keep(*_: Any) -> None:
            after.append({name: p.detach().clone() for name, p in trained_parameters(model).items()})

        optimizer.register_step_post_hook(keep)
        return optimizer

    monkeypatch.setattr(execution, "make_optimizer", watched)
    return after


def test_the_moving_average_is_what_is_saved_and_scored(
    weights: list[dict[str, Tensor]], tiny_run: TinyRun, tmp_path: Path
) -> None:
    result = train(tiny_run(tmp_path / "run", **EMA, **{"training.epochs": 3, "training.learning_rate": 0.03}))
    assert len(weights) == 3 * STEPS
    average, averages = weights[0], [weights[0]]
    for step, own in enumerate(weights[1:], start=1):
        decay = min(0.4, (1 + step) / (10 + step))
        average = {name: decay * average[name] + (1 - decay) * own[name] for name in own}
        averages.append(average)
    saved, at = _saved(tmp_path / "run"), result.best_epoch * STEPS - 1
    for name, tensor in saved.items():
        torch.testing.assert_close(tensor, averages[at][name], rtol=0, atol=1e-6)
        assert not torch.allclose(tensor, weights[at][name], rtol=0, atol=1e-4)
        torch.testing.assert_close(_state(tmp_path / "run")[f"average.{name}"], averages[-1][name], rtol=0, atol=1e-6)
    assert evaluate(tmp_path / "run").metrics == result.metrics


def test_training_itself_is_the_same_with_it_and_without(tiny_run: TinyRun, tmp_path: Path) -> None:
    for name, settings in {"with": EMA, "without": {}}.items():
        train(tiny_run(tmp_path / name, **settings))
    averaged, plain = _state(tmp_path / "with"), _state(tmp_path / "without")
    assert {name for name in averaged if name not in plain} == {
        f"average.{name}"
        for name in ("bank.prompts.0.prompts", "heads.0.linear.weight", "heads.0.linear.bias", "steps.0")
    }
    assert all(torch.equal(averaged[name], tensor) for name, tensor in plain.items())


def test_a_candidate_is_averaged_as_it_is_alone(tiny_run: TinyRun, tmp_path: Path) -> None:
    quiet = {"head.dropout": 0.0, "training.backbone_dropout": "off"}
    candidates: list[dict[str, Any]] = [{}, EMA, {**EMA, "training.averaging_decay": 0.9, "training.seed": 3}]
    train_population(tiny_run(tmp_path / "population", **quiet), candidates)
    for number, settings in enumerate(candidates):
        train(tiny_run(tmp_path / str(number), **quiet, **settings))
        together = _saved(tmp_path / "population" / "candidates" / str(number))
        for name, tensor in _saved(tmp_path / str(number)).items():
            torch.testing.assert_close(together[name], tensor, rtol=0, atol=1e-5)


def test_all_weights_of_a_backbone_are_averaged_too(
    weights: list[dict[str, Tensor]], tiny_run: TinyRun, tmp_path: Path
) -> None:
    settings = {"method": "fine-tuning", "training.learning_rate": 1e-3, "training.epochs": 1}
    result = train(tiny_run(tmp_path / "run", **EMA, **settings))
    saved = load_file(tmp_path / "run" / "prompt" / "model.safetensors")
    (name,) = (name for name in saved if name.endswith("layer.0.attention.self.query.weight"))
    (own,) = (own for own in weights[-1] if own.endswith("layer.0.attention.self.query.weight"))
    assert not torch.equal(saved[name], weights[-1][own])
    assert torch.equal(saved[name], _state(tmp_path / "run")[f"average.{own}"])
    assert evaluate(tmp_path / "run").metrics == result.metrics
