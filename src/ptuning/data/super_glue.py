"""SuperGLUE as it was released: nested records made flat, with the columns of the Hugging Face copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ptuning.data.formats import Table, table_of
from ptuning.errors import DataError

Record = dict[str, Any]


def flatten(table: Table) -> Table:
    """Make records of MultiRC, ReCoRD and WSC flat; any other table comes back as it is.

    MultiRC gives a record an answer (`paragraph`, `question`, `answer`, `label`, `idx`), ReCoRD a record a query
    (`passage`, `query`, `entities`, `answers`, `idx`; texts once each, in the order of the passage), WSC a record a
    record (`text`, `span1_index`, `span1_text`, `span2_index`, `span2_text`, `label`, `idx`). What test files lack
    (`label`, `answers`) the records lack too.

    Raises:
        DataError: a record of these tasks lacks a part; the message names its line.
    """
    flat_of = _flattener(table)
    if flat_of is None:
        return table
    records: list[Record] = []
    lines: list[int] = []
    for index, record in enumerate(table.records):
        try:
            flat = list(flat_of(record))
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            problem = f"has no {error}" if isinstance(error, KeyError) else f"has another form ({error})"
            raise DataError(
                f"{table.where(index)}: the record {problem}. Expected {_FORMS[flat_of]}, as SuperGLUE was released, "
                "or flat records in the whole file; correct it."
            ) from error
        except ValueError as error:
            raise DataError(f"{table.where(index)}: {error}") from error
        records += flat
        lines += [0 if table.lines is None else table.lines[index]] * len(flat)
    flattened = table_of(table.name, records, None if table.lines is None else lines)
    return Table(table.name, flattened.columns, records, flattened.lines, notes=table.notes)


def _flattener(table: Table) -> Callable[[Record], Iterator[Record]] | None:
    columns = set(table.columns)
    first = table.records[0] if table.records else {}
    passage = first.get("passage")
    if "qas" in columns and isinstance(passage, dict):
        return _record
    if isinstance(passage, dict) and "questions" in passage:
        return _multirc
    target = first.get("target")
    if isinstance(target, dict) and "span1_index" in target:
        return _wsc
    return None


def _multirc(record: Record) -> Iterator[Record]:
    paragraph = record["passage"]["text"]
    for question in record["passage"]["questions"]:
        for answer in question["answers"]:
            flat = {"paragraph": paragraph, "question": question["question"], "answer": answer["text"]}
            if "label" in answer:
                flat["label"] = answer["label"]
            yield flat | {
                "idx": {"paragraph": record["idx"], "question": question["idx"], "answer": answer["idx"]},
            }


def _record(record: Record) -> Iterator[Record]:
    text = record["passage"]["text"]
    entities = [_entity(text, entity["start"], entity["end"]) for entity in record["passage"]["entities"]]
    for query in record["qas"]:
        flat = {"passage": text, "query": query["query"], "entities": list(dict.fromkeys(entities))}
        if "answers" in query:
            flat["answers"] = list(dict.fromkeys(answer["text"] for answer in query["answers"]))
        yield flat | {"idx": {"passage": record["idx"], "query": query["idx"]}}


def _entity(text: str, start: int, end: int) -> str:
    """Return the text of an entity; `end` is its last character, not the one after it."""
    if not 0 <= start <= end < len(text):
        raise ValueError(
            f"an entity stands at characters {start} to {end}, but the passage has {len(text)}. Expected places inside "
            "it, from 0, the last character included; correct passage.entities."
        )
    return text[start : end + 1]


def _wsc(record: Record) -> Iterator[Record]:
    target = record["target"]
    flat = {"text": record["text"]}
    for name in ("span1_index", "span1_text", "span2_index", "span2_text"):
        flat[name] = target[name]
    yield flat | {name: record[name] for name in ("label", "idx") if name in record}


_FORMS: dict[Callable[[Record], Iterator[Record]], str] = {
    _multirc: "passage.text, passage.questions[] with question, idx and answers[], each with text and idx",
    _record: "passage.text, passage.entities[] with start and end, qas[] with query and idx, and answers[] with text",
    _wsc: "text and target with span1_index, span1_text, span2_index and span2_text",
}
