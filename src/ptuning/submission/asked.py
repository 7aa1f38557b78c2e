"""Rows to predict for, beside the records that they were made of: a grader wants the ids back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ptuning.data.formats import Table
from ptuning.data.learned import columns_here
from ptuning.data.rows import Row
from ptuning.data.splits import Split, load_tables
from ptuning.data.unlabelled import load_table, prediction_rows
from ptuning.errors import ConfigError, DataError
from ptuning.evaluation import check_split, preset_of, run_config_of
from ptuning.predictor import LoadedTask
from ptuning.tasks import Task
from ptuning.tasks.loading import task_source


@dataclass(frozen=True)
class Asked:
    """Rows to predict for.

    Attributes:
        table: what they were read from; its records are as the file has them, labels and ids included.
        rows: of roles, one a record, without labels.
        columns: what the task reads -> column of the table, for columns that are there.
        split: of which they are, or the name of their file without its suffix.
    """

    table: Table
    rows: list[Row]
    columns: Mapping[str, str] = field(default_factory=dict)
    split: str = "test"


def preset_name(task: LoadedTask) -> str:
    """Returns the preset, or the kind, that a prompt was trained for."""
    return str((task.saved.task or {})["name"])


def read_file(source: str | Path | IO[bytes] | IO[str], task: LoadedTask) -> Asked:
    """Reads rows from one file, or from a stream of JSON lines.

    Raises:
        DataError: it cannot be read, or lacks what the task needs.
    """
    table = load_table(source, task.kind.name)
    name = Path(source).stem if isinstance(source, (str, Path)) else ""
    return _asked(table, task, preset_of(task, needs_source=False), name)


def read_split(task: LoadedTask, data: str | None, split: Split) -> Asked:
    """Reads a split of a data set; labels need not be there.

    Args:
        task: what is asked.
        data: directory or data set; without it what the run was trained on, or the preset's own.
        split: train, validation, test, or another that the preset has.

    Raises:
        ConfigError: no data are known, or the task has no such split.
        DataError: the data cannot be read, have no such split, or lack what the task needs.
    """
    check_split(split, task)
    preset = preset_of(task, needs_source=data is None)
    run = run_config_of(task.directory) if data is None else None
    source = data or (run.data.path if run is not None else None) or preset.source
    if source is None:
        raise ConfigError(
            f"{task.directory} does not say which data it was trained on, and --data is missing. Give a directory or "
            "a data set with --data, or a FILE."
        )
    tables, available = load_tables(task_source(preset, source), task.kind.name, {split})
    if split not in tables:
        raise DataError(
            f"{source} has no {split} split, only {', '.join(available)}. Add a file for it, or name another --split."
        )
    return _asked(tables[split], task, preset, split)


def _asked(table: Table, task: LoadedTask, preset: Task, split: str) -> Asked:
    usual = preset.columns if task.template is None else None
    rows = prediction_rows(table, task.kind.name, task.columns, task.template, usual)
    return Asked(table, rows, columns_here(task.columns, table.columns, usual), split)
