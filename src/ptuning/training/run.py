"""A run: from settings to a directory with everything about it.

    runs/rte/
      config.yaml          resolved, complete, replayable
      metrics.jsonl        one line an evaluation
      checkpoints/last/    everything needed to go on exactly
      prompt/              the product, from the best epoch so far

What every training leaves, and how it goes on after a kill, is in `execution.py`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ptuning.backbones.embedded import NAME as MINILM
from ptuning.backbones.loading import Backbone, load_backbone
from ptuning.backbones.sharding import shard_backbone
from ptuning.checkpoint import SavedAdaptation, SavedPrompt, read_prompt, save_prompt
from ptuning.config import METHODS, RunConfig, load_config, with_method_defaults
from ptuning.config.methods import STARTS
from ptuning.data.batching import Example, MixedBatches
from ptuning.data.sources import TaskData
from ptuning.devices import find_device, find_dtype
from ptuning.errors import ConfigError
from ptuning.heads import has_drawn_pooler
from ptuning.inference import run_examples
from ptuning.methods import save_adaptation
from ptuning.model import PromptedModel, count_trained
from ptuning.prompts import DeepPrompts
from ptuning.tasks import Task, TaskKind, get_task
from ptuning.tasks.encoded_cache import encode_cached
from ptuning.tasks.loading import load_task_data
from ptuning.tasks.resolving import resolve_kind, with_task_defaults
from ptuning.tasks.saving import task_to_dict
from ptuning.training.adapting import no_prompts
from ptuning.training.agreement import require_same_settings
from ptuning.training.assembly import fitting_max_length
from ptuning.training.directory import CONFIG_NAME, PROMPT_NAME, check_start
from ptuning.training.execution import Course, execute
from ptuning.training.guard import collapse_advice
from ptuning.training.loop import Candidate, Part, epochs_for_steps, make_batches
from ptuning.training.micro_batches import tokens_at_once
from ptuning.training.processes import Processes, start_processes
from ptuning.training.rate_probe import find_learning_rate
from ptuning.training.reporting import Reporter, Silent
from ptuning.training.together import run_together
from ptuning.training.without_steps import settle

FROM_DEVELOPMENT = "of rows held out of train to choose by (data.selection: development)"
_USUAL_STEPS = 1500
_USUAL_EPOCHS = (5, 30)
_FEWEST_EVALUATIONS = 5


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        directory: of the run.
        metric: the validation metric that picked the best epoch.
        metrics: validation metrics of that epoch, fractions in [0, 1].
        best_epoch: from 1; 0 for methods that make no steps.
        steps: optimizer steps done.
        seconds: trained, over all sittings.
        counts: parameters of `prompts` as saved, or of what the method trains instead, `head`, `backbone`,
            `transformer` (the backbone without embeddings), and `trained` (more than the first two where an MLP, LSTM
            or gate makes the prompts).
    """

    directory: Path
    metric: str
    metrics: dict[str, float]
    best_epoch: int
    steps: int
    seconds: float
    counts: dict[str, int]


@dataclass(frozen=True)
class PreparedTask:
    """A task with its rows, tokenized for a backbone.

    Attributes:
        task: preset or bare kind.
        kind: what is asked of the model.
        data: rows by split.
        max_length: tokens a sequence at most.
        train: examples to learn from.
        validation: examples to choose by.
    """

    task: Task
    kind: TaskKind
    data: TaskData
    max_length: int
    train: list[Example]
    validation: list[Example]


def train(
    config: RunConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    backbone: Backbone | None = None,
    prepared: PreparedTask | None = None,
    report: Reporter | None = None,
) -> RunResult:
    """Trains prompts and a head for one task, or what another method trains.

    Started as several processes by a launcher, all call this with the same arguments, and make one run.

    Args:
        config: settings, of `load_config`.
        resume: go on with the run that is in the output directory.
        overwrite: delete a run that is there.
        backbone: one that is loaded already, on the device to use; `config.training.device`, `precision` and `sharding`
            are then its own. Without it, it is loaded by its name.
        prepared: the task's rows, where `prepare_task` has read them already with this config and backbone.
        report: who is told how it goes; nobody by default.

    Returns:
        Where the run is and what it reached.

    Raises:
        ConfigError: settings that contradict each other, the task, or the backbone; or the output is taken.
        DataError: the data are not what the task needs.
        BackboneError: the backbone cannot be loaded or given prompts.
        CheckpointError: there is nothing to resume, or it is damaged or of other settings.
        TrainingError: the loss is not finite, memory ran out, or another process of the run has ended.
    """
    processes = start_processes(config.training.device)
    with processes.ending_in_words():
        return _train(config, processes, resume, overwrite, backbone, prepared, report)


