"""Rows from tables: roles instead of columns, and every value checked where its place in the file is still known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ptuning.data.columns import LABEL_ROLES, NAME_ROLES
from ptuning.data.formats import Table, is_number
from ptuning.data.spans import first_invalid_tag, iob1_to_bio, is_bio_tag, is_consistently_iob1
from ptuning.errors import DataError

Row = dict[str, Any]
"""One row: role -> value."""

PLACEHOLDER = "@placeholder"
"""Where an entity is put into the query of a cloze row."""

Labels = Literal["required", "optional", "dropped"]


def read_rows(table: Table, kind: str, columns: Mapping[str, str], labels: Labels) -> list[Row]:
    """Rename and check the columns of a table.

    Class labels and tags are still as the file has them; `labels.py` turns them into names.

    Args:
        table: what was read.
        kind: kind of task.
        columns: role -> column, of `resolve_columns`.
        labels: whether rows must have labels, may have them (null is none), or lose them, and their ids and groups too.

    Raises:
        DataError: a value is missing, empty, of another type, or contradicts another one; with its place.
    """
    readers: dict[str, Callable[[Any, str, str], Any]] = {
        "text": _text,
        "text_pair": _text,
        "question": _text,
        "context": _text,
        "tokens": _tokens,
        "tags": _list,
        "predicate_index": _word_number,
        "choices": _choices,
        "id": _identifier,
        "group": _identifier,
        "keep": _ranges,
        "keep_pair": _ranges,
        "passage": _text,
        "query": _query,
        "entities": _some_texts,
        "answers": _some_texts if kind == "cloze" else _answers,
        "label": _number if kind == "regression" else _anything,
    }
    plain = {role: column for role, column in columns.items() if role in readers}
    choices = [column for role, column in columns.items() if role not in readers]  # choice1, choice2, ...
    if labels == "dropped":
        # Predictions come in the order of the rows, so ids need be neither there nor different.
        plain = {role: column for role, column in plain.items() if role not in (*LABEL_ROLES, *NAME_ROLES)}
    rows: list[Row] = []
    for index, record in enumerate(table.records):
        place = table.where(index)
        row: Row = {}
        for role, column in plain.items():
            value = record.get(column)
            # A cloze query always has an answer: an empty list is how test splits leave it out.
            is_unlabelled = value is None or (kind == "cloze" and value == [])
            if is_unlabelled and role in LABEL_ROLES and labels == "optional":
                continue
            if value is None and role in ("keep", "keep_pair"):
                continue
            if value is None:
                state = "has no value" if column in record else "is missing"
                raise DataError(f"{place}: {column!r} {state}, expected its {role}. Fill it in or remove the row.")
            row[role] = readers[role](value, place, column)
        if choices:
            row["choices"] = _single_choices(record, choices, place)
        _check_row(row, place)
        rows.append(row)
    if kind == "semantic_role_labeling" and labels != "dropped":
        _check_sentences(rows, table)
    if kind == "question_answering" and labels != "dropped":
        _number_questions(rows, table)
    return rows


def convert_to_bio(rows: list[Row], table: Table, *, iob1: bool = True) -> bool:
    """Make the tags of rows BIO, in place; return whether they were IOB1 and have been converted.

    Args:
        rows: some with `tags`.
        table: what they were read from.
        iob1: whether the file may be IOB1. Nobody writes semantic roles in it: there a missing `B-` is a mistake.

    Raises:
        DataError: a tag is none of BIO, or an `I-X` follows neither `B-X` nor `I-X` in a file that is not IOB1.
    """
    tagged = [(index, row) for index, row in enumerate(rows) if "tags" in row]
    for index, row in tagged:
        for position, tag in enumerate(row["tags"]):
            if not is_bio_tag(tag):
                raise DataError(
                    f"{table.where(index)}: tag {tag!r} of word {position + 1} ({row['tokens'][position]!r}) is not "
                    "BIO. Expected O, B-TYPE or I-TYPE; convert other schemes, such as BIOES, first."
                )
    invalid = [(index, first_invalid_tag(row["tags"])) for index, row in tagged]
    wrong = next(((index, position) for index, position in invalid if position is not None), None)
    if wrong is None:
        return False
    if iob1 and is_consistently_iob1(row["tags"] for _, row in tagged):
        for _, row in tagged:
            row["tags"] = iob1_to_bio(row["tags"])
        return True
    index, position = wrong
    tokens, tags = rows[index]["tokens"], rows[index]["tags"]
    before = f"follows {tags[position - 1]!r}" if position else "begins the sentence"
    sentence = " ".join(tokens[:30]) + (" ..." if len(tokens) > 30 else "")
    not_iob1 = "; the file is not IOB1 either, which would be converted" if iob1 else ""
    raise DataError(
        f"{table.where(index)}: tag {tags[position]!r} of word {position + 1} ({tokens[position]!r}) {before}, in "
        f"{sentence!r}. In BIO it follows B-{tags[position][2:]} or {tags[position]}{not_iob1}. Correct the tag."
    )


def _check_row(row: Row, place: str) -> None:
    """Check what several values of a row say together."""
    if "tags" in row and len(row["tags"]) != len(row["tokens"]):
        raise DataError(
            f"{place}: {len(row['tokens'])} tokens but {len(row['tags'])} tags. "
            "Expected one tag a token; correct the row."
        )
    if row.get("predicate_index", 0) >= len(row.get("tokens", "?")):
        raise DataError(
            f"{place}: predicate_index is {row['predicate_index']}, but there are {len(row['tokens'])} tokens. "
            "Expected the number of the predicate's word, counted from 0; correct the row."
        )
    for role, marked in (("keep", "text"), ("keep_pair", "text_pair")):
        for start, end in row.get(role, ()):
            length = len(row.get(marked, ""))
            if not 0 <= start < end <= length:
                raise DataError(
                    f"{place}: {role!r} has the range [{start}, {end}], but its {marked} has {length} characters. "
                    "Expected [first, end] with 0 <= first < end, counted in characters from 0; correct the row."
                )
    if "answers" in row and "context" in row:
        for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True):
            found = row["context"][start : start + len(text)] if start >= 0 else ""
            if found != text:
                question = f" question {row['id']!r}:" if "id" in row else ""
                first = row["context"].find(text)
                hint = f"It first stands at {first}; correct" if first >= 0 else "It stands nowhere in it; correct"
                raise DataError(
                    f"{place}:{question} the answer {short(text)} should stand at character {start} of its context, "
                    f"but there stands {short(found)}. {hint} answer_start (characters from 0, not bytes)."
                )


def _number_questions(rows: list[Row], table: Table) -> None:
    """Give questions without id their row number, and refuse an id that comes twice."""
    first: dict[str, int] = {}
    for index, row in enumerate(rows):
        identifier = row.setdefault("id", str(index))
        if identifier in first:
            raise DataError(
                f"{table.where(index)}: the id {identifier!r} stands at {table.where(first[identifier])} too. "
                "Expected every id once; rename one or remove the row."
            )
        first[identifier] = index


def _check_sentences(rows: list[Row], table: Table) -> None:
    """Check rows of the same id, which are one sentence (a row a predicate): the same words, and no predicate twice."""
    first: dict[str, int] = {}
    predicates: dict[tuple[str, int], int] = {}
    for index, row in enumerate(rows):
        if "id" not in row:
            continue
        other = predicates.setdefault((row["id"], row["predicate_index"]), index)
        if other != index:
            raise DataError(
                f"{table.where(index)}: the id {row['id']!r} with predicate_index {row['predicate_index']} stands at "
                f"{table.where(other)} too. Expected every predicate of a sentence once; remove the row or rename it."
            )
        other = first.setdefault(row["id"], index)
        if row["tokens"] != rows[other]["tokens"]:
            raise DataError(
                f"{table.where(index)}: the id {row['id']!r} stands at {table.where(other)} with other tokens. "
                "Expected a row, or a sentence with a row for each of its predicates, to have an id; rename one."
            )


def short(value: Any) -> str:
    """Write a value for a message: its first characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."


