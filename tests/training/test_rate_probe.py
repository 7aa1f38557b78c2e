from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor

from ptuning.backbones.loading import Backbone, load_backbone
from ptuning.config import METHODS, load_config, methods
from ptuning.errors import ConfigError, TrainingError
from ptuning.model import PromptedModel
from ptuning.multitask.settings import load_multitask_config
from ptuning.tasks.classification import Classification
from ptuning.training import execution, rate_probe
from ptuning.training.population import train_population
from ptuning.training.processes import Processes
from ptuning.training.rate_probe import choose_rate, find_learning_rate
from ptuning.training.reporting import Silent
from ptuning.training.run import batches_of, prepare_task, resolve_config, train
from ptuning.training.value_rate import FACTOR

TinyRun = Callable[..., Any]
PROBE = {"training.learning_rate_probe": True}
FEW = 14  # steps of a probe


class _Notes(Silent):
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_probe, "STEPS", FEW)


@pytest.fixture
def backbone(tiny_backbone: Path) -> Backbone:
    return load_backbone(tiny_backbone)


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """The rates of all groups, and of values, at each step of a probe."""
    seen: list[list[float]] = []
    make = rate_probe.make_optimizer

    def watched(model: PromptedModel, configs: Any) -> torch.optim.AdamW:
        optimizer = make(model, configs)

        def look(*_: Any) -> None:
            groups = optimizer.param_groups
            seen.append([group["lr"] for group in groups] + [g["lr"] * g[FACTOR] for g in groups if FACTOR in g])

        optimizer.register_step_pre_hook(look)
        return optimizer

    monkeypatch.setattr(rate_probe, "make_optimizer", watched)
    return seen


def _same(first: Path, second: Path) -> bool:
    one, other = (load_file(path / "checkpoints" / "last" / "tensors.safetensors") for path in (first, second))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_half_of_the_rate_with_the_lowest_smoothed_loss_is_chosen() -> None:
    rates = [10 ** (-4 + step / 25) for step in range(101)]  # 1e-4 to 1
    valley = [(step / 100 - 0.75) ** 2 for step in range(101)]
    lowest, chosen = choose_rate(rates, valley)
    assert 10**-1 < lowest < 10**-0.5, "a little after the valley, by which the average lags"
    assert chosen == float(f"{lowest / 2:.3g}")
    outlier = [loss - (0.5 if step == 20 else 0) for step, loss in enumerate(valley)]
    assert choose_rate(rates, outlier)[0] == pytest.approx(lowest, rel=0.5)
    assert choose_rate(rates, [step**2 for step in range(101)]) == (1e-4, 1e-4), "never below the lowest"


@pytest.mark.parametrize("method", ["p-tuning-v2", "prefix-tuning", "bitfit", "fine-tuning"])
def test_the_run_is_the_same_as_with_that_rate_given(method: str, tiny_run: TinyRun, tmp_path: Path) -> None:
    settings = {"method": method, "training.epochs": 1, "head.dropout": 0.2}
    notes = _Notes()
    train(tiny_run(tmp_path / "probed", **settings, **PROBE), report=notes)
    found = load_config(tmp_path / "probed" / "config.yaml").training
    assert found.learning_rate is not None and found.learning_rate_probe
    assert found.head_learning_rate == (0.01 if method == "prefix-tuning" else found.learning_rate)  # beside an MLP
    (told,) = [text for text in notes.told if text.startswith("learning_rate ")]
    assert told.startswith(f"learning_rate {found.learning_rate:g}, half of ")
    rates = {f"training.{name}": getattr(found, name) for name in ("learning_rate", "head_learning_rate")}
    train(tiny_run(tmp_path / "given", **settings, **rates))
    assert _same(tmp_path / "probed", tmp_path / "given")


def test_its_config_replays_it_without_another_probe(
    tiny_run: TinyRun, tmp_path: Path, rates: list[list[float]]
) -> None:
    train(tiny_run(tmp_path / "first", **PROBE))
    rates.clear()
    train(load_config(tmp_path / "first" / "config.yaml", {"output": str(tmp_path / "again")}))
    assert not rates and _same(tmp_path / "first", tmp_path / "again")


