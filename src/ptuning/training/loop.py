"""The training loop: one readable function for every kind of task, for several data sets that share prompts, and for
many candidates that learn side by side.

What trains is `trained_parameters(model)`; what is asked of the model is in the task kind; what a run leaves on disk
is in `execution.py`. The loop can be stopped at any moment and taken up again with the same result, since everything
that decides the next step (parameters, optimizer, random state, place in the data) is in `checkpoints/last`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ptuning.config import RunConfig
from ptuning.data.batching import Example, LengthBatches, MixedBatches
from ptuning.errors import TrainingError
from ptuning.inference import padding_ids
from ptuning.model import PromptedModel, candidate_parameters, is_head_parameter
from ptuning.prompts import DeepPrompts
from ptuning.tasks import TaskKind
from ptuning.training.averaging import Averages
from ptuning.training.guard import divergence
from ptuning.training.micro_batches import Chosen, MicroBatches
from ptuning.training.processes import Processes
from ptuning.training.reporting import EpochReport, Reporter
from ptuning.training.schedule import schedule_factor
from ptuning.training.state import Progress
from ptuning.training.value_rate import FACTOR, give_values_their_rate

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
class Candidate:
    """One of the prompts that are trained, by its own settings; mostly the only one.

    The candidate of number i has entry i of the model's bank, and the heads from i times the number of parts on.

    Attributes:
        config: resolved settings.
        batches: of the examples of all parts, in its own order.
    """

    config: RunConfig
    batches: MixedBatches


@dataclass(frozen=True)
class Hooks:
    """What the loop calls.

    Attributes:
        evaluate: returns the validation metrics of a candidate as it is; the deciding one is not finite where it has
            diverged.
        record: called after each evaluation, before the checkpoint.
        checkpoint: called with the state of the run, whenever it should be kept.
    """

    evaluate: Callable[[int], dict[str, float]]
    record: Callable[[EpochReport], None]
    checkpoint: Callable[[Progress], None]


def make_optimizer(model: PromptedModel, configs: Sequence[RunConfig]) -> torch.optim.AdamW:
    """AdamW over what is trained: for each candidate a group of its prompts and one of its heads, with their rates.

    Values of prompts move by a rate of their own where they have one.
    """
    groups: list[dict[str, Any]] = []
    apart: dict[int, DeepPrompts] = {}  # whose values have a rate of their own
    for candidate, config in enumerate(configs):
        training = config.training
        parameters = candidate_parameters(model, candidate, len(configs))
        prompts = [p for name, p in parameters.items() if not is_head_parameter(name)]
        head = [p for name, p in parameters.items() if is_head_parameter(name)]
        for members, rate in ((prompts, training.learning_rate), (head, training.head_learning_rate)):
            if members:
                options = {"lr": rate, "weight_decay": training.weight_decay, "candidate": candidate}
                groups.append({"params": members, **options})
        own = model.bank.prompts[candidate]
        if training.value_learning_rate is not None and training.learning_rate and isinstance(own, DeepPrompts):
            groups[-2 if head else -1][FACTOR] = training.value_learning_rate / training.learning_rate
            apart[candidate] = own
    optimizer = torch.optim.AdamW(groups)
    if apart:
        give_values_their_rate(optimizer, apart)
    return optimizer


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
    candidates: Sequence[Candidate],
    tokenizer: object,
    *,
    metric: str,
    accelerator: Accelerator,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    hooks: Hooks,
    report: Reporter,
    averages: Averages | None = None,
    survivors: Mapping[int, int] | None = None,
    candidates_at_once: int | None = None,
    processes: Processes | None = None,
) -> None:
    """Trains a model from where `progress` stands to the end.

    Args:
        model: for each candidate with an entry of its bank, and for each part of each candidate with a head.
        parts: the data sets, mostly one.
        candidates: what is trained, mostly one. All make the same number of steps.
        tokenizer: for padding.
        metric: the validation metric that picks the best epoch; higher is better.
        accelerator: runs the backward and clips gradients.
        optimizer: of `make_optimizer`.
        progress: where the run stands; updated in place.
        hooks: evaluation and what is kept.
        report: who is told.
        averages: of what is trained, where some candidate has them; as they stand, and updated in place.
        survivors: after an epoch (from 1), how many of the candidates go on at most; the others are dropped.
        candidates_at_once: how many share a forward; all by default.
        processes: of the run, which share every batch; without them this one has all of it.

    Raises:
        TrainingError: all candidates have diverged, which are dropped when a loss, a gradient or an output in
            validation is not finite; or a single example does not fit into memory.
    """
    training = candidates[0].config.training  # what all of them have in common
    factors, epoch_ends = _schedules(candidates)
    total_steps = min(training.max_steps or epoch_ends[-1], epoch_ends[-1])
    base_rates = [group["lr"] for group in optimizer.param_groups]
    owned = [list(candidate_parameters(model, number, len(candidates)).values()) for number, _ in enumerate(candidates)]
    averages = averages or Averages(model, [candidate.config for candidate in candidates])
    kinds, padding = [part.kind for part in parts], padding_ids(tokenizer)
    micro_batches = MicroBatches(
        model,
        kinds,
        padding=padding,
        accelerator=accelerator,
        processes=processes,
        config=candidates[0].config,
        report=report,
    )
    started = time.monotonic() - progress.seconds
    report.start(total_steps, progress.step)
    model.train()
    while not progress.finished:
        orders = {number: candidates[number].batches.batches(progress.epoch) for number in progress.alive}
        num_batches = max(map(len, orders.values()), default=0)  # as many for all
        losses: list[tuple[int, Tensor]] = []  # not read yet, as the norms
        norms: list[tuple[int, Tensor]] = []
        while progress.alive and progress.batch < num_batches and progress.step < total_steps:
            alive = progress.alive  # fewer when one has diverged
            size = min(training.accumulation, num_batches - progress.batch)
            places = range(progress.batch, progress.batch + size)
            batches = _batches(parts, orders, alive, places, candidates_at_once or len(alive))
            losses += micro_batches.backward(batches, size)
            for number in alive:
                limit = candidates[number].config.training.max_grad_norm
                norms.append((number, accelerator.clip_grad_norm_(owned[number], limit)))
            for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = rate * factors[group["candidate"]](progress.step)
            optimizer.step()
            averages.update(alive)
            optimizer.zero_grad(set_to_none=True)
            progress.batch += size
            progress.step += 1
            is_kept = training.checkpoint_steps is not None and progress.step % training.checkpoint_steps == 0
            if len(losses) >= _LOSSES_AT_ONCE * len(alive) or is_kept or progress.batch >= num_batches:
                _read(losses, norms, progress, candidates, report)
                report.step(progress.step, fmean(progress.standings[n].loss_sum for n in alive) / progress.batch)
            if is_kept and progress.batch < num_batches:
                progress.seconds = time.monotonic() - started
                hooks.checkpoint(progress)
        _read(losses, norms, progress, candidates, report)
        epoch, is_last = progress.epoch + 1, progress.epoch + 1 == training.epochs or progress.step >= total_steps
        if is_last or epoch % (training.evaluation_epochs or 1) == 0 or epoch in (survivors or {}):
            for number in progress.alive:
                with averages.in_place_of_weights(number):
                    _evaluate(number, candidates, metric, started, progress, hooks, report)
        for standing in progress.standings:
            standing.loss_sum = 0.0
        if survivors is not None and epoch in survivors:
            by_score = sorted(progress.alive, key=lambda number: -progress.standings[number].last_score)
            for number in by_score[survivors[epoch] :]:
                progress.standings[number].is_over = True
        progress.epoch, progress.batch = progress.epoch + 1, 0
        progress.finished = progress.epoch == training.epochs or progress.step >= total_steps or not progress.alive
        hooks.checkpoint(progress)


def _schedules(candidates: Sequence[Candidate]) -> tuple[list[Callable[[int], float]], list[int]]:
    """Each candidate's step -> factor of its rates, and the optimizer steps done at the end of each epoch."""
    factors, ends = [], []
    for candidate in candidates:
        training = candidate.config.training
        assert training.epochs is not None  # `resolve_config` says how many
        steps = [math.ceil(candidate.batches.num_batches(e) / training.accumulation) for e in range(training.epochs)]
        ends.append(list(accumulate(steps)))
        total = min(training.max_steps or ends[-1][-1], ends[-1][-1])
        factors.append(
            schedule_factor(training.schedule, epoch_ends=ends[-1], total_steps=total, warmup=training.warmup)
        )
    assert all(own == ends[0] for own in ends)
    return factors, ends[0]


