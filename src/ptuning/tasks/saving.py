"""What a saved prompt remembers of its task: `task` in its `config.json`, written and read here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ptuning.data.sources import TaskData
from ptuning.data.template import Template
from ptuning.tasks import Task, TaskKind, kind_from_dict
from ptuning.tasks.templates import get_template

_NOT_OF_THE_KIND = ("name", "columns", "template", "max_length", "held_out")


def task_to_dict(
    task: Task, kind: TaskKind, data: TaskData, max_length: int, template: Template | None = None
) -> dict[str, Any]:
    """Returns what a prompt keeps of the task it was trained for, as JSON values.

    Args:
        task: preset or bare kind.
        kind: with what the data say.
        data: that it learned from. `held_out` is kept where validation rows were held out of train, so that whoever has
            the prompt alone can score the same rows.
        max_length: tokens a sequence at most.
        template: the preset's input format that was used, if it has any; rows to predict for go through it too.
    """
    more: dict[str, Any] = {} if data.held_out is None else {"held_out": asdict(data.held_out)}
    if template is not None:
        more["template"] = template.name
    return {"name": task.name, "columns": data.columns, "max_length": max_length, **more, **kind.to_dict()}


def template_of(task: Mapping[str, Any]) -> Template | None:
    """Returns the template in what `task_to_dict` wrote, None where there is none.

    Raises:
        CheckpointError: this version does not have it.
    """
    return get_template(task["template"]) if task.get("template") is not None else None


def kind_of(task: Mapping[str, Any]) -> TaskKind:
    """Returns the kind in what `task_to_dict` wrote.

    Raises:
        CheckpointError: the kind or one of its options is unknown or does not fit, or an option is missing.
    """
    return kind_from_dict({key: value for key, value in task.items() if key not in _NOT_OF_THE_KIND})