def test_rates_rise_and_those_that_are_given_stay(
    tiny_run: TinyRun, tmp_path: Path, rates: list[list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches a step, and more steps than an epoch has."""
    asked: list[Any] = []
    monkeypatch.setattr(rate_probe, "choose_rate", lambda *curve: asked.append(curve) or (0.08, 0.04))
    short = {"training.max_steps": 1, "training.accumulation": 2}
    expected = [0.04 * 100 ** (2 * step / (FEW - 1) - 1) for step in range(FEW)]
    train(tiny_run(tmp_path / "together", **PROBE, **short))
    assert [prompts for prompts, _ in rates] == [head for _, head in rates] == pytest.approx(expected)
    assert (expected[0], expected[-1]) == pytest.approx((4e-4, 4.0))
    ((tried, losses),) = asked
    assert tried == pytest.approx(expected) and len(losses) == FEW and len(set(losses)) > FEW / 2
    assert load_config(tmp_path / "together" / "config.yaml").training.learning_rate == 0.04
    rates.clear()
    own = {"training.head_learning_rate": 0.003, "training.value_learning_rate": 0.07}
    train(tiny_run(tmp_path / "apart", **PROBE, **short, **own))
    assert [prompts for prompts, *_ in rates] == pytest.approx(expected)
    assert [others for _, *others in rates] == [pytest.approx([0.003, 0.07])] * FEW
    found = load_config(tmp_path / "apart" / "config.yaml").training
    assert (found.learning_rate, found.head_learning_rate, found.value_learning_rate) == (0.04, 0.003, 0.07)


@pytest.mark.parametrize(("settings", "usual"), [({}, 0.01), ({"prompts.reparameterization": "mlp"}, 0.002)])
def test_it_looks_around_the_default_of_this_width_and_way(
    settings: dict[str, Any],
    usual: float,
    tiny_run: TinyRun,
    tmp_path: Path,
    rates: list[list[float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = METHODS["p-tuning-v2"]
    narrow = {**METHODS, own.name: replace(own, full_rate_up_to=8)}  # a quarter of this backbone's width
    monkeypatch.setattr(methods, "METHODS", narrow)
    train(tiny_run(tmp_path / "run", **PROBE, **{"training.max_steps": 1, **settings}))
    assert rates[0][0] == pytest.approx(usual / 100)


def test_nothing_but_the_rate_stays_of_it(tiny_run: TinyRun, backbone: Backbone, tmp_path: Path) -> None:
    config = tiny_run(tmp_path / "run", **PROBE)
    prepared = prepare_task(config, backbone)
    config = resolve_config(config, prepared, backbone, tmp_path / "run")

    def find() -> float:
        batches = batches_of(config, prepared)
        processes = Processes(Accelerator(cpu=True))
        return find_learning_rate(config, prepared.kind, prepared.train, batches, backbone, processes, Silent())

    before = [tensor.clone() for tensor in backbone.model.state_dict().values()]
    state, modes = torch.get_rng_state(), [module.training for module in backbone.model.modules()]
    first = find()
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in backbone.model.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(backbone.model.state_dict().values(), before, strict=True))
    torch.rand(3)
    assert find() == first


def test_a_run_that_goes_on_has_its_rate(
    tiny_run: TinyRun, tmp_path: Path, rates: list[list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_run(tmp_path / "whole", **PROBE))

    def stop(*args: Any, **more: Any) -> None:
        save(*args, **more)
        raise KeyboardInterrupt

    save = execution.save_state
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(execution, "save_state", stop)
        train(tiny_run(tmp_path / "run", **PROBE))
    rates.clear()
    train(tiny_run(tmp_path / "run", **PROBE), resume=True)
    assert not rates and _same(tmp_path / "run", tmp_path / "whole")
    with pytest.raises(ConfigError, match="training.learning_rate_probe True then, False now"):
        train(tiny_run(tmp_path / "run"), resume=True)


def _spoilt_from(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Losses are infinite from the step of this number on."""
    loss, calls = Classification.loss, []

    def spoilt(self: Classification, logits: Tensor, batch: Any) -> Tensor:
        calls.append(1)
        return loss(self, logits, batch) * (torch.inf if len(calls) >= number else 1.0)

    monkeypatch.setattr(Classification, "loss", spoilt)


def test_it_ends_where_losses_are_no_numbers(
    tiny_run: TinyRun, tmp_path: Path, rates: list[list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _spoilt_from(monkeypatch, 6)
    notes = _Notes()
    with pytest.raises(TrainingError, match="the loss became inf"):  # the run has such losses too
        train(tiny_run(tmp_path / "run", **PROBE), report=notes)
    assert len(rates) == 5 and " in 5 steps with rates from 0.0004 to " in " ".join(notes.told)


def test_where_no_rate_gives_a_number_there_is_an_error(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _spoilt_from(monkeypatch, 1)
    with pytest.raises(TrainingError, match=r"not finite at learning_rate 0.0004, the lowest .* Set training.prec"):
        train(tiny_run(tmp_path / "run", **PROBE))
    assert not (tmp_path / "run").exists()


def test_it_finds_the_rate_of_one_run_alone(tiny_run: TinyRun, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="candidates have their own. Turn it off"):
        train_population(tiny_run(tmp_path / "run", **PROBE), [{}, {"training.seed": 3}])
    tasks = {name: {"task": "classification", "data": {"path": name}} for name in ("one", "two")}
    with pytest.raises(ConfigError, match="here several share one. Turn it off"):
        load_multitask_config(None, {"tasks": tasks, **PROBE})


def test_methods_without_steps_have_no_rate_to_find(
    tiny_run: TinyRun, tmp_path: Path, rates: list[list[float]]
) -> None:
    with pytest.raises(ConfigError, match="learning_rate_probe is on, but method linear-probe makes no steps"):
        train(tiny_run(tmp_path / "run", method="linear-probe", **PROBE))
    assert not rates
