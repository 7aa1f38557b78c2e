"""Plans: what a training needs, against trainings, and what is said where something is not known."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

import ptuning.planning.plan as plan_module
from ptuning.backbones import packed_weights
from ptuning.config import METHODS, load_config
from ptuning.errors import BackboneError, ConfigError
from ptuning.planning import Plan, make_plan
from ptuning.planning.fitting import largest_that_fits
from ptuning.planning.rate import _fastest
from ptuning.planning.traced import TracedModel
from ptuning.training.run import train

PATTERN, WORDS = "{text} it is {mask}.", {"red": "red", "blue": "blue", "green": "green"}
RATE = 1e10


def _plan(directory: Path, task: str = "classification", **settings: Any) -> Plan:
    memory = settings.pop("memory", None)
    config = load_config(None, {"task": task, "backbone": str(directory), **settings})
    return make_plan(config, memory_bytes=memory, rate=RATE)


@pytest.fixture(scope="module")
def with_words(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny backbone with a language-modeling head."""
    directory = tmp_path_factory.mktemp("masked") / "tiny-bert-mlm"
    AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(tiny_backbone)).save_pretrained(directory)
    AutoTokenizer.from_pretrained(tiny_backbone).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("method", list(METHODS))
def test_trained_is_what_a_run_trains(
    method: str, tiny_run: Callable[..., Any], with_words: Path, tmp_path: Path
) -> None:
    more: dict[str, Any] = {"backbone": str(with_words)}
    if METHODS[method].makes_steps:
        more |= {"training.max_steps": 1, "training.epochs": 1}
    if METHODS[method].needs_pattern:
        more |= {"data.pattern": PATTERN, "head.words": WORDS}
        if METHODS[method].has_input_prompts:
            more["data.pattern"] = "{prompt}" + PATTERN
    config = tiny_run(tmp_path / "run", method=method, **more)
    counts = train(config).counts
    plan = make_plan(config, rate=RATE)
    assert plan.trained_parameters == counts["trained"]
    assert (plan.num_parameters, plan.num_transformer_parameters) == (counts["backbone"], counts["transformer"])
    assert (plan.largest_batch_size is None) == (not METHODS[method].makes_steps)


def test_config_alone_is_enough(config_alone: Callable[..., Path]) -> None:
    plan = _plan(config_alone("roberta"))
    assert plan.model_type == "roberta" and plan.num_parameters > plan.num_transformer_parameters > 0
    assert plan.weights_bytes >= 4 * plan.num_parameters
    assert plan.steps_per_epoch is plan.epochs is plan.training_seconds is None
    assert {"2 labels", "head.pooling is cls"} <= set(plan.assumptions)
    assert plan.max_length == 38 and "38 tokens" in plan.assumptions[0]


def test_epochs_are_those_of_the_run(tiny_run: Callable[..., Any], tmp_path: Path) -> None:
    plan = make_plan(tiny_run(tmp_path, **{"training.epochs": None}), rate=RATE)
    assert (plan.steps_per_epoch, plan.epochs) == (3, 30)
    assert plan.seconds_per_step is not None and plan.training_seconds is not None
    assert 0 < plan.training_seconds < 90 * plan.seconds_per_step  # rows are shorter than max_length


def test_the_largest_batch_fits_and_the_next_does_not(config_alone: Callable[..., Path]) -> None:
    directory, memory = config_alone("bert"), 700_000_000
    plan = _plan(directory, memory=memory)
    assert plan.largest_batch_size is not None and plan.largest_batch_size > 100
    at = _plan(directory, memory=memory, **{"training.batch_size": plan.largest_batch_size})
    above = _plan(directory, memory=memory, **{"training.batch_size": plan.largest_batch_size + 1})
    assert at.fits and not above.fits
    assert at.largest_batch_size == above.largest_batch_size == plan.largest_batch_size


def test_nothing_fits_into_too_little(config_alone: Callable[..., Path]) -> None:
    plan = _plan(config_alone("bert"), memory=100_000_000)
    assert not plan.fits and plan.largest_batch_size == 0


@pytest.mark.parametrize("start", [1, 7, 900])
def test_the_largest_is_found_where_memory_bends(start: int) -> None:
    asked = []

    def peak_of(examples: int) -> int:
        asked.append(examples)
        return max(5000 + examples, 10 * examples)

    assert largest_that_fits(peak_of, 7777, start=start) == 777
    assert len(asked) <= 6 and len(set(asked)) == len(asked)
    assert largest_that_fits(lambda _: 10, 9, start=start) == 0


