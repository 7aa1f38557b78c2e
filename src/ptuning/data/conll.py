"""CoNLL columns: one word a line, its tag in the last column, a blank line after each sentence."""

from __future__ import annotations

import re
from typing import Any

from ptuning.data.formats import Table, decode
from ptuning.errors import DataError

CONLL_SUFFIXES = (".conll", ".txt", ".bio", ".iob2", ".tsv")
CONLL2003_SUFFIXES = (".train", ".testa", ".testb")
"""Of `eng.train` and its like, the files of CoNLL-2003 as they were released."""
_BLANKS = re.compile(r"[ \t]+")


def read_conll(data: bytes, name: str) -> Table:
    """Read sentences as `tokens` and `tags`; with one column there are no tags (input for prediction).

    Columns are parted by tabs where a line has one, else by blanks. A line that begins with `-DOCSTART-` ends a
    sentence and is no word.

    Raises:
        DataError: a line has another number of columns than the first one.
    """
    records: list[dict[str, Any]] = []
    lines: list[int] = []
    words: list[list[str]] = []
    first_line = num_columns = 0
    # Not splitlines(): words may hold U+2028 and the like.
    for number, line in enumerate([*decode(data, name).split("\n"), ""], start=1):
        text = line.rstrip(" \t\r") if "\t" not in line else line.rstrip("\r")
        if not text.strip(" \t") or text.startswith("-DOCSTART-"):
            if words:
                records.append(_record(words))
                lines.append(first_line)
                words = []
            continue
        cells = text.split("\t") if "\t" in text else _BLANKS.split(text.strip(" "))
        num_columns = num_columns or len(cells)
        if len(cells) != num_columns or not cells[0] or not cells[-1]:
            raise DataError(
                f"{name}:{number}: {len(cells)} columns ({text!r}), expected {num_columns} filled ones as above it. "
                "Every line has the word first and its tag last; a blank line ends a sentence. Correct the line."
            )
        if not words:
            first_line = number
        words.append(cells)
    return Table(name, ("tokens", "tags") if num_columns > 1 else ("tokens",), records, lines)


def _record(words: list[list[str]]) -> dict[str, Any]:
    record: dict[str, Any] = {"tokens": [cells[0] for cells in words]}
    if len(words[0]) > 1:
        record["tags"] = [cells[-1] for cells in words]
    return record
