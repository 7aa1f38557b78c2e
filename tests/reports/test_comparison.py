from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptuning.reports import comparison as comparison_files
from ptuning.reports import style
from ptuning.reports.comparison import report_comparison, write_report
from ptuning.reports.outcomes import Comparison, write_results


def test_tables_and_figures_come_from_results_alone(
    study: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(style, "DOTS_PER_INCH", 40)  # quickly
    write_results(tmp_path / "results.json", study)
    files = report_comparison(tmp_path / "results.json", tmp_path / "out")
    assert all(file.stat().st_size > 0 for file in files)
    names = {file.name for file in files}
    assert {"table.md", "table.csv", "backbone_size.svg", "backbone_size.png", "depth.svg", "length.png"} <= names
    text = (tmp_path / "out" / "table.md").read_text()
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        "## Scores on small (22,000,000 parameters)",
        "## Scores on large (330,000,000 parameters)",
        "## Costs on small",
        "## Costs on large",
        "## Prompted layers: p-tuning-v2 on small",
        "## Prompt length: p-tuning-v2 on small",
        "## Searches",
    ]


def test_a_set_counts_where_fine_tuning_is_above_the_probe_and_the_most_frequent_answer(
    outcome: Callable[..., Any], comparison: Callable[..., Comparison], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "docs"))
    parts = importlib.import_module("evidence_parts")
    made = [
        outcome(method, task, score, majority_score=majority if method == "fine-tuning" else None)
        for task, majority, scores in (
            ("far", 0.5, (0.78, 0.8, 0.6)),
            ("no better than one answer", 0.76, (0.78, 0.8, 0.6)),
            ("near the probe", 0.0, (0.78, 0.8, 0.76)),
            ("of an older version", None, (0.7, 0.8, 0.6)),
        )
        for method, score in zip(("p-tuning-v2", "fine-tuning", "linear-probe"), scores, strict=True)
    ]
    (tmp_path / "evidence").mkdir()
    write_results(tmp_path / "evidence" / "results.json", comparison(*made))
    monkeypatch.setattr(parts, "RESULTS", tmp_path)
    assert parts.PARTS["gap"]()[2:] == [
        "| far | 80.0 | 78.0 | -2.0 | 60.0 | 50.0 | yes |",
        "| no better than one answer | 80.0 | 78.0 | -2.0 | 60.0 | 76.0 | no |",
        "| near the probe | 80.0 | 78.0 | -2.0 | 76.0 | 0.0 | no |",
        "| of an older version | 80.0 | 70.0 | -10.0 | 60.0 | - | yes |",
        "| mean of those that count | | | -6.0 | | | 2 sets |",
    ]


def test_without_matplotlib_there_are_tables(
    study: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison_files, "can_draw", lambda: False)
    assert [file.name for file in write_report(study, tmp_path)] == ["table.md", "table.csv"]
