"""What a plan knows of a task: its kind, lengths and rows where data and tokenizer are at hand, else what is usual."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ptuning.backbones.loading import Backbone
from ptuning.config import RunConfig
from ptuning.data.hub import HubSource
from ptuning.data.sources import TaskData
from ptuning.tasks import Task, TaskKind, get_task
from ptuning.tasks.loading import load_task_data
from ptuning.tasks.resolving import has_virtual_tokens_in_pattern, resolve_kind, with_task_defaults
from ptuning.training.assembly import fitting_max_length
from ptuning.training.loop import make_batches
from ptuning.training.run import PreparedTask, default_epochs, prepare_task, usual_epochs

_USUAL_LABELS = {
    "classification": ("0", "1"),
    "token_classification": ("O", *(f"{place}-{number}" for number in range(4) for place in "BI")),
    "semantic_role_labeling": ("O", "B-V", *(f"{place}-A{number}" for number in range(25) for place in "BI")),
}
_USUAL_CHOICES = {"multiple_choice": 2, "cloze": 10}


@dataclass(frozen=True)
class KnownTask:
    """A task as far as it is known.

    Attributes:
        config: of the run, with what task and method decide.
        kind: what is asked of the model.
        max_length: tokens a sequence at most, virtual ones of a pattern among them.
        num_sequences: sequences of an example at most: its choices.
        steps_per_epoch: optimizer steps; None where the data are not at hand.
        epochs: that the run would make; None where neither data nor settings say.
        positions_per_epoch: that go through the model, padding included; None where the data are not tokenized here.
        assumptions: about what is not known.
    """

    config: RunConfig
    kind: TaskKind
    max_length: int
    num_sequences: int
    steps_per_epoch: int | None
    epochs: int | None
    positions_per_epoch: int | None
    assumptions: tuple[str, ...]


def know_task(config: RunConfig, backbone: Backbone) -> KnownTask:
    """Finds out what can be known of a run's task without a download.

    Args:
        config: of the run.
        backbone: its outline.

    Raises:
        ConfigError: there is no such task, or settings contradict each other or the backbone.
        DataError: data that are at hand are not what the task needs.
    """
    task = get_task(config.task)
    config = with_task_defaults(config, task, has_pieces=backbone.family.is_glm)
    is_here = _is_at_hand(config, task)
    if is_here and backbone.has_tokenizer_here:
        return _from_examples(config, prepare_task(config, backbone))
    assumptions = []
    if is_here:
        data = load_task_data(config, task)
    else:
        labels = config.data.labels or task.label_names or _USUAL_LABELS.get(task.kind)
        data = TaskData(None, None, None, None if labels is None else tuple(labels), {}, "", ())
        if task.label_names is None and config.data.labels is None and labels is not None:
            assumptions.append(f"{len(labels)} labels")
    kind = resolve_kind(config, task, data, is_causal=backbone.is_causal)
    choices = _USUAL_CHOICES.get(task.kind, 1)
    if choices > 1:
        assumptions.append(f"{choices} {'choices' if task.kind == 'multiple_choice' else 'entities'} an example")
    training = config.training
    steps = None
    if data.train and training.batch_tokens is None:
        steps = math.ceil(math.ceil(len(data.train) / training.batch_size) / training.accumulation)
    epochs = training.epochs
    if epochs is None and steps is not None:
        epochs = usual_epochs(steps) if training.max_steps is None else math.ceil(training.max_steps / steps)
    return KnownTask(
        config=config,
        kind=kind,
        max_length=_longest(config, fitting_max_length(config, backbone, task.max_length or kind.max_length_default)),
        num_sequences=choices,
        steps_per_epoch=steps,
        epochs=epochs,
        positions_per_epoch=None,
        assumptions=tuple(assumptions),
    )


def _longest(config: RunConfig, max_length: int) -> int:
    return max_length + (config.prompts.prompt_length if has_virtual_tokens_in_pattern(config) else 0)


def _is_at_hand(config: RunConfig, task: Task) -> bool:
    source = config.data.path or task.source
    if source is None or isinstance(source, HubSource):
        return False
    return source.startswith("package:") or Path(source).exists()


def _from_examples(config: RunConfig, prepared: PreparedTask) -> KnownTask:
    examples = prepared.train
    first = make_batches(config, examples).batches(0)
    positions = sum(
        max(examples[i].length for i in batch) * sum(len(examples[i].sequences) for i in batch) for batch in first
    )
    return KnownTask(
        config=config,
        kind=prepared.kind,
        max_length=_longest(config, prepared.max_length),
        num_sequences=max(len(example.sequences) for example in examples),
        steps_per_epoch=math.ceil(len(first) / config.training.accumulation),
        epochs=config.training.epochs or default_epochs(config, prepared),
        positions_per_epoch=positions,
        assumptions=(),
    )