def _train(
    config: RunConfig,
    processes: Processes,
    resume: bool,
    overwrite: bool,
    backbone: Backbone | None,
    prepared: PreparedTask | None,
    report: Reporter | None,
) -> RunResult:
    report = report if report is not None and processes.is_main else Silent()
    config = with_absolute_paths(config)
    directory = output_directory(config)
    _check_processes(config, processes)
    require_same_settings(processes, config)  # as given; what they are resolved to is compared before the first step
    with processes.main_first():
        if processes.is_main:
            check_start(directory, resume=resume, overwrite=overwrite)
    with_method_defaults(config)  # what does not fit the method is said before anything is loaded
    is_spare = backbone is None  # nobody else has what is loaded here
    backbone = backbone or load_backbone_of(config, processes)
    if prepared is None:
        with processes.main_first():  # the others find the tokens in the cache
            prepared = prepare_task(config, backbone)
    for note in prepared.data.notes:
        report.note(note)
    given_pooling = config.head.pooling
    config = resolve_config(config, prepared, backbone, directory)
    metric, task = str(config.training.metric), prepared
    if not METHODS[config.method].makes_steps:
        seconds = settle(
            directory,
            config,
            task.kind,
            task.train,
            backbone,
            pooling=given_pooling,
            evaluate=lambda model, own: validate(model, task, own, backbone, metric, report),
            save=lambda model, own, metrics: _keep(directory, saved_prompt(own, task, backbone, model, metrics)),
            resume=resume,
            overwrite=overwrite,
            report=report,
        )
        best = read_prompt(directory / PROMPT_NAME)
        return RunResult(directory, metric, best.metrics, 0, 0, seconds, best.counts)

    if config.training.learning_rate is None:
        config = _with_found_rate(config, prepared, backbone, directory, processes, resume=resume, report=report)

    def save(model: PromptedModel, candidate: int, metrics: Mapping[str, float]) -> None:
        _keep(directory, saved_prompt(config, task, backbone, model, metrics))

    course = Course(
        candidates=[Candidate(config, batches_of(config, prepared))],
        settings=config,
        load_settings=load_config,
        parts=[Part(prepared.kind, prepared.train)],
        metric=metric,
        held_out=prepared.validation,
        digest=digest_of([prepared]),
        evaluate=lambda model, candidate: validate(model, task, config, backbone, metric, report, processes=processes),
        save=save,
    )
    progress = execute(
        directory,
        course,
        backbone,
        resume=resume,
        overwrite=overwrite,
        report=report,
        processes=processes,
        is_spare=is_spare,
    )
    metrics, counts = processes.from_main(_kept(directory) if processes.is_main else ({}, {}))
    return RunResult(
        directory=directory,
        metric=metric,
        metrics=metrics,
        best_epoch=progress.standings[0].best_epoch,
        steps=progress.step,
        seconds=progress.seconds,
        counts=counts,
    )


def _with_found_rate(
    config: RunConfig,
    prepared: PreparedTask,
    backbone: Backbone,
    directory: Path,
    processes: Processes,
    *,
    resume: bool,
    report: Reporter,
) -> RunConfig:
    """Fills in the rate that `training.learning_rate_probe` finds; a run that goes on has found it before."""
    is_main = processes.is_main
    rate = load_config(directory / CONFIG_NAME).training.learning_rate if resume and is_main else None
    rate = processes.from_main(rate)
    if rate is None:
        kind, examples, batches = prepared.kind, prepared.train, batches_of(config, prepared)
        rate = find_learning_rate(config, kind, examples, batches, backbone, processes, report)
    head_rate = None if config.head.kind == "verbalizer" else config.training.head_learning_rate or rate
    rates = {"learning_rate": rate, "head_learning_rate": head_rate}
    return config.model_copy(update={"training": config.training.model_copy(update=rates)})


def _kept(directory: Path) -> tuple[dict[str, float], dict[str, int]]:
    best = read_prompt(directory / PROMPT_NAME)
    return best.metrics, best.counts


