"""Files, streams and splits as flat tables: one record for each row of the task, whatever nesting they came in."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from ptuning.data.formats import Table, read_json_lines, read_table
from ptuning.data.nested import unnested
from ptuning.data.super_glue import flatten


def read_flat(source: Path | IO[bytes] | IO[str], kind: str) -> Table:
    """Read one file, a directory that holds one split, or a stream of JSON lines, with a record a row.

    Args:
        source: path, or an open stream such as `sys.stdin`.
        kind: kind of task.

    Raises:
        DataError: it cannot be read, or nests in another way than the known data sets do.
    """
    if isinstance(source, Path):
        return flat(read_table(source, kind), kind)
    stream = getattr(source, "buffer", source)  # bytes, so that a byte that is not UTF-8 has a line number
    return flat(read_json_lines(stream, str(getattr(source, "name", "<stream>"))), kind)


def flat(table: Table, kind: str) -> Table:
    """Return a table with a record a row: as it is, or made of records that nest as SuperGLUE or the hub do."""
    return unnested(flatten(table), kind)
