from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptuning.reports.outcomes import read_results

Ptuning = Callable[..., Any]

CONFIG = """\
methods:
  p-tuning-v2:
  too long: {{method: p-tuning-v2, prompts.prompt_length: 60, prompts.positions: shifted}}
tasks: {{colours: {{task: classification}}}}
backbones: {{tiny: {{backbone: {backbone}}}}}
seeds: [11]
run:
  data: {{max_length: 48}}
  prompts: {{prompt_length: 3}}
  training: {{epochs: 1, batch_size: 8, device: cpu, precision: fp32}}
"""


@pytest.fixture
def arguments(tiny_backbone: Path, tiny_data: Callable[..., Path], tmp_path: Path) -> list[str]:
    path = tmp_path / "compare.yaml"
    path.write_text(CONFIG.format(backbone=tiny_backbone))
    return [str(path), "--data", f"colours={tiny_data('classification')}", "--output", str(tmp_path / "out")]


@pytest.mark.slow
def test_a_table_and_what_failed_and_status_1(ptuning: Ptuning, arguments: list[str], tmp_path: Path) -> None:
    result = ptuning("compare", *arguments, "--workers", "2")
    assert result.status == 1, result.err
    assert "Scores on tiny" in result.out and "Costs on tiny" in result.out
    assert "Scores on held-out rows; epochs and settings were chosen by other rows: rows cut from train" in result.out
    lines = result.out.splitlines()
    row = next(line for line in lines if line.split()[:2] == ["p-tuning-v2", "1"])
    (done,) = [one.result for one in read_results(tmp_path / "out" / "results.json").outcomes if one.result is not None]
    is_best = round(100 * done.score, 1) > round(100 * (done.majority_score or 0.0), 1)  # two epochs may not reach it
    assert row.split()[3:] == (["*"] if is_best else []) and "*: the best" in result.out
    assert any(line.split() == ["too", "long", "1", "failed"] for line in lines)
    assert lines[-1] == f"tables and figures: {tmp_path / 'out'}"
    assert "2 cells, 2 at once\n" in result.err and "[2/2] " in result.err
    assert "failed: main too long, colours, tiny, seed 11: " in result.err

    again = ptuning("compare", *arguments, "--tables-only", "--quiet")
    assert again.status == 1 and again.out == result.out and "[" not in again.err.split("failed:")[0]

    path = tmp_path / "out" / "results.json"  # as of an older version, which did not say what that answer scores
    path.write_text(re.sub(r'"majority_score": [^,]+', '"majority_score": null', path.read_text()))
    older = ptuning("compare", *arguments, "--tables-only", "--quiet").out.splitlines()
    (row,) = [line for line in older if line.split()[:2] == ["p-tuning-v2", "1"] and "*" in line]
    assert row.split()[1:] == ["1", row.split()[2], "*"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--set", "selection=best"], "error: 1 setting in {config} is wrong: `selection` is 'best', expected"),
        (["--data", "shapes=x"], "error: data are given for shapes, but the tasks are colours."),
        (["--workers", "0"], "error: 1 setting in {config} is wrong: `workers` is 0, expected at least 1."),
        (["--set", "sedes=[1]"], "error: 1 setting in {config} is wrong: `sedes` is not a setting. Did you mean `seed"),
    ],
)
def test_wrong_use_is_one_line_and_2(more: list[str], said: str, ptuning: Ptuning, arguments: list[str]) -> None:
    result = ptuning("compare", *arguments[:1], *more)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(said.format(config=arguments[0])) and result.err.count("\n") == 1


def test_without_a_config_it_says_what_to_name(ptuning: Ptuning) -> None:
    result = ptuning("compare")
    assert result.status == 2
    assert result.err.startswith("error: no config was given, expected a YAML file with `methods` and `tasks`.")


def test_a_config_where_the_settings_would_be_written_is_not_overwritten(
    ptuning: Ptuning, arguments: list[str], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    config = Path(arguments[0]).rename(tmp_path / "out" / "config.yaml")
    result = ptuning("compare", config, *arguments[1:])
    assert result.status == 2 and "is where the settings of the comparison would be written" in result.err


def test_tables_of_nothing_are_refused(ptuning: Ptuning, arguments: list[str]) -> None:
    result = ptuning("compare", *arguments, "--tables-only")
    assert result.status == 1 and "has no finished cells of these settings" in result.err