def _check_processes(config: RunConfig, processes: Processes) -> None:
    """Makes sure that what is to be trained can be shared by several processes, or its backbone divided among them."""
    method = METHODS[config.method]
    if processes.count > 1 and not method.makes_steps:
        raise ConfigError(
            f"method {config.method} was started as {processes.count} processes, but it makes no steps that they could "
            "share, expected one. Start it without a launcher."
        )
    if config.training.sharding == "none":
        return
    obstacles = {
        f"method {config.method} changes the backbone or its input": not method.has_deep_prompts,
        "head.kind verbalizer reads the backbone's embeddings": config.head.kind == "verbalizer",
        "training.compile needs whole layers": config.training.compile,
        "training.trunk_reuse on runs a part of the backbone": config.training.trunk_reuse == "on",
        f"training.quantization {config.training.quantization} has no weights to divide": (
            config.training.quantization != "none"
        ),
        "training.attention flex_attention is not tried with it": config.training.attention == "flex_attention",
    }
    found = [what for what, is_there in obstacles.items() if is_there]
    if found:
        raise ConfigError(
            f"training.sharding is full, but {' and '.join(found)}, expected prompts at every layer and a linear head. "
            "Change that, or set training.sharding to none."
        )


def _keep(directory: Path, saved: SavedPrompt) -> None:
    save_prompt(directory / PROMPT_NAME, saved)


def batches_of(config: RunConfig, prepared: PreparedTask) -> MixedBatches:
    """The batches of a run on one task."""
    return MixedBatches([make_batches(config, prepared.train)], seed=config.training.seed)


