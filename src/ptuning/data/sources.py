"""Where rows come from: a directory with a file a split, a data set of the hub, or one file to predict for."""

from __future__ import annotations

import difflib
import json
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from ptuning.data.columns import KIND_ROLES, LABEL_ROLES, resolve_columns
from ptuning.data.formats import Table, read_json_lines, read_table, suffixes_for, table_of
from ptuning.data.hub import hub_table, is_hub_name, open_hub
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
    some_are_numbers,
)
from ptuning.data.rows import Row, convert_to_bio, read_rows, short
from ptuning.errors import DataError

Split = Literal["train", "validation", "test"]

SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}


@dataclass(frozen=True)
class HeldOut:
    """How validation rows were held out of train.

    Attributes:
        seed: that drew them.
        development_fraction: part of train, in (0, 1).
    """

    seed: int
    development_fraction: float


@dataclass(frozen=True)
class TaskData:
    """The rows of a task, ready for its kind.

    A row is a dict of roles: `text`, `text_pair`, `question`, `choices`, `tokens`, `id`, `context`, and what is
    to be predicted: `label` (class name, float, or number of the right choice), `tags` (BIO), or `answers`
    ({"text": [...], "answer_start": [...]}, characters). A row without label lacks that key.

    Attributes:
        train: rows to learn from; None when not asked for.
        validation: rows to choose by; None when not asked for.
        test: rows to report on, perhaps without labels; None when there are none.
        label_names: classes or tags, in the order of the head's outputs; None for kinds without.
        columns: role -> column that was read.
        source: the path or name that was given.
        notes: what the user should know, one sentence each.
        held_out: how validation was drawn from train; None where it has rows of its own, or was not asked for.
    """

    train: list[Row] | None
    validation: list[Row] | None
    test: list[Row] | None
    label_names: tuple[str, ...] | None
    columns: dict[str, str]
    source: str
    notes: tuple[str, ...]
    held_out: HeldOut | None = None


