"""Rows drawn by a seed, with the rows of one group together or not at all."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ptuning.data.rows import Row


def draw_rows(rows: Sequence[Row], count: int, seed: str) -> list[int]:
    """Draw rows without replacement.

    Where all rows have a `group`, whole groups are drawn, as many as fit into `count` in the order in which they come,
    and one at least. So there may be fewer rows than `count`, and more where the first group alone is larger.

    Args:
        rows: of one split.
        count: rows wanted, at most all.
        seed: for the draw; equal seeds draw the same of equal rows.

    Returns:
        Indices of the drawn rows, rising.
    """
    draw = random.Random(seed)
    if not rows or not all("group" in row for row in rows):
        return sorted(draw.sample(range(len(rows)), count))
    members: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        members.setdefault(row["group"], []).append(index)
    groups = list(members.values())
    draw.shuffle(groups)
    drawn = groups[0]
    for group in groups[1:]:
        if len(drawn) + len(group) > count:
            break
        drawn = drawn + group
    return sorted(drawn)


def count_units(rows: Sequence[Row]) -> int:
    """Return how many parts rows can be drawn in: their groups where all rows have one, else the rows themselves."""
    return len({row["group"] for row in rows}) if all("group" in row for row in rows) else len(rows)
