"""What a saved prompt remembers of its task: `task` in its `config.json`, written and read here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ptuning.data.sources import TaskData
from ptuning.tasks import Task, TaskKind, kind_from_dict

_NOT_OF_THE_KIND = ("name", "columns", "max_length", "held_out")


def task_to_dict(task: Task, kind: TaskKind, data: TaskData, max_length: int) -> dict[str, Any]:
    """Returns what a prompt keeps of the task it was trained for, as JSON values.

    Args:
        task: preset or bare kind.
        kind: with what the data say.
        data: that it learned from. `held_out` is kept where validation rows were held out of train, so that whoever has
            the prompt alone can score the same rows.
        max_length: tokens a sequence at most.
    """
    held_out = {} if data.held_out is None else {"held_out": asdict(data.held_out)}
    return {"name": task.name, "columns": data.columns, "max_length": max_length, **held_out, **kind.to_dict()}


def kind_of(task: Mapping[str, Any]) -> TaskKind:
    """Returns the kind in what `task_to_dict` wrote.

    Raises:
        CheckpointError: the kind or one of its options is unknown or does not fit, or an option is missing.
    """
    return kind_from_dict({key: value for key, value in task.items() if key not in _NOT_OF_THE_KIND})