def load_data(
    path: str | Path,
    *,
    kind: str,
    columns: Mapping[str, str] | None = None,
    labels: Sequence[str] | None = None,
    seed: int = 11,
    development_fraction: float = 0.1,
    max_train_rows: int | None = None,
    max_validation_rows: int | None = None,
    splits: Collection[Split] | None = None,
) -> TaskData:
    """Load the splits of a task.

    Args:
        path: directory with train, validation (or valid, val, dev) and test files; directory in the hub's layout; or
            name of a Hugging Face data set, `owner/name` or `owner/name:config`.
        kind: kind of task, such as `classification`.
        columns: role -> column where the well-known names do not fit.
        labels: names of the classes or tags, in order. Without them: `label_names` in `dataset_info.json` beside the
            files, else the class names inside the data, else the sorted values of train.
        seed: for the held-out rows, and for which rows `max_train_rows` and `max_validation_rows` keep.
        development_fraction: part of train held out when there is no validation file, in (0, 1).
        max_train_rows: keep this many train rows, drawn by seed after rows were held out.
        max_validation_rows: keep this many validation rows, drawn by seed, in the order of the file.
        splits: what to load; each must be there, only validation may be held out from train. Without it: all, and
            only train must be there. Whatever is loaded, whether numbers are label names or places among them is
            decided over all splits, so that a label means the same in each.

    Raises:
        DataError: files, columns, labels or values are not what the kind needs.
    """
    _check_arguments(kind, development_fraction, max_train_rows, max_validation_rows, splits)
    wanted: set[Split] = set(SPLIT_NAMES) if splits is None else set(splits)
    all_matter = kind == "classification" and (labels is None or some_are_numbers(labels))
    tables, available = _load_tables(path, kind, None if all_matter else wanted)
    needed = _needed(available, wanted)
    others = {split: table for split, table in tables.items() if split not in needed}
    tables = {split: table for split, table in tables.items() if split in needed}
    notes: list[str] = []
    held_out_needed = "validation" in wanted and "validation" not in tables
    missing: Split | None = None
    if "train" not in tables and ("train" in wanted or held_out_needed):
        missing = "train"
    elif splits is not None and "test" in wanted and "test" not in tables:
        missing = "test"
    if missing is not None:
        raise DataError(
            f"{path} has no {missing} split, only {', '.join(available)}. Add a file {missing}{suffixes_for(kind)[0]} "
            f"(or another of {', '.join(suffixes_for(kind))}), or ask for another split."
        )

    first = next(iter(tables.values()))
    if set(tables) == {"test"}:  # which may come without labels
        columns = {r: c for r, c in (columns or {}).items() if r not in LABEL_ROLES or c in first.columns}
    roles = resolve_columns(
        kind,
        first.columns,
        columns,
        text_columns=first.text_columns(),
        require_label=any(split != "test" for split in tables),
        source=first.name,
    )
    rows = {split: _read_split(split, table, kind, roles, notes) for split, table in tables.items()}
    label_names = _name_everything(rows, tables, others, kind, roles, labels, Path(path), notes)

    held_out = HeldOut(seed, development_fraction) if held_out_needed else None
    if held_out_needed:
        rows["train"], rows["validation"] = _hold_out(rows["train"], development_fraction, seed, tables["train"].name)
        notes.append(
            f"No validation file: {len(rows['validation'])} of {len(tables['train'].records)} train rows "
            f"(development_fraction {development_fraction:g}, seed {seed}) held out for validation."
        )
    if "train" in rows and "train" in wanted and max_train_rows is not None and max_train_rows < len(rows["train"]):
        notes.append(f"train: {max_train_rows} of {len(rows['train'])} rows used (max_train_rows, seed {seed}).")
        rows["train"] = random.Random(f"train rows {seed}").sample(rows["train"], max_train_rows)
    if kind == "classification" and "train" in wanted and label_names is not None:
        seen = {row["label"] for row in rows["train"]}
        unseen = [name for name in label_names if name not in seen]
        if unseen:
            notes.append(f"No train row has the label {shown(unseen)}.")
    if "validation" in rows and max_validation_rows is not None and max_validation_rows < len(rows["validation"]):
        num_rows = len(rows["validation"])
        notes.append(f"validation: {max_validation_rows} of {num_rows} rows used (max_validation_rows, seed {seed}).")
        drawn = random.Random(f"validation rows {seed}").sample(range(num_rows), max_validation_rows)
        rows["validation"] = [rows["validation"][index] for index in sorted(drawn)]
    if "train" in rows and "validation" in rows:
        repeated = _count_repeated(rows["validation"], rows["train"])
        if repeated:
            notes.append(f"{repeated} of {len(rows['validation'])} validation rows stand in train too, word for word.")
    return TaskData(
        train=rows.get("train") if "train" in wanted else None,
        validation=rows.get("validation"),
        test=rows.get("test"),
        label_names=label_names,
        columns=roles,
        source=str(path),
        notes=tuple(notes),
        held_out=held_out,
    )


def source_directory(source: str) -> str | Path:
    """Turn `package:PATH` into the directory inside the installed package; everything else stays as it is."""
    if not source.startswith("package:"):
        return source
    return Path(__file__).resolve().parent.parent / source.removeprefix("package:")


def load_rows(
    source: str | Path | IO[bytes] | IO[str], kind: str, columns: Mapping[str, str] | None = None
) -> list[Row]:
    """Load rows to predict for, from one file or from a stream of JSON lines; labels are dropped.

    Args:
        source: a file of any format that training reads, or an open stream such as `sys.stdin`.
        kind: kind of task.
        columns: role -> column, best `TaskData.columns` of training; columns of labels may be missing here.

    Raises:
        DataError: the file cannot be read, or lacks what the kind needs.
    """
    _check_kind(kind)
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not path.is_file():
            raise DataError(f"{path} is not a file. Expected {', '.join(suffixes_for(kind))}, or JSON lines on stdin.")
        return _prediction_rows(read_table(path, kind), kind, columns)
    stream = getattr(source, "buffer", source)  # bytes, so that a byte that is not UTF-8 has a line number
    return _prediction_rows(read_json_lines(stream, str(getattr(source, "name", "<stream>"))), kind, columns)


