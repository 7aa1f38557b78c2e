from __future__ import annotations

import pytest

from ptuning.data.spans import bio_spans, first_invalid_tag, iob1_to_bio, is_bio_tag, is_consistently_iob1


@pytest.mark.parametrize("tag", ["O", "B-PER", "I-creative-work", "B-x"])
def test_bio_tags_are_known(tag: str) -> None:
    assert is_bio_tag(tag)


@pytest.mark.parametrize("tag", ["", "o", "B", "B-", "I-", "E-PER", "S-PER", "PER", "B_PER", "b-PER"])
def test_other_tags_are_not_bio(tag: str) -> None:
    assert not is_bio_tag(tag)


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("O O", []),
        ("B-X I-X O B-Y", [("X", 0, 2), ("Y", 3, 4)]),
        ("B-X B-X I-X", [("X", 0, 1), ("X", 1, 3)]),
        ("B-X I-Y I-Y", [("X", 0, 1), ("Y", 1, 3)]),  # not valid, yet shown
        ("I-X O I-X", [("X", 0, 1), ("X", 2, 3)]),
        ("B-a-b I-a-b", [("a-b", 0, 2)]),
        ("", []),
    ],
)
def test_spans_of_tags(tags: str, spans: list[tuple[str, int, int]]) -> None:
    assert bio_spans(tags.split()) == spans


@pytest.mark.parametrize(
    ("tags", "position"),
    [("B-X I-X I-X O", None), ("I-X", 0), ("O I-X", 1), ("B-X I-Y", 1), ("B-X O I-X", 2), ("", None)],
)
def test_the_first_invalid_tag_is_found(tags: str, position: int | None) -> None:
    assert first_invalid_tag(tags.split()) == position


def test_iob1_begins_with_b_only_between_neighbours_of_one_type() -> None:
    assert is_consistently_iob1(["I-X I-X B-X I-X O I-Y".split(), ["O"]])
    assert not is_consistently_iob1(["B-X I-X".split()])
    assert not is_consistently_iob1(["I-Y B-X".split()])


def test_iob1_becomes_the_same_spans_in_bio() -> None:
    tags = "I-X I-X B-X I-X O I-Y I-X".split()
    converted = iob1_to_bio(tags)
    assert converted == "B-X I-X B-X I-X O B-Y B-X".split()
    assert bio_spans(converted) == [("X", 0, 2), ("X", 2, 4), ("Y", 5, 6), ("X", 6, 7)]
    assert iob1_to_bio(converted) == converted
