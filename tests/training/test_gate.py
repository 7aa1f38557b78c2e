"""A gate on the values of prompts, from settings to the saved prompt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ptuning.backbones.loading import load_backbone
from ptuning.config import with_method_defaults
from ptuning.errors import ConfigError
from ptuning.evaluation import evaluate
from ptuning.training.assembly import assemble_model
from ptuning.training.run import prepare_task, train

TinyRun = Callable[..., Any]
GATE = {"prompts.gate": "values"}


@pytest.mark.parametrize("start", [{}, {"prompts.init": "tokens"}, {"prompts.reparameterization": "mlp"}])
def test_keys_start_as_they_would_and_values_at_zero(
    start: dict[str, Any], tiny_run: TinyRun, tiny_backbone: Path, tmp_path: Path
) -> None:
    backbone, made = load_backbone(tiny_backbone), []
    for gate in ({}, GATE):
        config = tiny_run(tmp_path / "run", **start, **gate)
        prepared = prepare_task(config, backbone)
        model = assemble_model(config, backbone, prepared.kind, prepared.train)
        model.detach()
        made.append(model.bank.prompts[0]().detach())
    plain, gated = made
    assert torch.equal(gated[:, 0], plain[:, 0]) and plain[:, 1].any() and not gated[:, 1].any()


def test_it_is_trained_and_folded_into_the_values_that_are_saved(tiny_run: TinyRun, tmp_path: Path) -> None:
    settings = {"training.epochs": 1, "training.learning_rate": 0.05, "training.value_learning_rate": 0.02}
    result = train(tiny_run(tmp_path / "run", **GATE, **settings))
    saved = load_file(tmp_path / "run" / "prompt" / "prompts.safetensors")
    assert set(saved) == {"prompts", "head.linear.weight", "head.linear.bias"}
    state = load_file(tmp_path / "run" / "checkpoints" / "last" / "tensors.safetensors")
    keys, values = state["parameter.bank.prompts.0.prompts"].unbind(1)
    gate = state["parameter.bank.prompts.0.gate"]
    assert gate.shape == (2, 4) and bool((gate != 0).all())
    assert torch.equal(saved["prompts"][:, 0], keys)
    assert torch.equal(saved["prompts"][:, 1], values * gate[:, :, None, None])
    assert 0.005 < float(gate.abs().max()) < 3 * 0.02 * 1.01, "at most three steps with the rate of values"
    assert result.counts["trained"] == result.counts["prompts"] + result.counts["head"] + gate.numel()
    assert evaluate(tmp_path / "run").metrics == result.metrics


def test_methods_without_values_at_every_layer_refuse_it(tiny_run: TinyRun, tmp_path: Path) -> None:
    config = tiny_run(tmp_path / "run", method="prompt-tuning", **GATE)
    with pytest.raises(ConfigError, match="is values, but method prompt-tuning has no values at every layer to gate"):
        with_method_defaults(config)


def test_a_saved_prompt_to_start_from_would_lose_its_values(tiny_run: TinyRun, tmp_path: Path) -> None:
    train(tiny_run(tmp_path / "first", **{"training.max_steps": 1}))
    config = tiny_run(tmp_path / "run", **GATE, **{"prompts.init": str(tmp_path / "first")})
    with pytest.raises(ConfigError, match="a saved prompt, whose values would be lost. Use `gate: none` with it"):
        train(config)
