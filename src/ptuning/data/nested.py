"""Data sets of the hub that nest what a task reads: entities as spans, documents with sentences, frames of predicates.

What is made has the columns that files of the same task have. Tables of another form stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ptuning.data.formats import Table, table_of
from ptuning.errors import DataError

_ENTITIES = "tokens and entities[], each with start, end (the token behind the last) and type"
_TAGGED = "sentences[], each with words[] and named_entities[]"
_FRAMED = "sentences[], each with words[] and srl_frames[], each with frames[], a BIO tag a word"


def unnested(table: Table, kind: str) -> Table:
    """Return a table with a record a row.

    Args:
        table: what was read. `entities` of [{"start", "end" (the token behind the last), "type"}] beside `tokens`
            become `tags`, where there are none (DFKI-SLT/conll04). Documents of `sentences` become sentences with
            `tokens` and `tags`, or, for semantic role labeling, one record for each frame of `srl_frames`
            (ontonotes/conll2012_ontonotesv5).
        kind: kind of task.

    Raises:
        DataError: a record nests in another way; entities overlap or lie outside their sentence; a frame does not fit
            its sentence.
    """
    if kind == "token_classification" and {"tokens", "entities"} <= set(table.columns):
        return _with_tags(table) if not {"tags", "ner_tags"} & set(table.columns) else table
    if kind in ("token_classification", "semantic_role_labeling") and "sentences" in table.columns:
        return _sentences(table, kind)
    return table


@contextmanager
def _form(place: str, expected: str) -> Iterator[None]:
    """Turn what looking into a record of another form raises into an error with its place and the expected form."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        problem = f"has no {error}" if isinstance(error, KeyError) else f"has another form ({error})"
        raise DataError(f"{place}: the record {problem}. Expected {expected}. Correct or remove it.") from error


def _with_tags(table: Table) -> Table:
    records = []
    for index, record in enumerate(table.records):
        place = table.where(index)
        with _form(place, _ENTITIES):
            records.append({"tokens": record["tokens"], "tags": _tags(record, place)})
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
    lines: list[int] = []
    is_tagging = kind == "token_classification"
    for index, document in enumerate(table.records):
        place = table.where(index)
        made: list[dict[str, Any]] = []
        with _form(place, _TAGGED if is_tagging else _FRAMED):
            for number, sentence in enumerate(document["sentences"]):
                identifier = f"{document.get('document_id', index)}:{number}"
                if is_tagging:
                    made.append({"tokens": sentence["words"], "tags": sentence["named_entities"]})
                    continue
                for frame in sentence["srl_frames"]:
                    made.append(_frame(sentence["words"], frame, identifier, place))
        records += made
        lines += [0 if table.lines is None else table.lines[index]] * len(made)
    flat = table_of(table.name, records, None if table.lines is None else lines)
    names = table.class_names.get("sentences.named_entities") if is_tagging else None
    return Table(flat.name, flat.columns, records, flat.lines, {"tags": names} if names else {}, table.notes)


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
