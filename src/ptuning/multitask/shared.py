"""The shared stage: one prompt learns from all data sets, each with a linear head of its own.

shared/
  config.yaml, metrics.jsonl, checkpoints/last/    as in every run
  prompt/                                          the shared prompts alone, of the best mean validation metric
  tasks/NAME/                                      the same prompts with the head of one data set
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from ptuning.backbones.loading import Backbone
from ptuning.checkpoint import read_prompt, save_prompt
from ptuning.config import RunConfig
from ptuning.data.batching import MixedBatches
from ptuning.model import PromptedModel
from ptuning.multitask.settings import MultitaskConfig, load_multitask_config
from ptuning.multitask.shares import batches_per_epoch
from ptuning.training.directory import PROMPT_NAME
from ptuning.training.execution import Course, execute
from ptuning.training.loop import Candidate, Part, epochs_for_steps, make_batches
from ptuning.training.reporting import Named, Reporter
from ptuning.training.run import PreparedTask, count_parameters, digest_of, saved_prompt, validate

TASKS_NAME = "tasks"
MEAN = "mean"
"""The metric that picks the best epoch: the mean over data sets of the metric that each is judged by."""


@dataclass(frozen=True)
class SharedResult:
    """What the shared stage came to.

    Attributes:
        directory: of the run.
        metrics: of the best epoch, for each data set.
        best_epoch: from 1.
        steps: optimizer steps done, over all data sets.
        seconds: trained, over all sittings.
    """

    directory: Path
    metrics: dict[str, dict[str, float]]
    best_epoch: int
    steps: int
    seconds: float


def train_shared(
    config: MultitaskConfig,
    resolved: Mapping[str, RunConfig],
    prepared: Mapping[str, PreparedTask],
    backbone: Backbone,
    directory: Path,
    *,
    resume: bool,
    report: Reporter,
) -> SharedResult:
    """Trains one prompt on all data sets.

    Args:
        config: what `config.yaml` holds, with one seed.
        resolved: for each data set the settings of a run on it alone, of which `training.max_steps` is what the shared
            stage takes for all of them.
        prepared: for each data set its rows, in the same order.
        backbone: on the device to use.
        directory: of the run.
        resume: go on with what is there.
        report: who is told how it goes.

    Raises:
        ConfigError, CheckpointError, TrainingError: as `execute`.
    """
    names = list(prepared)
    first = resolved[names[0]]
    streams = [make_batches(first, task.train) for task in prepared.values()]
    sizes = [stream.num_batches(0) for stream in streams]
    # In proportion to the batches there are, every example comes once an epoch.
    is_whole = config.sampling == "proportional"
    counts = None if is_whole else batches_per_epoch(sizes, config.sampling, config.temperature)
    batches = MixedBatches(streams, counts, seed=first.training.seed)
    steps = first.training.max_steps
    assert steps is not None
    epochs = epochs_for_steps(batches, steps, first.training.accumulation)
    run = first.model_copy(
        update={
            "training": first.training.model_copy(update={"epochs": epochs, "metric": None, "evaluation_epochs": 1})
        }
    )
    deciding = {name: str(resolved[name].training.metric) for name in names}

    def evaluate(model: PromptedModel, candidate: int) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for head, (name, task) in enumerate(prepared.items()):
            told = Named(name, report)
            own = validate(model, task, run, backbone, deciding[name], told, head)
            metrics |= {f"{name}.{metric}": value for metric, value in own.items()}
        return {**metrics, MEAN: fmean(metrics[f"{name}.{deciding[name]}"] for name in names)}

    def save(model: PromptedModel, candidate: int, metrics: Mapping[str, float]) -> None:
        saved = {}
        for head, (name, task) in enumerate(prepared.items()):
            own = {key.removeprefix(f"{name}."): value for key, value in metrics.items() if key.startswith(f"{name}.")}
            saved[name] = saved_prompt(resolved[name], task, backbone, model, own, head=head)
            save_prompt(directory / TASKS_NAME / name, saved[name])
        bare = replace(saved[names[0]], task=None, head=None, head_tensors={}, metrics=dict(metrics))
        save_prompt(directory / PROMPT_NAME, replace(bare, counts=count_parameters(model, backbone)))

    course = Course(
        candidates=[Candidate(run, batches)],
        settings=config,
        load_settings=load_multitask_config,
        parts=[Part(task.kind, task.train) for task in prepared.values()],
        metric=MEAN,
        held_out=[example for task in prepared.values() for example in task.validation],
        digest=digest_of(list(prepared.values())),
        evaluate=evaluate,
        save=save,
        command="multitask",
    )
    progress = execute(directory, course, backbone, resume=resume, overwrite=False, report=report)
    return SharedResult(
        directory=directory,
        metrics={name: read_prompt(directory / TASKS_NAME / name).metrics for name in names},
        best_epoch=progress.standings[0].best_epoch,
        steps=progress.step,
        seconds=progress.seconds,
    )
