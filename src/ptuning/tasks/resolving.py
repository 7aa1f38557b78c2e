"""What a run's method and its task's preset decide where the settings do not: pattern, label words, and so the kind."""

from __future__ import annotations

from typing import Any

from ptuning.config import METHODS, RunConfig, with_method_defaults
from ptuning.data.sources import TaskData
from ptuning.errors import ConfigError
from ptuning.tasks import Task, TaskKind, get_kind
from ptuning.tasks.glm_patterns import GLM_PATTERNS
from ptuning.tasks.patterned import with_pattern


def with_task_defaults(
    config: RunConfig, task: Task, *, has_pieces: bool | None = None, hidden_size: int | None = None
) -> RunConfig:
    """Fills in what is left to the method and to the preset.

    Args:
        config: of the run.
        task: preset or bare kind.
        has_pieces: whether the backbone fills blanks by pieces, as GLM does: presets have other patterns for it. None
            where that is not known.
        hidden_size: of the backbone, or None where that is not known; see `with_method_defaults`.

    Raises:
        ConfigError: a setting is one that the method does not have, the template is not the pattern's, or entities
            are to fill a blank of a backbone that has masks.
    """
    config = with_method_defaults(config, hidden_size=hidden_size)
    if config.head.length_penalty and config.head.kind != "verbalizer":
        raise ConfigError(
            f"head.length_penalty is {config.head.length_penalty:g}, which is for label words, but head.kind is "
            f"{config.head.kind}. Leave it out, or set head.kind to verbalizer."
        )
    if not (config.head.kind == "verbalizer" or METHODS[config.method].needs_pattern):
        return config
    if task.kind == "cloze" and config.head.kind == "verbalizer" and has_pieces is False:
        raise ConfigError(
            f"head.kind is verbalizer and the task {config.task}, whose entities are texts of any length, which a "
            "backbone has to fill into a blank. Only GLM does. Use a GLM, or set head.kind to linear."
        )
    own = GLM_PATTERNS.get(task.name) if has_pieces else None
    pattern, words, template = config.data.pattern, config.head.words, config.data.template
    if pattern is None:
        pattern = task.pattern if own is None else own.pattern
        if own is not None and template not in (0, own.template):
            raise ConfigError(
                f"data.template is {template}, but the pattern of {task.name} for GLM, {own.pattern!r}, is for "
                f"template {own.template}. Leave data.template out, or give a pattern of yours in data.pattern."
            )
        template = template if own is None else own.template
    update: dict[str, dict[str, Any]] = {"data": {"pattern": pattern, "template": template}}
    if config.head.kind == "verbalizer" and words is None:
        usual = task.words if own is None or pattern != own.pattern else own.words
        if task.kind == "multiple_choice" and pattern is not None and "{choice" not in pattern:
            usual = None  # the choices themselves answer
        update["head"] = {"words": dict(usual or {})}
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=values) for name, values in update.items()}
    )


def resolve_kind(config: RunConfig, task: Task, data: TaskData, *, is_causal: bool = False) -> TaskKind:
    """Returns the kind of a run's task, with its pattern and label words.

    Args:
        config: of `with_task_defaults`.
        task: preset or bare kind.
        data: of the run.
        is_causal: whether the backbone's tokens see only what is to their left.

    Raises:
        ConfigError: pattern or words do not fit the kind or its labels.
    """
    kind = get_kind(task.kind).from_data(data, config.data)
    if is_causal:
        kind = kind.for_causal()
    return with_pattern(
        kind,
        config.data.pattern,
        config.head.words if config.head.kind == "verbalizer" else None,
        prompt_length=config.prompts.prompt_length if has_virtual_tokens_in_pattern(config) else 0,
    )


def has_virtual_tokens_in_pattern(config: RunConfig) -> bool:
    """Whether virtual tokens are among the tokens of the pattern."""
    return config.data.pattern is not None and config.method in ("p-tuning", "soft-prompts")
