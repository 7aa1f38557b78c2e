"""`head.missing_pooler: draw`, from training to a prediction."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertModel

from ptuning.backbones.loading import load_backbone
from ptuning.checkpoint import _digest_of, read_prompt
from ptuning.data.batching import Batch
from ptuning.errors import CheckpointError, ConfigError, TrainingError
from ptuning.evaluation import evaluate
from ptuning.heads import draw_pooler
from ptuning.linear_probe import pool
from ptuning.model import PromptedModel, trained_parameters
from ptuning.predictor import load
from ptuning.tasks.classification import Classification
from ptuning.training import execution
from ptuning.training.run import train
from ptuning.training.seed import generator_for

TinyRun = Callable[..., Any]
DRAW = {"head.pooling": "pooler", "head.missing_pooler": "draw"}
HEAD = {"prompts", "head.linear.weight", "head.linear.bias"}
POOLER = {"pooler.dense.weight", "pooler.dense.bias"}
ROWS = [{"text": "a red parcel is late"}, {"text": "the blue box"}, {"text": "green door , grey shoe"}]


@pytest.fixture(scope="module")
def bare(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny backbone as a checkpoint without a pooler, whose config says how it was started."""
    directory = tmp_path_factory.mktemp("backbone") / "bare"
    load_backbone(tiny_backbone).tokenizer.save_pretrained(directory)
    model = BertModel.from_pretrained(tiny_backbone, add_pooling_layer=False)
    model.config.initializer_range = 0.05
    model.save_pretrained(directory)
    return directory


def _tensors(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "prompt" / "prompts.safetensors")


