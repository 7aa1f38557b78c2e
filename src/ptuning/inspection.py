"""What a model will see of a task: records, the texts made of them, tokens with what is asked of them, and what is cut.

Rows, kind, lengths and examples come from the functions that training uses, so this cannot differ from it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from ptuning.backbones.loading import Backbone
from ptuning.config import RunConfig
from ptuning.data.batching import IGNORED_LABEL, Example
from ptuning.data.columns import LABEL_ROLES, NAME_ROLES
from ptuning.data.formats import Table
from ptuning.data.hub import HubSource
from ptuning.data.rows import Row
from ptuning.data.splits import Split, load_tables
from ptuning.errors import ConfigError, DataError
from ptuning.tasks import Task, TaskKind, get_task
from ptuning.tasks.loading import load_task_data
from ptuning.tasks.question_answering import QuestionAnswering
from ptuning.tasks.resolving import resolve_kind, with_task_defaults
from ptuning.training.assembly import fitting_max_length

_UNCUT = 1 << 30
_NEAR = 5  # tokens from a cut at which what is needed is called near it


@dataclass(frozen=True)
class ShownToken:
    """A token.

    Attributes:
        text: as the tokenizer writes it.
        mark: what is asked of it or what it is: a tag, `answer`, `keep`, `predicate`; empty for most.
    """

    text: str
    mark: str = ""


@dataclass(frozen=True)
class ShownSequence:
    """What the model reads at once.

    Attributes:
        title: which choice, entity or window it is; empty where a row is one sequence.
        tokens: with special ones.
        label: what is asked of the sequence as a whole; empty where it has none.
        cut: tokens that are left out of it, as one text; empty where all are there.
        num_cut: how many they are.
        is_window: whether what is left out is in other windows of the row, which may share tokens with this one.
        notes: what is to be known about its length, one sentence each.
    """

    title: str
    tokens: tuple[ShownToken, ...]
    label: str
    cut: str
    num_cut: int
    is_window: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShownRow:
    """A row on its way from the file to the model.

    Attributes:
        place: where its record stands.
        record: as the file or data set has it.
        row: roles, after the template where there is one.
        sequences: what the model reads.
        seen_in_training: how many of these training shows; long rows of some kinds are cut there.
    """

    place: str
    record: Mapping[str, Any]
    row: Row
    sequences: tuple[ShownSequence, ...]
    seen_in_training: int


@dataclass(frozen=True)
class Inspection:
    """Some rows of a task as a backbone will see them.

    Attributes:
        task: preset or bare kind.
        kind: with its options.
        backbone: name.
        source: of the data.
        split: which rows.
        num_rows: of the split.
        max_length: tokens a sequence at most.
        template: what makes the texts, in one line; None where columns are read as they are.
        columns: what is read -> column.
        label_names: in index order; empty for kinds without.
        notes: of the data.
        rows: the first ones of the split.
    """

    task: Task
    kind: TaskKind
    backbone: str
    source: str
    split: str
    num_rows: int
    max_length: int
    template: str | None
    columns: Mapping[str, str]
    label_names: tuple[str, ...]
    notes: tuple[str, ...]
    rows: tuple[ShownRow, ...]


def inspect_task(config: RunConfig, backbone: Backbone, *, count: int = 3, split: Split = "train") -> Inspection:
    """Shows the first rows of a split as they go into the model.

    Args:
        config: settings of a run: task, data, prompts (shifted positions leave less room).
        backbone: loaded; its tokenizer and its positions count.
        count: how many rows.
        split: which; labels are required but in test splits.

    Raises:
        ConfigError: there is no such task, it has no data or no such split, or lengths do not fit the backbone.
        DataError: the data are not what the task needs.
    """
    if count < 1:
        raise ConfigError(f"--show is {count}, expected at least 1 row. Give a number such as 3.")
    task = get_task(config.task)
    unlimited = config.data.model_copy(update={"max_train_rows": None, "max_validation_rows": None})
    # records and rows then stand side by side
    has_pieces = backbone.pieces is not None
    config = with_task_defaults(config.model_copy(update={"data": unlimited}), task, has_pieces=has_pieces)
    read: list[tuple[dict[Split, Table], Collection[Split]]] = []

    def reader(source: str | Path | HubSource, kind: str, wanted: Collection[Split] | None) -> Any:
        read.append(load_tables(source, kind, wanted))
        return read[-1]

    data = load_task_data(config, task, [split], reader=reader)
    rows = data.rows(split)
    tables, available = read[-1]
    if rows is None or split not in tables:
        raise DataError(
            f"{data.source} has no {split} split of its own, only {', '.join(available)}. Name another --split."
        )
    kind = resolve_kind(config, task, data, is_causal=backbone.is_causal)
    max_length = fitting_max_length(config, backbone, task.max_length or kind.max_length_default)
    template = task.template(config.data.template)
    table, some = tables[split], rows[:count]
    return Inspection(
        task=task,
        kind=kind,
        backbone=backbone.name,
        source=data.source,
        split=split,
        num_rows=len(rows),
        max_length=max_length,
        template=None if template is None else f"{template.name}: {template.description}",
        columns=data.columns,
        label_names=data.label_names or (),
        notes=data.notes,
        rows=tuple(
            ShownRow(
                table.where(index), table.records[index], row, *_sequences(kind, row, backbone.tokenizer, max_length)
            )
            for index, row in enumerate(some)
        ),
    )


def _sequences(kind: TaskKind, row: Row, tokenizer: Any, max_length: int) -> tuple[tuple[ShownSequence, ...], int]:
    """Encodes one row as training and prediction do, and whole, to see what is cut."""
    is_labelled = kind.label_role in row
    examples = kind.encode([row], tokenizer, max_length, training=False)
    trained = kind.encode([row], tokenizer, max_length, training=True) if is_labelled else examples
    whole = kind.encode([row], tokenizer, _UNCUT, training=False)
    per_row = len(whole) == len(examples)  # else examples are windows of one
    shown: list[ShownSequence] = []
    for number, example in enumerate(examples):
        full = whole[number if per_row else 0]
        for place, ids in enumerate(example.sequences):
            shown.append(
                _sequence(
                    kind, row, tokenizer, example, full, ids, full.sequences[place], (number, len(examples), place)
                )
            )
    return tuple(shown), sum(len(example.sequences) for example in trained)


def _sequence(
    kind: TaskKind,
    row: Row,
    tokenizer: Any,
    example: Example,
    full: Example,
    ids: Sequence[int],
    full_ids: Sequence[int],
    at: tuple[int, int, int],
) -> ShownSequence:
    number, num_examples, place = at
    gone = [position for position in _left_out(ids, full_ids) if full_ids[position] >= 0]
    marks = _marks(kind, row, tokenizer, example, ids)
    texts = [f"<virtual {-one}>" if one < 0 else tokenizer.convert_ids_to_tokens(one) for one in ids]
    return ShownSequence(
        title=_title(kind, row, example, (number, num_examples, place)),
        tokens=tuple(ShownToken(text, mark) for text, mark in zip(texts, marks, strict=True)),
        label=_label(kind, row, example, place, num_examples),
        cut=tokenizer.decode([full_ids[position] for position in gone]) if gone else "",
        num_cut=len(gone),
        is_window=num_examples > 1 and kind.name != "cloze",
        notes=_notes(kind, row, example, full, marks, gone, is_first_of_several=num_examples > 1 and number == 0),
    )


def _left_out(ids: Sequence[int], full_ids: Sequence[int]) -> list[int]:
    """The positions of the whole sequence that a cut one lacks."""
    if list(ids) == list(full_ids):
        return []
    gone: list[int] = []
    for action, start, end, *_ in SequenceMatcher(None, full_ids, ids, autojunk=False).get_opcodes():
        if action in ("delete", "replace"):
            gone += range(start, end)
    return gone


def _title(kind: TaskKind, row: Row, example: Example, at: tuple[int, int, int]) -> str:
    number, num_examples, place = at
    if kind.head_kind == "choice":
        return f"choice {place}"
    if kind.name == "cloze":
        return f"entity {list(dict.fromkeys(row['entities']))[number]!r}"
    if kind.head_kind == "sequence" and len(example.sequences) > 1:
        return f"label {getattr(kind, 'label_names', ())[place]!r}"
    return f"window {number + 1} of {num_examples}" if num_examples > 1 else ""


def _label(kind: TaskKind, row: Row, example: Example, place: int, num_examples: int) -> str:
    if example.label is None:
        return "none"
    if kind.head_kind == "choice":
        return "right" if example.label == place else "wrong"
    if kind.name == "cloze":
        return "right" if example.label == 1 else "wrong"
    if kind.head_kind == "sequence":
        return str(row["label"])
    if kind.head_kind == "span" and example.label == _no_answer(kind, example):
        is_elsewhere = num_examples > 1 and bool(row["answers"]["text"])
        return "the answer is not whole in this window" if is_elsewhere else "no answer"
    return ""


def _no_answer(kind: TaskKind, example: Example) -> tuple[int, int] | None:
    """The label of a window whose question has no answer in it; None for kinds without."""
    if not isinstance(kind, QuestionAnswering):
        return None
    place = kind.null_position(len(example.sequences[0]))
    return place, place


def _marks(kind: TaskKind, row: Row, tokenizer: Any, example: Example, ids: Sequence[int]) -> list[str]:
    """What stands under each token."""
    label = example.label
    if isinstance(label, list):
        names: Sequence[str] = getattr(kind, "label_names", ())
        marks = ["" if index == IGNORED_LABEL else names[index] for index in label]
    elif isinstance(label, tuple) and label != _no_answer(kind, example):
        marks = ["answer" if label[0] <= position <= label[1] else "" for position in range(len(ids))]
    else:
        marks = [""] * len(ids)
    if "predicate_index" in row and example.offsets is not None:
        for position, offset in enumerate(example.offsets):
            if offset is not None and offset[0] == row["predicate_index"]:
                marks[position] = " ".join(filter(None, [marks[position], "predicate"]))
    if row.get("keep") and kind.head_kind == "sequence" and getattr(kind, "pattern", None) is None:
        for position in _kept(row, tokenizer, ids):
            marks[position] = "keep"
    return marks


def _kept(row: Row, tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """The positions of tokens of the marked characters of a text, in what is left of it."""
    encoded = tokenizer(row["text"], row.get("text_pair"), return_offsets_mapping=True, truncation=False, verbose=False)
    gone = set(_left_out(ids, encoded["input_ids"]))
    parts, offsets = encoded.sequence_ids(0), encoded["offset_mapping"]
    stays = [position for position in range(len(parts)) if position not in gone]
    return [
        order
        for order, position in enumerate(stays)
        if parts[position] == 0
        and any(offsets[position][0] < end and offsets[position][1] > start for start, end in row["keep"])
    ]


def _notes(
    kind: TaskKind,
    row: Row,
    example: Example,
    full: Example,
    marks: Sequence[str],
    gone: Sequence[int],
    *,
    is_first_of_several: bool,
) -> tuple[str, ...]:
    """What is to be known about what is cut: whether the task needs it, and how near the cut it stands."""
    notes = []
    if row.get("keep") and gone:
        notes.append("The words that the task asks about are kept; what is far from them is cut.")
    if kind.head_kind == "span" and "answer" in marks and gone:
        context = [position for position, offset in enumerate(example.offsets or ()) if offset is not None]
        answer = [position for position, mark in enumerate(marks) if mark == "answer"]
        begins, ends = _is_cut_before(example, full), _is_cut_after(example, full)
        near = [
            side
            for side, is_cut, distance in (
                ("beginning", begins, answer[0] - context[0]),
                ("end", ends, context[-1] - answer[-1]),
            )
            if is_cut and distance < _NEAR
        ]
        if near:
            notes.append(f"The answer is within {_NEAR} tokens of the window's {' and '.join(near)}.")
    if kind.label_role == "tags" and isinstance(full.label, list) and is_first_of_several:
        names: Sequence[str] = getattr(kind, "label_names", ())
        lost = sum(full.label[place] != IGNORED_LABEL and names[full.label[place]] != "O" for place in gone)
        if lost:
            notes.append(f"{lost} words with a tag other than O are in other windows; training sees this one alone.")
    return tuple(notes)


def _is_cut_before(example: Example, full: Example) -> bool:
    return _first_place(example) != _first_place(full)


def _is_cut_after(example: Example, full: Example) -> bool:
    return _last_place(example) != _last_place(full)


def _first_place(example: Example) -> tuple[int, int] | None:
    return next((offset for offset in example.offsets or () if offset is not None), None)


def _last_place(example: Example) -> tuple[int, int] | None:
    return next((offset for offset in reversed(example.offsets or ()) if offset is not None), None)


def segments_of(row: Row) -> list[tuple[str, str]]:
    """Returns (role, text) of what a row gives the model to read; labels, ids and marked characters are no text."""
    left_out = {*LABEL_ROLES, *NAME_ROLES, "keep", "keep_pair", "predicate_index"}
    found = []
    for role, value in row.items():
        if role in left_out:
            continue
        if role == "choices":
            found += [(f"choice {number}", choice) for number, choice in enumerate(value)]
        else:
            separator = " " if role == "tokens" else " | "
            found.append((role, value if isinstance(value, str) else separator.join(map(str, value))))
    return found
