from __future__ import annotations

import random
from typing import Any

import pytest

from ptuning.data.batching import Example
from ptuning.data.example_arrays import from_arrays, to_arrays


def _examples(label: str, *, types: bool, offsets: bool, count: int = 40) -> list[Example]:
    draw = random.Random(f"{label} {types} {offsets}")
    examples = []
    for row in range(count):
        sequences = tuple(
            [draw.randrange(70_000) for _ in range(draw.randint(1, 9))] for _ in range(draw.randint(1, 3))
        )
        size = len(sequences[0])
        labels: dict[str, Any] = {
            "class": row % 7,
            "value": draw.choice([0.0, -1.5, 1e-300, 5.0, draw.random()]),
            "tags": [draw.choice([-100, 0, 4]) for _ in range(size)],
            "answer": (draw.randrange(400), draw.randrange(400)),
            "none": None,
        }
        labels["mixed"] = labels[draw.choice([*labels])]
        places = [draw.choice([None, (0, 0), (draw.randrange(90_000), 7)]) for _ in range(size)]
        examples.append(
            Example(
                sequences=sequences,
                token_types=tuple([draw.randrange(2) for _ in own] for own in sequences) if types else None,
                label=labels[label],
                row=row // 2,
                offsets=places if offsets and row % 5 else None,
            )
        )
    return examples


@pytest.mark.parametrize("label", ["class", "value", "tags", "answer", "none", "mixed"])
@pytest.mark.parametrize("types", [True, False])
@pytest.mark.parametrize("offsets", [True, False])
def test_examples_come_back_equal_to_the_type_of_every_number(label: str, types: bool, offsets: bool) -> None:
    examples = _examples(label, types=types, offsets=offsets)
    back = from_arrays(to_arrays(examples))
    assert back == examples
    assert repr(back) == repr(examples)  # 1 and 1.0 and True are equal, and not the same


def test_no_examples_come_back_as_none() -> None:
    assert from_arrays(to_arrays([])) == []


def test_numbers_take_as_few_bytes_as_hold_them() -> None:
    def stored(token: int) -> str:
        return str(to_arrays([Example(([token],), None, 0, 0)])["ids"].dtype)

    assert [stored(n) for n in (255, 256, 40_000, 65_536, 2**40)] == ["uint8", "int16", "uint16", "int32", "int64"]


def test_equal_numbers_are_one_object() -> None:
    examples = from_arrays(to_arrays([Example(([5000, 5000],), None, 0, 0), Example(([5000],), None, 0, 1)]))
    first, second = examples[0].sequences[0]
    assert first is second and first is examples[1].sequences[0][0]
