"""Ids of records, as graders want them back."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from ptuning.data.formats import Table
from ptuning.data.rows import short
from ptuning.errors import DataError


def numbers(table: Table, names: Sequence[str]) -> list[int]:
    """Returns the number of each record.

    Args:
        table: with records.
        names: columns that may hold it; the first that is there is read.

    Raises:
        DataError: there is no such column, a value is no whole number, or one comes twice.
    """
    column = _column(table, names)
    found = [_number(table, index, column, record.get(column)) for index, record in enumerate(table.records)]
    _check_differ(table, column, found)
    return found


def places(table: Table, column: str, parts: Sequence[str]) -> list[tuple[int, ...]]:
    """Returns the numbers of each record that are together its place, such as paragraph, question and answer.

    Raises:
        DataError: there is no such column, a value lacks a part, or a place comes twice.
    """
    _column(table, [column])
    found = []
    for index, record in enumerate(table.records):
        value = record.get(column)
        if not isinstance(value, dict) or any(part not in value for part in parts):
            form = ", ".join(f'"{part}": 0' for part in parts)
            raise DataError(
                f"{table.where(index)}: {column!r} is {short(value)}, expected {{{form}}}. Take the records as "
                "SuperGLUE or its copy on the hub has them."
            )
        found.append(tuple(_number(table, index, f"{column}.{part}", value[part]) for part in parts))
    _check_differ(table, column, found)
    return found


def texts(table: Table, column: str) -> list[str]:
    """Returns the id of each record as text.

    Raises:
        DataError: there is no such column, a value is missing, or one comes twice.
    """
    _column(table, [column])
    found = []
    for index, record in enumerate(table.records):
        value = record.get(column)
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
            raise DataError(
                f"{table.where(index)}: {column!r} is {short(value)}, expected the id of the row, which the grader "
                "looks for. Fill it in."
            )
        found.append(str(value))
    _check_differ(table, column, found)
    return found


def _column(table: Table, names: Sequence[str]) -> str:
    column = next((name for name in names if name in table.columns), None)
    if column is None and table.records:
        raise DataError(
            f"{table.name} has no column {' or '.join(map(repr, names))}, by which the grader knows the rows. The "
            f"columns are: {', '.join(table.columns)}. Add it, or use --format json."
        )
    return column or names[0]


def _number(table: Table, index: int, name: str, value: Any) -> int:
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)  # a cell of a tsv or CSV file
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DataError(
            f"{table.where(index)}: {name!r} is {short(value)}, expected the number of the row, from 0. Correct it."
        )
    return value


def _check_differ(table: Table, column: str, values: Sequence[Hashable]) -> None:
    first: dict[Hashable, int] = {}
    for index, value in enumerate(values):
        other = first.setdefault(value, index)
        if other != index:
            raise DataError(
                f"{table.where(index)}: {column!r} is {value!r}, which stands at {table.where(other)} too. Expected "
                "every id once, or the grader takes one of them; rename it or remove the row."
            )
