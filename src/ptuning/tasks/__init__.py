"""Tasks: what is asked of a model, and how its answers are read and scored.

A kind (`classification`, `question_answering`, ...) turns rows into examples and logits into predictions; a preset
(`helpdesk/tickets`) is a kind with its data. Nothing here imports torch until a kind is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptuning.errors import CheckpointError, ConfigError
from ptuning.tasks.kind import TaskKind
from ptuning.tasks.presets import KINDS, PRESETS, Task, get_task

__all__ = ["KINDS", "PRESETS", "Task", "TaskKind", "get_kind", "get_task", "kind_from_dict"]


def get_kind(name: str) -> type[TaskKind]:
    """Return the class of a kind of task, one of `KINDS`.

    Raises:
        ConfigError: there is no such kind.
    """
    match name:
        case "classification":
            from ptuning.tasks.classification import Classification

            return Classification
        case "regression":
            from ptuning.tasks.regression import Regression

            return Regression
        case "multiple_choice":
            from ptuning.tasks.multiple_choice import MultipleChoice

            return MultipleChoice
        case "token_classification":
            from ptuning.tasks.token_classification import TokenClassification

            return TokenClassification
        case "semantic_role_labeling":
            from ptuning.tasks.semantic_role_labeling import SemanticRoleLabeling

            return SemanticRoleLabeling
        case "question_answering":
            from ptuning.tasks.question_answering import QuestionAnswering

            return QuestionAnswering
        case "cloze":
            from ptuning.tasks.cloze import Cloze

            return Cloze
    raise ConfigError(f"kind must be one of {', '.join(KINDS)}, got {name!r}. Name one of those.")


def kind_from_dict(values: Mapping[str, Any]) -> TaskKind:
    """Return the kind that `TaskKind.to_dict` wrote.

    Raises:
        CheckpointError: the kind or one of its options is unknown or does not fit, or an option is missing.
    """
    name = values.get("kind")
    if not isinstance(name, str) or name not in KINDS:
        raise CheckpointError(
            f"the task is of kind {name!r}, expected one of {', '.join(KINDS)}. "
            "It may come from a newer version: upgrade ptuning."
        )
    return get_kind(name).from_dict(values)
