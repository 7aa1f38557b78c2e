"""Data sets of the hub that nest what a task reads: entities as spans, documents with sentences, frames of predicates.

What is made has the columns that files of the same task have. Tables of another form stay as they are.
"""

from __future__ import annotations

from typing import Any

from ptuning.data.formats import Table
from ptuning.errors import DataError


def unnested(table: Table, kind: str) -> Table:
    """Return a table with a record a row.

    Args:
        table: what was read. `entities` of [{"start", "end" (the token behind the last), "type"}] beside `tokens`
            become `tags`, where there are none (DFKI-SLT/conll04). Documents of `sentences` become sentences with
            `tokens` and `tags`, or, for semantic role labeling, one record for each frame of `srl_frames`
            (ontonotes/conll2012_ontonotesv5).
        kind: kind of task.

    Raises:
        DataError: entities overlap or lie outside their sentence; a frame does not fit its sentence.
    """
    if kind == "token_classification" and {"tokens", "entities"} <= set(table.columns):
        return _with_tags(table) if not {"tags", "ner_tags"} & set(table.columns) else table
    if kind in ("token_classification", "semantic_role_labeling") and "sentences" in table.columns:
        return _sentences(table, kind)
    return table


def _with_tags(table: Table) -> Table:
    records = [
        {"tokens": record["tokens"], "tags": _tags(record, table.where(index))}
        for index, record in enumerate(table.records)
    ]
    return Table(table.name, ("tokens", "tags"), records, table.lines, {}, table.notes, table.files)


def _tags(record: dict[str, Any], place: str) -> list[str]:
    tags = ["O"] * len(record["tokens"])
    for entity in record["entities"]:
        start, end, kind = entity["start"], entity["end"], entity["type"]
        if not 0 <= start < end <= len(tags) or any(tag != "O" for tag in tags[start:end]):
            raise DataError(
                f"{place}: the entity {kind} of the tokens {start} to {end} overlaps another or lies outside the "
                f"sentence of {len(tags)} tokens. Expected entities that stand apart, the end behind the last token. "
                "Correct or remove the row."
            )
        tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return tags


def _sentences(table: Table, kind: str) -> Table:
    """Documents to sentences; numbers of `named_entities` keep their class names."""
    records: list[dict[str, Any]] = []
    for index, document in enumerate(table.records):
        for number, sentence in enumerate(document["sentences"]):
            identifier = f"{document.get('document_id', index)}:{number}"
            if kind == "token_classification":
                records.append({"tokens": sentence["words"], "tags": sentence["named_entities"]})
                continue
            for frame in sentence["srl_frames"]:
                records.append(_frame(sentence["words"], frame, identifier, table.where(index)))
    columns = tuple(dict.fromkeys(name for record in records for name in record))
    names = table.class_names.get("sentences.named_entities") if kind == "token_classification" else None
    return Table(table.name, columns, records, None, {"tags": names} if names else {}, table.notes)


def _frame(words: list[str], frame: dict[str, Any], identifier: str, place: str) -> dict[str, Any]:
    tags = frame["frames"]
    if len(tags) != len(words) or "B-V" not in tags:
        raise DataError(
            f"{place}: a frame of {frame.get('verb')!r} in sentence {identifier} has {len(tags)} tags for {len(words)} "
            "words, expected one a word and B-V at the predicate. Correct or remove it."
        )
    predicate = tags.index("B-V")
    row = {"tokens": words, "predicate_index": predicate, "predicate": frame.get("verb"), "tags": tags}
    return {"id": f"{identifier}:{predicate}", **row}
