from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Ptuning = Callable[..., Any]

CONFIG = """\
tasks:
  first: {{task: classification}}
  second: {{task: classification, data: {{path: {data}}}}}
steps: 2
seeds: [11, 12]
backbone: {backbone}
prompts: {{prompt_length: 3}}
training: {{batch_size: 8, device: cpu}}
"""


@pytest.fixture
def arguments(tiny_backbone: Path, tiny_data: Callable[..., Path], tmp_path: Path) -> list[str]:
    """Arguments of short runs on two data sets."""
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(data=tiny_data("classification", 40, 1), backbone=tiny_backbone))
    return [str(path), "--data", f"first={tiny_data('classification')}"]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_the_table_has_a_row_for_each_data_set_with_single_beside_multi(
    ptuning: Ptuning, arguments: list[str], tmp_path: Path
) -> None:
    result = ptuning("multitask", *arguments, "--output", tmp_path / "runs")
    assert result.status == 0, result.err
    results = json.loads((tmp_path / "runs" / "results.json").read_text())
    lines = [line for line in result.out.splitlines() if line.strip()]
    assert cells(lines[0]) == [
        "data set",
        "metric",
        "single",
        "multi-task",
        "shared alone",
        "steps single / multi",
        "seconds single / multi",
    ]
    for line, name in zip(lines[2:4], ("first", "second"), strict=True):
        found = cells(line)
        summaries = [results["tasks"][name]["summary"][stage] for stage in ("single", "multi", "shared")]
        scores = [f"{one['mean']:.4f} ± {one['standard_deviation']:.4f}" for one in summaries]
        assert found[:5] == [name, "accuracy", *scores] and found[5] == "2 / 2"
    assert lines[4].startswith("validation rows, mean ± standard deviation over seeds 11, 12; ")
    assert lines[5] == f"every run: {tmp_path / 'runs' / 'results.json'}"
    assert "seed 12, shared: epoch 1, loss " in result.err and "seed 11, multi first: epoch 1" in result.err


def test_without_single_and_with_one_seed_the_table_has_what_there_is(
    ptuning: Ptuning, arguments: list[str], tmp_path: Path
) -> None:
    more = ["--no-single", "--set", "seeds=[7]", "--quiet"]
    result = ptuning("multitask", *arguments, *more, "--output", tmp_path / "runs")
    assert (result.status, result.err) == (0, "")
    assert cells(result.out.splitlines()[1]) == [
        "data set",
        "metric",
        "multi-task",
        "shared alone",
        "steps multi",
        "seconds multi",
    ]
    assert "±" not in result.out and "validation rows, seed 7;" in result.out


def test_resume_and_output_alone_go_on_with_the_settings_of_the_runs(
    ptuning: Ptuning, arguments: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "runs"
    first = ptuning("multitask", *arguments, "--no-single", "--output", output)
    again = ptuning("multitask", "--resume", "--output", output)
    assert again.status == 0 and again.out == first.out
    added = ptuning("multitask", "--resume", "--output", output, "--single")
    assert added.status == 0 and "single / multi" in added.out
    changed = ptuning("multitask", "--resume", "--output", output, "--set", "steps=4")
    assert changed.status == 2 and "was started with other settings: steps 2 then, 4 now" in changed.err


def test_runs_that_are_there_are_refused_and_replaced_when_asked(
    ptuning: Ptuning, arguments: list[str], tmp_path: Path
) -> None:
    short = [*arguments, "--no-single", "--set", "seeds=[11]", "--output", tmp_path / "runs"]
    assert ptuning("multitask", *short).status == 0
    refused = ptuning("multitask", *short)
    assert refused.status == 2
    assert refused.err.startswith(f"error: {tmp_path / 'runs'} has a run already (") and refused.err.count("\n") == 1
    assert ptuning("multitask", *short, "--overwrite").status == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--resume", "--overwrite"], "error: --resume and --overwrite were both given, expected one of them."),
        (["--data", "third=x"], "error: data are given for third, but the tasks are first, second. Name one of those."),
        (["--data", "first"], "error: --data got 'first', expected NAME=PATH, with a name of `tasks`."),
        (["--set", "sampling=even"], "error: 1 setting in {config} is wrong: `sampling` is 'even', expected"),
        (["--set", "tasks.second.task=regression"], "error: 1 setting in {config} is wrong: tasks mixes kinds ("),
        (["--set", "temperature=0"], "error: 1 setting in {config} is wrong: `temperature` is 0, expected at least 1."),
    ],
)
def test_wrong_use_is_one_line_and_2(more: list[str], said: str, ptuning: Ptuning, arguments: list[str]) -> None:
    result = ptuning("multitask", *arguments[:1], *more)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(said.format(config=arguments[0])) and result.err.count("\n") == 1


def test_without_a_config_it_says_what_to_name(ptuning: Ptuning, tmp_path: Path) -> None:
    for more, said in (
        ([], "error: no config was given, expected a YAML file with `tasks`."),
        (["--resume"], "error: --resume was given without saying which runs. Add --output DIR"),
        (["--resume", "--output", tmp_path], f"error: {tmp_path} has no config.yaml, so there is nothing to resume."),
    ):
        result = ptuning("multitask", *more)
        assert result.status == 2 and result.err.startswith(said)


def test_a_config_where_the_settings_would_be_written_is_not_overwritten(
    ptuning: Ptuning, arguments: list[str], tmp_path: Path
) -> None:
    result = ptuning("multitask", *arguments, "--output", tmp_path)
    assert result.status == 2 and "is where the settings of all runs would be written" in result.err


def test_what_fails_is_one_line_and_1(ptuning: Ptuning, arguments: list[str], tmp_path: Path) -> None:
    missing = ["--data", f"first={tmp_path / 'nowhere'}", "--output", tmp_path / "runs"]
    result = ptuning("multitask", arguments[0], *missing)
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith("error: tasks.first: ") and result.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()
