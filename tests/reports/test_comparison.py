from __future__ import annotations

from pathlib import Path

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


def test_without_matplotlib_there_are_tables(
    study: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison_files, "can_draw", lambda: False)
    assert [file.name for file in write_report(study, tmp_path)] == ["table.md", "table.csv"]
