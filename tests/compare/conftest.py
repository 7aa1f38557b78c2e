from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ptuning.compare import run as compare_run
from ptuning.compare.cells import Cell
from ptuning.compare.settings import CompareConfig
from ptuning.compare.worker import run_cell
from ptuning.errors import PtuningError


@pytest.fixture(scope="session")
def settings(tiny_backbone: Path, tiny_data: Callable[..., Path]) -> Callable[..., CompareConfig]:
    """Settings of a tiny comparison: `settings(directory, seeds=[11])`."""

    def make(output: Path, **more: Any) -> CompareConfig:
        values: dict[str, Any] = {
            "methods": ["p-tuning-v2"],
            "tasks": {"colours": {"task": "classification", "data.path": str(tiny_data("classification"))}},
            "backbones": {"tiny": {"backbone": str(tiny_backbone)}},
            "seeds": [11],
            "run": {
                "data.max_length": 48,
                "prompts.prompt_length": 4,
                "training": {"epochs": 2, "batch_size": 8, "device": "cpu", "precision": "fp32"},
            },
            "output": str(output),
        }
        run = {**values["run"], **more.pop("run", {})}
        return CompareConfig.model_validate({**values, **more, "run": run})

    return make


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cells run here, one after another; their names are listed as they start."""
    started: list[str] = []

    def run_cells(
        cells: Sequence[Cell],
        directory_of: Callable[[Cell], Path],
        *,
        workers: int,
        watcher: Any,
        done_before: int,
        ended: Callable[[Cell, str | None], str],
    ) -> None:
        for cell in cells:
            started.append(cell.name)
            try:
                run_cell(directory_of(cell))
                error = None
            except PtuningError as problem:
                error = str(problem)
            ended(cell, error)

    monkeypatch.setattr(compare_run, "run_cells", run_cells)
    return started