def output_directory(config: RunConfig) -> Path:
    """Returns where a run goes: `output`, or `runs/<task>-<data>`."""
    if config.output is not None:
        if not config.output.strip():
            raise ConfigError("output is empty, expected the directory of the run. Name one, or leave --output out.")
        return Path(config.output)
    name = config.task if config.data.path is None else f"{config.task}-{Path(config.data.path).name}"
    return Path("runs") / re.sub(r"[^\w.]+", "-", name).strip("-")


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Local directories by their whole path, so that what is saved means the same in every working directory."""
    path, backbone, init = config.data.path, config.backbone, config.prompts.init
    if path is not None and Path(path).exists():
        path = str(Path(path).resolve())
    if Path(backbone).is_dir() and backbone != MINILM:
        backbone = str(Path(backbone).resolve())
    if init is not None and init not in STARTS:
        init = str(Path(init).resolve())
    head_init = config.head.init if config.head.init == "normal" else str(Path(config.head.init).resolve())
    groups = {
        "head": config.head.model_copy(update={"init": head_init}),
        "data": config.data.model_copy(update={"path": path}),
        "prompts": config.prompts.model_copy(update={"init": init}),
    }
    return config.model_copy(update={**groups, "backbone": backbone})


def load_backbone_of(config: RunConfig, processes: Processes | None = None) -> Backbone:
    """Loads the backbone that a config names, as it says: device, precision, attention, quantization, sharding.

    One whose weights are trained is loaded in float32, whatever the precision of the products.

    Args:
        config: of the run.
        processes: of the run, among which the weights may be divided.
    """
    device = find_device(config.training.device)
    dtype = find_dtype(config.training.precision, device)
    is_divided = config.training.sharding == "full" and processes is not None and processes.count > 1
    backbone = load_backbone(
        config.backbone,
        revision=config.revision,
        device="cpu" if is_divided else device,
        dtype=torch.float32 if METHODS[config.method].trains_backbone else dtype,
        attention=config.training.attention,
        attention_direction=config.attention_direction,
        quantization=config.training.quantization,
    )
    if is_divided:
        shard_backbone(backbone, device)
    return backbone


def prepare_task(config: RunConfig, backbone: Backbone) -> PreparedTask:
    """Loads a task's rows and tokenizes them.

    Raises:
        BackboneError: label words are asked for, and the backbone has no language-modeling head.
        ConfigError: there is no such task, a bare kind has no data, or lengths do not fit the backbone.
        DataError: the data are not what the task needs.
    """
    task = get_task(config.task)
    config = with_task_defaults(config, task, has_pieces=backbone.pieces is not None)
    if config.head.kind == "verbalizer":
        _ = backbone.language_modeling_head  # where there is none, that is said before rows are read
    data = load_task_data(config, task)
    kind = resolve_kind(config, task, data, is_causal=backbone.is_causal)
    max_length = fitting_max_length(config, backbone, task.max_length or kind.max_length_default)
    tokenizer = backbone.tokenizer
    return PreparedTask(
        task=task,
        kind=kind,
        data=data,
        max_length=max_length,
        train=encode_cached(kind, data.train or [], tokenizer, max_length, training=True),
        validation=encode_cached(kind, data.validation or [], tokenizer, max_length, training=False),
    )


def resolve_config(config: RunConfig, prepared: PreparedTask, backbone: Backbone, directory: Path) -> RunConfig:
    """Fills in everything that was left to defaults that depend on task, data or backbone.

    Raises:
        ConfigError: the metric is not one of the kind's.
    """
    config = with_task_defaults(
        config,
        prepared.task,
        has_pieces=backbone.pieces is not None,
        hidden_size=backbone.description.hidden_size,
    )
    training = config.training
    rate, epochs, evaluation_epochs = training.head_learning_rate, training.epochs, training.evaluation_epochs
    if METHODS[config.method].makes_steps:
        epochs = epochs or default_epochs(config, prepared)
        evaluation_epochs = evaluation_epochs or _default_evaluation_epochs(epochs, prepared)
    parameter = next(backbone.model.parameters())
    dtype = parameter.dtype
    if METHODS[config.method].trains_backbone:
        dtype = find_dtype(training.precision, parameter.device)
    metric = prepared.kind.resolve_metric(training.metric or prepared.task.metric)
    has_own_head = config.head.kind != "verbalizer"  # which pools nothing and trains nothing
    update: dict[str, Any] = {
        "data": {
            "max_length": prepared.max_length,
            "predicate_input": getattr(prepared.kind, "predicate_input", None),
        },
        "head": {"pooling": (config.head.pooling or backbone.pooling) if has_own_head else None},
        "training": {
            "epochs": epochs,
            "evaluation_epochs": evaluation_epochs,
            "head_learning_rate": (training.learning_rate if rate is None else rate) if has_own_head else None,
            "precision": "bf16" if dtype == torch.bfloat16 else "fp32",
            "attention": backbone.attention if training.attention == "auto" else training.attention,
            "quantization": backbone.quantization,
            "metric": metric,
        },
    }
    groups = {name: getattr(config, name).model_copy(update=values) for name, values in update.items()}
    # What the recipe said is in the other settings; its file may be gone when this is read again.
    backbone_is: dict[str, Any] = {"revision": backbone.revision}
    if (direction := backbone.description.recorded_direction) is not None:
        backbone_is["attention_direction"] = direction
    return config.model_copy(update={**groups, **backbone_is, "recipe": "default", "output": str(directory)})


def default_epochs(config: RunConfig, prepared: PreparedTask) -> int:
    """The epochs of a run whose settings do not say: the usual number, or just as many as `max_steps` needs."""
    batches, accumulation = make_batches(config, prepared.train), config.training.accumulation
    max_steps = config.training.max_steps
    if max_steps is None:
        return usual_epochs(math.ceil(batches.num_batches(0) / accumulation))
    return epochs_for_steps(batches, max_steps, accumulation)


def usual_epochs(steps_per_epoch: int) -> int:
    """As many as give about `_USUAL_STEPS` optimizer steps, within bounds."""
    fewest, most = _USUAL_EPOCHS
    return min(max(math.ceil(_USUAL_STEPS / steps_per_epoch), fewest), most)


def _default_evaluation_epochs(epochs: int, prepared: PreparedTask) -> int:
    """As many as keep evaluations from costing more than training, as long as there are `_FEWEST_EVALUATIONS`."""
    outnumbered = len(prepared.validation) // len(prepared.train)
    return max(1, min(outnumbered, epochs // _FEWEST_EVALUATIONS))


def validate(
    model: PromptedModel,
    prepared: PreparedTask,
    config: RunConfig,
    backbone: Backbone,
    metric: str,
    report: Reporter,
    head: int = 0,
    entry: int | None = None,
    processes: Processes | None = None,
) -> dict[str, float]:
    """Returns a model's metrics on the validation rows of a task, and warns when it says the same of all of them.

    Outputs that are not finite have no metrics: the one that picks the best epoch is not a number then.

    Args:
        model: one of its heads is for the task.
        prepared: the task.
        config: of the training.
        backbone: for its tokenizer.
        metric: that picks the best epoch.
        report: who is warned.
        head: of the task.
        entry: of the bank, where it has several.
        processes: of the run, which share the rows; process 0 alone has metrics then.
    """
    kind, rows, examples = prepared.kind, prepared.data.validation or [], prepared.validation
    entries = None if entry is None else [entry] * len(examples)
    heads = [head] * len(examples) if head else None
    at_once, tokenizer = tokens_at_once(config), backbone.tokenizer
    if processes is None or processes.count == 1:
        logits = run_examples(model, examples, tokenizer, entries=entries, heads=heads, batch_tokens=at_once)
    else:
        found = run_together(processes, model, examples, tokenizer, entries=entries, heads=heads, batch_tokens=at_once)
        if found is None:
            return {}
        logits = found
    if not all(bool(one.isfinite().all()) for one in logits):
        return {metric: math.nan}
    predictions = kind.predict(logits, examples, rows)
    metrics = kind.score(predictions, rows)
    if kind.is_constant(predictions):
        report.warn(collapse_advice(config, metric, metrics[metric], kind.majority_score(rows, metric)))
    return metrics


def saved_prompt(
    config: RunConfig,
    prepared: PreparedTask,
    backbone: Backbone,
    model: PromptedModel,
    metrics: Mapping[str, float],
    *,
    head: int = 0,
    entry: int = 0,
) -> SavedPrompt:
    """What of a trained model is kept for a task: prompts (the reparameterization folded) and its head."""
    prompts, placed = model.bank.prompts[entry], model.bank.entries[entry]
    pooler = {"pooler": "drawn"} if has_drawn_pooler(model.heads[head]) else {}
    is_verbalizer = config.head.kind == "verbalizer"
    how: dict[str, Any] = {"kind": "verbalizer"} if is_verbalizer else {"pooling": config.head.pooling, **pooler}
    if config.head.length_penalty:
        how["length_penalty"] = config.head.length_penalty
    return SavedPrompt(
        prompts=prompts.folded() if isinstance(prompts, DeepPrompts) else no_prompts(backbone).given,
        layers=placed.layers,
        positions=placed.positions,
        backbone=backbone.identity,
        method=config.method,
        task=task_to_dict(
            prepared.task,
            prepared.kind,
            prepared.data,
            prepared.max_length,
            prepared.task.template(config.data.template),
        ),
        head=how,
        head_tensors=dict(model.heads[head].state_dict()),
        metrics=dict(metrics),
        metrics_from=None if prepared.data.reported is None else FROM_DEVELOPMENT,
        precision=config.training.precision,
        counts=count_parameters(model, backbone, head, entry),
        adaptation=SavedAdaptation() if model.adaptation is None else save_adaptation(model.adaptation),
    )


def count_parameters(
    model: PromptedModel, backbone: Backbone, head: int | None = None, entry: int = 0
) -> dict[str, int]:
    """Parameters of prompts as saved, head, backbone, the backbone without its embeddings, and all that are trained.

    Where the method trains something else than prompts, that is counted instead.

    Args:
        model: trained.
        backbone: of the model.
        head: whose parameters are meant; without it those of all heads.
        entry: of the bank.
    """
    prompts = model.bank.prompts[entry]
    description = backbone.description
    in_head = sum(count_trained(model.heads if head is None else model.heads[head]).values())
    if isinstance(prompts, DeepPrompts):
        saved, trained = prompts.folded().numel(), sum(count_trained(prompts).values())
    elif model.adaptation is not None:
        saved, trained = model.adaptation.num_saved(), count_trained(model)["prompts"]
    else:
        saved = trained = 0
    return {
        "prompts": saved,
        "head": in_head,
        "backbone": description.num_parameters,
        "transformer": description.num_transformer_parameters,
        "trained": trained + in_head,  # with an MLP, LSTM or gate more than what is saved
    }


def digest_of(tasks: Sequence[PreparedTask]) -> str:
    """Of everything that the loop sees of the data."""
    digest = hashlib.sha256()
    for prepared in tasks:
        for examples in (prepared.train, prepared.validation):
            for example in examples:
                digest.update(repr((example.sequences, example.token_types, example.label)).encode())
            digest.update(b"|")
        digest.update(json.dumps(prepared.kind.to_dict(), sort_keys=True).encode())
    return digest.hexdigest()