def _batches(
    parts: Sequence[Part],
    orders: Mapping[int, Sequence[tuple[int, list[int]]]],
    alive: Sequence[int],
    places: Iterable[int],
    candidates_at_once: int,
) -> list[Chosen]:
    """The batches of a step, each with the candidates that share a forward.

    Args:
        parts: the data sets.
        orders: for each candidate the batches of the epoch.
        alive: the candidates that are trained.
        places: of the step in them.
        candidates_at_once: how many share a forward.
    """
    together = [alive[start : start + candidates_at_once] for start in range(0, len(alive), candidates_at_once)]
    chosen = [{number: orders[number][place] for number in some} for place in places for some in together]
    return [
        {number: (part, [parts[part].examples[i] for i in indices]) for number, (part, indices) in one.items()}
        for one in chosen
    ]


def _evaluate(
    number: int,
    candidates: Sequence[Candidate],
    metric: str,
    started: float,
    progress: Progress,
    hooks: Hooks,
    report: Reporter,
) -> None:
    """Scores a candidate at the end of an epoch, and notes how it stands."""
    standing = progress.standings[number]
    metrics = hooks.evaluate(number)
    if not math.isfinite(metrics[metric]):
        _drop(number, f"the validation {metric}", metrics[metric], progress, candidates, report)
        return
    progress.seconds = time.monotonic() - started
    standing.last_score = metrics[metric]
    is_best = standing.best_score is None or metrics[metric] > standing.best_score
    if is_best:
        standing.best_score, standing.best_epoch, standing.evaluations_without_gain = (
            metrics[metric],
            progress.epoch + 1,
            0,
        )
    else:
        standing.evaluations_without_gain += 1
    found = EpochReport(
        candidate=None if len(progress.standings) == 1 else number,
        epoch=progress.epoch + 1,
        step=progress.step,
        train_loss=standing.loss_sum / max(progress.batch, 1),
        metrics=metrics,
        seconds=progress.seconds,
        is_best=is_best,
    )
    hooks.record(found)
    report.evaluated(found, metric)
    progress.metric_lines += 1
    patience = candidates[number].config.training.early_stopping or math.inf
    standing.is_over = standing.evaluations_without_gain >= patience


