from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from ptuning.data.flat import read_flat
from ptuning.data.formats import Table, table_of
from ptuning.data.super_glue import flatten
from ptuning.errors import DataError

MULTIRC: dict[str, Any] = {
    "idx": 7,
    "version": 1.1,
    "passage": {
        "text": "Ann ran.",
        "questions": [
            {
                "question": "Who ran?",
                "answers": [{"text": "Ann", "idx": 30, "label": 1}, {"text": "Bob", "idx": 31, "label": 0}],
                "idx": 20,
            },
            {"question": "Why?", "answers": [{"text": "For fun", "idx": 32, "label": 0}], "idx": 21},
        ],
    },
}
RECORD: dict[str, Any] = {
    "source": "news",
    "idx": 3,
    "passage": {
        "text": "Ann met Bob. Ann left.",
        "entities": [{"start": 0, "end": 2}, {"start": 8, "end": 10}, {"start": 13, "end": 15}],
    },
    "qas": [
        {
            "query": "@placeholder left.",
            "answers": [{"start": 0, "end": 2, "text": "Ann"}, {"start": 13, "end": 15, "text": "Ann"}],
            "idx": 5,
        },
        {"query": "Ann met @placeholder.", "answers": [{"start": 8, "end": 10, "text": "Bob"}], "idx": 6},
    ],
}
WSC: dict[str, Any] = {
    "idx": 1,
    "label": True,
    "target": {"span1_index": 0, "span1_text": "Ann", "span2_index": 3, "span2_text": "she"},
    "text": "Ann ran until she fell.",
}


def _flat(*records: dict[str, Any]) -> Table:
    return flatten(table_of("a.jsonl", list(records), list(range(4, 4 + len(records)))))


def test_multirc_gives_a_row_an_answer() -> None:
    table = _flat(MULTIRC, MULTIRC)
    assert table.columns == ("paragraph", "question", "answer", "label", "idx")
    assert table.records[:3] == [
        {
            "paragraph": "Ann ran.",
            "question": "Who ran?",
            "answer": "Ann",
            "label": 1,
            "idx": {"paragraph": 7, "question": 20, "answer": 30},
        },
        {
            "paragraph": "Ann ran.",
            "question": "Who ran?",
            "answer": "Bob",
            "label": 0,
            "idx": {"paragraph": 7, "question": 20, "answer": 31},
        },
        {
            "paragraph": "Ann ran.",
            "question": "Why?",
            "answer": "For fun",
            "label": 0,
            "idx": {"paragraph": 7, "question": 21, "answer": 32},
        },
    ]
    assert [table.where(0), table.where(2), table.where(3)] == ["a.jsonl:4", "a.jsonl:4", "a.jsonl:5"]


def test_record_gives_a_row_a_query_with_each_entity_once_its_last_character_included() -> None:
    table = _flat(RECORD)
    assert table.records == [
        {
            "passage": "Ann met Bob. Ann left.",
            "query": "@placeholder left.",
            "entities": ["Ann", "Bob"],
            "answers": ["Ann"],
            "idx": {"passage": 3, "query": 5},
        },
        {
            "passage": "Ann met Bob. Ann left.",
            "query": "Ann met @placeholder.",
            "entities": ["Ann", "Bob"],
            "answers": ["Bob"],
            "idx": {"passage": 3, "query": 6},
        },
    ]


def test_wsc_loses_its_nesting() -> None:
    assert _flat(WSC).records == [
        {
            "text": "Ann ran until she fell.",
            "span1_index": 0,
            "span1_text": "Ann",
            "span2_index": 3,
            "span2_text": "she",
            "label": True,
            "idx": 1,
        }
    ]


def test_rows_of_test_files_have_no_labels() -> None:
    multirc, record, wsc = copy.deepcopy(MULTIRC), copy.deepcopy(RECORD), copy.deepcopy(WSC)
    del multirc["passage"]["questions"][0]["answers"][0]["label"]
    del record["qas"][0]["answers"]
    del wsc["label"]
    assert "label" not in _flat(multirc).records[0]
    assert _flat(record).records[0].keys() == {"passage", "query", "entities", "idx"}
    assert "label" not in _flat(wsc).records[0]


def test_flat_tables_stay_as_they_are() -> None:
    for record in (
        {"passage": "x", "question": "y", "label": True, "idx": 0},
        {"passage": "x", "query": "y", "entities": ["a"], "answers": ["a"], "idx": {"passage": 0, "query": 0}},
        {"target": {"text": "x"}, "text": "y"},
        {"passage": {"text": "x"}, "label": 1},
    ):
        table = table_of("a.jsonl", [record], [1])
        assert flatten(table) is table
    assert flatten(table_of("a", [])).records == []


def test_nested_lines_are_made_flat_when_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "val.jsonl"
    path.write_text(f"\n{json.dumps(MULTIRC)}\n")
    for kind in ("classification", "multiple_choice"):
        table = read_flat(path, kind)
        assert (len(table.records), table.where(2)) == (3, f"{path}:2")


def _without(record: dict[str, Any], *keys: Any) -> dict[str, Any]:
    made = copy.deepcopy(record)
    inner: Any = made
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    return made


@pytest.mark.parametrize(
    ("good", "bad", "words"),
    [
        (
            MULTIRC,
            _without(MULTIRC, "idx"),
            r"a.jsonl:5: the record has no 'idx'. Expected passage.text, passage.questions",
        ),
        (
            MULTIRC,
            {"idx": 1, "passage": "flat"},
            r"a.jsonl:5: the record has another form \(.*\). Expected passage.text",
        ),
        (
            RECORD,
            _without(RECORD, "qas", 0, "query"),
            r"a.jsonl:5: the record has no 'query'. Expected .*qas\[\] with query",
        ),
        (
            WSC,
            _without(WSC, "target", "span2_text"),
            "a.jsonl:5: the record has no 'span2_text'. Expected text and target",
        ),
        (WSC, _without(WSC, "target"), "a.jsonl:5: the record has no 'target'"),
        (
            RECORD,
            RECORD | {"passage": {"text": "Ann", "entities": [{"start": 0, "end": 3}]}},
            "a.jsonl:5: an entity stands at characters 0 to 3, but the passage has 3. Expected places inside it",
        ),
    ],
)
def test_records_of_another_form_are_refused_with_their_line(
    good: dict[str, Any], bad: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        _flat(good, bad)
