"""Rows held out of train, by seed: to choose by, or to report on where there is no file for that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ptuning.data.rows import Row
from ptuning.data.sampling import count_units, draw_rows
from ptuning.errors import DataError

Selection = Literal["validation", "development"]
"""What picks the best epoch: the validation rows, or rows held out of train beside them."""


@dataclass(frozen=True)
class HeldOut:
    """How the rows to choose by were held out of train.

    Attributes:
        seed: that drew them; rows to report on, where there is no file of them, are drawn alike for all seeds.
        development_fraction: part of train, in (0, 1).
        selection: `validation` where there are no other validation rows; `development` where there are, which are kept
            for reporting.
    """

    seed: int
    development_fraction: float
    selection: Selection = "validation"


def hold_out_validation(rows: list[Row], how: HeldOut, name: str, notes: list[str]) -> tuple[list[Row], list[Row]]:
    """Part the rows of train into train and validation, where validation has no file.

    Where other rows choose, those of validation are for reporting, and are the same whatever the seed: so no seed
    learns from, or chooses by, what another one reports.

    Args:
        rows: of train.
        how: which.
        name: of the file, for messages.
        notes: what was done is said there.

    Returns:
        Train and validation, both in their old order.

    Raises:
        DataError: there are too few.
    """
    if count_units(rows) < 2:
        raise _too_few(rows, f"{name} has", "there is no validation file")
    is_reported = how.selection == "development"
    train, validation = _part(rows, how, "reported rows" if is_reported else f"development rows {how.seed}")
    drawn = "the same for all seeds" if is_reported else f"seed {how.seed}"
    notes.append(
        f"No validation file: {len(validation)} of {len(rows)} train rows "
        f"(development_fraction {how.development_fraction:g}, {drawn}) held out for validation."
    )
    return train, validation


def hold_out_development(rows: list[Row], how: HeldOut, name: str, notes: list[str]) -> tuple[list[Row], list[Row]]:
    """Part the rows of train into train and rows to choose by, beside validation rows that are kept for reporting.

    As `hold_out_validation` otherwise. The draw is another one, since those rows may be held out of the same file.
    """
    if count_units(rows) < 2:
        raise _too_few(rows, f"{name} has, for training,", "data.selection is development")
    train, development = _part(rows, how, f"selection rows {how.seed}")
    notes.append(
        f"selection: development: {len(development)} of {len(rows)} train rows "
        f"(development_fraction {how.development_fraction:g}, seed {how.seed}) held out to choose by; the validation "
        "rows are kept for reporting."
    )
    return train, development


def _part(rows: list[Row], how: HeldOut, draw: str) -> tuple[list[Row], list[Row]]:
    count = min(max(1, round(len(rows) * how.development_fraction)), len(rows) - 1)
    chosen = set(draw_rows(rows, count, draw))
    kept = [row for index, row in enumerate(rows) if index not in chosen]
    return kept, [rows[index] for index in sorted(chosen)]


def _too_few(rows: list[Row], has: str, why: str) -> DataError:
    what = "row" if len(rows) < 2 else "rows of one group"
    return DataError(
        f"{has} {len(rows)} {what}, and {why}. Expected at least 2 rows to hold one out "
        "(or groups, where rows have them); add some, or a validation file."
    )
