"""Templates: how a data set's columns become the texts that a model reads.

A template is a pure function of one record. It runs before columns are looked for, and what it makes are roles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ptuning.data.formats import Table
from ptuning.errors import DataError

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Template:
    """A data set's way to the roles of a kind.

    Attributes:
        name: under which a saved prompt remembers it.
        columns: that it reads and that must be there.
        make: record with those columns -> roles. Raises `ValueError` with a sentence where values do not fit.
        optional: columns that it reads where they are there.
        label: the column of what is to be predicted; copied as it is, under the role of this name.
        roles: that `make` may give.
        description: one line for people, with the columns in braces.
    """

    name: str
    columns: tuple[str, ...]
    make: Callable[[Record], dict[str, Any]]
    roles: tuple[str, ...]
    optional: tuple[str, ...] = ()
    label: str = "label"
    description: str = ""

    def resolve(self, table: Table, overrides: Mapping[str, str], *, advice: str | None = None) -> dict[str, str]:
        """Find the column of everything that the template reads, by its name or as the overrides say.

        Args:
            table: what was read.
            overrides: what the template reads -> column of the table.
            advice: what to do where a column is missing, if `data.columns` cannot be set.

        Returns:
            What the template reads, and its label -> column; what is optional may be missing, and so may the label.

        Raises:
            DataError: a column is missing, or an override names something that the template does not read.
        """
        known = (*self.columns, *self.optional, self.label)
        for name in overrides:
            if name not in known:
                raise DataError(
                    f"data.columns names {name!r}, but the template {self.name} reads {', '.join(known)}. "
                    "Use one of those."
                )
        found = {name: overrides.get(name, name) for name in known}
        missing = [name for name in self.columns if found[name] not in table.columns]
        if missing:
            advice = advice or (
                f"Say which one is meant in data.columns, such as {{{missing[0]}: NAME}}, or use a bare kind of task."
            )
            raise DataError(
                f"{table.name} has no column {found[missing[0]]!r}, but the template {self.name} reads "
                f"{', '.join(self.columns)}. The columns are: {', '.join(table.columns) or 'none'}. {advice}"
            )
        return {name: column for name, column in found.items() if column in table.columns}

    def apply(self, table: Table, columns: Mapping[str, str]) -> Table:
        """Return a table whose columns are roles.

        Args:
            table: what was read.
            columns: of `resolve`.

        Raises:
            DataError: a value is missing or does not fit, with its place.
        """
        records = []
        for index, record in enumerate(table.records):
            values = {name: record.get(column) for name, column in columns.items() if name != self.label}
            empty = next((name for name in self.columns if values.get(name) is None), None)
            if empty is not None:
                raise DataError(
                    f"{table.where(index)}: {columns.get(empty, empty)!r} has no value, and the template {self.name} "
                    "reads it. Fill it in or remove the row."
                )
            try:
                made = self.make({name: value for name, value in values.items() if value is not None})
            except ValueError as error:
                raise DataError(f"{table.where(index)}: {error} (template {self.name})") from error
            label = record.get(columns.get(self.label, self.label))
            records.append(made | ({} if label is None else {self.label: label}))
        made_columns = [role for role in self.roles if any(role in record for record in records)]
        label_column = columns.get(self.label)
        classes = table.class_names.get(label_column or "")
        return Table(
            table.name,
            (*made_columns, *([self.label] if label_column is not None else [])),
            records,
            table.lines,
            {self.label: classes} if classes else {},
            table.notes,
            table.files,
        )
