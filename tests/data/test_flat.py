"""Nested records are read alike from a file, from a stream, and as a split of a data set."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptuning.data.flat import read_flat
from ptuning.data.splits import load_tables
from ptuning.data.unlabelled import load_table

MULTIRC = {
    "idx": 7,
    "passage": {
        "text": "Ada left Cork.",
        "questions": [
            {"question": "Who?", "idx": 0, "answers": [{"text": "Ada", "idx": 0}, {"text": "Cork", "idx": 1}]}
        ],
    },
}
RECORD = {
    "idx": 1,
    "passage": {"text": "Ada left Cork.", "entities": [{"start": 0, "end": 2}, {"start": 9, "end": 12}]},
    "qas": [{"query": "@placeholder left.", "idx": 0}],
}
WSC = {
    "idx": 2,
    "text": "Ada said she left.",
    "target": {"span1_index": 0, "span1_text": "Ada", "span2_index": 2, "span2_text": "she"},
}
ENTITIES = {"tokens": ["Ada", "left"], "entities": [{"start": 0, "end": 1, "type": "Peop"}]}
DOCUMENT = {
    "document_id": "d",
    "sentences": [
        {
            "words": ["Ada", "left"],
            "named_entities": ["B-P", "O"],
            "srl_frames": [{"verb": "left", "frames": ["B-A0", "B-V"]}],
        }
    ],
}
CASES = (
    (MULTIRC, "classification", ("paragraph", "question", "answer", "idx"), 2),
    (RECORD, "cloze", ("passage", "query", "entities", "idx"), 1),
    (WSC, "classification", ("text", "span1_index", "span1_text", "span2_index", "span2_text", "idx"), 1),
    (ENTITIES, "token_classification", ("tokens", "tags"), 1),
    (DOCUMENT, "token_classification", ("tokens", "tags"), 1),
    (DOCUMENT, "semantic_role_labeling", ("id", "tokens", "predicate_index", "predicate", "tags"), 1),
)


@pytest.mark.parametrize(("record", "kind", "columns", "per_line"), CASES)
def test_a_file_a_stream_and_a_split_give_the_same_flat_records(
    record: dict[str, Any],
    kind: str,
    columns: tuple[str, ...],
    per_line: int,
    folder: Callable[[dict[str, Any]], Path],
) -> None:
    directory = folder({"train.jsonl": [record, record], "validation.json": json.dumps([record, record])})
    file = load_table(directory / "train.jsonl", kind)
    assert (file.columns, len(file.records)) == (columns, 2 * per_line)
    assert file.where(per_line) == f"{directory / 'train.jsonl'}:2"
    assert read_flat(directory / "train.jsonl", kind) == file
    tables, _ = load_tables(directory, kind, None)
    assert tables["train"] == file
    assert tables["validation"].records == file.records
    lines = (directory / "train.jsonl").read_bytes()
    for stream in (io.BytesIO(lines), io.StringIO(lines.decode()), io.TextIOWrapper(io.BytesIO(lines))):
        table = load_table(stream, kind)
        assert (table.columns, table.records, table.lines) == (file.columns, file.records, file.lines)
