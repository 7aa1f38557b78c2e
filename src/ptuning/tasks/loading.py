"""The rows of a run's task: read in one way by training, evaluation and whatever else needs them."""

from __future__ import annotations

from ptuning.config import RunConfig
from ptuning.data.sources import TaskData, load_data, source_directory
from ptuning.errors import ConfigError
from ptuning.tasks.presets import Task


def load_task_data(config: RunConfig, task: Task) -> TaskData:
    """Loads the rows of a task, from `data.path` or the preset's own source.

    Raises:
        ConfigError: a bare kind without a path.
        DataError: the data are not what the task needs.
    """
    settings = config.data
    source = settings.path or task.source
    if source is None:
        raise ConfigError(
            f"the task {task.name} is a kind without data of its own, and data.path is missing. "
            "Give a directory or a data set with --data."
        )
    is_own = settings.path is None
    return load_data(
        source_directory(source),
        kind=task.kind,
        columns={**(task.columns if is_own else {}), **settings.columns} or None,
        labels=settings.labels or (task.label_names if is_own else None),
        seed=config.training.seed,
        development_fraction=settings.development_fraction,
        max_train_rows=settings.max_train_rows,
        max_validation_rows=settings.max_validation_rows,
    )