def rows_from_records(
    records: Iterable[Mapping[str, Any]], kind: str, columns: Mapping[str, str] | None = None, *, name: str = "rows"
) -> list[Row]:
    """Turn dicts in memory, such as those of a request, into rows to predict for; labels are dropped.

    Raises:
        DataError: a record lacks what the kind needs.
    """
    _check_kind(kind)
    if isinstance(records, (Mapping, str, bytes)) or not isinstance(records, Iterable):
        raise DataError(
            f"{name} are a {type(records).__name__}, expected a list of dicts, column to value. "
            'Pass one row as [{"text": "..."}].'
        )
    given = list(records)
    for index, record in enumerate(given):
        if not isinstance(record, Mapping) or not all(isinstance(column, str) for column in record):
            raise DataError(
                f"{name} row {index + 1} is {short(record)}, expected a dict, column to value. "
                'Pass rows such as {"text": "..."}.'
            )
    return _prediction_rows(table_of(name, [dict(record) for record in given]), kind, columns)


def _prediction_rows(table: Table, kind: str, columns: Mapping[str, str] | None) -> list[Row]:
    if not table.records:
        return []
    overrides = {}
    for role, column in (columns or {}).items():
        if column in table.columns:
            overrides[role] = column
        elif role in table.columns:
            overrides[role] = role  # rows may also use the roles' own names
        elif role not in (*LABEL_ROLES, "id") and not _has_stand_in(role, table.columns):
            nearest = difflib.get_close_matches(column, table.columns, n=1)
            hint = f"Did you mean {nearest[0]!r}?" if nearest else "Rename one, or add it."
            raise DataError(
                f"{table.name}: no column {column!r} ({role}), which {kind} reads here. "
                f"The columns are: {', '.join(table.columns)}. {hint}"
            )
    roles = resolve_columns(
        kind,
        table.columns,
        overrides,
        text_columns=table.text_columns(),
        require_label=False,
        source=table.name,
    )
    return read_rows(table, kind, roles, "dropped")


def _has_stand_in(role: str, available: Collection[str]) -> bool:
    """Tell whether other columns may stand for a role of training: raw text for words, a list for single choices."""
    if role == "tokens":
        return "text" in available or "sentence" in available
    return role.startswith("choice") and any(name.startswith("choice") for name in available)


def _check_kind(kind: str) -> None:
    if kind not in KIND_ROLES:
        raise DataError(f"kind must be one of {', '.join(KIND_ROLES)}, got {kind!r}. Name one of those.")


def _check_arguments(
    kind: str,
    development_fraction: float,
    max_train_rows: int | None,
    max_validation_rows: int | None,
    splits: Collection[str] | None,
) -> None:
    _check_kind(kind)
    if splits is not None and (not splits or set(splits) - set(SPLIT_NAMES)):
        raise DataError(
            f"splits are {sorted(splits)}, expected some of {', '.join(SPLIT_NAMES)}. "
            "Name those, or leave them out for all."
        )
    if not 0 < development_fraction < 1:
        raise DataError(
            f"development_fraction must be between 0 and 1, got {development_fraction}. "
            "Set data.development_fraction, such as 0.1."
        )
    for name, limit in (("max_train_rows", max_train_rows), ("max_validation_rows", max_validation_rows)):
        if limit is not None and limit < 1:
            raise DataError(f"{name} must be at least 1, got {limit}. Set data.{name}, or leave it out for all rows.")


def _what_was_expected(kind: str) -> str:
    return (
        "Expected a directory with a train file, and perhaps validation and test files "
        f"({', '.join(suffixes_for(kind))}), or a Hugging Face data set as owner/name or owner/name:config."
    )


