"""Semantic roles with one predicate a line: `<place of the predicate> word word ... ||| tag tag ...`.

Source: the input format of deep_srl (luheng/deep_srl), which the official P-Tuning v2 data have too.
"""

from __future__ import annotations

from typing import Any

from ptuning.data.formats import Table, decode, table_of
from ptuning.errors import DataError

PARTING = "|||"
_FORM = "Expected the place of the predicate (from 0), the words, |||, and one tag a word"


def read_srl_lines(data: bytes, name: str) -> Table:
    """Read `tokens`, `predicate_index` and `tags`; a line with nothing after `|||` has no tags.

    Raises:
        DataError: a line has another form; the message names it.
    """
    records: list[dict[str, Any]] = []
    lines: list[int] = []
    for number, line in enumerate(decode(data, name).split("\n"), start=1):
        if line.strip():
            records.append(_record(line, f"{name}:{number}"))
            lines.append(number)
    return table_of(name, records, lines)


def _record(line: str, place: str) -> dict[str, Any]:
    parts = [part.split() for part in line.split(PARTING)]
    if len(parts) != 2:
        raise DataError(f"{place}: {len(parts) - 1} times {PARTING}, expected once. {_FORM}; correct the line.")
    before, tags = parts
    index = before[0] if before else ""
    if not (index.isascii() and index.isdigit()):
        raise DataError(f"{place}: the line begins with {index!r}, which is no number. {_FORM}; correct the line.")
    words = before[1:]
    if int(index) >= len(words):
        raise DataError(
            f"{place}: the predicate is word {index} (from 0), but there are {len(words)} words. "
            f"{_FORM}; correct the line."
        )
    record: dict[str, Any] = {"tokens": words, "predicate_index": int(index)}
    if tags:
        if len(tags) != len(words):
            raise DataError(f"{place}: {len(words)} words but {len(tags)} tags. {_FORM}; correct the line.")
        record["tags"] = tags
    return record
