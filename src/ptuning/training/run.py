"""A run: from settings to a directory with everything about it.

    runs/rte/
      config.yaml          resolved, complete, replayable
      metrics.jsonl        one line an evaluation
      checkpoints/last/    everything needed to go on exactly
      prompt/              the product, from the best epoch so far

A run that was killed at any moment and is taken up with `resume=True` ends with the same weights as one that was not:
what an evaluation leaves is written before the checkpoint that counts it, and written again, equal, if the process
dies in between.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from filelock import FileLock, Timeout

from ptuning.backbones.loading import Backbone, load_backbone
from ptuning.checkpoint import SavedPrompt, read_prompt, save_prompt
from ptuning.config import RunConfig, load_config
from ptuning.data.batching import Example
from ptuning.data.sources import TaskData, load_data, source_directory
from ptuning.errors import CheckpointError, ConfigError
from ptuning.inference import run_examples
from ptuning.model import PromptedModel, trained_parameters
from ptuning.prompts import DeepPrompts
from ptuning.storage import recover_directory, replace_file
from ptuning.tasks import Task, TaskKind, get_kind, get_task
from ptuning.training.assembly import assemble_model, fitting_max_length
from ptuning.training.guard import collapse_advice, is_out_of_memory, out_of_memory_error
from ptuning.training.loop import EpochReport, Hooks, fit, make_optimizer
from ptuning.training.reporting import Reporter, Silent
from ptuning.training.seed import seed_everything
from ptuning.training.state import Progress, load_state, save_state

CONFIG_NAME = "config.yaml"
METRICS_NAME = "metrics.jsonl"
CHECKPOINT_NAME = "checkpoints/last"
PROMPT_NAME = "prompt"


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        directory: of the run.
        metric: the validation metric that picked the best epoch.
        metrics: validation metrics of that epoch, fractions in [0, 1].
        best_epoch: from 1.
        steps: optimizer steps done.
        seconds: trained, over all sittings.
        counts: parameters of `prompts`, `head`, `backbone` and `transformer` (the backbone without embeddings).
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
    report: Reporter | None = None,
) -> RunResult:
    """Trains prompts and a head for one task.

    Args:
        config: settings, of `load_config`.
        resume: go on with the run that is in the output directory.
        overwrite: delete a run that is there.
        backbone: one that is loaded already, on the device to use; `config.training.device` and `precision` are then
            its own. Without it, it is loaded by its name.
        report: who is told how it goes; nobody by default.

    Returns:
        Where the run is and what it reached.

    Raises:
        ConfigError: settings that contradict each other, the task, or the backbone; or the output is taken.
        DataError: the data are not what the task needs.
        BackboneError: the backbone cannot be loaded or given prompts.
        CheckpointError: there is nothing to resume, or it is damaged or of other settings.
        TrainingError: the loss is not finite, or memory ran out.
    """
    report = report or Silent()
    directory = output_directory(config)
    with _claimed(directory):
        if not resume:
            _make_room(directory, overwrite=overwrite)
        accelerator = Accelerator(cpu=config.training.device == "cpu")
        if accelerator.num_processes > 1:
            raise ConfigError(
                f"the run was started as {accelerator.num_processes} processes, and one process is what it takes. "
                "Start it with `ptuning train`, without a launcher."
            )
        backbone = backbone or load_backbone(
            config.backbone, device=_device(config, accelerator), dtype=_dtype(config, accelerator)
        )
        prepared = prepare_task(config, backbone)
        for note in prepared.data.notes:
            report.note(note)
        config = resolve_config(config, prepared, backbone, directory)
        _keep_config(config, directory, resume=resume)
        seed_everything(config.training.seed)  # here, so that a backbone that comes loaded makes no difference
        model = assemble_model(config, backbone, prepared.kind, prepared.train)
        try:
            return _run(config, directory, backbone, prepared, model, accelerator, report)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise out_of_memory_error(config, error) from error
            raise
        finally:
            model.detach()


def output_directory(config: RunConfig) -> Path:
    """Returns where a run goes: `output`, or `runs/<task>-<data>`."""
    if config.output:
        return Path(config.output)
    name = config.task if config.data.path is None else f"{config.task}-{Path(config.data.path).name}"
    return Path("runs") / re.sub(r"[^\w.]+", "-", name).strip("-")


def prepare_task(config: RunConfig, backbone: Backbone) -> PreparedTask:
    """Loads a task's rows and tokenizes them.

    Raises:
        ConfigError: there is no such task, a bare kind has no data, or lengths do not fit the backbone.
        DataError: the data are not what the task needs.
    """
    task = get_task(config.task)
    data = load_task_data(config, task)
    kind = get_kind(task.kind).from_data(data)
    max_length = fitting_max_length(config, backbone, kind)
    tokenizer = backbone.tokenizer
    return PreparedTask(
        task=task,
        kind=kind,
        data=data,
        max_length=max_length,
        train=kind.encode(data.train or [], tokenizer, max_length, training=True),
        validation=kind.encode(data.validation or [], tokenizer, max_length, training=False),
    )


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


def resolve_config(config: RunConfig, prepared: PreparedTask, backbone: Backbone, directory: Path) -> RunConfig:
    """Fills in everything that was left to defaults that depend on task, data or backbone.

    Raises:
        ConfigError: the metric is not one of the kind's.
    """
    training = config.training
    rate = training.head_learning_rate
    bf16 = next(backbone.model.parameters()).dtype == torch.bfloat16
    metric = prepared.kind.resolve_metric(training.metric or prepared.task.metric)
    update: dict[str, Any] = {
        "data": {"max_length": prepared.max_length},
        "head": {"pooling": config.head.pooling or backbone.pooling},
        "training": {
            "head_learning_rate": training.learning_rate if rate is None else rate,
            "precision": "bf16" if bf16 else "fp32",
            "metric": metric,
        },
    }
    groups = {name: getattr(config, name).model_copy(update=values) for name, values in update.items()}
    # What the recipe said is in the other settings; its file may be gone when this is read again.
    return config.model_copy(update={**groups, "recipe": "default", "output": str(directory)})


def _run(
    config: RunConfig,
    directory: Path,
    backbone: Backbone,
    prepared: PreparedTask,
    model: PromptedModel,
    accelerator: Accelerator,
    report: Reporter,
) -> RunResult:
    kind, metric = prepared.kind, str(config.training.metric)
    optimizer = make_optimizer(model, config)
    parameters = trained_parameters(model)
    origin = {"data": _digest(prepared), "backbone": backbone.identity.fingerprint}
    checkpoint = directory / CHECKPOINT_NAME
    progress = load_state(checkpoint, parameters, optimizer, origin) or Progress()
    _cut_lines(directory / METRICS_NAME, progress.metric_lines)
    counts = count_parameters(model, backbone)
    rows = prepared.data.validation or []
    majority = kind.majority_score(rows, metric)
    tokens_at_once = max(config.training.batch_tokens or 0, 4096)

    def evaluate() -> dict[str, float]:
        logits = run_examples(model, prepared.validation, backbone.tokenizer, batch_tokens=tokens_at_once)
        predictions = kind.predict(logits, prepared.validation, rows)
        metrics = kind.score(predictions, rows)
        if kind.is_constant(predictions):
            report.warn(collapse_advice(config, metric, metrics[metric], majority))
        return metrics

    def record(evaluation: EpochReport) -> None:
        line = {
            "epoch": evaluation.epoch,
            "step": evaluation.step,
            "train_loss": evaluation.train_loss,
            "validation": dict(evaluation.metrics),
            "is_best": evaluation.is_best,
            "seconds": round(evaluation.seconds, 3),
        }
        with (directory / METRICS_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if evaluation.is_best:
            save_prompt(
                directory / PROMPT_NAME, saved_prompt(config, prepared, backbone, model, evaluation.metrics, counts)
            )

    hooks = Hooks(
        evaluate=evaluate,
        record=record,
        checkpoint=lambda state: save_state(checkpoint, state, parameters, optimizer, origin),
    )
    try:
        fit(
            model,
            kind,
            prepared.train,
            backbone.tokenizer,
            config,
            metric=metric,
            accelerator=accelerator,
            optimizer=optimizer,
            progress=progress,
            hooks=hooks,
            report=report,
        )
    finally:
        report.stop()
    best = read_prompt(directory / PROMPT_NAME)
    return RunResult(
        directory=directory,
        metric=metric,
        metrics=best.metrics,
        best_epoch=progress.best_epoch,
        steps=progress.step,
        seconds=progress.seconds,
        counts=counts,
    )


def saved_prompt(
    config: RunConfig,
    prepared: PreparedTask,
    backbone: Backbone,
    model: PromptedModel,
    metrics: Mapping[str, float],
    counts: Mapping[str, int],
) -> SavedPrompt:
    """What of a trained model is kept: prompts (the reparameterization folded) and head."""
    prompts, entry = model.bank.prompts[0], model.bank.entries[0]
    assert isinstance(prompts, DeepPrompts)
    return SavedPrompt(
        prompts=prompts.folded(),
        layers=entry.layers,
        positions=entry.positions,
        backbone=backbone.identity,
        method=config.method,
        task={
            "name": prepared.task.name,
            "columns": prepared.data.columns,
            "max_length": prepared.max_length,
            **prepared.kind.to_dict(),
        },
        head={"pooling": config.head.pooling},
        head_tensors=dict(model.heads[0].state_dict()),
        metrics=dict(metrics),
        counts=dict(counts),
    )


def count_parameters(model: PromptedModel, backbone: Backbone) -> dict[str, int]:
    """Parameters of prompts as saved, head, backbone, and the backbone without its embeddings."""
    prompts = model.bank.prompts[0]
    assert isinstance(prompts, DeepPrompts)
    description = backbone.description
    return {
        "prompts": prompts.folded().numel(),
        "head": sum(parameter.numel() for parameter in model.heads.parameters()),
        "backbone": description.num_parameters,
        "transformer": description.num_transformer_parameters,
    }


@contextmanager
def _claimed(directory: Path) -> Iterator[None]:
    """Makes a run's directory and keeps a second process out of it; one that is still empty at the end goes again.

    Raises:
        ConfigError: another process is training there, or the directory cannot be made.
    """
    lock = FileLock(directory.parent / f".{directory.name}.lock")
    was_there = directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"another process is training in {directory}. Wait for it, or give this run another --output."
        ) from error
    except OSError as error:
        raise ConfigError(
            f"the run cannot be written to {directory}: {error.strerror or error}. Give another --output."
        ) from error
    try:
        yield
    finally:
        if not was_there and not any(directory.iterdir()):
            directory.rmdir()
        lock.release()


def _make_room(directory: Path, *, overwrite: bool) -> None:
    """Deletes what a run has written, and nothing else that may be in its directory.

    The config goes last: a process that dies in between leaves what still counts as a run.

    Raises:
        ConfigError: there is a run, and it is not to be overwritten.
    """
    trees, files = (CHECKPOINT_NAME, PROMPT_NAME), (METRICS_NAME, CONFIG_NAME)
    for name in trees:
        recover_directory(directory / name)
    found = [name for name in (*files, *trees) if (directory / name).exists()]
    if found and not overwrite:
        raise ConfigError(
            f"{directory} has a run already ({', '.join(found)}). Use --resume to go on with it, --overwrite to start "
            "again, or another --output."
        )
    for name in trees:
        if (directory / name).exists():
            shutil.rmtree(directory / name)
    for name in files:
        (directory / name).unlink(missing_ok=True)


def _keep_config(config: RunConfig, directory: Path, *, resume: bool) -> None:
    """Writes config.yaml; or, for a run that goes on, makes sure that the settings are those it was started with."""
    path = directory / CONFIG_NAME
    if not resume:
        replace_file(path, config.to_yaml())
        return
    if not path.exists():
        raise CheckpointError(
            f"{directory} has no {CONFIG_NAME}, so there is no run to resume. Leave --resume out, or give the --output "
            "of the run."
        )
    started = load_config(path)
    differing = [
        f"{key} {before!r} then, {now!r} now"
        for key, (before, now) in _differences(started.model_dump(), config.model_dump()).items()
        if key != "output"
    ]
    if differing:
        raise ConfigError(
            f"{directory} was started with other settings: {'; '.join(differing)}. Resume with those it was started "
            "with (`ptuning train --resume --output DIR` alone takes them from there), or use another --output."
        )
    recover_directory(directory / PROMPT_NAME)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    for key in now:
        if isinstance(now[key], dict) and isinstance(before.get(key), dict) and key != "columns":
            found |= _differences(before[key], now[key], f"{prefix}{key}.")
        elif now[key] != before.get(key):
            found[prefix + key] = (before.get(key), now[key])
    return found


def _digest(prepared: PreparedTask) -> str:
    """Of everything that the loop sees of the data."""
    digest = hashlib.sha256()
    for examples in (prepared.train, prepared.validation):
        for example in examples:
            digest.update(repr((example.sequences, example.token_types, example.label)).encode())
        digest.update(b"|")
    digest.update(json.dumps(prepared.kind.to_dict(), sort_keys=True).encode())
    return digest.hexdigest()


def _cut_lines(path: Path, num_lines: int) -> None:
    """Drops lines that a killed run wrote after its last checkpoint."""
    if not path.exists():
        if num_lines:
            raise CheckpointError(
                f"{path} is missing, but the run has made {num_lines} evaluations. Put it back, or start again with "
                "--overwrite."
            )
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if len(lines) > num_lines:
        replace_file(path, "".join(lines[:num_lines]))


def _device(config: RunConfig, accelerator: Accelerator) -> torch.device:
    if config.training.device is None:
        return torch.device(accelerator.device)
    try:
        device = torch.device(config.training.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"training.device is {config.training.device!r}, which this machine does not have ({error}). "
            "Use cpu, or leave it out for the best there is."
        ) from error
    return device


def _dtype(config: RunConfig, accelerator: Accelerator) -> torch.dtype:
    precision = config.training.precision
    if precision == "auto":
        on_cuda = torch.device(accelerator.device).type == "cuda"
        precision = "bf16" if on_cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32
