"""Raw labels and tags of all splits turned into names: classes, places of choices, or BIO tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptuning.data.formats import Table
from ptuning.data.labels import (
    INFO_FILE,
    check_tags_are_known,
    check_tags_are_strings,
    checked_names,
    info_label_names,
    name_labels,
    name_tags,
    number_choices,
    seen_label_names,
    seen_tag_names,
    shown,
    unknown_tags,
)
from ptuning.data.rows import Row, convert_to_bio
from ptuning.data.splits import Split, is_test
from ptuning.errors import DataError

_TAGGING_KINDS = ("token_classification", "semantic_role_labeling")

Pairs = dict[Split, tuple[list[Row], Table]]
"""Split -> its rows and what they were read from."""


def name_everything(
    pairs: Pairs,
    others: Mapping[Split, Table],
    kind: str,
    roles: Mapping[str, str],
    labels: Sequence[str] | None,
    giver: str,
    usual_labels: Sequence[str] | None,
    directory: Path,
    notes: list[str],
) -> tuple[str, ...] | None:
    """Turn raw labels and tags into names, in place, and return the names; None for kinds without.

    Args:
        pairs: of the splits that were asked for.
        others: the other splits, whose labels are only looked at.
        kind: kind of task.
        roles: role -> column.
        labels: names that were given.
        giver: who gave them, in messages.
        usual_labels: names that a preset has.
        directory: where the data are.
        notes: what is said to the user; added to.

    Raises:
        DataError: a label is none of the names, or is none at all.
    """
    if kind in ("regression", "question_answering", "cloze"):
        if labels is not None:
            raise DataError(f"data.labels names {len(labels)} classes, but {kind} has none. Leave data.labels out.")
        return None
    column = roles.get("tags" if kind in _TAGGING_KINDS else "label", "")
    every = [*(table for _, table in pairs.values()), *others.values()]
    names, source = _given_names(every, column, labels, giver, usual_labels, directory)
    if kind == "multiple_choice":
        choices = [name for role, name in roles.items() if role.startswith("choice") and role != "choices"]
        number_choices(pairs, choices, names)
        return None
    if kind == "classification":
        return _name_classes(pairs, others, column, names, source)
    return _name_tags(pairs, kind, names, source, notes)


def _name_classes(
    pairs: Pairs, others: Mapping[Split, Table], column: str, names: tuple[str, ...] | None, source: str
) -> tuple[str, ...]:
    """Name the classes of rows; without given names those that train shows, or the first split there is."""
    if names is None:
        lead = _lead(pairs)
        names, source = seen_label_names(*pairs[lead]), f"{lead} (its sorted values)"
    every = [*(table for _, table in pairs.values()), *others.values()]
    name_labels(
        pairs,
        names,
        others=[label for split, table in others.items() for label in _raw_labels(split, table, column)],
        from_classes=any(column in table.class_names for table in every),
        source=source,
    )
    return names


def _name_tags(
    pairs: Pairs, kind: str, names: tuple[str, ...] | None, source: str, notes: list[str]
) -> tuple[str, ...]:
    """Name the tags of rows and make them BIO; without given names those that train shows, or the first split."""
    is_roles = kind == "semantic_role_labeling"
    if names is not None:
        name_tags(pairs, names, source=source)
    check_tags_are_strings(pairs)
    for split, (rows, table) in pairs.items():
        if convert_to_bio(rows, table, iob1=not is_roles):
            notes.append(f"{split}: the tags are IOB1 and were converted to BIO (every entity begins with B-).")
    if names is None:
        lead = _lead(pairs)
        more = [rows for split, (rows, _) in pairs.items() if split != lead]
        names = seen_tag_names(pairs[lead][0], more, pairs[lead][1].name, all_types=is_roles)
        source = f"{lead} (its sorted tags)"
    strict = {split: pair for split, pair in pairs.items() if split == "train" or not is_roles}
    # Roles are many and rare: one that train has not is missed, and no mistake.
    for split in [split for split in pairs if split not in strict]:
        unseen = unknown_tags(pairs[split][0], names)
        if unseen:
            notes.append(f"{split}: {shown(unseen)} cannot be predicted, being no label names of {source}.")
    check_tags_are_known(strict, names, source=source)
    return names


def _lead(pairs: Pairs) -> Split:
    """Return the split that says which labels there are."""
    return "train" if "train" in pairs else next(iter(pairs))


def _given_names(
    tables: Sequence[Table],
    column: str,
    labels: Sequence[str] | None,
    giver: str,
    usual_labels: Sequence[str] | None,
    directory: Path,
) -> tuple[tuple[str, ...] | None, str]:
    """Return the label names that somebody wrote down, and who did."""
    if labels is not None:
        return checked_names(labels, giver), giver
    names = info_label_names(directory, column) if directory.is_dir() else None
    if names is not None:
        return names, str(directory / INFO_FILE)
    for table in tables:
        if column in table.class_names:
            return checked_names(table.class_names[column], f"the classes of {table.name}"), table.name
    return (None, "") if usual_labels is None else (checked_names(usual_labels, "the task"), "the task")


def _raw_labels(split: Split, table: Table, column: str) -> list[Any]:
    """Return the labels of a split as they stand in its file; none where a test split is unlabelled (all -1)."""
    found = [value for record in table.records if (value := record.get(column)) is not None]
    is_unlabelled = is_test(split) and all(value in (-1, "-1") for value in found)
    return [] if is_unlabelled else found
