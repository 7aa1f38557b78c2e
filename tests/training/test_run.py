from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

import ptuning
from ptuning.backbones.families import FAMILIES
from ptuning.backbones.loading import Backbone, load_backbone
from ptuning.checkpoint import read_prompt, save_prompt
from ptuning.config import load_config
from ptuning.data.batching import Batch
from ptuning.errors import BackboneError, CheckpointError, ConfigError, DataError, PtuningError, TrainingError
from ptuning.evaluation import evaluate
from ptuning.model import PromptedModel
from ptuning.predictor import load
from ptuning.tasks.classification import Classification
from ptuning.training import execution, run
from ptuning.training.reporting import Silent
from ptuning.training.run import output_directory, train

TinyRun = Callable[..., Any]
KINDS = (
    "classification",
    "regression",
    "multiple_choice",
    "token_classification",
    "semantic_role_labeling",
    "question_answering",
    "cloze",
)
EVERY_DROPOUT = {"prompts.dropout": 0.1, "head.dropout": 0.2}
NO_DROPOUT = {"prompts.dropout": 0.0, "head.dropout": 0.0, "training.backbone_dropout": "off"}


class Told(Silent):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.stopped = 0

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def stop(self) -> None:
        self.stopped += 1


def prompt_of(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "prompt" / "prompts.safetensors")


