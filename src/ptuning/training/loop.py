"""The training loop: one readable function for every kind of task, and for several data sets that share prompts.

What trains is `trained_parameters(model)`; what is asked of the model is in the task kind; what a run leaves on disk
is in `execution.py`. The loop can be stopped at any moment and taken up again with the same result, since everything
that decides the next step (parameters, optimizer, random state, place in the data) is in `checkpoints/last`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ptuning.config import RunConfig
from ptuning.data.batching import Example, LengthBatches, MixedBatches, collate
from ptuning.inference import padding_ids
from ptuning.model import PromptedModel, is_head_parameter, trained_parameters
from ptuning.tasks import TaskKind
from ptuning.training.guard import check_finite
from ptuning.training.reporting import Reporter
from ptuning.training.schedule import schedule_factor
from ptuning.training.state import Progress

_LOSSES_AT_ONCE = 10  # reading them waits for the device


@dataclass(frozen=True)
class Part:
    """One of the data sets that a model learns from.

    Attributes:
        kind: gives the loss.
        examples: training examples, with labels.
    """

    kind: TaskKind
    examples: list[Example]


@dataclass(frozen=True)
class EpochReport:
    """One look at the validation rows.

    Attributes:
        epoch: that it ends, from 1.
        step: optimizer steps done.
        train_loss: mean over the epoch's batches.
        metrics: validation metrics.
        seconds: trained so far.
        is_best: whether the deciding metric is the best so far.
    """

    epoch: int
    step: int
    train_loss: float
    metrics: Mapping[str, float]
    seconds: float
    is_best: bool


@dataclass(frozen=True)
class Hooks:
    """What the loop calls.

    Attributes:
        evaluate: returns the validation metrics of the model as it is.
        record: called after each evaluation, before the checkpoint.
        checkpoint: called with the state of the run, whenever it should be kept.
    """

    evaluate: Callable[[], dict[str, float]]
    record: Callable[[EpochReport], None]
    checkpoint: Callable[[Progress], None]


def make_optimizer(model: PromptedModel, config: RunConfig) -> torch.optim.AdamW:
    """AdamW over what is trained; the head has its own learning rate."""
    training = config.training
    parameters = trained_parameters(model)
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in parameters.items() if not is_head_parameter(name)], "lr": training.learning_rate},
        {"params": [p for name, p in parameters.items() if is_head_parameter(name)], "lr": training.head_learning_rate},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=training.weight_decay)


def make_batches(config: RunConfig, examples: list[Example]) -> LengthBatches:
    """Batches of similar length, by number of examples or by tokens."""
    training = config.training
    return LengthBatches(
        [example.length for example in examples],
        batch_size=None if training.batch_tokens else training.batch_size,
        batch_tokens=training.batch_tokens,
        num_sequences=[len(example.sequences) for example in examples],
        seed=training.seed,
    )


def epochs_for_steps(batches: LengthBatches | MixedBatches, steps: int, accumulation: int) -> int:
    """The epochs that a number of optimizer steps needs; they differ in length where batches are made by tokens."""
    epochs = done = 0
    while done < steps:
        done += math.ceil(batches.num_batches(epochs) / accumulation)
        epochs += 1
    return epochs


def fit(
    model: PromptedModel,
    parts: Sequence[Part],
    batches: MixedBatches,
    tokenizer: object,
    config: RunConfig,
    *,
    metric: str,
    accelerator: Accelerator,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    hooks: Hooks,
    report: Reporter,
) -> None:
    """Trains a model from where `progress` stands to the end.

    Args:
        model: with prompts, and for each part the head of its index, on the accelerator's device.
        parts: the data sets, mostly one.
        batches: of the examples of all parts.
        tokenizer: for padding.
        config: resolved settings.
        metric: the validation metric that picks the best epoch; higher is better.
        accelerator: runs the backward and clips gradients.
        optimizer: over `trained_parameters(model)`.
        progress: where the run stands; updated in place.
        hooks: evaluation and what is kept.
        report: who is told.

    Raises:
        TrainingError: a loss or a gradient is not finite.
    """
    training = config.training
    epoch_ends: list[int] = []  # optimizer steps done at the end of each epoch
    assert training.epochs is not None  # `resolve_config` says how many
    for epoch in range(training.epochs):
        steps = math.ceil(batches.num_batches(epoch) / training.accumulation)
        epoch_ends.append(steps + (epoch_ends[-1] if epoch_ends else 0))
    total_steps = min(training.max_steps or epoch_ends[-1], epoch_ends[-1])
    factor = schedule_factor(training.schedule, epoch_ends=epoch_ends, total_steps=total_steps, warmup=training.warmup)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    parameters = list(trained_parameters(model).values())
    padding, device = padding_ids(tokenizer), parameters[0].device
    started = time.monotonic() - progress.seconds
    report.start(total_steps, progress.step)
    model.train()
    while not progress.finished:
        order = batches.batches(progress.epoch)
        losses: list[Tensor] = []  # not read yet, as the norms
        norms: list[Tensor] = []
        while progress.batch < len(order) and progress.step < total_steps:
            group = order[progress.batch : progress.batch + training.accumulation]
            for part, indices in group:
                batch = collate([parts[part].examples[index] for index in indices], *padding).to(device)
                logits = model.logits(
                    batch.input_ids,
                    batch.attention_mask,
                    batch.token_type_ids,
                    head=part,
                    lower_states=None if model.lower_states is None else model.lower_states.of(batch),
                )
                loss = parts[part].kind.loss(logits, batch)
                accelerator.backward(loss / len(group))
                losses.append(loss.detach())
            norms.append(accelerator.clip_grad_norm_(parameters, training.max_grad_norm))
            for optimized, rate in zip(optimizer.param_groups, base_rates, strict=True):
                optimized["lr"] = rate * factor(progress.step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            progress.batch += len(group)
            progress.step += 1
            is_kept = training.checkpoint_steps is not None and progress.step % training.checkpoint_steps == 0
            if len(losses) >= _LOSSES_AT_ONCE or is_kept or progress.batch >= len(order):
                _read(losses, norms, progress, config)
                report.step(progress.step, progress.loss_sum / progress.batch)
            if is_kept and progress.batch < len(order):
                progress.seconds = time.monotonic() - started
                hooks.checkpoint(progress)
        _read(losses, norms, progress, config)
        metrics = hooks.evaluate()
        progress.seconds = time.monotonic() - started
        is_best = progress.best_score is None or metrics[metric] > progress.best_score
        if is_best:
            progress.best_score, progress.best_epoch, progress.evaluations_without_gain = (
                metrics[metric],
                progress.epoch + 1,
                0,
            )
        else:
            progress.evaluations_without_gain += 1
        train_loss = progress.loss_sum / max(progress.batch, 1)
        hooks.record(EpochReport(progress.epoch + 1, progress.step, train_loss, metrics, progress.seconds, is_best))
        report.evaluated(progress.epoch + 1, train_loss, metrics, metric, is_best)
        progress.metric_lines += 1
        is_patience_over = progress.evaluations_without_gain >= (training.early_stopping or math.inf)
        progress.epoch, progress.batch, progress.loss_sum = progress.epoch + 1, 0, 0.0
        progress.finished = progress.epoch == training.epochs or progress.step >= total_steps or is_patience_over
        hooks.checkpoint(progress)


def _read(losses: list[Tensor], norms: list[Tensor], progress: Progress, config: RunConfig) -> None:
    """Adds losses to the epoch's sum, in order, and makes sure that they and the gradients' norms are finite."""
    if not losses:
        return
    values = torch.stack([*losses, *norms]).tolist()  # one wait for the device
    for loss in values[: len(losses)]:
        check_finite("the loss", loss, config, progress.step)
        progress.loss_sum += loss
    for norm in values[len(losses) :]:
        check_finite("the norm of the gradients", norm, config, progress.step)
    losses.clear()
    norms.clear()
