"""The rows of a run's task: read in one way by training, evaluation and whatever else needs them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from ptuning.allocation import without_collection
from ptuning.config import RunConfig
from ptuning.data.file_names import find_splits
from ptuning.data.hub import HubSource, has_configuration, parse_hub_name
from ptuning.data.sources import TaskData, load_data, source_directory
from ptuning.data.splits import TableReader
from ptuning.errors import ConfigError
from ptuning.tasks.presets import Task


def load_task_data(
    config: RunConfig, task: Task, splits: Collection[str] | None = None, *, reader: TableReader | None = None
) -> TaskData:
    """Loads the rows of a task, from `data.path` or the preset's own source.

    Args:
        config: settings of the run.
        task: preset or bare kind.
        splits: what to load; train, validation and test without it.
        reader: of `load_data`.

    Raises:
        ConfigError: a bare kind without a path, or a setting of another kind.
        DataError: the data are not what the task needs.
    """
    settings = config.data
    source = settings.path or task.source
    if source is None:
        where = f" {task.how_to_get}" if task.how_to_get else ""
        raise ConfigError(
            f"the task {task.name} has no data of its own, and data.path is missing. Give a directory or a data set "
            f"with --data.{where}"
        )
    if settings.predicate_input is not None and task.kind != "semantic_role_labeling":
        raise ConfigError(
            f"data.predicate_input is {settings.predicate_input!r}, but {task.name} is {task.kind}, which has no "
            "predicate. It is a setting of semantic_role_labeling; leave it out."
        )
    if isinstance(source, HubSource):
        source = replace(source, advice=task.how_to_get)
    with without_collection():
        return load_data(
            task_source(task, source),
            kind=task.kind,
            columns=settings.columns or None,
            labels=settings.labels,
            usual_columns=task.columns,
            usual_labels=task.label_names,
            template=task.template(settings.template),
            seed=config.training.seed,
            development_fraction=settings.development_fraction,
            selection=settings.selection,
            max_train_rows=settings.max_train_rows,
            max_validation_rows=settings.max_validation_rows,
            splits=splits,
            reader=reader,
        )


def task_source(task: Task, source: str | HubSource) -> str | Path | HubSource:
    """Returns where to read from.

    The preset's own data set, given by hand, has its configuration and revision where none are said, and a copy of it
    elsewhere its configuration; both have its split names. A directory with a file a split has none of these.
    """
    if isinstance(source, HubSource):
        return source
    preset = task.source
    if source.startswith("package:") or not isinstance(preset, HubSource):
        return source_directory(source)
    directory = Path(source)
    if directory.is_dir():
        if find_splits(directory, task.kind):
            return directory
        is_there = preset.config is not None and has_configuration(directory, preset.config)
        return HubSource(source, preset.config if is_there else None, None, preset.splits)
    given = parse_hub_name(source)
    revision = given.revision or (preset.revision if given.name == preset.name else None)
    return HubSource(given.name, given.config or preset.config, revision, preset.splits)
