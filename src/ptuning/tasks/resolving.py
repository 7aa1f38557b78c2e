"""What a run's method and its task's preset decide where the settings do not: pattern, label words, and so the kind."""

from __future__ import annotations

from ptuning.config import METHODS, RunConfig, with_method_defaults
from ptuning.data.sources import TaskData
from ptuning.tasks import Task, TaskKind, get_kind
from ptuning.tasks.patterned import with_pattern


def with_task_defaults(config: RunConfig, task: Task) -> RunConfig:
    """Fills in what is left to the method and to the preset.

    Raises:
        ConfigError: a setting is one that the method does not have.
    """
    config = with_method_defaults(config)
    pattern, words = config.data.pattern, config.head.words
    if config.head.kind == "verbalizer" or METHODS[config.method].needs_pattern:
        pattern = task.pattern if pattern is None else pattern
    if config.head.kind == "verbalizer":
        words = dict(task.words or {}) if words is None else words
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"pattern": pattern}),
            "head": config.head.model_copy(update={"words": words}),
        }
    )


def resolve_kind(config: RunConfig, task: Task, data: TaskData) -> TaskKind:
    """Returns the kind of a run's task, with its pattern and label words.

    Args:
        config: of `with_task_defaults`.
        task: preset or bare kind.
        data: of the run.

    Raises:
        ConfigError: pattern or words do not fit the kind or its labels.
    """
    kind = get_kind(task.kind).from_data(data, config.data)
    return with_pattern(
        kind,
        config.data.pattern,
        config.head.words if config.head.kind == "verbalizer" else None,
        prompt_length=config.prompts.prompt_length if has_virtual_tokens_in_pattern(config) else 0,
    )


def has_virtual_tokens_in_pattern(config: RunConfig) -> bool:
    """Whether virtual tokens are among the tokens of the pattern, which then are counted in `data.max_length`."""
    return config.data.pattern is not None and config.method in ("p-tuning", "soft-prompts")
