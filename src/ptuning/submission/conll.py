"""CoNLL: columns for conlleval (named entities, CoNLL-2003) and srl-eval.pl (semantic roles, CoNLL-2005).

conlleval reads the last two columns of a line, parted by a blank: the right tag and the guessed one. srl-eval.pl reads
two files, right and predicted, without words: the predicates (`-` at other words), and a column of brackets for each.
Sources: the head of the script conlleval (Tjong Kim Sang), and `read_props` in srl-eval.pl (Carreras and Marquez).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from ptuning.data.columns import resolve_columns
from ptuning.data.labels import check_tags_are_strings, name_tags
from ptuning.data.rows import Row, convert_to_bio, read_rows
from ptuning.data.spans import bio_spans
from ptuning.errors import ConfigError
from ptuning.predictor import LoadedTask
from ptuning.submission.asked import Asked
from ptuning.submission.output import Output, Submission
from ptuning.tasks.kind import Prediction

_KINDS = ("token_classification", "semantic_role_labeling")
_SENSE = re.compile(r"\.(?:\d\d|XX)$")


def check_task(task: LoadedTask) -> None:
    """Checks that the prompt tags words.

    Raises:
        ConfigError: it does not.
    """
    if task.kind.name not in _KINDS:
        raise ConfigError(
            f"--format conll was given, but {task.directory} was trained for {task.kind.name}. Expected "
            f"{' or '.join(_KINDS)}. Use --format json."
        )


def prepare(task: LoadedTask, asked: Asked) -> Submission:
    """Returns the file of the tags; of semantic roles another one with the right roles, where they are known.

    Raises:
        DataError: right tags are not BIO, or not as many as words.
    """
    right = right_tags(task, asked)
    if task.kind.name == "token_classification":
        return Submission(
            [Output("predictions.conll")],
            lambda said: [columns([one["tokens"] for one in said], [one["tags"] for one in said], right)],
        )
    verbs = [_verb(record, row) for record, row in zip(asked.table.records, asked.rows, strict=True)]
    outputs = [Output("predictions.props")]
    if right is not None:
        outputs.append(Output("gold.props", "gold", "the right roles, to score against"))

    def texts(predictions: Sequence[Prediction]) -> list[str]:
        predicted = [prediction["tags"] for prediction in predictions]
        return [props(asked.rows, verbs, tags) for tags in (predicted, right) if tags is not None]

    return Submission(outputs, texts)


def columns(
    words: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], right: Sequence[Sequence[str]] | None
) -> str:
    """Returns `word right predicted` (or `word predicted`) a line, and a blank line after each sentence.

    White space inside a word becomes `_`, since blanks part the columns.
    """
    lines = []
    for number, (own, tags) in enumerate(zip(words, predicted, strict=True)):
        for place, (word, tag) in enumerate(zip(own, tags, strict=True)):
            lines.append(" ".join([_cell(word), *([] if right is None else [right[number][place]]), tag]))
        lines.append("")
    return "\n".join(lines) + "\n" if lines else ""


def props(rows: Sequence[Row], verbs: Sequence[str], tags: Sequence[Sequence[str]]) -> str:
    """Returns the predicates and their brackets, and a blank line after each sentence.

    Args:
        rows: with `tokens` and `predicate_index`, a row a predicate. Rows that follow each other with the same words
            are one sentence, until one of its predicates comes again.
        verbs: what stands at the predicate of each.
        tags: BIO tags of each.
    """
    lines = []
    for group in _sentences(rows):
        count = len(rows[group[0]]["tokens"])
        targets = ["-"] * count
        for index in group:
            targets[rows[index]["predicate_index"]] = verbs[index]
        brackets = [_brackets(tags[index]) for index in group]
        lines += [" ".join([targets[word], *(own[word] for own in brackets)]) for word in range(count)]
        lines.append("")
    return "\n".join(lines) + "\n" if lines else ""


def _sentences(rows: Sequence[Row]) -> Iterator[list[int]]:
    """Yields the rows of each sentence, in the order of their predicates."""
    group: list[int] = []
    for index, row in enumerate(rows):
        seen = {rows[other]["predicate_index"] for other in group}
        if group and (row["tokens"] != rows[group[0]]["tokens"] or row["predicate_index"] in seen):
            yield sorted(group, key=lambda other: int(rows[other]["predicate_index"]))
            group = []
        group.append(index)
    if group:
        yield sorted(group, key=lambda other: int(rows[other]["predicate_index"]))


def _brackets(tags: Sequence[str]) -> list[str]:
    """`(A0*`, `*`, `*)`: a role opens at its first word and closes at its last."""
    cells = ["*"] * len(tags)
    for kind, start, end in bio_spans(tags):
        cells[start] = f"({kind}{cells[start]}"
        cells[end - 1] += ")"
    return cells


def _verb(record: dict[str, Any], row: Row) -> str:
    """What the column of predicates says: the lemma of the roleset, where the record has it, else the word."""
    given = record.get("predicate")
    word = _SENSE.sub("", given) if isinstance(given, str) and given.strip() else row["tokens"][row["predicate_index"]]
    cell = _cell(word)
    return "_" if cell == "-" else cell


def _cell(word: str) -> str:
    return "_".join(word.split()) or "_"


def right_tags(task: LoadedTask, asked: Asked) -> list[list[str]] | None:
    """Returns the right BIO tags of each row, None where a record has none.

    Raises:
        DataError: they are not BIO, or not as many as words.
    """
    table = asked.table
    if asked.rows and "tokens" not in asked.rows[0]:
        return None
    known = {role: name for role, name in asked.columns.items() if role != "id"}
    roles = resolve_columns(task.kind.name, table.columns, known, require_label=False, source=table.name)
    column = roles.get("tags")
    if column is None or any(not isinstance(record.get(column), list) for record in table.records):
        return None
    rows = read_rows(table, task.kind.name, {role: name for role, name in roles.items() if role != "id"}, "required")
    names = table.class_names.get(column) or tuple(getattr(task.kind, "label_names", ()))
    name_tags({"": (rows, table)}, names, source=table.name)
    check_tags_are_strings({"": (rows, table)})
    convert_to_bio(rows, table, iob1=task.kind.name == "token_classification")
    return [row["tags"] for row in rows]
