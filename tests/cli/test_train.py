from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptuning.config import RunConfig, load_config
from ptuning.errors import ConfigError

Ptuning = Callable[..., Any]


@pytest.fixture
def short(tiny_backbone: Path, tiny_data: Callable[..., Path]) -> list[str]:
    """Arguments of a short run."""
    flags = ["--task", "classification", "--backbone", str(tiny_backbone), "--data", str(tiny_data("classification"))]
    for setting in ("prompts.prompt_length=3", "training.epochs=1", "training.device=cpu", "training.batch_size=8"):
        flags += ["--set", setting]
    return flags


@pytest.fixture
def settings_of(monkeypatch: pytest.MonkeyPatch, ptuning: Ptuning) -> Callable[..., RunConfig]:
    """What `train` would be asked, without training."""

    def get(*arguments: Any) -> RunConfig:
        asked: list[RunConfig] = []

        def train(config: RunConfig, **_: Any) -> Any:
            asked.append(config)
            raise ConfigError("enough")

        monkeypatch.setattr("ptuning.training.run.train", train)
        result = ptuning("train", *arguments)
        assert result.err == "error: enough\n", result.err
        return asked[0]

    return get


def test_results_go_to_stdout_and_progress_to_stderr(ptuning: Ptuning, short: list[str], tmp_path: Path) -> None:
    result = ptuning("train", *short, "--output", tmp_path / "run")
    assert result.status == 0
    first, second = result.out.splitlines()
    assert first.startswith(f"{tmp_path / 'run'}: validation accuracy 0.") and first.endswith("(epoch 1)")
    assert second.startswith(
        "384 prompt parameters (1.94% of the backbone, 2.74% of its transformer) and 99 of the head"
    )
    assert "training: epoch 1, loss " in result.err and "(best so far)" in result.err


def test_metrics_on_development_rows_are_called_so(ptuning: Ptuning, short: list[str], tmp_path: Path) -> None:
    result = ptuning("train", *short, "--output", tmp_path / "run", "--set", "data.selection=development", "--quiet")
    assert result.out.startswith(f"{tmp_path / 'run'}: development accuracy ")


def test_quiet_says_nothing_on_stderr(ptuning: Ptuning, short: list[str], tmp_path: Path) -> None:
    result = ptuning("train", *short, "--output", tmp_path / "run", "--quiet")
    assert (result.status, result.err) == (0, "")
    assert len(result.out.splitlines()) == 2


def test_resume_and_output_alone_go_on_with_the_settings_of_the_run(
    ptuning: Ptuning, short: list[str], tmp_path: Path
) -> None:
    first = ptuning("train", *short, "--output", tmp_path / "run")
    again = ptuning("train", "--resume", "--output", tmp_path / "run")
    assert again.status == 0 and again.out == first.out
    changed = ptuning("train", "--resume", "--output", tmp_path / "run", "--set", "training.seed=3")
    assert changed.status == 2 and changed.out == ""
    assert "was started with other settings: training.seed 11 then, 3 now. Resume with" in changed.err


def test_a_run_that_is_there_is_refused_and_replaced_when_asked(
    ptuning: Ptuning, short: list[str], tmp_path: Path
) -> None:
    assert ptuning("train", *short, "--output", tmp_path / "run").status == 0
    refused = ptuning("train", *short, "--output", tmp_path / "run")
    assert refused.status == 2
    assert refused.err.startswith(f"error: {tmp_path / 'run'} has a run already (") and refused.err.count("\n") == 1
    assert ptuning("train", *short, "--output", tmp_path / "run", "--overwrite").status == 0


