from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from ptuning.compare.cells import main_cells
from ptuning.compare.reporting import Terminal
from ptuning.compare.settings import CompareConfig

Make = Callable[..., CompareConfig]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_there_is_a_line_for_each_cell_and_a_bar_on_a_terminal(
    is_terminal: bool, settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,) = main_cells(settings(tmp_path), {})
    terminal, text = Terminal(), io.StringIO()
    console = Console(file=text, force_terminal=is_terminal, highlight=False, width=120, no_color=True)
    monkeypatch.setattr(terminal, "_console", console)
    terminal.start(3, 1, 2)
    terminal.moved(1.5, 600.0)
    terminal.ended(cell, "accuracy 81.0", 2, 12.3, 600.0)
    terminal.ended(cell, "failed: no [red]room[/]", 3, 1.0, 0.0)
    terminal.stop()
    said = text.getvalue()
    assert "3 cells, 1 of them finished before, 2 at once" in said
    assert "[2/3] p-tuning-v2, colours, tiny, seed 11: accuracy 81.0; 12 s; about 10 min left" in said
    assert "[3/3] p-tuning-v2, colours, tiny, seed 11: failed: no [red]room[/]; 1 s\n" in said
    assert ("comparing" in said) == is_terminal