def _read(
    losses: list[tuple[int, Tensor]],
    norms: list[tuple[int, Tensor]],
    progress: Progress,
    candidates: Sequence[Candidate],
    report: Reporter,
) -> None:
    """Adds losses to the epoch's sums, in order, and drops candidates whose losses or gradients' norms are not finite.

    Their parameters are no numbers by then, which does not matter to the others: no row of a batch sees another.

    Raises:
        TrainingError: all candidates have diverged.
    """
    if not losses:
        return
    values = torch.stack([value for _, value in (*losses, *norms)]).tolist()  # one wait for the device
    wrong: dict[int, tuple[str, float]] = {}
    for place, ((number, _), value) in enumerate(zip((*losses, *norms), values, strict=True)):
        is_loss = place < len(losses)
        if not math.isfinite(value):
            wrong.setdefault(number, ("the loss" if is_loss else "the norm of the gradients", value))
        elif is_loss:
            progress.standings[number].loss_sum += value
    losses.clear()
    norms.clear()
    for number, (what, value) in wrong.items():
        _drop(number, what, value, progress, candidates, report)


def _drop(
    number: int, what: str, value: float, progress: Progress, candidates: Sequence[Candidate], report: Reporter
) -> None:
    """Trains a candidate no further that has diverged.

    Raises:
        TrainingError: all have.
    """
    progress.standings[number].is_over = progress.standings[number].has_diverged = True
    said = divergence(what, value, candidates[number].config, progress.step)
    whose, also = (f"candidate {number}: ", " All others have diverged too.") if len(candidates) > 1 else ("", "")
    if all(standing.has_diverged for standing in progress.standings):
        raise TrainingError(
            f"{whose}{said}, and start again with --overwrite. The saved prompt, if there is one yet, is from before."
            f"{also}"
        )
    report.warn(f"{whose}{said} another time. It is trained no further.")