def test_set_wins_over_flags_over_file_over_recipe(settings_of: Callable[..., RunConfig], tmp_path: Path) -> None:
    recipe, config = tmp_path / "recipe.yaml", tmp_path / "config.yaml"
    recipe.write_text("training: {epochs: 1, batch_size: 1, seed: 1}\nbackbone: of-recipe\ntask: regression\n")
    config.write_text(f"recipe: {recipe}\ntraining: {{batch_size: 2, seed: 2}}\nbackbone: of-file\n")
    flags = ["--task", "classification", "--backbone", "of-flag", "--data", "here"]
    found = settings_of(config, *flags, "--set", "training.seed=3", "--set", "backbone=of-set")
    assert (found.training.epochs, found.training.batch_size, found.training.seed) == (1, 2, 3)
    assert (found.task, found.backbone, found.data.path) == ("classification", "of-set", "here")
    without = settings_of(config, *flags)
    assert (without.backbone, without.training.seed) == ("of-flag", 2)


def test_values_of_set_are_yaml(settings_of: Callable[..., RunConfig]) -> None:
    settings = [
        "training.learning_rate=1e-3",
        "prompts.layers=[0, 1]",
        "data.labels=[no, yes]",
        "training.max_steps=null",
    ]
    found = settings_of("--task", "classification", *(part for s in settings for part in ("--set", s)))
    assert found.training.learning_rate == 1e-3
    assert found.prompts.layers == [0, 1]
    assert found.data.labels == ["no", "yes"]
    assert found.training.max_steps is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "error: 1 setting is wrong: `task` is missing. Set it, or pass --task."),
        (
            ["--resume", "--overwrite", "--task", "classification"],
            "error: --resume and --overwrite were both given, expected one of them. Leave one out.",
        ),
        (
            ["--resume"],
            "error: --resume was given without saying which run. Add --output DIR, the directory of the run.",
        ),
        (
            ["--resume", "--output", "nowhere"],
            "error: nowhere has no config.yaml, so there is no run to resume. Give the directory of a run with "
            "--output, or leave --resume out.",
        ),
        (["--task", "classification", "--set", "training.epochs"], "error: --set got 'training.epochs', expected KEY="),
        (
            ["--task", "classification", "--set", "training.lr=1"],
            "error: 1 setting is wrong: `training.lr` is not a setting. Did you mean `training.learning_rate`?",
        ),
        (["--task", "clasification"], "error: there is no task 'clasification', expected a preset or a kind of task."),
        (["missing.yaml"], "error: the config missing.yaml cannot be read: No such file or directory."),
        (["--task", "classification", "--recipe", "papr"], "error: recipe is 'papr', expected `default`, `paper`"),
    ],
)
def test_wrong_use_is_one_line_and_2(
    arguments: list[str],
    said: str,
    ptuning: Ptuning,
    tiny_backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    backbone = ["--backbone", str(tiny_backbone)] if "--task" in arguments else []
    result = ptuning("train", *arguments, *backbone)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(said) and result.err.count("\n") == 1


def test_what_fails_is_one_line_and_1(ptuning: Ptuning, short: list[str], tmp_path: Path) -> None:
    result = ptuning("train", *short, "--data", tmp_path / "nowhere", "--output", tmp_path / "run")
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith("error: ") and result.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_config_that_is_kept_is_complete(ptuning: Ptuning, short: list[str], tmp_path: Path) -> None:
    ptuning("train", *short, "--output", tmp_path / "run")
    config = load_config(tmp_path / "run" / "config.yaml")
    assert config.task == "classification" and config.training.metric == "accuracy"
    assert json.loads((tmp_path / "run" / "prompt" / "config.json").read_text())["task"]["kind"] == "classification"


def test_a_population_is_not_for_this_command(ptuning: Ptuning, short: list[str], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("run: {task: classification}\ncandidates: [{training.seed: 1}]\n")
    for arguments in ([tmp_path / "config.yaml"], ["--resume", "--output", tmp_path]):
        result = ptuning("train", *arguments)
        assert (result.status, result.out) == (2, "") and result.err.count("\n") == 1
        assert "has `candidates`, settings of a population, expected those of one run with `task`." in result.err
