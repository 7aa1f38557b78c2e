"""What a prompt was trained to read, found in other data: one rule for evaluation, predictions and rows in memory."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ptuning.data.columns import resolve_columns
from ptuning.data.formats import Table
from ptuning.data.template import Template
from ptuning.errors import DataError


@dataclass(frozen=True)
class Learned:
    """How a prompt was trained, for reading other data with it.

    Attributes:
        columns: role -> column of training; with a template what it reads -> column.
        label_names: classes or tags, in order; None for kinds without.
    """

    columns: Mapping[str, str]
    label_names: tuple[str, ...] | None = None


def columns_here(
    learned: Mapping[str, str], available: Collection[str], usual_columns: Mapping[str, Sequence[str]] | None = None
) -> dict[str, str]:
    """Find the columns of training in other data, each for one role.

    Args:
        learned: role -> column of training.
        available: the columns of the other data.
        usual_columns: role -> columns that a preset's data may have for it, such as GLUE's own names.

    Returns:
        Role -> the column of training if it is there, else the first usual one, else the one with the role's own name.
        Roles without any are missing.
    """
    found = {role: column for role, column in learned.items() if column in available}
    for role in learned:
        candidates = [*(usual_columns or {}).get(role, ()), role]
        free = [name for name in candidates if name in available and name not in found.values()]
        if role not in found and free:
            found[role] = free[0]
    return found


def roles_here(
    table: Table,
    kind: str,
    learned: Mapping[str, str],
    usual_columns: Mapping[str, Sequence[str]] | None = None,
    *,
    may_lack: Collection[str],
    require_label: bool,
) -> dict[str, str]:
    """Find the column of every role as `columns_here` does, the rest by well-known names.

    Args:
        table: what was read.
        kind: kind of task.
        learned: role -> column of training.
        usual_columns: role -> columns that a preset's data may have for it.
        may_lack: roles of training that other data need not have.
        require_label: whether there must be a column of labels.

    Raises:
        DataError: a role has no column, or more than one could be meant.
    """
    found = columns_here(learned, table.columns, usual_columns)
    for role, column in learned.items():
        if role not in found and role not in may_lack and not _has_stand_in(role, table.columns):
            nearest = difflib.get_close_matches(column, table.columns, n=1)
            hint = f"Did you mean {nearest[0]!r}?" if nearest else "Rename one, or add it."
            raise DataError(
                f"{table.name}: no column {column!r} ({role}), which {kind} reads here. "
                f"The columns are: {', '.join(table.columns)}. {hint}"
            )
    return resolve_columns(
        kind,
        table.columns,
        found,
        text_columns=table.text_columns(),
        require_label=require_label,
        source=table.name,
        advice=f"The prompt was trained on {_shown(learned)}. Rename columns to those." if learned else None,
    )


def template_columns_here(table: Table, template: Template, learned: Mapping[str, str]) -> dict[str, str]:
    """Find what a template reads: the column of training if it is there, else the one that the template names.

    Raises:
        DataError: a column is missing.
    """
    return template.resolve(table, columns_here(learned, table.columns), advice="Rename one, or add it.")


def _shown(learned: Mapping[str, str]) -> str:
    return ", ".join(column if column == role else f"{column} ({role})" for role, column in learned.items())


def _has_stand_in(role: str, available: Collection[str]) -> bool:
    """Tell whether other columns may stand for a role of training: raw text for words, a list for single choices."""
    if role == "tokens":
        return "text" in available or "sentence" in available
    return role.startswith("choice") and any(name.startswith("choice") for name in available)
