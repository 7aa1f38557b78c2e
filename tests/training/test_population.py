"""Candidates side by side end as they do alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import ptuning
from ptuning.backbones.loading import Backbone, load_backbone
from ptuning.config.loading import with_overrides
from ptuning.errors import ConfigError, TrainingError
from ptuning.evaluation import evaluate
from ptuning.inference import run_examples
from ptuning.model import PromptedModel, trained_parameters
from ptuning.training import execution, population
from ptuning.training.directory import claimed
from ptuning.training.population import PopulationResult, survivors, train_population
from ptuning.training.reporting import Silent
from ptuning.training.run import train

TinyRun = Callable[..., Any]
TOO_HIGH = {"training.learning_rate": 1e30, "training.weight_decay": 1e6}  # the highest that are taken
QUIET = {
    "head.dropout": 0.0,
    "training.backbone_dropout": "off",
    "training.precision": "fp32",
    "training.max_steps": 50,
    "training.epochs": 17,
}
SHORT = {**QUIET, "training.max_steps": 20, "training.epochs": 7}
CANDIDATES: list[dict[str, Any]] = [
    {},
    {"training.learning_rate": 0.03, "training.head_learning_rate": 0.002, "training.schedule": "constant"},
    {"prompts.prompt_length": 7, "prompts.init_std": 0.02, "training.warmup": 0.3, "training.weight_decay": 0.1},
    {"prompts.layers": "last:1", "training.seed": 3, "training.max_grad_norm": 0.01},
    {"prompts.reparameterization": "mlp", "prompts.reparameterization_size": 8, "training.seed": 3},
    {"prompts.init": "tokens", "training.schedule": "exponential_per_epoch"},
    {"prompts.gate": "values", "training.value_learning_rate": 0.03, "training.weight_averaging": "ema"},
]
KINDS = ("classification", "regression", "multiple_choice", "token_classification", "question_answering", "cloze")
NO_EFFECT = ("multiple_choice", "question_answering", "cloze")  # of what is added to all outputs: rounding alone


def _saved(prompt: Path) -> dict[str, Tensor]:
    return load_file(prompt / "prompts.safetensors")


@pytest.fixture
def backbone(tiny_backbone: Path) -> Backbone:
    return load_backbone(tiny_backbone)


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch, tiny_backbone: Path) -> dict[str, list[dict[str, Tensor]]]:
    """Everything in float64; weights at the end of each run, by name."""
    ends: dict[str, list[dict[str, Tensor]]] = {"weights": []}
    assemble, fit = execution.assemble_model, execution.fit
    monkeypatch.setattr(execution, "assemble_model", lambda *a, **k: assemble(*a, **k).double())

    def kept(model: PromptedModel, *args: Any, **more: Any) -> None:
        fit(model, *args, **more)
        ends["weights"].append({name: p.detach().clone() for name, p in trained_parameters(model).items()})

    monkeypatch.setattr(execution, "fit", kept)
    return ends


@pytest.mark.parametrize("kind", KINDS)
def test_a_candidate_ends_with_the_weights_that_it_gets_alone(
    kind: str, tiny_run: TinyRun, tiny_backbone: Path, tmp_path: Path, in_float64: dict[str, list[dict[str, Tensor]]]
) -> None:
    backbone = load_backbone(tiny_backbone, dtype=torch.float64)
    chosen, settings = (CANDIDATES, QUIET) if kind == "classification" else (CANDIDATES[:4], SHORT)
    config = tiny_run(tmp_path / "population", kind, **settings)
    train_population(config, chosen, backbone=backbone)
    (together,) = in_float64["weights"]
    for number, own_settings in enumerate(chosen):
        alone = tiny_run(tmp_path / str(number), kind, **{**settings, **own_settings})
        train(alone, backbone=backbone)
        for name, weights in in_float64["weights"][-1].items():
            if name == "heads.0.linear.bias" and kind in NO_EFFECT:
                continue
            own = name.replace("prompts.0.", f"prompts.{number}.").replace("heads.0.", f"heads.{number}.")
            torch.testing.assert_close(together[own], weights, rtol=0, atol=1e-9)


def test_in_float32_too_however_many_share_a_forward(tiny_run: TinyRun, backbone: Backbone, tmp_path: Path) -> None:
    chosen = CANDIDATES[:4]
    alone = [
        train(tiny_run(tmp_path / str(number), **{**QUIET, **settings}), backbone=backbone)
        for number, settings in enumerate(chosen)
    ]
    for at_once in (None, 1, 2):
        directory = tmp_path / f"population-{at_once}"
        result = train_population(tiny_run(directory, **QUIET), chosen, candidates_at_once=at_once, backbone=backbone)
        for number, (own, other) in enumerate(zip(result.candidates, alone, strict=True)):
            assert (own.best_epoch, own.score) == (other.best_epoch, other.metrics["accuracy"])
            for name, weights in _saved(tmp_path / str(number) / "prompt").items():
                found = _saved(directory / "candidates" / str(number) / "prompt")[name]
                torch.testing.assert_close(found, weights, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_on_the_embedded_backbone_too(tiny_run: TinyRun, tmp_path: Path) -> None:
    minilm = load_backbone("minilm")
    settings = {**SHORT, "backbone": "minilm"}
    chosen = [{}, {"training.learning_rate": 0.02, "prompts.prompt_length": 7, "training.seed": 3}]
    train_population(tiny_run(tmp_path / "population", **settings), chosen, backbone=minilm)
    for number, own in enumerate(chosen):
        result = train(tiny_run(tmp_path / str(number), **{**settings, **own}), backbone=minilm)
        assert result.steps == 20
        for name, weights in _trained(tmp_path / str(number)).items():
            together = name.replace("prompts.0.", f"prompts.{number}.").replace("heads.0.", f"heads.{number}.")
            torch.testing.assert_close(_trained(tmp_path / "population")[together], weights, rtol=0, atol=2e-4)


def _trained(run: Path) -> dict[str, Tensor]:
    """The weights after the last step, by name."""
    tensors = load_file(run / "checkpoints" / "last" / "tensors.safetensors")
    return {name: value for name, value in tensors.items() if name.startswith("parameter.")}


def test_accumulated_batches_too(tiny_run: TinyRun, backbone: Backbone, tmp_path: Path) -> None:
    settings = {**QUIET, "training.batch_size": 4, "training.accumulation": 4, "training.max_steps": 9}
    train_population(tiny_run(tmp_path / "population", **settings), CANDIDATES[:3], backbone=backbone)
    train(tiny_run(tmp_path / "alone", **settings, **CANDIDATES[2]), backbone=backbone)
    together = _saved(tmp_path / "population" / "candidates" / "2" / "prompt")
    for name, weights in _saved(tmp_path / "alone" / "prompt").items():
        torch.testing.assert_close(together[name], weights, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layers", ["all", "last:1"])
def test_gradient_checkpointing_gives_the_same_weights(
    layers: str, tiny_run: TinyRun, backbone: Backbone, tmp_path: Path
) -> None:
    rates = [{"training.learning_rate": rate} for rate in (0.001, 0.01)]
    for is_on in (False, True):
        settings = {**QUIET, "prompts.layers": layers, "training.gradient_checkpointing": is_on}
        train_population(tiny_run(tmp_path / str(is_on), **settings), rates, backbone=backbone)
    for number in range(2):
        expected, found = (
            _saved(tmp_path / name / "candidates" / str(number) / "prompt") for name in ("False", "True")
        )
        for name, weights in expected.items():
            torch.testing.assert_close(found[name], weights, rtol=0, atol=1e-6)


def test_the_layers_below_all_prompts_run_once_for_all(
    tiny_run: TinyRun, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    lower = PromptedModel.lower_layers
    monkeypatch.setattr(
        PromptedModel, "lower_layers", lambda self, ids, *a: ran.append(len(ids)) or lower(self, ids, *a)
    )
    candidates = [{"training.learning_rate": rate, "prompts.layers": "last:1"} for rate in (0.001, 0.01)]
    train_population(tiny_run(tmp_path / "population", **QUIET), candidates, backbone=backbone)
    rows = [row for name in ("train", "validation") for row in _rows(tiny_run(tmp_path / "x").data.path, name)]
    assert sum(ran) == len({row["text"] for row in rows})
    train(tiny_run(tmp_path / "alone", **QUIET, **candidates[1], **{"training.trunk_reuse": "off"}), backbone=backbone)
    for name, weights in _saved(tmp_path / "alone" / "prompt").items():
        found = _saved(tmp_path / "population" / "candidates" / "1" / "prompt")[name]
        torch.testing.assert_close(found, weights, rtol=0, atol=1e-5)


def _rows(directory: str, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(directory) / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture
def halved(tiny_run: TinyRun, backbone: Backbone, tmp_path: Path) -> PopulationResult:
    config = tiny_run(tmp_path / "population", **{**QUIET, "training.epochs": 8, "training.max_steps": None})
    rates = (1e-7, 0.03, 1e-6, 0.02)
    candidates = [{"training.learning_rate": rate, "training.head_learning_rate": rate} for rate in rates]
    return train_population(config, candidates, halving=2, backbone=backbone)


def test_the_hopeless_are_dropped_on_the_way(halved: PopulationResult) -> None:
    lines = [json.loads(line) for line in (halved.directory / "metrics.jsonl").read_text().splitlines()]
    trained = {epoch: [line["candidate"] for line in lines if line["epoch"] == epoch] for epoch in range(1, 9)}
    assert trained[1] == [0, 1, 2, 3]
    for epoch, kept in ((2, 2), (4, 1)):
        scores = {line["candidate"]: line["validation"]["accuracy"] for line in lines if line["epoch"] == epoch}
        assert trained[epoch + 1] == sorted(sorted(scores, key=lambda number: -scores[number])[:kept])
    assert [one.epochs for one in halved.candidates] == [
        sum(number in alive for alive in trained.values()) for number in range(4)
    ]
    assert halved.candidates[halved.best].score == max(one.score for one in halved.candidates)


def test_the_best_candidates_prompt_is_the_product(halved: PopulationResult) -> None:
    best = halved.directory / "candidates" / str(halved.best) / "prompt"
    assert (halved.directory / "prompt" / "prompts.safetensors").read_bytes() == (
        best / "prompts.safetensors"
    ).read_bytes()
    written = json.loads((halved.directory / "population.json").read_text())
    assert written["best"] == halved.best and written["metric"] == "accuracy"
    assert [one["score"] for one in written["candidates"]] == [one.score for one in halved.candidates]
    assert ptuning.load(halved.directory).predict([{"text": "the red lamp"}])
    score = halved.candidates[halved.best].score
    for directory in (halved.directory, best.parent):
        assert evaluate(directory).metrics["accuracy"] == pytest.approx(score)


def test_a_survivor_ends_as_without_the_others(
    halved: PopulationResult, tiny_run: TinyRun, backbone: Backbone, tmp_path: Path
) -> None:
    (winner,) = (one for one in halved.candidates if one.epochs == 8)
    settings = {**QUIET, "training.epochs": 8, "training.max_steps": None, **winner.settings}
    train(tiny_run(tmp_path / "alone", **settings), backbone=backbone)
    for name, weights in _saved(tmp_path / "alone" / "prompt").items():
        found = _saved(halved.directory / "candidates" / str(winner.number) / "prompt")[name]
        torch.testing.assert_close(found, weights, rtol=0, atol=1e-5)


class _Warnings(Silent):
    def __init__(self) -> None:
        self.told: list[str] = []

    def warn(self, text: str) -> None:
        self.told.append(text)


@pytest.mark.parametrize("batch_size", [1, 8, 24])
def test_a_candidate_that_diverges_is_dropped_and_the_others_end_as_without_it(
    batch_size: int, tiny_run: TinyRun, backbone: Backbone, tmp_path: Path
) -> None:
    """In the middle of an epoch, at its end, and where nothing but its evaluation shows it."""
    settings = {**QUIET, "training.batch_size": batch_size, "training.max_steps": None, "training.epochs": 2}
    report = _Warnings()
    config, chosen = tiny_run(tmp_path / "population", **settings), [{}, TOO_HIGH, CANDIDATES[1]]
    result = train_population(config, chosen, backbone=backbone, report=report)
    (told,) = [text for text in report.told if "finite" in text]
    assert told.startswith("candidate 1: the ") and "(learning_rate 1e+30, " in told
    assert told.endswith("set training.precision to fp32 another time. It is trained no further.")
    lost = result.candidates[1]
    assert lost.has_diverged and (lost.score, lost.metrics, lost.best_epoch, lost.epochs) == (None, {}, 0, 0)
    assert result.best != 1
    written = json.loads((tmp_path / "population" / "population.json").read_text())["candidates"][1]
    assert (written["score"], written["has_diverged"]) == (None, True)
    for number in (0, 2):
        alone = train(tiny_run(tmp_path / str(number), **{**settings, **chosen[number]}), backbone=backbone)
        own = result.candidates[number]
        assert not own.has_diverged and (own.score, own.epochs) == (alone.metrics["accuracy"], 2)
        for name, weights in _saved(tmp_path / str(number) / "prompt").items():
            found = _saved(tmp_path / "population" / "candidates" / str(number) / "prompt")[name]
            torch.testing.assert_close(found, weights, rtol=0, atol=1e-5)


def test_a_diverging_candidate_takes_no_place_among_the_survivors(
    tiny_run: TinyRun, backbone: Backbone, tmp_path: Path
) -> None:
    config = tiny_run(tmp_path / "run", **{**QUIET, "training.epochs": 4, "training.max_steps": None})
    result = train_population(config, [TOO_HIGH, {}, TOO_HIGH, CANDIDATES[1]], halving=2, backbone=backbone)
    assert sorted(one.epochs for one in result.candidates) == [0, 0, 2, 4]  # two of four go on after an epoch


def test_only_where_all_candidates_diverge_is_there_an_error(
    tiny_run: TinyRun, backbone: Backbone, tmp_path: Path
) -> None:
    report = _Warnings()
    with pytest.raises(TrainingError, match=r"^candidate 1: the .*1e\+29.*--overwrite.*All others have diverged too"):
        train_population(
            tiny_run(tmp_path / "run", **QUIET),
            [TOO_HIGH, {"training.learning_rate": 1e29}],
            backbone=backbone,
            report=report,
        )
    assert [text[:12] for text in report.told] == ["candidate 0:"]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gives each candidate the scores that are said, evaluation after evaluation."""

    def script(*scores: list[float]) -> None:
        coming = [iter(own) for own in scores]
        monkeypatch.setattr(population, "validate", lambda *_, entry, **__: {"accuracy": next(coming[entry])})

    return script