def _load_tables(
    path: str | Path, kind: str, wanted: Collection[Split] | None
) -> tuple[dict[Split, Table], Collection[Split]]:
    """Read the wanted splits (None: all), and train too when validation comes from it; return which there are, too."""
    if not str(path).strip():
        raise DataError(f"the path of the data is empty. {_what_was_expected(kind)}")
    directory = Path(path)
    if directory.is_dir():
        files = _split_files(directory, kind)
        if files:
            needed = _needed(files, wanted)
            return {split: read_table(file, kind) for split, file in files.items() if split in needed}, files
        if any(directory.rglob("*.parquet")) or (directory / "README.md").is_file():
            return _hub_splits(str(directory), wanted)
        inside = sorted(entry.name for entry in directory.iterdir())
        what = f"has no split files, only: {shown(inside)}" if inside else "is empty"
        raise DataError(f"{path} {what}. {_what_was_expected(kind)}")
    if directory.is_file():
        raise DataError(
            f"{path} is a file. {_what_was_expected(kind)} Put it into a directory as train{directory.suffix}."
        )
    if not is_hub_name(str(path)):
        raise DataError(f"{path} does not exist. {_what_was_expected(kind)}")
    return _hub_splits(str(path), wanted)


def _needed(available: Collection[Split], wanted: Collection[Split] | None) -> set[Split]:
    if wanted is None:
        return set(available)
    extra: set[Split] = {"train"} if "validation" in wanted and "validation" not in available else set()
    return set(wanted) | extra


def _split_files(directory: Path, kind: str) -> dict[Split, Path]:
    """Find the file of each split; other files are ignored."""
    files: dict[Split, Path] = {}
    suffixes = suffixes_for(kind)
    entries = sorted(entry for entry in directory.iterdir() if entry.is_file() and entry.suffix.lower() in suffixes)
    for split, names in SPLIT_NAMES.items():
        found = [entry for entry in entries if entry.stem.lower() in names]
        if len(found) > 1:
            raise DataError(
                f"{directory} has more than one {split} file: {', '.join(entry.name for entry in found)}. "
                "Expected one; move the others away."
            )
        if found:
            files[split] = found[0]
    return files


def _hub_splits(name: str, wanted: Collection[Split] | None) -> tuple[dict[Split, Table], Collection[Split]]:
    loaded = open_hub(name)
    found = {split: next((own for own in names if own in loaded), None) for split, names in SPLIT_NAMES.items()}
    available: list[Split] = [split for split, own in found.items() if own]
    if not available:
        raise DataError(
            f"the data set {name!r} has the splits {', '.join(loaded)}, expected train, validation or test. "
            "Write those that you want to files with these names, and give their directory."
        )
    needed = _needed(available, wanted)
    tables = {split: hub_table(loaded[own], f"{name} {own}") for split, own in found.items() if own and split in needed}
    for table in tables.values():
        if not table.records:
            raise DataError(f"{table.name} has no rows. Expected at least one; choose another configuration or split.")
    return tables, available


def _read_split(split: Split, table: Table, kind: str, roles: dict[str, str], notes: list[str]) -> list[Row]:
    """Read one split; a test split may come without labels."""
    is_test = split == "test"
    for role, column in roles.items():
        if column not in table.columns and not (is_test and role in LABEL_ROLES):
            raise DataError(
                f"{table.name} has no column {column!r} ({role}). Its columns are: {', '.join(table.columns)}. "
                "Expected the same columns in every split; rename it."
            )
    rows = read_rows(table, kind, roles, "optional" if is_test else "required")
    if is_test and kind != "question_answering":
        labelled = [row for row in rows if "label" in row or "tags" in row]
        if labelled and all(row.get("label") in (-1, "-1") for row in labelled):
            for row in labelled:
                del row["label"]
            notes.append("test: every label is -1, so its rows are taken as unlabelled.")
    return rows


