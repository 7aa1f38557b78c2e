from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ptuning.config import with_method_defaults
from ptuning.errors import ConfigError
from ptuning.prompts import DeepPrompts
from ptuning.training.run import train
from ptuning.training.value_rate import FACTOR, give_values_their_rate

TinyRun = Callable[..., Any]


def test_keys_and_values_move_as_two_parameters_with_rates_of_their_own_would() -> None:
    draw = torch.Generator().manual_seed(0)
    sizes: dict[str, Any] = {"num_prompted_layers": 2, "num_kv_heads": 3, "prompt_length": 4, "head_dim": 5}
    prompts = DeepPrompts(**sizes, init_std=1.0, generator=draw).double()
    assert prompts.prompts is not None
    keys, values = (part.clone().requires_grad_() for part in prompts().detach().unbind(1))
    group = {"params": [prompts.prompts], "lr": 0.02, "candidate": 0, "weight_decay": 0.1, FACTOR: 0.3}
    together = torch.optim.AdamW([group])
    give_values_their_rate(together, {0: prompts})
    apart = torch.optim.AdamW([{"params": [keys], "lr": 0.02}, {"params": [values], "lr": 0.006}], weight_decay=0.1)
    for step in range(6):
        gradient = torch.randn(prompts.shape, dtype=torch.float64, generator=draw)
        prompts.prompts.grad = gradient.clone()
        keys.grad, values.grad = (part.clone() for part in gradient.unbind(1))
        together.step()
        apart.step()
        for one in (*together.param_groups, *apart.param_groups):
            one["lr"] *= 0.5 + 0.1 * step  # a schedule
    torch.testing.assert_close(prompts().detach(), torch.stack([keys, values], 1).detach(), rtol=0, atol=1e-5)


def _moved(directory: Path, start: Path) -> tuple[float, float]:
    """How far keys and values of the last step are from those of another run, at most."""
    last, first = (
        load_file(run / "checkpoints" / "last" / "tensors.safetensors")["parameter.bank.prompts.0.prompts"]
        for run in (directory, start)
    )
    keys, values = (last - first).abs().unbind(1)
    return float(keys.max()), float(values.max())


def test_a_run_moves_its_values_by_their_rate(tiny_run: TinyRun, tmp_path: Path) -> None:
    still = {"training.learning_rate": 1e-5, "training.head_learning_rate": 0.01, "training.warmup": 0.0}
    train(tiny_run(tmp_path / "still", **still))
    for name, rates in {
        "values": {**still, "training.value_learning_rate": 0.02},
        "keys": {**still, "training.learning_rate": 0.02, "training.value_learning_rate": 1e-5},
    }.items():
        train(tiny_run(tmp_path / name, **rates))
    keys, values = _moved(tmp_path / "values", tmp_path / "still")
    assert keys < 2e-4 and values > 0.01
    keys, values = _moved(tmp_path / "keys", tmp_path / "still")
    assert keys > 0.01 and values < 2e-4


def test_the_rate_of_the_keys_is_the_same_as_none(tiny_run: TinyRun, tmp_path: Path) -> None:
    train(tiny_run(tmp_path / "none"))
    train(tiny_run(tmp_path / "same", **{"training.value_learning_rate": 0.04}))
    none, same = (load_file(tmp_path / name / "prompt" / "prompts.safetensors") for name in ("none", "same"))
    assert all(torch.equal(none[name], same[name]) for name in none)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"prompts.reparameterization": "mlp"}, "the mlp of prompts.reparameterization makes keys and values together"),
        ({"method": "prompt-tuning"}, "method prompt-tuning trains no keys and values"),
        ({"method": "fine-tuning"}, "method fine-tuning trains no keys and values"),
    ],
)
def test_it_is_refused_where_there_are_no_values_to_move(
    settings: dict[str, Any], why: str, tiny_run: TinyRun, tmp_path: Path
) -> None:
    config = tiny_run(tmp_path / "run", **settings, **{"training.value_learning_rate": 0.02})
    with pytest.raises(ConfigError, match=rf"training.value_learning_rate is 0.02, but {why}. Leave it out."):
        with_method_defaults(config)