def test_a_candidate_that_diverges_later_keeps_its_score(
    tiny_run: TinyRun, backbone: Backbone, tmp_path: Path, scripted: Callable[..., None]
) -> None:
    scripted([0.7, float("nan")], [0.1, 0.2, 0.3, 0.4])
    config = tiny_run(tmp_path / "run", **{**QUIET, "training.epochs": 4, "training.max_steps": None})
    result = train_population(config, [{}, {"training.seed": 3}], backbone=backbone)
    first = result.candidates[0]
    assert (first.score, first.best_epoch, first.epochs, first.has_diverged) == (0.7, 1, 1, True)
    assert result.best == 0
    assert ptuning.read_prompt(tmp_path / "run" / "prompt").metrics == {"accuracy": 0.7}


def test_candidates_that_stop_early_take_no_place_among_the_survivors(
    tiny_run: TinyRun, backbone: Backbone, tmp_path: Path, scripted: Callable[..., None]
) -> None:
    scripted([0.9, 0.9], [0.1, 0.5, 0.5, 0.5], [0.2, 0.6, 0.6, 0.7, 0.7, 0.7, 0.7, 0.7], [0.3, 0.4])
    config = tiny_run(tmp_path / "run", **{**QUIET, "training.epochs": 8, "training.max_steps": None})
    candidates = [{"training.early_stopping": 1}, *({"training.seed": seed} for seed in (1, 2, 3))]
    result = train_population(config, candidates, halving=2, backbone=backbone)
    assert [one.epochs for one in result.candidates] == [2, 4, 8, 2]
    assert result.best == 0


