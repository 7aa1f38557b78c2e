from __future__ import annotations

from typing import Any

import pytest

from ptuning.data.formats import Table, table_of
from ptuning.data.nested import unnested
from ptuning.errors import DataError

TOKENS = ["Ada", "Lee", "left", "Cork", "."]
FRAMES = [
    {"verb": "leave", "frames": ["B-ARG0", "I-ARG0", "B-V", "B-ARG1", "O"]},
    {"verb": "cork", "frames": ["O", "O", "O", "B-V", "O"]},
]


def test_entities_become_bio_tags() -> None:
    entities = [{"start": 3, "end": 4, "type": "Loc"}, {"start": 0, "end": 2, "type": "Peop"}]
    table = unnested(table_of("a", [{"tokens": TOKENS, "entities": entities, "orig_id": 3}]), "token_classification")
    assert table.columns == ("tokens", "tags")
    assert table.records == [{"tokens": TOKENS, "tags": ["B-Peop", "I-Peop", "O", "B-Loc", "O"]}]


def test_tags_that_are_there_are_not_made_again() -> None:
    table = table_of("a", [{"tokens": TOKENS, "entities": [], "ner_tags": ["O"] * 5}])
    assert unnested(table, "token_classification") is table
    assert unnested(table, "classification") is table


@pytest.mark.parametrize("span", [(0, 6), (2, 2), (-1, 1), (1, 3)])
def test_entities_that_overlap_or_lie_outside_are_refused(span: tuple[int, int]) -> None:
    entities = [{"start": 2, "end": 3, "type": "X"}, {"start": span[0], "end": span[1], "type": "Y"}]
    with pytest.raises(
        DataError, match=r"a row 1: the entity Y of the tokens .* overlaps another or lies outside the s"
    ):
        unnested(table_of("a", [{"tokens": TOKENS, "entities": entities}]), "token_classification")


def _documents(**more: Any) -> Table:
    sentence = {"words": TOKENS, "named_entities": [1, 2, 0, 3, 0], "srl_frames": FRAMES, **more}
    table = table_of("a", [{"document_id": "d1", "sentences": [sentence, {**sentence, "srl_frames": []}]}])
    return Table(
        table.name, table.columns, table.records, None, {"sentences.named_entities": ("O", "B-P", "I-P", "B-L")}
    )


def test_documents_become_sentences_with_the_names_of_their_tags() -> None:
    table = unnested(_documents(), "token_classification")
    assert table.records == [{"tokens": TOKENS, "tags": [1, 2, 0, 3, 0]}] * 2
    assert table.class_names == {"tags": ("O", "B-P", "I-P", "B-L")}


def test_documents_become_a_record_for_each_frame() -> None:
    table = unnested(_documents(), "semantic_role_labeling")
    assert table.class_names == {}
    assert table.records == [
        {
            "id": f"d1:0:{index}",
            "tokens": TOKENS,
            "predicate_index": index,
            "predicate": frame["verb"],
            "tags": frame["frames"],
        }
        for index, frame in zip((2, 3), FRAMES, strict=True)
    ]


@pytest.mark.parametrize("tags", [["O"] * 5, ["B-V"]])
def test_a_frame_that_does_not_fit_its_sentence_is_refused(tags: list[str]) -> None:
    with pytest.raises(
        DataError, match="a row 1: a frame of 'go' in sentence d1:0 has . tags for 5 words, expected one"
    ):
        unnested(_documents(srl_frames=[{"verb": "go", "frames": tags}]), "semantic_role_labeling")


@pytest.mark.parametrize(
    ("kind", "record", "problem", "expected"),
    [
        (
            "token_classification",
            {"tokens": ["a"], "entities": ["Loc"]},
            "has another form",
            "entities\\[\\], each with",
        ),
        (
            "token_classification",
            {"tokens": ["a"], "entities": [{"start": 0, "end": 1}]},
            "has no 'type'",
            "tokens and",
        ),
        ("token_classification", {"tokens": ["a"], "entities": None}, "has another form", "tokens and entities"),
        ("token_classification", {"tokens": ["a"], "entities": {"start": [0]}}, "has another form", "tokens and"),
        ("token_classification", {"sentences": ["a b"]}, "has another form", "words\\[\\] and named_entities"),
        ("token_classification", {"sentences": [{"words": ["a"]}]}, "has no 'named_entities'", "words"),
        ("semantic_role_labeling", {"sentences": [{"words": ["a"]}]}, "has no 'srl_frames'", "srl_frames"),
        (
            "semantic_role_labeling",
            {"sentences": [{"words": ["a"], "srl_frames": [{"verb": "a"}]}]},
            "has no 'fr",
            "fra",
        ),
        ("semantic_role_labeling", {"id": 3}, "has no 'sentences'", "sentences"),
    ],
)
def test_records_that_nest_otherwise_are_refused_with_their_place_and_the_expected_form(
    kind: str, record: dict[str, Any], problem: str, expected: str
) -> None:
    good = {"tokens": [], "entities": []} if "entities" in record else {"sentences": []}
    with pytest.raises(
        DataError, match=f"^a.jsonl:8: the record {problem}.*\\. Expected .*{expected}.*\\. Correct or remove it.$"
    ):
        unnested(table_of("a.jsonl", [good, record], [3, 8]), kind)


def test_sentences_remember_the_line_of_their_document() -> None:
    table = _documents()
    nested = Table(table.name, table.columns, table.records * 2, [4, 6])
    for kind in ("token_classification", "semantic_role_labeling"):
        assert unnested(nested, kind).lines == [4, 4, 6, 6]
