"""Rows held out of train to choose by, beside validation rows that are kept for reporting."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptuning.data.sources import HeldOut, load_data
from ptuning.errors import DataError

ROWS = [{"text": f"row {number}", "label": "ab"[number % 2]} for number in range(20)]
OTHER = [{"text": f"other {number}", "label": "ab"[number % 2]} for number in range(8)]


@pytest.fixture
def data(tmp_path: Path) -> Callable[..., Any]:
    """Loads train and, if given, validation rows: `data(ROWS, OTHER, selection="development")`."""

    def load(train: list[dict[str, Any]], validation: list[dict[str, Any]] | None = None, **options: Any) -> Any:
        for name, rows in (("train", train), ("validation", validation)):
            if rows is not None:
                lines = "".join(json.dumps(row) + "\n" for row in rows)
                (tmp_path / f"{name}.jsonl").write_text(lines)
        return load_data(tmp_path, kind="classification", labels=["a", "b"], **options)

    return load


def test_rows_to_choose_by_come_from_train_and_validation_rows_are_kept(data: Callable[..., Any]) -> None:
    found = data(ROWS, OTHER, selection="development", development_fraction=0.25)
    assert len(found.train) == 15 and len(found.validation) == 5
    assert [row for row in ROWS if row not in found.train] == found.validation
    assert found.reported == OTHER and found.rows("validation") == OTHER
    assert found.held_out == HeldOut(11, 0.25, "development")
    assert found.notes == (
        "selection: development: 5 of 20 train rows (development_fraction 0.25, seed 11) held out to choose by; the "
        "validation rows are kept for reporting.",
    )


def test_the_seed_decides_which_rows_and_the_validation_rows_do_not(data: Callable[..., Any]) -> None:
    first = data(ROWS, OTHER, selection="development")
    assert data(ROWS, OTHER[:3], selection="development").validation == first.validation
    assert data(ROWS, OTHER, selection="development", seed=12).validation != first.validation


def test_without_a_validation_file_two_parts_are_held_out(data: Callable[..., Any]) -> None:
    found = data(ROWS, selection="development", development_fraction=0.2)
    assert (len(found.train), len(found.validation), len(found.reported)) == (13, 3, 4)
    parts = [row["text"] for part in (found.train, found.validation, found.reported) for row in part]
    assert sorted(parts) == sorted(row["text"] for row in ROWS)
    assert found.reported == data(ROWS, selection="development", development_fraction=0.2, splits=["validation"]).rows(
        "validation"
    )


def test_rows_to_report_without_a_file_are_the_same_for_all_seeds(data: Callable[..., Any]) -> None:
    first, second = (data(ROWS, selection="development", seed=seed) for seed in (11, 12))
    assert first.reported == second.reported and first.validation != second.validation
    assert "the same for all seeds" in first.notes[0]
    assert data(ROWS, seed=11).validation != data(ROWS, seed=12).validation  # to choose by, and to report on


def test_validation_rows_alone_are_those_of_the_file(data: Callable[..., Any]) -> None:
    found = data(ROWS, OTHER, selection="development", splits=["validation"])
    assert found.rows("validation") == OTHER and found.held_out is None and found.train is None


def test_limits_are_of_both_parts(data: Callable[..., Any]) -> None:
    found = data(ROWS, OTHER, selection="development", development_fraction=0.5, max_validation_rows=4)
    assert (len(found.validation), len(found.reported)) == (4, 4)
    assert "development: 4 of 10 rows used (max_validation_rows, seed 11)." in found.notes
    assert "validation: 4 of 8 rows used (max_validation_rows, seed 11)." in found.notes


def test_too_few_rows_to_part_are_refused(data: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="has, for training, 1 row, and data.selection is development. Expected at lea"):
        data(ROWS[:1], OTHER, selection="development")