def _name_everything(
    rows: dict[Split, list[Row]],
    tables: dict[Split, Table],
    others: dict[Split, Table],
    kind: str,
    roles: dict[str, str],
    labels: Sequence[str] | None,
    directory: Path,
    notes: list[str],
) -> tuple[str, ...] | None:
    """Turn raw labels and tags into names, in place, and return the names.

    Args:
        rows: of the splits that were asked for.
        tables: what they were read from.
        others: the other splits, whose labels are only looked at.
        kind: kind of task.
        roles: role -> column.
        labels: names that were given.
        directory: where the data are.
        notes: what is said to the user; added to.
    """
    if kind in ("regression", "question_answering"):
        if labels is not None:
            raise DataError(f"data.labels names {len(labels)} classes, but {kind} has none. Leave data.labels out.")
        return None
    column = roles.get("tags" if kind == "token_classification" else "label", "")
    pairs: dict[str, tuple[list[Row], Table]] = {split: (rows[split], tables[split]) for split in rows}
    names, source = _given_names({**tables, **others}, column, labels, directory)
    if kind == "multiple_choice":
        choices = [name for role, name in roles.items() if role.startswith("choice") and role != "choices"]
        number_choices(pairs, choices, names)
        return None
    lead: Split = "train" if "train" in rows else next(iter(rows))
    if kind == "classification":
        if names is None:
            names, source = seen_label_names(rows[lead], tables[lead]), f"{lead} (its sorted values)"
        every = [*tables.values(), *others.values()]
        name_labels(
            pairs,
            names,
            others=[label for split, table in others.items() for label in _raw_labels(split, table, column)],
            from_classes=any(column in table.class_names for table in every),
            source=source,
        )
    else:
        if names is not None:
            name_tags(pairs, names, source=source)
        check_tags_are_strings(pairs)
        for split, table in tables.items():
            if convert_to_bio(rows[split], table):
                notes.append(f"{split}: the tags are IOB1 and were converted to BIO (every entity begins with B-).")
        if names is None:
            names = seen_tag_names(rows[lead], [rows[split] for split in rows if split != lead], tables[lead].name)
            source = f"{lead} (its sorted tags)"
        check_tags_are_known(pairs, names, source=source)
    return names


def _given_names(
    tables: dict[Split, Table], column: str, labels: Sequence[str] | None, directory: Path
) -> tuple[tuple[str, ...] | None, str]:
    """Return the label names that somebody wrote down, and who did."""
    if labels is not None:
        return checked_names(labels, "data.labels"), "data.labels"
    names = info_label_names(directory, column) if directory.is_dir() else None
    if names is not None:
        return names, str(directory / INFO_FILE)
    for table in tables.values():
        if column in table.class_names:
            return checked_names(table.class_names[column], f"the classes of {table.name}"), table.name
    return None, ""


def _raw_labels(split: Split, table: Table, column: str) -> list[Any]:
    """Return the labels of a split as they stand in its file; none where a test split is unlabelled (all -1)."""
    found = [value for record in table.records if (value := record.get(column)) is not None]
    is_unlabelled = split == "test" and all(value in (-1, "-1") for value in found)
    return [] if is_unlabelled else found


def _hold_out(rows: list[Row], fraction: float, seed: int, name: str) -> tuple[list[Row], list[Row]]:
    """Part rows into train and validation, both in their old order."""
    if len(rows) < 2:
        raise DataError(
            f"{name} has {len(rows)} row, and there is no validation file. Expected at least 2 rows to hold one out; "
            "add rows or a validation file."
        )
    count = min(max(1, round(len(rows) * fraction)), len(rows) - 1)
    chosen = set(random.Random(f"development rows {seed}").sample(range(len(rows)), count))
    train = [row for index, row in enumerate(rows) if index not in chosen]
    return train, [rows[index] for index in sorted(chosen)]


def _count_repeated(rows: list[Row], others: list[Row]) -> int:
    """Count the rows that stand among the others too, apart from ids."""
    known = {_fingerprint(row) for row in others}
    return sum(_fingerprint(row) in known for row in rows)


def _fingerprint(row: Row) -> int:
    return hash(json.dumps({role: row[role] for role in sorted(row) if role != "id"}))