@pytest.mark.parametrize("start", [1, 16])
@pytest.mark.parametrize("room", [5010, 5019, 5020, 6000, 123_456])
def test_along_a_line_the_largest_takes_three_tries(start: int, room: int) -> None:
    """Those two, and the one that the line through them ends at; one more would be too many by the same line."""
    asked = []

    def peak_of(examples: int) -> int:
        asked.append(examples)
        return 5000 + 10 * examples

    assert largest_that_fits(peak_of, room, start=start) == (room - 5000) // 10
    assert len(asked) <= 3 if room > 5160 else len(asked) <= 5


def test_a_size_is_traced_once(config_alone: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_weights, "MOST_BYTES", 0)  # as of a large backbone: nothing is laid out
    traced: list[tuple[int, int]] = []
    run_step = TracedModel._run_step
    monkeypatch.setattr(TracedModel, "_run_step", lambda self, *size: traced.append(size) or run_step(self, *size))
    plan = _plan(config_alone("bert"), memory=700_000_000, **{"data.max_length": 16})
    assert traced == [(1, 16), (16, 16), (plan.largest_batch_size, 16)]


def test_a_rate_is_measured_in_a_second_of_large_matrices_too(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    assert _fastest(lambda: made.append(time.sleep(0.001)), "cpu", 5, until=time.perf_counter()) >= 0.001
    assert len(made) == 2, "the first product is not counted, and there is no time for more than one"
    made.clear()
    _fastest(lambda: made.append(None), "cpu", 5, until=None)
    assert len(made) == 7
    asked: list[Any] = []
    monkeypatch.setattr(plan_module, "matrix_rate", lambda *given, **_: asked.append(given) or 1e9)
    of_10b = SimpleNamespace(matrix_shapes=lambda: [(16_384, 4096)])
    of_minilm = SimpleNamespace(matrix_shapes=lambda: [(1536, 384)])
    for model in (of_10b, of_minilm):
        plan_module._measured_rate(model, 4096, torch.bfloat16, torch.device("cpu"))  # type: ignore[arg-type]
    assert [positions for _, (positions,), *_ in asked] == [298, 4096]


def test_pieces_hold_less_and_cost_the_same(config_alone: Callable[..., Path]) -> None:
    directory = config_alone("bert")
    whole = _plan(directory, **{"data.max_length": 16, "training.batch_size": 32})
    cut = _plan(directory, **{"data.max_length": 16, "training.batch_size": 32, "training.micro_batch_tokens": 128})
    assert cut.activation_bytes_per_batch < 0.3 * whole.activation_bytes_per_batch
    assert cut.operations_per_step == pytest.approx(whole.operations_per_step, rel=0.01)
    by_tokens = _plan(directory, **{"data.max_length": 16, "training.batch_tokens": 128})
    assert by_tokens.batch_size == 8


def test_accumulation_costs_time_and_no_memory(config_alone: Callable[..., Path]) -> None:
    once, twice = (_plan(config_alone("bert"), **{"training.accumulation": times}) for times in (1, 2))
    assert twice.peak_bytes == once.peak_bytes
    assert twice.seconds_per_step == pytest.approx(2 * (once.seconds_per_step or 0))


def test_a_gpu_elsewhere_is_planned_in_bf16(config_alone: Callable[..., Path]) -> None:
    plan = _plan(config_alone("bert"), memory=24 * 10**9, **{"training.device": "cuda"})
    assert (plan.device, plan.precision, plan.memory_bytes) == ("cuda", "bf16", 24 * 10**9)
    assert plan.weights_bytes < 3 * plan.num_parameters


def test_without_memory_a_device_has_to_be_here(config_alone: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="the device is 'nowhere', which this machine does not have"):
        _plan(config_alone("bert"), **{"training.device": "nowhere"})
    with pytest.raises(ConfigError, match="training.device is 'nowhere', expected cpu, cuda, mps"):
        _plan(config_alone("bert"), memory=10**9, **{"training.device": "nowhere"})


def test_other_kinds_are_planned_without_their_data(config_alone: Callable[..., Path]) -> None:
    directory = config_alone("bert")
    one, two = _plan(directory), _plan(directory, "multiple_choice")
    assert two.activation_bytes_per_batch > 1.8 * one.activation_bytes_per_batch
    assert "2 choices an example" in two.assumptions
    assert _plan(directory, "question_answering").trained_parameters == two.trained_parameters + 33


def test_a_backbone_without_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=f"the backbone '{tmp_path}' was not found or has no readable config"):
        _plan(tmp_path)