def test_without_being_asked_nothing_is_drawn(tiny_run: TinyRun, bare: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no pretrained pooler. Use .* or set head.missing_pooler to draw"):
        train(tiny_run(tmp_path / "run", **{"head.pooling": "pooler", "backbone": str(bare)}))
    train(tiny_run(tmp_path / "run", **{"head.missing_pooler": "draw", "backbone": str(bare)}))
    assert set(_tensors(tmp_path / "run")) == HEAD, "the head does not read a pooler"


@pytest.mark.parametrize("kind", ["classification", "multiple_choice"])
def test_the_drawn_pooler_is_frozen_and_saved_bit_for_bit(
    kind: str, tiny_run: TinyRun, bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    fit = execution.fit

    def spy(model: PromptedModel, *args: Any, **more: Any) -> None:
        trained.extend(trained_parameters(model))
        optimized = {id(p) for group in more["optimizer"].param_groups for p in group["params"]}
        assert not optimized & {id(p) for p in model.heads[0].pooler.parameters()}  # type: ignore[union-attr]
        fit(model, *args, **more)

    monkeypatch.setattr(execution, "fit", spy)
    result = train(tiny_run(tmp_path / "run", kind, **DRAW, backbone=str(bare)))
    assert trained == ["bank.prompts.0.prompts", "heads.0.linear.weight", "heads.0.linear.bias"]
    tensors = _tensors(tmp_path / "run")
    assert set(tensors) == HEAD | POOLER
    expected = draw_pooler(32, std=0.05, generator=generator_for("pooler", 11))
    assert torch.equal(tensors["pooler.dense.weight"], expected.dense.weight)
    assert not tensors["pooler.dense.bias"].any()
    assert result.counts["head"] == tensors["head.linear.weight"].numel() + tensors["head.linear.bias"].numel()
    config = json.loads((tmp_path / "run" / "prompt" / "config.json").read_text())
    assert config["head"] == {"pooling": "pooler", "pooler": "drawn"}
    assert "| pooler | drawn at random and never trained" in (tmp_path / "run" / "prompt" / "README.md").read_text()


def test_the_logits_are_those_of_the_pooled_first_token(tiny_run: TinyRun, bare: Path, tmp_path: Path) -> None:
    train(tiny_run(tmp_path / "run", **DRAW, backbone=str(bare), **{"prompts.prompt_length": 0}))
    predictor = load(tmp_path / "run")
    tensors, backbone = _tensors(tmp_path / "run"), predictor.backbone
    inputs = backbone.tokenizer(ROWS[0]["text"], return_tensors="pt")
    hidden = backbone.model(**inputs)[0]
    pooled = torch.tanh(pool(hidden, inputs["attention_mask"], "cls") @ tensors["pooler.dense.weight"].T)
    scores = (pooled @ tensors["head.linear.weight"].T + tensors["head.linear.bias"]).softmax(-1)[0]
    found = predictor.predict(ROWS[:1])[0]["scores"]
    assert list(found.values()) == pytest.approx(scores.tolist(), abs=1e-5)


def test_saved_and_loaded_it_scores_as_in_training(tiny_run: TinyRun, bare: Path, tmp_path: Path) -> None:
    result = train(tiny_run(tmp_path / "run", **DRAW, backbone=str(bare)))
    assert evaluate(tmp_path / "run").metrics == result.metrics
    first, again = (load(tmp_path / "run").predict(ROWS) for _ in range(2))
    assert first == again


def test_a_checkpoint_with_a_pooler_of_its_own_uses_that_and_saves_none(tiny_run: TinyRun, tmp_path: Path) -> None:
    train(tiny_run(tmp_path / "own", **{"head.pooling": "pooler"}))
    train(tiny_run(tmp_path / "run", **DRAW))
    own, found = _tensors(tmp_path / "own"), _tensors(tmp_path / "run")
    assert set(found) == HEAD and all(torch.equal(found[name], own[name]) for name in HEAD)
    assert read_prompt(tmp_path / "run").head == {"pooling": "pooler"}


def test_tasks_with_different_drawn_poolers_mix_in_a_batch(tiny_run: TinyRun, bare: Path, tmp_path: Path) -> None:
    own = {"a": {**DRAW, "training.seed": 1}, "b": {**DRAW, "training.seed": 2}, "c": {"head.pooling": "mean"}}
    for name, settings in own.items():
        train(tiny_run(tmp_path / name, **settings, backbone=str(bare)))
    assert not torch.equal(
        _tensors(tmp_path / "a")["pooler.dense.weight"], _tensors(tmp_path / "b")["pooler.dense.weight"]
    )
    rows, asked = [ROWS[0]] * 6, ["a", "b", "c", "b", "a", "c"]
    mixed = load([tmp_path / name for name in own]).predict(rows, asked)
    for name in own:
        alone = load(tmp_path / name).predict([ROWS[0]])[0]
        for which, found in zip(asked, mixed, strict=True):
            assert which != name or found["scores"] == pytest.approx(alone["scores"], abs=1e-5)


def test_a_prompt_brings_its_drawn_pooler_to_a_checkpoint_that_has_one(
    tiny_run: TinyRun, bare: Path, tiny_backbone: Path, tmp_path: Path
) -> None:
    """The two checkpoints differ in the pooler alone, which a backbone's fingerprint leaves out."""
    train(tiny_run(tmp_path / "run", **DRAW, backbone=str(bare)))
    expected = load(tmp_path / "run").predict(ROWS)
    found = load(tmp_path / "run", tiny_backbone).predict(ROWS)
    for one, other in zip(found, expected, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-6)


@pytest.mark.parametrize("start", ["normal", "tokens"])
def test_a_run_that_goes_on_draws_the_same_pooler(
    start: str, tiny_run: TinyRun, bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**DRAW, "backbone": str(bare), "prompts.init": start, "training.checkpoint_steps": 2}
    train(tiny_run(tmp_path / "whole", **settings))
    loss, calls = Classification.loss, 0

    def breaks(kind: Classification, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return loss(kind, logits, batch) * (float("nan") if calls == 5 else 1.0)

    with monkeypatch.context() as patched:
        patched.setattr(Classification, "loss", breaks)
        with pytest.raises(TrainingError):
            train(tiny_run(tmp_path / "run", **settings))
    torch.rand(9)  # whatever this process has drawn must not matter
    train(tiny_run(tmp_path / "run", **settings), resume=True)
    whole, found = _tensors(tmp_path / "whole"), _tensors(tmp_path / "run")
    assert whole.keys() == found.keys() and all(torch.equal(whole[name], found[name]) for name in whole)


def test_on_a_bf16_backbone_head_and_drawn_pooler_are_fp32(tiny_run: TinyRun, bare: Path, tmp_path: Path) -> None:
    train(tiny_run(tmp_path / "run", **DRAW, backbone=str(bare), **{"training.precision": "bf16"}))
    assert {tensor.dtype for tensor in _tensors(tmp_path / "run").values()} == {torch.float32}
    predictor = load(tmp_path / "run", dtype=torch.bfloat16)
    assert predictor.backbone.model.dtype == torch.bfloat16
    assert sum(predictor.predict(ROWS)[0]["scores"].values()) == pytest.approx(1.0)


def test_a_pooler_that_the_config_does_not_name_is_foreign(tiny_run: TinyRun, bare: Path, tmp_path: Path) -> None:
    train(tiny_run(tmp_path / "run", **DRAW, backbone=str(bare)))
    path = tmp_path / "run" / "prompt" / "config.json"
    config = json.loads(path.read_text())
    del config["head"]["pooler"]
    path.write_text(json.dumps({**config, "digest": _digest_of(config)}))
    with pytest.raises(CheckpointError, match="has pooler.dense.bias, pooler.dense.weight, expected prompts and head"):
        load(tmp_path / "run")
