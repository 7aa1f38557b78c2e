"""The rows of a task: read, renamed, named, held out, drawn; from files or from the hub."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ptuning.data.columns import LABEL_ROLES, NAME_ROLES, resolve_columns
from ptuning.data.formats import Table, suffixes_for
from ptuning.data.held_out import HeldOut, Selection, hold_out_development, hold_out_validation
from ptuning.data.hub import HubSource
from ptuning.data.labels import PROMPT, shown, some_are_numbers
from ptuning.data.learned import Learned, roles_here, template_columns_here
from ptuning.data.naming import name_everything
from ptuning.data.rows import Row, read_rows
from ptuning.data.sampling import draw_rows
from ptuning.data.splits import SPLIT_NAMES, Split, TableReader, is_test, load_tables, needed_splits
from ptuning.data.template import Template
from ptuning.data.unlabelled import check_kind
from ptuning.errors import DataError


@dataclass(frozen=True)
class TaskData:
    """The rows of a task, ready for its kind.

    A row is a dict of roles: those of `KIND_ROLES`, and among them what is to be predicted: `label` (class name, float,
    or number of the right choice), `tags` (BIO), or `answers` ({"text": [...], "answer_start": [...]}, characters; of a
    cloze a list of texts). A row without label lacks that key.

    Attributes:
        train: rows to learn from; None when not asked for.
        validation: rows to choose by; None when not asked for.
        reported: the validation rows that nothing is chosen by, with `selection: development`; else None.
        test: rows to report on, perhaps without labels; None when there are none.
        others: split -> rows, of splits with names of their own that were asked for, such as `test_brown`.
        label_names: classes or tags, in the order of the head's outputs; None for kinds without.
        columns: role -> column that was read; where a template made the roles: what it reads -> column.
        source: the path or name that was given.
        notes: what the user should know, one sentence each.
        held_out: how the rows to choose by were drawn from train; None where they are of a file, or not asked for.
    """

    train: list[Row] | None
    validation: list[Row] | None
    test: list[Row] | None
    label_names: tuple[str, ...] | None
    columns: dict[str, str]
    source: str
    notes: tuple[str, ...]
    held_out: HeldOut | None = None
    others: Mapping[Split, list[Row]] = field(default_factory=dict)
    reported: list[Row] | None = None

    def rows(self, split: Split) -> list[Row] | None:
        """Return the rows of a split; None where it was not asked for or is not there.

        Those of validation are never rows that were held out beside them (`selection: development`).
        """
        validation = self.validation if self.reported is None else self.reported
        own = {"train": self.train, "validation": validation, "test": self.test}
        return own[split] if split in own else self.others.get(split)


def load_data(
    path: str | Path | HubSource,
    *,
    kind: str,
    columns: Mapping[str, str] | None = None,
    labels: Sequence[str] | None = None,
    usual_columns: Mapping[str, Sequence[str]] | None = None,
    usual_labels: Sequence[str] | None = None,
    learned: Learned | None = None,
    template: Template | None = None,
    seed: int = 11,
    development_fraction: float = 0.1,
    selection: Selection = "validation",
    max_train_rows: int | None = None,
    max_validation_rows: int | None = None,
    splits: Collection[Split] | None = None,
    reader: TableReader | None = None,
) -> TaskData:
    """Load the splits of a task.

    Args:
        path: directory with train, validation (or valid, val, dev) and test files; directory in the hub's layout; or
            a Hugging Face data set, `owner/name:config@revision` (the last two may be missing) or a `HubSource`.
        kind: kind of task, such as `classification`.
        columns: role -> column where the well-known names do not fit; with a template: what it reads -> column.
        labels: names of the classes or tags, in order. Without them: `label_names` in `dataset_info.json` beside the
            files, else the class names inside the data, else the usual ones, else the sorted values of train.
        usual_columns: role -> columns that a preset's data may have for it; the first that is there is read.
        usual_labels: names of a preset's classes or tags, in order.
        learned: how a saved prompt was trained, which these data are for: its labels, and the columns that it read or
            those that stand for them, as `columns_here` says. Instead of `columns` and `labels`.
        template: makes roles of columns.
        seed: for the held-out rows, and for which rows `max_train_rows` and `max_validation_rows` keep.
        development_fraction: part of train held out when there is no validation file, in (0, 1).
        selection: `development` holds rows to choose by out of train even where there are validation rows, which are
            kept for reporting. Where only one of train and validation is asked for, nothing is held out beside it.
        max_train_rows: keep this many train rows, drawn by seed after rows were held out.
        max_validation_rows: keep this many validation rows, and this many to choose by, drawn by seed, in the order of
            the file.
        splits: what to load; each must be there, only validation may be held out from train. Without it: train,
            validation and test, and only train must be there. Whatever is loaded, whether numbers are label names or
            places among them is decided over all splits, so that a label means the same in each.
        reader: gives the tables instead of `load_tables`; for a caller that needs them too.

    Raises:
        DataError: files, columns, labels or values are not what the kind needs.
    """
    _check_arguments(kind, development_fraction, max_train_rows, max_validation_rows, splits)
    wanted: set[Split] = set(SPLIT_NAMES) if splits is None else set(splits)
    given, giver = (labels, "data.labels") if learned is None else (learned.label_names, PROMPT)
    all_matter = kind == "classification" and (given is None or some_are_numbers(given))
    tables, available = (reader or load_tables)(
        path, kind, None if all_matter and wanted <= set(SPLIT_NAMES) else wanted
    )
    needed = needed_splits(available, wanted)
    notes: list[str] = [note for table in tables.values() for note in table.notes]
    held_out_needed = "validation" in wanted and "validation" not in tables
    missing = _missing_split(tables, wanted, held_out_needed, is_asked=splits is not None)
    if missing is not None:
        raise DataError(
            f"{path} has no {missing} split, only {', '.join(available)}. Add a file {missing}{suffixes_for(kind)[0]} "
            f"(or another of {', '.join(suffixes_for(kind))}), or ask for another split."
        )
    first = next(table for split, table in tables.items() if split in needed)
    if template is not None:
        read = _read_by_template(first, template, columns, learned)
        tables = {split: template.apply(table, read) for split, table in tables.items()}
        roles = {role: role for role in next(tables[s] for s in tables if s in needed).columns}
    else:
        read = roles = _roles(first, kind, columns, learned, usual_columns, all_are_tests=all(map(is_test, needed)))
    others = {split: table for split, table in tables.items() if split not in needed}
    tables = {split: table for split, table in tables.items() if split in needed}
    rows = {split: _read_split(split, table, kind, roles, notes) for split, table in tables.items()}
    pairs = {split: (rows[split], tables[split]) for split in rows}
    directory = Path(path.name if isinstance(path, HubSource) else path)
    label_names = name_everything(pairs, others, kind, roles, given, giver, usual_labels, directory, notes)

    how = HeldOut(seed, development_fraction, selection)
    if held_out_needed:
        rows["train"], rows["validation"] = hold_out_validation(rows["train"], how, tables["train"].name, notes)
    development: list[Row] | None = None
    if selection == "development" and {"train", "validation"} <= wanted:
        rows["train"], development = hold_out_development(rows["train"], how, tables["train"].name, notes)
        development = _limited(development, max_validation_rows, seed, "development", notes)
    if "train" in wanted:
        rows["train"] = _limited_train(rows["train"], max_train_rows, seed, notes)
        if kind == "classification" and label_names is not None:
            notes += _notes_on_unseen(label_names, rows["train"])
    if "validation" in rows:
        rows["validation"] = _limited(rows["validation"], max_validation_rows, seed, "validation", notes)
    if "train" in rows and "validation" in rows:
        notes += _notes_on_repeated(rows["validation"], rows["train"])
    return TaskData(
        train=rows.get("train") if "train" in wanted else None,
        validation=rows.get("validation") if development is None else development,
        test=rows.get("test"),
        label_names=label_names,
        columns=read,
        source=str(path),
        notes=tuple(notes),
        held_out=how if held_out_needed or development is not None else None,
        reported=None if development is None else rows["validation"],
        others={split: own for split, own in rows.items() if split not in SPLIT_NAMES},
    )


def _missing_split(
    tables: Collection[Split], wanted: Collection[Split], held_out_needed: bool, *, is_asked: bool
) -> Split | None:
    """Return a split that must be there and is not."""
    if "train" not in tables and ("train" in wanted or held_out_needed):
        return "train"
    if not is_asked:
        return None
    return next(
        (split for split in sorted(wanted) if split not in tables and split not in ("train", "validation")), None
    )


def _read_by_template(
    table: Table, template: Template, columns: Mapping[str, str] | None, learned: Learned | None
) -> dict[str, str]:
    """Find what a template reads, as given or as training had it."""
    if learned is not None:
        return template_columns_here(table, template, learned.columns)
    return template.resolve(table, columns or {})


def _roles(
    table: Table,
    kind: str,
    columns: Mapping[str, str] | None,
    learned: Learned | None,
    usual_columns: Mapping[str, Sequence[str]] | None,
    *,
    all_are_tests: bool,
) -> dict[str, str]:
    """Find the column of each role: as given or as in training, else a usual one, else by well-known names."""
    if learned is not None:
        may_lack = (*LABEL_ROLES, "id")
        return roles_here(
            table, kind, learned.columns, usual_columns, may_lack=may_lack, require_label=not all_are_tests
        )
    found = dict(columns or {})
    for role, candidates in (usual_columns or {}).items():
        column = next((name for name in candidates if name in table.columns), None)
        if role not in found and column is not None and column not in found.values():
            found[role] = column
    if all_are_tests:  # which may come without labels
        found = {r: c for r, c in found.items() if r not in LABEL_ROLES or c in table.columns}
    return resolve_columns(
        kind,
        table.columns,
        found,
        text_columns=table.text_columns(),
        require_label=not all_are_tests,
        source=table.name,
    )


def source_directory(source: str) -> str | Path:
    """Turn `package:PATH` into the directory inside the installed package; everything else stays as it is."""
    if not source.startswith("package:"):
        return source
    return Path(__file__).resolve().parent.parent / source.removeprefix("package:")


def _check_arguments(
    kind: str,
    development_fraction: float,
    max_train_rows: int | None,
    max_validation_rows: int | None,
    splits: Collection[str] | None,
) -> None:
    check_kind(kind)
    if splits is not None and not splits:
        raise DataError("splits are empty, expected such as train and validation. Leave them out for all.")
    if not 0 < development_fraction < 1:
        raise DataError(
            f"development_fraction must be between 0 and 1, got {development_fraction}. "
            "Set data.development_fraction, such as 0.1."
        )
    for name, limit in (("max_train_rows", max_train_rows), ("max_validation_rows", max_validation_rows)):
        if limit is not None and limit < 1:
            raise DataError(f"{name} must be at least 1, got {limit}. Set data.{name}, or leave it out for all rows.")


def _read_split(split: Split, table: Table, kind: str, roles: dict[str, str], notes: list[str]) -> list[Row]:
    """Read one split; a test split may come without labels."""
    may_lack_labels = is_test(split)
    for role, column in roles.items():
        if column not in table.columns and not (may_lack_labels and role in LABEL_ROLES):
            raise DataError(
                f"{table.name} has no column {column!r} ({role}). Its columns are: {', '.join(table.columns)}. "
                "Expected the same columns in every split; rename it."
            )
    rows = read_rows(table, kind, roles, "optional" if may_lack_labels else "required")
    if may_lack_labels and kind != "question_answering":
        labelled = [row for row in rows if "label" in row or "tags" in row]
        if labelled and all(row.get("label") in (-1, "-1") for row in labelled):
            for row in labelled:
                del row["label"]
            notes.append(f"{split}: every label is -1, so its rows are taken as unlabelled.")
    return rows


def _limited_train(rows: list[Row], limit: int | None, seed: int, notes: list[str]) -> list[Row]:
    """Draw train rows where there are more than the limit."""
    if limit is None or limit >= len(rows):
        return rows
    notes.append(f"train: {limit} of {len(rows)} rows used (max_train_rows, seed {seed}).")
    return random.Random(f"train rows {seed}").sample(rows, limit)


def _limited(rows: list[Row], limit: int | None, seed: int, what: str, notes: list[str]) -> list[Row]:
    """Draw rows to evaluate where there are more than the limit, groups as a whole, in the order of the file."""
    if limit is None or limit >= len(rows):
        return rows
    drawn = draw_rows(rows, limit, f"{what} rows {seed}")
    notes.append(f"{what}: {len(drawn)} of {len(rows)} rows used (max_validation_rows, seed {seed}).")
    return [rows[index] for index in drawn]


def _notes_on_unseen(names: Sequence[str], rows: list[Row]) -> list[str]:
    """Say which classes no train row has."""
    seen = {row["label"] for row in rows}
    unseen = [name for name in names if name not in seen]
    return [f"No train row has the label {shown(unseen)}."] if unseen else []


def _notes_on_repeated(rows: list[Row], train: list[Row]) -> list[str]:
    """Say how many validation rows stand in train too."""
    repeated = _count_repeated(rows, train)
    if not repeated:
        return []
    return [f"{repeated} of {len(rows)} validation rows stand in train too, word for word."]


def _count_repeated(rows: list[Row], others: list[Row]) -> int:
    """Count the rows that stand among the others too, apart from ids."""
    known = {_fingerprint(row) for row in others}
    return sum(_fingerprint(row) in known for row in rows)


def _fingerprint(row: Row) -> int:
    return hash(json.dumps({role: row[role] for role in sorted(row) if role not in NAME_ROLES}))