def _wrong_type(value: Any, expected: str, place: str, column: str) -> DataError:
    return DataError(
        f"{place}: {column!r} holds {short(value)} ({type(value).__name__}), "
        f"expected {expected}. Correct it, or train with another column in data.columns."
    )


def _text(value: Any, place: str, column: str) -> str:
    if not isinstance(value, str):
        raise _wrong_type(value, "text", place, column)
    if not value.strip():
        raise DataError(f"{place}: {column!r} is empty, expected text. Fill it in or remove the row.")
    _check_characters(value, place, column)
    return value


def _check_characters(value: str, place: str, column: str) -> None:
    if value.isascii():
        return
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place}: {column!r} has half a surrogate pair ({value[error.start]!a}) at character {error.start}. "
            "Expected text that can be written as UTF-8; correct the file."
        ) from error


def _tokens(value: Any, place: str, column: str) -> list[str]:
    tokens = _list(value, place, column)
    if not tokens:
        raise DataError(f"{place}: {column!r} is an empty list, expected words. Fill it in or remove the row.")
    for token in tokens:
        if not isinstance(token, str):
            raise _wrong_type(token, "a list of strings", place, column)
        if not token:
            raise DataError(f"{place}: {column!r} has an empty word, expected text. Remove it and its tag.")
        _check_characters(token, place, column)
    return tokens


