"""Rows to predict for: from a file, a stream, or memory; labels are dropped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ptuning.data.columns import KIND_ROLES, LABEL_ROLES, NAME_ROLES
from ptuning.data.flat import read_flat
from ptuning.data.formats import Table, suffixes_for, table_of
from ptuning.data.learned import roles_here, template_columns_here
from ptuning.data.rows import Row, read_rows, short
from ptuning.data.template import Template
from ptuning.errors import DataError


def load_rows(
    source: str | Path | IO[bytes] | IO[str],
    kind: str,
    columns: Mapping[str, str] | None = None,
    template: Template | None = None,
) -> list[Row]:
    """Load rows to predict for, from one file or from a stream of JSON lines; labels are dropped.

    Args:
        source: a file of any format that training reads, or an open stream such as `sys.stdin`.
        kind: kind of task.
        columns: role -> column, best `TaskData.columns` of training; columns of labels may be missing here.
        template: of the task, where it has one; `columns` are then those that it reads.

    Raises:
        DataError: the file cannot be read, or lacks what the kind needs.
    """
    return prediction_rows(load_table(source, kind), kind, columns, template)


def load_table(source: str | Path | IO[bytes] | IO[str], kind: str) -> Table:
    """Load one file, or a stream of JSON lines, with a record a row.

    Raises:
        DataError: it cannot be read.
    """
    check_kind(kind)
    if isinstance(source, (str, Path)):
        source = Path(source)
        if not source.is_file():
            expected = ", ".join(suffixes_for(kind))
            raise DataError(f"{source} is not a file. Expected {expected}, or JSON lines on stdin.")
    return read_flat(source, kind)


def rows_from_records(
    records: Iterable[Mapping[str, Any]],
    kind: str,
    columns: Mapping[str, str] | None = None,
    template: Template | None = None,
    *,
    name: str = "rows",
) -> list[Row]:
    """Turn dicts in memory, such as those of a request, into rows to predict for; labels are dropped.

    Raises:
        DataError: a record lacks what the kind needs.
    """
    check_kind(kind)
    if isinstance(records, (Mapping, str, bytes)) or not isinstance(records, Iterable):
        raise DataError(
            f"{name} are a {type(records).__name__}, expected a list of dicts, column to value. "
            'Pass one row as [{"text": "..."}].'
        )
    given = list(records)
    for index, record in enumerate(given):
        if not isinstance(record, Mapping) or not all(isinstance(column, str) for column in record):
            raise DataError(
                f"{name} row {index + 1} is {short(record)}, expected a dict, column to value. "
                'Pass rows such as {"text": "..."}.'
            )
    return prediction_rows(table_of(name, [dict(record) for record in given]), kind, columns, template)


def prediction_rows(
    table: Table,
    kind: str,
    columns: Mapping[str, str] | None = None,
    template: Template | None = None,
    usual_columns: Mapping[str, Sequence[str]] | None = None,
) -> list[Row]:
    """Turn a table into rows to predict for, one a record; labels are dropped.

    Args:
        table: what was read.
        kind: kind of task.
        columns: role -> column of training; where it is not there, others are looked for as `columns_here` says.
        template: of the task, where it has one.
        usual_columns: role -> columns that a preset's data may have for it; of no use to a template.

    Raises:
        DataError: it lacks what the kind needs.
    """
    if not table.records:
        return []
    learned = columns or {}
    if template is not None:
        table = template.apply(table, template_columns_here(table, template, learned))
        return read_rows(table, kind, {column: column for column in table.columns}, "dropped")
    may_lack = (*LABEL_ROLES, *NAME_ROLES)
    roles = roles_here(table, kind, learned, usual_columns, may_lack=may_lack, require_label=False)
    return read_rows(table, kind, roles, "dropped")


def check_kind(kind: str) -> None:
    """Check that there is a kind of task of this name.

    Raises:
        DataError: there is none.
    """
    if kind not in KIND_ROLES:
        raise DataError(f"kind must be one of {', '.join(KIND_ROLES)}, got {kind!r}. Name one of those.")
