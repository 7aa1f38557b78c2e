from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ptuning.backbones.families import FAMILIES
from ptuning.cli.tables import print_table, shown_metrics, shown_share
from ptuning.tasks.presets import KINDS, PRESETS


def test_cells_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["a", "b"], [["[bold]x[/]", "y" * 150]])
    assert "[bold]x[/]" in (out := capsys.readouterr().out) and "y" * 150 in out


def test_numbers_as_people_read_them() -> None:
    assert shown_metrics({"accuracy": 0.91, "f1": 0.90871}) == "accuracy 0.9100, f1 0.9087"
    assert shown_share(1, 8) == "12.50%" and shown_share(1, 0) == "-"


def test_tasks_lists_every_preset_and_kind(ptuning: Callable[..., Any]) -> None:
    result = ptuning("tasks")
    assert (result.status, result.err) == (0, "")
    assert all(name in result.out for name in (*PRESETS, *KINDS))


def test_backbones_lists_every_family(ptuning: Callable[..., Any]) -> None:
    result = ptuning("backbones")
    assert (result.status, result.err) == (0, "")
    assert all(family.model_type in result.out for family in FAMILIES.values())