def _list(value: Any, place: str, column: str) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong_type(value, "a list (a CSV cell cannot hold one; use .jsonl)", place, column)
    if any(item is None for item in value):
        raise DataError(f"{place}: {column!r} has a null in its list, expected values. Fill it in or remove the row.")
    return list(value)


def _word_number(value: Any, place: str, column: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _wrong_type(value, "the number of a word, counted from 0", place, column)
    return value


def _choices(value: Any, place: str, column: str) -> list[str]:
    choices = [_text(choice, place, column) for choice in _list(value, place, column)]
    if len(choices) < 2:
        raise DataError(f"{place}: {column!r} has {len(choices)} choices, expected at least 2. Correct the row.")
    return choices


def _some_texts(value: Any, place: str, column: str) -> list[str]:
    texts = [_text(text, place, column) for text in _list(value, place, column)]
    if not texts:
        raise DataError(f"{place}: {column!r} is an empty list, expected texts. Fill it in or remove the row.")
    return texts


def _query(value: Any, place: str, column: str) -> str:
    query = _text(value, place, column)
    if PLACEHOLDER not in query:
        raise DataError(
            f"{place}: {column!r} holds {short(query)}, which has no {PLACEHOLDER}. Expected it where an entity is to "
            "be put; correct the row."
        )
    return query


def _ranges(value: Any, place: str, column: str) -> list[list[int]]:
    ranges = [list(item) if isinstance(item, tuple) else item for item in _list(value, place, column)]
    for item in ranges:
        if not isinstance(item, list) or len(item) != 2 or any(type(number) is not int for number in item):
            raise _wrong_type(item, "ranges of characters as [[first, end], ...]", place, column)
    return ranges


def _single_choices(record: Mapping[str, Any], columns: list[str], place: str) -> list[str]:
    for column in columns:
        if record.get(column) is None:
            raise DataError(
                f"{place}: {column!r} has no value, expected a choice. Fill it in; where rows have different numbers "
                "of choices, give lists in one column 'choices'."
            )
    return [_text(record[column], place, column) for column in columns]


def _identifier(value: Any, place: str, column: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise _wrong_type(value, "a string", place, column)
    return str(value)


def _number(value: Any, place: str, column: str) -> float:
    if isinstance(value, str) and is_number(value):
        value = float(value)  # a CSV cell
    try:
        number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _wrong_type(value, "a finite number", place, column)
    return number


def _anything(value: Any, place: str, column: str) -> Any:
    return value


def _answers(value: Any, place: str, column: str) -> dict[str, list[Any]]:
    """Accept {"text": [...], "answer_start": [...]}, or SQuAD's list of {"text", "answer_start"}."""
    expected = 'answers as {"text": [...], "answer_start": [...]}'
    if isinstance(value, list) and all(isinstance(answer, dict) for answer in value):
        value = {key: [answer.get(key) for answer in value] for key in ("text", "answer_start")}
    if not isinstance(value, dict) or not all(isinstance(value.get(key), list) for key in ("text", "answer_start")):
        raise _wrong_type(value, expected, place, column)
    texts, starts = list(value["text"]), list(value["answer_start"])
    if len(texts) != len(starts):
        raise DataError(
            f"{place}: {column!r} has {len(texts)} texts but {len(starts)} answer_start. Expected one start a text; "
            "correct the row."
        )
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or isinstance(start, bool) or not isinstance(start, int):
            raise _wrong_type(value, expected, place, column)
        if not text.strip():
            raise DataError(
                f"{place}: {column!r} has an empty text, expected a piece of the context. "
                "Give a question without answer two empty lists."
            )
    return {"text": texts, "answer_start": starts}
