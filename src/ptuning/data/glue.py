"""Tab-separated values as GLUE was released: no quoting, no escapes, one row a line."""

from __future__ import annotations

from typing import Any

from ptuning.data.formats import Table, decode, is_number
from ptuning.errors import DataError

COLA_COLUMNS = ("source", "label", "annotation", "sentence")
_LINES_PER_ODD_ONE = 100


def read_tsv(data: bytes, name: str) -> Table:
    """Read a header and rows; cells stay strings, empty ones become None.

    Quotation marks are text. CoLA's train and dev files have no header, and get the columns `source`, `label`,
    `annotation` and `sentence`. Lines with another number of cells than the header (QQP was released with some) are
    left out and counted in the table's notes, as long as they are at most one in a hundred.

    Raises:
        DataError: there is no header, or too many lines have another number of cells.
    """
    # Not splitlines(): texts may hold U+2028 and the like.
    rows = [
        (number, line.removesuffix("\r").split("\t"))
        for number, line in enumerate(decode(data, name).split("\n"), start=1)
        if line.strip()
    ]
    if not rows:
        return Table(name, (), [], [])
    header = COLA_COLUMNS if _is_cola(rows[0][1]) else _header(rows[0], name)
    body = rows if header is COLA_COLUMNS else rows[1:]
    odd = [(number, cells) for number, cells in body if len(cells) != len(header)]
    even = [(number, cells) for number, cells in body if len(cells) == len(header)]
    notes: tuple[str, ...] = ()
    if odd:
        number, cells = odd[0]
        what = "1 line has" if len(odd) == 1 else f"{len(odd)} of {len(body)} lines have"
        if len(odd) * _LINES_PER_ODD_ONE > len(body):
            raise DataError(
                f"{name}:{number}: {len(cells)} cells, expected {len(header)} ({', '.join(header)}); {what} another "
                "number. Put one tab between cells and none inside them, and one row on a line."
            )
        notes = (f"{name}: {what} another number of cells than {len(header)} (the first: line {number}); left out.",)
    records: list[dict[str, Any]] = [
        {column: cell or None for column, cell in zip(header, cells, strict=True)} for _, cells in even
    ]
    return Table(name, tuple(header), records, [number for number, _ in even], notes=notes)


def _is_cola(cells: list[str]) -> bool:
    return len(cells) == len(COLA_COLUMNS) and cells[1] in ("0", "1") and cells[2] in ("", "*")


def _header(row: tuple[int, list[str]], name: str) -> tuple[str, ...]:
    number, cells = row
    header = tuple(cell.strip() for cell in cells)
    if len(header) == 1 and any(mark in header[0] for mark in ",;|"):
        raise DataError(
            f"{name}:{number}: the header is the one cell {header[0]!r}. Expected tabs between the columns. "
            "Save the file again with tabs, or call it .csv where it has commas."
        )
    twice = next((column for column in header if header.count(column) > 1), None)
    unlike = next((column for column in header if not column or is_number(column)), None)
    if twice is not None or unlike is not None:
        problem = f"the column {twice!r} stands twice" if twice else f"{unlike!r} is no column name"
        raise DataError(
            f"{name}:{number}: {problem} in the header. Expected a first line with one name a column, with tabs "
            "between them. Add or correct it."
        )
    return header