def metric_lines(directory: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def same_tensors(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.fixture
def backbone(tiny_backbone: Path) -> Backbone:
    return load_backbone(tiny_backbone)


# What a run is.


@pytest.mark.parametrize("reparameterization", ["none", "mlp"])
def test_each_evaluation_writes_the_norms_of_the_prompts(
    reparameterization: str, tiny_run: TinyRun, tmp_path: Path
) -> None:
    own = {"prompts.layers": "1", "prompts.reparameterization": reparameterization}
    train(tiny_run(tmp_path / "run", **own))
    lines = metric_lines(tmp_path / "run")
    norms = [line["prompt_norms"] for line in lines]
    assert [one["layers"] for one in norms] == [[1], [1]] and norms[0]["keys"] != norms[1]["keys"]
    best = [one for one, line in zip(norms, lines, strict=True) if line["is_best"]][-1]
    saved = prompt_of(tmp_path / "run")["prompts"].norm(dim=-1).mean((2, 3))  # (L, 2)
    assert [*best["keys"], *best["values"]] == pytest.approx(saved.flatten().tolist(), abs=1e-4)


def test_a_run_without_virtual_tokens_writes_no_norms(tiny_run: TinyRun, tmp_path: Path) -> None:
    train(tiny_run(tmp_path / "run", **{"prompts.prompt_length": 0, "training.epochs": 1}))
    assert all("prompt_norms" not in line for line in metric_lines(tmp_path / "run"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_and_scores_as_in_training_once_saved(kind: str, tiny_run: TinyRun, tmp_path: Path) -> None:
    result = train(tiny_run(tmp_path / "run", kind, **{"training.max_steps": 2}))
    assert result.steps == 2
    assert all(line["train_loss"] > 0 for line in metric_lines(tmp_path / "run"))
    again = evaluate(tmp_path / "run")
    assert again.num_rows == 12
    assert again.metrics == pytest.approx(result.metrics, abs=1e-6)


def test_a_run_leaves_config_metrics_checkpoint_and_prompt(tiny_run: TinyRun, tmp_path: Path) -> None:
    config = tiny_run(tmp_path / "run")
    result = train(config)
    found = sorted(str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert found == [
        "checkpoints/last/state.json",
        "checkpoints/last/tensors.safetensors",
        "config.yaml",
        "metrics.jsonl",
        "prompt/README.md",
        "prompt/config.json",
        "prompt/prompts.safetensors",
    ]
    lines = metric_lines(tmp_path / "run")
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 3), (2, 6)]
    assert lines[result.best_epoch - 1]["validation"] == result.metrics
    assert lines[result.best_epoch - 1]["is_best"]
    saved = load_config(tmp_path / "run" / "config.yaml")
    assert saved.training.metric == "accuracy" == result.metric
    assert saved.training.head_learning_rate == pytest.approx(4e-2)
    assert saved.training.precision == "fp32"
    assert saved.head.pooling == "cls"
    assert result.counts["prompts"] == 2 * 2 * 4 * 4 * 8
    assert result.counts["head"] == 3 * 32 + 3


def test_a_config_that_was_saved_trains_the_same_again(tiny_run: TinyRun, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("prompts: {prompt_length: 3}\ntraining: {learning_rate: 0.02}\n")
    config = tiny_run(tmp_path / "a", recipe=str(recipe), **{"training.epochs": 1})
    train(config)
    recipe.unlink()
    replayed = load_config(tmp_path / "a" / "config.yaml", {"output": tmp_path / "b"})
    assert replayed.training.learning_rate == 0.02
    train(replayed)
    assert same_tensors(prompt_of(tmp_path / "a"), prompt_of(tmp_path / "b"))


def test_the_same_seed_gives_bit_equal_prompts_and_another_seed_others(tiny_run: TinyRun, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(tiny_run(tmp_path / name, **{"training.seed": seed, **EVERY_DROPOUT}))
    assert same_tensors(prompt_of(tmp_path / "a"), prompt_of(tmp_path / "b"))
    assert metric_lines(tmp_path / "a") == metric_lines(tmp_path / "b")
    assert not torch.equal(prompt_of(tmp_path / "a")["prompts"], prompt_of(tmp_path / "c")["prompts"])


@pytest.mark.parametrize("reparameterization", ["none", "mlp"])
def test_a_backbone_that_comes_loaded_and_used_makes_no_difference(
    reparameterization: str, tiny_run: TinyRun, backbone: Backbone, tmp_path: Path
) -> None:
    settings = {"prompts.reparameterization": reparameterization, "prompts.reparameterization_size": 16}
    train(tiny_run(tmp_path / "a", **settings))
    other = {"training.backbone_dropout": 0.5, "training.gradient_checkpointing": True, "training.seed": 3}
    train(tiny_run(tmp_path / "b", **other), backbone=backbone)
    train(tiny_run(tmp_path / "c", **settings), backbone=backbone)
    assert same_tensors(prompt_of(tmp_path / "a"), prompt_of(tmp_path / "c"))


def test_the_backbone_is_bit_for_bit_the_same_after_a_run(
    tiny_run: TinyRun, backbone: Backbone, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    ids = torch.tensor([[2, 7, 9, 3]])
    states = backbone.model(input_ids=ids)[0]
    dropouts = [module.p for module in backbone.model.modules() if isinstance(module, torch.nn.Dropout)]
    settings = {"training.backbone_dropout": 0.4, "training.gradient_checkpointing": True}
    train(tiny_run(tmp_path / "run", **settings), backbone=backbone)
    after = backbone.model.state_dict()
    assert same_tensors(before, after)
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert not any(module.training for module in backbone.model.modules())
    assert [m.p for m in backbone.model.modules() if isinstance(m, torch.nn.Dropout)] == dropouts
    assert not any(getattr(module, "gradient_checkpointing", False) for module in backbone.model.modules())
    assert torch.equal(backbone.model(input_ids=ids)[0], states)


def test_only_prompts_and_head_are_trained_and_saved(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: dict[str, torch.Tensor] = {}
    fit = execution.fit

    def spy(model: PromptedModel, *args: Any, **more: Any) -> None:
        starts.update({name: p.detach().clone() for name, p in model.named_parameters()})
        fit(model, *args, **more)
        changed = {name for name, p in model.named_parameters() if not torch.equal(p, starts[name])}
        assert changed == {"bank.prompts.0.prompts", "heads.0.linear.weight", "heads.0.linear.bias"}

    monkeypatch.setattr(execution, "fit", spy)
    train(tiny_run(tmp_path / "run", **{"head.pooling": "pooler"}))
    assert len(starts) > 30
    assert set(prompt_of(tmp_path / "run")) == {"prompts", "head.linear.weight", "head.linear.bias"}


def test_a_run_without_validation_file_says_what_it_held_out(tiny_run: TinyRun, tiny_data: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_bytes((tiny_data("classification") / "train.jsonl").read_bytes())
    told = Told()
    train(tiny_run(tmp_path / "run", **{"data.path": str(tmp_path / "data"), "training.epochs": 1}), report=told)
    assert told.notes[0] == (
        "No validation file: 2 of 24 train rows (development_fraction 0.1, seed 11) held out for validation."
    )
    assert evaluate(tmp_path / "run").num_rows == 2


# Settings that change how it trains.


@pytest.mark.parametrize(
    "settings",
    [
        {"head.pooling": "mean"},
        {"head.pooling": "cls"},  # the last layer for the first token alone
        {"prompts.layers": "last:1", "training.trunk_reuse": "on", "training.backbone_dropout": "off"},
        {"training.micro_batch_tokens": 40, "training.backbone_dropout": "off"},
    ],
    ids=["all tokens", "first token", "late start", "pieces"],
)
def test_gradient_checkpointing_gives_the_same_weights(
    settings: dict[str, Any], tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []  # whether the last layer's attention ran in training
    assemble = execution.assemble_model

    def watched(*args: Any, **more: Any) -> PromptedModel:
        model = assemble(*args, **more)
        last = model.attached.attention_modules[-1]
        last.register_forward_pre_hook(lambda *_: ran.append(1) if model.training else None)
        return model

    monkeypatch.setattr(execution, "assemble_model", watched)
    counts = {}
    for is_on in (False, True):
        ran.clear()
        own = {**EVERY_DROPOUT, **settings, "training.gradient_checkpointing": is_on}
        train(tiny_run(tmp_path / str(is_on), **own))
        counts[is_on] = len(ran)
    assert counts[True] == 2 * counts[False] > 0  # once more in the backward
    assert largest_difference(prompt_of(tmp_path / "False"), prompt_of(tmp_path / "True")) < 1e-6


def test_accumulating_two_batches_of_four_is_one_batch_of_eight(
    tiny_run: TinyRun, tiny_data: Callable[..., Path], tmp_path: Path
) -> None:
    data = str(tiny_data("classification", num_train=8))
    for name, batch_size, accumulation in (("a", 8, 1), ("b", 4, 2)):
        settings = {"training.batch_size": batch_size, "training.accumulation": accumulation, "data.path": data}
        result = train(tiny_run(tmp_path / name, **NO_DROPOUT, **settings))
        assert result.steps == 2
    first, second = metric_lines(tmp_path / "a"), metric_lines(tmp_path / "b")
    assert [line["train_loss"] for line in first] == pytest.approx([line["train_loss"] for line in second], abs=1e-5)
    assert largest_difference(prompt_of(tmp_path / "a"), prompt_of(tmp_path / "b")) < 1e-5


def test_max_steps_stops_in_the_middle_of_an_epoch(tiny_run: TinyRun, tmp_path: Path) -> None:
    result = train(tiny_run(tmp_path / "run", **{"training.max_steps": 4, "training.epochs": 5}))
    assert result.steps == 4
    assert [(line["epoch"], line["step"]) for line in metric_lines(tmp_path / "run")] == [(1, 3), (2, 4)]


def test_batch_tokens_make_the_batches(tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    forward = PromptedModel.forward

    def spy(model: PromptedModel, input_ids: torch.Tensor, *args: Any, **more: Any) -> Any:
        if model.training:
            shapes.append(tuple(input_ids.shape))
        return forward(model, input_ids, *args, **more)

    monkeypatch.setattr(PromptedModel, "forward", spy)
    train(tiny_run(tmp_path / "run", **{"training.batch_tokens": 64, "training.epochs": 1}))
    assert all(rows * width <= 64 for rows, width in shapes)
    assert sum(rows for rows, _ in shapes) == 24


def test_early_stopping_ends_the_run_and_keeps_the_best_epoch(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = Classification.score
    monkeypatch.setattr(Classification, "score", lambda *a: score(*a) | {"accuracy": next(scores)})
    monkeypatch.setattr(Classification, "majority_score", lambda *a: 0.1)  # asked for where all rows get one answer
    scores = iter([0.5, 0.4, 0.5, 0.3])
    settings = {"training.schedule": "constant", "training.warmup": 0.0}
    result = train(tiny_run(tmp_path / "a", **settings, **{"training.epochs": 9, "training.early_stopping": 2}))
    assert (result.best_epoch, result.steps, result.metrics["accuracy"]) == (1, 9, 0.5)
    scores = iter([0.5])
    train(tiny_run(tmp_path / "b", **settings, **{"training.epochs": 1}))
    assert same_tensors(prompt_of(tmp_path / "a"), prompt_of(tmp_path / "b"))


@pytest.mark.parametrize("schedule", ["constant", "exponential_per_epoch"])
def test_every_schedule_trains(schedule: str, tiny_run: TinyRun, tmp_path: Path) -> None:
    assert train(tiny_run(tmp_path / "run", **{"training.schedule": schedule})).steps == 6


def test_bf16_keeps_prompts_and_head_in_fp32(tiny_run: TinyRun, tmp_path: Path) -> None:
    train(tiny_run(tmp_path / "run", **{"training.precision": "bf16", "training.epochs": 1}))
    assert {value.dtype for value in prompt_of(tmp_path / "run").values()} == {torch.float32}
    assert load_config(tmp_path / "run" / "config.yaml").training.precision == "bf16"


def test_prompts_of_no_length_train_the_head_alone(tiny_run: TinyRun, tmp_path: Path) -> None:
    train(tiny_run(tmp_path / "run", **{"prompts.prompt_length": 0, "training.epochs": 1}))
    assert prompt_of(tmp_path / "run")["prompts"].shape == (2, 2, 4, 0, 8)
    assert evaluate(tmp_path / "run").num_rows == 12


def test_prompts_of_the_mlp_predict_as_in_training_once_folded(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[Any]] = []
    predict = Classification.predict

    def spy(*args: Any) -> list[Any]:
        predictions = predict(*args)
        seen.append(predictions)
        return predictions

    monkeypatch.setattr(Classification, "predict", spy)
    settings = {"prompts.reparameterization": "mlp", "prompts.reparameterization_size": 16, **EVERY_DROPOUT}
    result = train(tiny_run(tmp_path / "run", **settings))
    in_training = seen[result.best_epoch - 1]
    evaluate(tmp_path / "run")
    for expected, found in zip(in_training, seen[-1], strict=True):
        assert found["scores"] == pytest.approx(expected["scores"], abs=1e-6)
    assert set(prompt_of(tmp_path / "run")) == {"prompts", "head.linear.weight", "head.linear.bias"}


# Trouble.


def test_collapse_is_told(tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    monkeypatch.setattr(Classification, "is_constant", lambda kind, predictions: True)
    train(tiny_run(tmp_path / "run", **{"training.epochs": 1}), report=told)
    assert len(told.warnings) == 1
    assert told.warnings[0].startswith("every validation row gets the same answer: accuracy is ")
    assert "as always giving the most frequent answer does" in told.warnings[0]


def test_a_real_collapse_is_told(tiny_run: TinyRun, tmp_path: Path) -> None:
    told = Told()
    labels = ["nothing", "red", "blue", "green"]
    train(tiny_run(tmp_path / "run", **{"training.learning_rate": 1e-9, "data.labels": labels}), report=told)
    assert "every validation row gets the same answer" in " ".join(told.warnings)


def test_a_loss_that_is_no_number_stops_and_leaves_the_checkpoint_before(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"training.checkpoint_steps": 2, "training.epochs": 3}
    train(tiny_run(tmp_path / "whole", **settings))
    loss, calls = Classification.loss, 0

    def breaks(kind: Classification, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return loss(kind, logits, batch) * (float("nan") if calls == 5 else 1.0)

    told = Told()
    with monkeypatch.context() as patched:
        patched.setattr(Classification, "loss", breaks)
        with pytest.raises(TrainingError, match=r"the loss became nan by step \d \(learning_rate 0.04.*Lower training"):
            train(tiny_run(tmp_path / "run", **settings), report=told)
    assert told.stopped == 1
    state = json.loads((tmp_path / "run" / "checkpoints" / "last" / "state.json").read_text())
    assert (state["epoch"], state["step"]) == (1, 4)
    train(tiny_run(tmp_path / "run", **settings), resume=True)
    assert same_tensors(prompt_of(tmp_path / "run"), prompt_of(tmp_path / "whole"))


def test_a_learning_rate_that_is_far_too_large_stops_with_advice(tiny_run: TinyRun, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf).*\(learning_rate 1e\+30, precision fp32\)"):
        train(tiny_run(tmp_path / "run", **{"training.learning_rate": 1e30, "training.head_learning_rate": 1e30}))


def test_out_of_memory_says_what_to_change_and_frees_the_backbone(
    tiny_run: TinyRun, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **more: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    with monkeypatch.context() as patched:
        patched.setattr(PromptedModel, "forward", full)
        with pytest.raises(TrainingError) as caught:
            train(tiny_run(tmp_path / "run"), backbone=backbone)
    assert str(caught.value).startswith(
        "a batch did not fit into memory, not even one example of it alone (8 positions): CUDA out of memory. Tried "
        "to allocate 20.00 MiB. Lower data.max_length, or set training.gradient_checkpointing=true"
    )
    train(tiny_run(tmp_path / "run", **{"training.batch_size": 4}), overwrite=True, backbone=backbone)


def test_another_runtime_error_stays_itself(tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **more: Any) -> torch.Tensor:
        raise RuntimeError("a bug")

    monkeypatch.setattr(PromptedModel, "forward", broken)
    with pytest.raises(RuntimeError, match="^a bug$"):
        train(tiny_run(tmp_path / "run"))


def test_shifted_positions_that_do_not_fit_are_refused_before_training(tiny_run: TinyRun, tmp_path: Path) -> None:
    config = tiny_run(tmp_path / "run", **{"prompts.positions": "shifted", "data.max_length": 62})
    with pytest.raises(ConfigError) as caught:
        train(config)
    assert str(caught.value) == (
        "data.max_length is 62 and prompts.positions `shifted` adds prompt_length 4, but "
        f"{config.backbone} has 64 positions. Set data.max_length to at most 60, or prompts.positions to unshifted."
    )
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("more", [{}, {"prompts.layers": "last:1", "training.gradient_checkpointing": True}])
def test_a_compiled_run_learns_what_another_learns(
    more: dict[str, Any], tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    compiled: list[Any] = []
    monkeypatch.setattr("ptuning.backbones.compilation.BACKEND", backend)
    # for the classification head the last layer runs for the first token alone; random numbers are others when compiled
    more = {**more, "training.max_steps": 6, "head.pooling": "cls", "training.backbone_dropout": "off"}
    train(tiny_run(tmp_path / "plain", **more))
    assert not compiled
    torch._dynamo.reset()
    train(tiny_run(tmp_path / "compiled", **more, **{"training.compile": True}))
    assert compiled
    plain, other = prompt_of(tmp_path / "plain"), prompt_of(tmp_path / "compiled")
    assert plain.keys() == other.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


def test_a_run_that_cannot_be_compiled_is_refused_before_training(tiny_run: TinyRun, tmp_path: Path) -> None:
    backbone = load_backbone(tiny_run(tmp_path / "run").backbone)
    deberta = dataclasses.replace(backbone, family=FAMILIES["deberta"])
    with pytest.raises(ConfigError, match=r"training.compile is on, but layers of deberta .* Turn it off"):
        train(tiny_run(tmp_path / "run", **{"training.compile": True}), backbone=deberta)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_device_that_is_not_there_is_refused(tiny_run: TinyRun, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the device is 'xpu:7', which this machine does not have"):
        train(tiny_run(tmp_path / "run", **{"training.device": "xpu:7"}))


def test_a_backbone_that_is_not_there_is_refused(tiny_run: TinyRun, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="was not found"):
        train(tiny_run(tmp_path / "run", backbone=str(tmp_path / "nowhere")))


def test_a_kind_without_data_is_refused(tiny_run: TinyRun, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the task classification has no data of its own.*with --data"):
        train(tiny_run(tmp_path / "run", **{"data.path": None}))


def test_an_unknown_metric_is_refused(tiny_run: TinyRun, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="training.metric is 'bleu', but classification is judged by one of accuracy"):
        train(tiny_run(tmp_path / "run", **{"training.metric": "bleu"}))


def test_data_that_are_not_there_are_refused(tiny_run: TinyRun, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        train(tiny_run(tmp_path / "run", **{"data.path": str(tmp_path / "nowhere")}))


# The directory.


def test_a_run_that_is_there_is_refused_without_saying_what_to_do(tiny_run: TinyRun, tmp_path: Path) -> None:
    config = tiny_run(tmp_path / "run", **{"training.epochs": 1})
    train(config)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(ConfigError) as caught:
        train(config)
    assert str(caught.value) == (
        f"{tmp_path / 'run'} has a run already (metrics.jsonl, config.yaml, checkpoints/last, prompt). Use --resume to "
        "go on with it, --overwrite to start again, or another --output."
    )
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_overwrite_starts_again_and_leaves_foreign_files_alone(tiny_run: TinyRun, tmp_path: Path) -> None:
    train(tiny_run(tmp_path / "run", **{"training.seed": 5}))
    foreign = [tmp_path / "run" / name for name in ("notes.txt", "checkpoints/mine/model.bin", "data/train.jsonl")]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    train(tiny_run(tmp_path / "run"), overwrite=True)
    train(tiny_run(tmp_path / "fresh"))
    assert all(path.read_text() == "mine" for path in foreign)
    assert same_tensors(prompt_of(tmp_path / "run"), prompt_of(tmp_path / "fresh"))
    assert metric_lines(tmp_path / "run") == metric_lines(tmp_path / "fresh")


@pytest.mark.parametrize("left", ["checkpoints/last", "checkpoints/.last.old"])
def test_what_an_unfinished_overwrite_left_is_not_gone_on_from(left: str, tiny_run: TinyRun, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    train(tiny_run(directory, **{"training.epochs": 1}))
    if left.endswith("old"):
        (directory / "checkpoints" / "last").rename(directory / left)
    (directory / "config.yaml").unlink()
    (directory / "metrics.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"has a run already \(checkpoints/last, prompt\)"):
        train(tiny_run(directory))
    train(tiny_run(directory), overwrite=True)
    assert [line["epoch"] for line in metric_lines(directory)] == [1, 2]
    assert not list(directory.rglob(".*"))


def test_a_second_process_on_one_directory_is_refused(tiny_run: TinyRun, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "run")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        for name in ("run", "link"):  # one lock, whatever the spelling
            with FileLock(tmp_path / ".run.lock"), pytest.raises(ConfigError) as caught:
                train(tiny_run(tmp_path / name), **options)
            assert str(caught.value) == (
                f"another process is training in {tmp_path / 'run'}. Wait for it, or give this run another --output."
            )
        train(tiny_run(tmp_path / "run", **{"training.max_steps": 1}), overwrite=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"data.path": "./nowhere"},
        {"training.metric": "bleu"},
        {"prompts.layers": "last:9"},
        {"prompts.init": "nowhere"},
        {"prompts.init": "text", "prompts.init_text": "a box", "prompts.positions": "shifted", "data.max_length": 999},
    ],
)
def test_a_run_that_cannot_start_leaves_what_is_there(tiny_run: TinyRun, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(PtuningError):
        train(tiny_run(tmp_path / "run", **wrong))
    assert not (tmp_path / "run").exists()
    train(tiny_run(tmp_path / "run", **{"training.max_steps": 1}))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(PtuningError):
        train(tiny_run(tmp_path / "run", **wrong), overwrite=True)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_run_may_start_from_the_prompt_that_it_replaces(tiny_run: TinyRun, tmp_path: Path) -> None:
    train(tiny_run(tmp_path / "run", **{"training.max_steps": 1}))
    again = tiny_run(tmp_path / "run", **{"training.max_steps": 1, "prompts.init": str(tmp_path / "run")})
    train(again, overwrite=True)


def test_a_run_that_goes_on_does_not_need_what_it_started_from(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_run(tmp_path / "first", **{"training.max_steps": 1}))
    monkeypatch.chdir(tmp_path)
    whole = train(tiny_run(tmp_path / "run", **{"prompts.init": "first"}))
    shutil.rmtree(tmp_path / "first")
    monkeypatch.chdir("/")
    assert load_config(tmp_path / "run" / "config.yaml").prompts.init == str(tmp_path / "first")
    assert train(load_config(tmp_path / "run" / "config.yaml"), resume=True).metrics == whole.metrics


def test_overwriting_refuses_to_delete_what_no_run_has_written(tiny_run: TinyRun, tmp_path: Path) -> None:
    train(tiny_run(tmp_path / "run", **{"training.max_steps": 1}))
    (tmp_path / "run" / "prompt" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"prompt holds notes.txt, which no run has written"):
        train(tiny_run(tmp_path / "run"), overwrite=True)
    assert (tmp_path / "run" / "prompt" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["candidates", "trunk"])
def test_directories_of_others_that_have_such_a_name_stay(name: str, tiny_run: TinyRun, tmp_path: Path) -> None:
    kept = tmp_path / "run" / name / "mine.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    config = tiny_run(tmp_path / "run", **{"prompts.layers": "last:1"})
    train(config)
    with pytest.raises(ConfigError, match=rf"{name} holds mine.txt, which no run has written"):
        train(config, overwrite=True)
    assert kept.read_text() == "mine"


def test_an_empty_output_is_refused(tiny_run: TinyRun, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="output is empty, expected the directory of the run"):
        train(tiny_run(tmp_path / "run").model_copy(update={"output": " "}))


@pytest.mark.parametrize(
    "rows, settings, epochs",
    [
        (24, {"training.batch_size": 8}, 30),  # 3 steps an epoch: at most 30 epochs
        (24, {"training.batch_size": 8, "training.max_steps": 7}, 3),
        (24, {"training.batch_size": 8, "training.max_steps": 6}, 2),
        (24, {"training.batch_size": 4, "training.accumulation": 2, "training.max_steps": 7}, 3),
        (24, {"training.epochs": 4}, 4),
        (1600, {"training.batch_size": 8}, 8),  # 200 steps an epoch: 8 make 1,500
        (8000, {"training.batch_size": 8}, 5),  # 1,000 steps an epoch: at least 5
    ],
)
def test_epochs_follow_from_the_number_of_steps(
    tiny_run: TinyRun, tmp_path: Path, rows: int, settings: dict[str, Any], epochs: int
) -> None:
    config = tiny_run(tmp_path / "run", **{"training.epochs": None, **settings})
    loaded = load_backbone(config.backbone)
    prepared = run.prepare_task(config, loaded)
    many = dataclasses.replace(prepared, train=(prepared.train * rows)[:rows])
    assert run.resolve_config(config, many, loaded, tmp_path).training.epochs == epochs


def test_max_steps_are_reached_where_epochs_differ_in_length(tiny_run: TinyRun, tmp_path: Path) -> None:
    for steps in (1, 5, 23):
        settings = {"training.epochs": None, "training.batch_tokens": 40, "training.max_steps": steps}
        assert train(tiny_run(tmp_path / str(steps), **settings)).steps == steps


def test_what_the_config_says_of_the_backbone_reaches_it(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def load(name: str, **options: Any) -> Backbone:
        asked.update(options, name=name)
        return load_backbone(name, **{**options, "revision": None})

    monkeypatch.setattr(run, "load_backbone", load)
    settings = {"training.attention": "eager", "revision": "abc", "training.max_steps": 1, "training.precision": "bf16"}
    config = tiny_run(tmp_path / "run", **settings)
    train(config)
    assert asked == {
        "name": config.backbone,
        "revision": "abc",
        "device": torch.device("cpu"),
        "dtype": torch.bfloat16,
        "attention": "eager",
        "attention_direction": None,
        "quantization": "none",
    }


def test_the_heads_own_learning_rate_is_kept(tiny_run: TinyRun, tmp_path: Path) -> None:
    train(tiny_run(tmp_path / "run", **{"training.max_steps": 1, "training.head_learning_rate": 0.003}))
    assert load_config(tmp_path / "run" / "config.yaml").training.head_learning_rate == 0.003


def test_shifted_positions_count_when_a_prompt_is_loaded(tiny_run: TinyRun, tmp_path: Path) -> None:
    settings = {"prompts.positions": "shifted", "training.epochs": 1}
    result = train(tiny_run(tmp_path / "run", **settings))
    directory = tmp_path / "run" / "prompt"
    saved = read_prompt(directory)
    assert saved.positions == "shifted"
    logits = {}
    for positions in ("shifted", "unshifted"):
        save_prompt(directory, dataclasses.replace(saved, positions=positions))
        predictor = load(directory)
        logits[positions] = [p["score"] for p in predictor.predict([{"text": "a red box"}])]
        predictor.close()
    assert logits["shifted"] != logits["unshifted"]
    save_prompt(directory, saved)
    assert evaluate(tmp_path / "run").metrics == result.metrics


def test_local_paths_are_kept_whole(
    tiny_run: TinyRun, tmp_path: Path, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_backbone.parent)
    train(tiny_run(tmp_path / "run", backbone=tiny_backbone.name))
    monkeypatch.chdir(tmp_path)
    assert load_config(tmp_path / "run" / "config.yaml").backbone == str(tiny_backbone.resolve())
    assert read_prompt(tmp_path / "run").backbone.name == str(tiny_backbone.resolve())


def test_an_output_that_is_a_file_is_refused(tiny_run: TinyRun, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ConfigError, match="the run cannot be written to .*run: File exists. Give another --output."):
        train(tiny_run(tmp_path / "run"))
    assert (tmp_path / "run").read_text() == "mine"


def test_the_default_output_names_task_and_data(tmp_path: Path) -> None:
    def default(**overrides: str) -> Path:
        return output_directory(load_config(None, overrides))

    assert default(task="helpdesk/tickets") == Path("runs/helpdesk-tickets")
    assert default(task="classification", **{"data.path": "/data/my set/"}) == Path("runs/classification-my-set")
    assert default(task="classification", output="here") == Path("here")


# Going on.


def test_resuming_a_finished_run_does_nothing_and_returns_the_same(tiny_run: TinyRun, tmp_path: Path) -> None:
    config = tiny_run(tmp_path / "run")
    result = train(config)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert train(config, resume=True) == result
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_resuming_with_other_settings_is_refused_and_named(tiny_run: TinyRun, tmp_path: Path) -> None:
    train(tiny_run(tmp_path / "run"))
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    other = tiny_run(tmp_path / "run", **{"training.learning_rate": 0.5, "data.columns": {"text": "text"}})
    with pytest.raises(ConfigError) as caught:
        train(other, resume=True)
    assert str(caught.value) == (
        f"{tmp_path / 'run'} was started with other settings: data.columns {{}} then, {{'text': 'text'}} now; "
        "training.learning_rate 0.04 then, 0.5 now; training.head_learning_rate 0.04 then, 0.5 now. Resume with "
        "those it was started with (`ptuning train --resume --output DIR` alone takes them from there), or use another "
        "--output."
    )
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before


def test_resuming_with_other_data_is_refused_and_named(tiny_run: TinyRun, tiny_data: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train.jsonl", "validation.jsonl"):
        (data / name).write_bytes((tiny_data("classification") / name).read_bytes())
    config = tiny_run(tmp_path / "run", **{"data.path": str(data)})
    train(config)
    lines = (data / "validation.jsonl").read_text().splitlines()
    (data / "validation.jsonl").write_text("\n".join(lines[:-1]))
    with pytest.raises(CheckpointError) as caught:
        train(config, resume=True)
    assert str(caught.value) == (
        "the data are not those the run was started with (other rows, labels or tokenization), so it cannot go on "
        "exactly. Put back what it was started with, or start again with --overwrite."
    )


def test_resuming_on_another_backbone_is_refused_and_named(
    tiny_run: TinyRun, backbone: Backbone, tmp_path: Path
) -> None:
    config = tiny_run(tmp_path / "run", **{"training.epochs": 1})
    train(config)
    with torch.no_grad():
        next(backbone.model.parameters()).mul_(1.5)
    with pytest.raises(CheckpointError, match="the backbone's weights are not those the run was started with"):
        train(config, resume=True, backbone=backbone)


def test_resuming_nothing_is_refused(tiny_run: TinyRun, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match="run has no config.yaml, so there is no run to resume. Leave --resume out"
    ):
        train(tiny_run(tmp_path / "run"), resume=True)


def test_resuming_without_the_metrics_that_were_made_is_refused(tiny_run: TinyRun, tmp_path: Path) -> None:
    config = tiny_run(tmp_path / "run", **{"training.epochs": 1})
    train(config)
    (tmp_path / "run" / "metrics.jsonl").unlink()
    with pytest.raises(CheckpointError, match="metrics.jsonl is missing, but the run has made 1 evaluations"):
        train(config, resume=True)


def test_the_public_name_is_this_function() -> None:
    assert ptuning.train is train


@pytest.mark.parametrize(
    ("more", "evaluated"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        ({"training.evaluation_epochs": 4}, [4, 8, 11]),
        ({"training.evaluation_epochs": 40}, [11]),
        ({"training.evaluation_epochs": 4, "training.max_steps": 17}, [4, 6]),
        ({"data.max_train_rows": 6}, [2, 4, 6, 8, 10, 11]),  # of 12 validation rows
        ({"data.max_train_rows": 3}, [2, 4, 6, 8, 10, 11]),  # five evaluations at least
    ],
)
def test_evaluations_come_every_so_many_epochs_and_after_the_last(
    more: dict[str, Any], evaluated: list[int], tiny_run: TinyRun, tmp_path: Path
) -> None:
    train(tiny_run(tmp_path / "run", **{"training.epochs": 11, **more}))
    assert [line["epoch"] for line in metric_lines(tmp_path / "run")] == evaluated
    losses = [line["train_loss"] for line in metric_lines(tmp_path / "run")]
    assert all(0 < loss < 3 for loss in losses)  # of one epoch, not of all since the last evaluation
