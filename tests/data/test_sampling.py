from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from ptuning.data.sampling import count_units, draw_rows

GROUPED: list[dict[str, Any]] = [{"text": str(index), "group": f"g{index % 7}"} for index in range(40)]


def test_rows_without_groups_are_drawn_one_by_one() -> None:
    rows = [{"text": str(index)} for index in range(30)]
    drawn = draw_rows(rows, 7, "seed")
    assert drawn == sorted(random.Random("seed").sample(range(30), 7))
    # A group in some rows says nothing of the others.
    assert draw_rows([{**rows[0], "group": "a"}, *rows[1:]], 7, "seed") == drawn
    assert draw_rows(rows, 30, "seed") == list(range(30))


@pytest.mark.parametrize("count", [1, 5, 6, 11, 17, 39, 40])
def test_groups_come_whole_and_only_the_first_may_be_too_large(count: int) -> None:
    drawn = draw_rows(GROUPED, count, "seed")
    assert drawn == sorted(set(drawn))
    sizes = Counter(row["group"] for row in GROUPED)
    found = Counter(GROUPED[index]["group"] for index in drawn)
    assert found and all(found[group] == sizes[group] for group in found)
    assert len(drawn) <= count or len(found) == 1
    assert len(drawn) > count - max(sizes.values())


def test_the_draw_depends_on_the_seed_alone() -> None:
    assert draw_rows(GROUPED, 12, "a") == draw_rows(list(GROUPED), 12, "a")
    assert len({tuple(draw_rows(GROUPED, 12, str(seed))) for seed in range(20)}) > 5


def test_units_are_groups_where_all_rows_have_one() -> None:
    assert count_units(GROUPED) == 7
    assert count_units([*GROUPED, {"text": "alone"}]) == 41
    assert count_units([]) == 0