def test_halving_counts_the_epochs_that_max_steps_leaves(
    tiny_run: TinyRun, backbone: Backbone, tmp_path: Path, scripted: Callable[..., None]
) -> None:
    scripted([0.4] * 4, [0.3] * 4, [0.2] * 4, [0.1] * 4)
    config = tiny_run(tmp_path / "run", **{**QUIET, "training.epochs": 100, "training.max_steps": 12})  # 3 an epoch
    result = train_population(config, [{"training.seed": seed} for seed in range(4)], halving=2, backbone=backbone)
    assert [one.epochs for one in result.candidates] == [4, 2, 1, 1]


def test_epochs_without_an_evaluation_count(
    tiny_run: TinyRun, backbone: Backbone, tmp_path: Path, scripted: Callable[..., None]
) -> None:
    scripted([0.4, 0.5], [0.3, 0.3])
    more = {"training.epochs": 4, "training.max_steps": None, "training.evaluation_epochs": 2}
    result = train_population(
        tiny_run(tmp_path / "run", **{**QUIET, **more}), [{}, {"training.seed": 3}], backbone=backbone
    )
    assert [one.epochs for one in result.candidates] == [4, 4]


def test_warnings_name_their_candidate(
    tiny_run: TinyRun, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ptuning.tasks.classification import Classification

    monkeypatch.setattr(Classification, "is_constant", lambda *_: True)
    report = _Warnings()
    config = tiny_run(tmp_path / "run", **{**QUIET, "training.epochs": 1})
    train_population(config, [{}, {"training.seed": 3}], backbone=backbone, report=report)
    assert [text[:38] for text in report.told] == [
        f"candidate {number}: every validation row gets" for number in (0, 1)
    ]


def test_results_are_written_while_nobody_else_can_write(
    tiny_run: TinyRun, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []
    write = population.save_prompt

    def try_to_claim(directory: Path, saved: Any) -> None:
        with pytest.raises(ConfigError, match="another process is training"), claimed(tmp_path / "run"):
            pass
        refused.append(directory.relative_to(tmp_path / "run").as_posix())
        write(directory, saved)

    monkeypatch.setattr(population, "save_prompt", try_to_claim)
    train_population(tiny_run(tmp_path / "run", **{"training.epochs": 1}), [{}], backbone=backbone)
    assert refused == ["candidates/0/prompt", "prompt"]


def test_a_population_that_was_moved_goes_on(
    tiny_run: TinyRun, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_run(tmp_path / "run", **{"training.epochs": 1})
    first = train_population(config, [{}, {"training.seed": 3}], backbone=backbone)
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    for output in ("elsewhere", str(tmp_path / "elsewhere")):
        moved = with_overrides(config, {"output": output})
        again = train_population(moved, [{}, {"training.seed": 3}], resume=True, backbone=backbone)
        assert (again.directory, again.candidates) == (Path(output), first.candidates)


def test_a_candidates_directory_is_no_place_for_a_run(tiny_run: TinyRun, backbone: Backbone, tmp_path: Path) -> None:
    train_population(tiny_run(tmp_path / "run", **{"training.epochs": 1}), [{}, {}], backbone=backbone)
    before = (tmp_path / "run" / "candidates" / "1" / "prompt" / "prompts.safetensors").stat()
    for name, how in (("1", {"resume": True}), ("1", {"overwrite": True}), ("7", {})):
        own = tiny_run(tmp_path / "run" / "candidates" / name)
        for start in (train, lambda config, **how: train_population(config, [{}], **how)):
            with pytest.raises(ConfigError, match=r"is a candidate of the population in .*train_population\(\.\.\."):
                start(own, backbone=backbone, **how)
    assert (tmp_path / "run" / "candidates" / "1" / "prompt" / "prompts.safetensors").stat() == before
    assert not (tmp_path / "run" / "candidates" / "7").exists()


def test_a_run_and_a_population_do_not_go_on_as_each_other(
    tiny_run: TinyRun, backbone: Backbone, tmp_path: Path
) -> None:
    short = {"training.epochs": 1}
    run, of_many = tiny_run(tmp_path / "run", **short), tiny_run(tmp_path / "population", **short)
    train(run, backbone=backbone)
    train_population(of_many, [{}], backbone=backbone)
    with pytest.raises(ConfigError, match=r"config.yaml has settings of other training.*overwrite=True"):
        train_population(run, [{}], resume=True, backbone=backbone)
    with pytest.raises(ConfigError, match=r"has `candidates`, settings of a population.*train_population\("):
        train(of_many, resume=True, backbone=backbone)


def test_a_stopped_population_goes_on_and_ends_the_same(
    tiny_run: TinyRun, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**QUIET, "training.epochs": 4, "training.max_steps": None}
    train_population(tiny_run(tmp_path / "whole", **settings), CANDIDATES[:4], halving=2, backbone=backbone)
    save, calls = execution.save_state, iter(range(9))

    def stop(*args: Any, **more: Any) -> None:
        save(*args, **more)
        if next(calls) == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(execution, "save_state", stop)
        train_population(tiny_run(tmp_path / "run", **settings), CANDIDATES[:4], halving=2, backbone=backbone)
    changed = "was started with other settings: halving 2 then, None now.*give the same to train_population"
    with pytest.raises(ConfigError, match=changed):
        train_population(tiny_run(tmp_path / "run", **settings), CANDIDATES[:4], resume=True, backbone=backbone)
    config = tiny_run(tmp_path / "run", **settings)
    train_population(config, CANDIDATES[:4], halving=2, resume=True, backbone=backbone)
    for number in range(4):
        for name, weights in _saved(tmp_path / "whole" / "candidates" / str(number) / "prompt").items():
            assert torch.equal(_saved(tmp_path / "run" / "candidates" / str(number) / "prompt")[name], weights)


def test_a_population_that_lost_a_candidate_goes_on_and_ends_the_same(
    tiny_run: TinyRun, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"training.batch_size": 1, "training.checkpoint_steps": 7}  # of 24 steps an epoch; dropout is on
    train_population(tiny_run(tmp_path / "whole", **settings), [{}, TOO_HIGH], backbone=backbone)
    save, calls = execution.save_state, iter(range(9))

    def stop(*args: Any, **more: Any) -> None:
        save(*args, **more)
        if next(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(execution, "save_state", stop)
        train_population(tiny_run(tmp_path / "run", **settings), [{}, TOO_HIGH], backbone=backbone)
    result = train_population(tiny_run(tmp_path / "run", **settings), [{}, TOO_HIGH], resume=True, backbone=backbone)
    assert [one.has_diverged for one in result.candidates] == [False, True]
    for name, weights in _saved(tmp_path / "whole" / "prompt").items():
        assert torch.equal(_saved(tmp_path / "run" / "prompt")[name], weights)


@pytest.mark.parametrize(
    ("num_candidates", "epochs", "halving", "expected"),
    [
        (8, 8, 2, {1: 4, 2: 2, 4: 1}),
        (8, 12, 2, {2: 4, 3: 2, 6: 1}),
        (8, 5, 2, {1: 4, 2: 2, 3: 1}),
        (9, 9, 3, {1: 3, 3: 1}),
        (6, 8, 2, {2: 3, 4: 2}),
        (8, 2, 2, {1: 1}),
        (1, 8, 2, {}),
        (8, 1, 2, {}),
    ],
)
def test_who_survives(num_candidates: int, epochs: int, halving: int, expected: dict[int, int]) -> None:
    assert survivors(num_candidates, epochs, halving) == expected


@pytest.mark.parametrize(
    ("candidates", "more", "message"),
    [
        ({"training.learning_rate": 0.1}, {}, r"candidates is {'training.*, expected a list with the settings of each"),
        (["training.learning_rate=0.1"], {}, "candidates is .*, expected a list with the settings of each"),
        ([{}], {"halving": 1}, "halving is 1, expected a whole number from 2 on. Give one, or leave it out"),
        ([{}], {"halving": "2"}, "halving is '2', expected a whole number"),
        ([{}], {"halving": 2.5}, "halving is 2.5, expected a whole number"),
        ([{}], {"candidates_at_once": 0}, "candidates_at_once is 0, expected a whole number from 1 on"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_loaded(
    candidates: Any, more: dict[str, Any], message: str, tiny_run: TinyRun, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(population, "load_backbone_of", None)
    with pytest.raises(ConfigError, match=message):
        train_population(tiny_run(tmp_path / "run"), candidates, **more)
    assert not (tmp_path / "run").exists()


def test_candidates_may_not_differ_in_what_they_share(tiny_run: TinyRun, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"differ in data.max_length, training.batch_size, but side by side.*one after"
    ):
        train_population(
            tiny_run(tmp_path / "run"), [{"training.batch_size": 4}, {"data.max_length": 9, "training.seed": 1}]
        )
    with pytest.raises(ConfigError, match="there are no candidates, expected at least one"):
        train_population(tiny_run(tmp_path / "run"), [])
    with pytest.raises(ConfigError, match=r"`training.learning_rate` is -1, expected above 0"):
        train_population(tiny_run(tmp_path / "run"), [{"training.learning_rate": -1}])
    assert not (tmp_path / "run").exists()


def test_seeds_that_would_draw_other_rows_are_refused(tiny_run: TinyRun, backbone: Backbone, tmp_path: Path) -> None:
    two = [{"training.seed": 1}, {"training.seed": 2}]
    for more, what in (
        ({"data.max_train_rows": 9}, r"the rows \(data.max_train_rows\)"),
        ({"training.batch_tokens": 64}, "how many batches of training.batch_tokens"),
    ):
        with pytest.raises(ConfigError, match=rf"differ in training.seed, which also decides {what}"):
            train_population(tiny_run(tmp_path / "run", **more), two, backbone=backbone)
    assert not (tmp_path / "run").exists()


def test_shifted_prompts_that_leave_other_room_are_refused(
    tiny_run: TinyRun, backbone: Backbone, tmp_path: Path
) -> None:
    config = tiny_run(tmp_path / "run", **{"prompts.positions": "shifted", "data.max_length": None})
    with pytest.raises(ConfigError, match=r"candidate 1 leaves room for 44 tokens.*60.*Set data.max_length to 44"):
        train_population(config, [{}, {"prompts.prompt_length": 20}], backbone=backbone)


def test_overwriting_takes_the_candidates_away(tiny_run: TinyRun, backbone: Backbone, tmp_path: Path) -> None:
    config = tiny_run(tmp_path / "run", **{"training.epochs": 1})
    train_population(config, [{}, {"training.seed": 5}], backbone=backbone)
    with pytest.raises(ConfigError, match=r"has a run already .*population.json"):
        train(config, backbone=backbone)
    train(config, overwrite=True, backbone=backbone)
    assert not (tmp_path / "run" / "candidates").exists() and not (tmp_path / "run" / "population.json").exists()


def test_one_backbone_is_in_memory(
    tiny_run: TinyRun, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    fit = execution.fit

    def kept(model: PromptedModel, *args: Any, **more: Any) -> None:
        own = {id(p) for p in model.parameters()} - {id(p) for p in trained_parameters(model).values()}
        seen.append(len(own - {id(p) for p in backbone.model.parameters()}))
        fit(model, *args, **more)

    monkeypatch.setattr(execution, "fit", kept)
    train_population(tiny_run(tmp_path / "run"), CANDIDATES[:3], backbone=backbone)
    assert seen == [0]


def test_mixed_candidates_predict_in_one_batch_what_each_predicts(
    tiny_run: TinyRun, backbone: Backbone, tmp_path: Path
) -> None:
    """What evaluation relies on: entries and heads of several candidates in one model."""
    from ptuning.training.assembly import assemble_model
    from ptuning.training.run import prepare_task, resolve_config

    config = tiny_run(tmp_path / "run", **QUIET)
    prepared = prepare_task(config, backbone)
    configs = [resolve_config(with_overrides(config, one), prepared, backbone, tmp_path) for one in ({}, CANDIDATES[3])]
    model = assemble_model(configs[0], backbone, prepared.kind, prepared.train, other_configs=configs[1:])
    count = len(prepared.validation)
    both = run_examples(
        model,
        prepared.validation * 2,
        backbone.tokenizer,
        entries=[0] * count + [1] * count,
        heads=[0] * count + [1] * count,
    )
    second = run_examples(model, prepared.validation, backbone.tokenizer, entries=[1] * count, heads=[1] * count)
    model.detach()
    torch.testing.assert_close(both[count:], second)
    assert not torch.allclose(both[0], both[count])
