"""A learning rate from a short run before training, in which rates rise from far too low to far too high.

It has a model of its own, with the prompts and head that the run starts from, on the run's first batches. Nothing of it
stays but the rate: the run afterwards is the same as with that rate given.

Source: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.3 (the range test). The loss
is smoothed as in fastai's `lr_find`, whose rule `minimum` takes a tenth of the rate at which it is lowest. Here it is
half: on 2,000 sentences of SST-2 with MiniLM it is lowest at 0.03 for prompts and at 3.7e-4 for fine-tuning, close to
rates that train well. There rates begin and end at fixed numbers, here at a hundredth and a hundredfold of the method's
default.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from ptuning.backbones.loading import Backbone
from ptuning.config import RunConfig
from ptuning.config.methods import usual_learning_rate
from ptuning.data.batching import Example, MixedBatches
from ptuning.errors import TrainingError
from ptuning.inference import padding_ids
from ptuning.model import PromptedModel, trained_parameters
from ptuning.tasks import TaskKind
from ptuning.training.assembly import assemble_model
from ptuning.training.guard import is_out_of_memory, out_of_memory_error
from ptuning.training.loop import make_optimizer
from ptuning.training.micro_batches import Chosen, MicroBatches
from ptuning.training.processes import Processes
from ptuning.training.reporting import Reporter
from ptuning.training.seed import kept_random_state, seed_everything, seed_process
from ptuning.training.value_rate import FACTOR

STEPS = 100
SPAN = 100.0
"""The lowest rate is the run's default divided by this, the highest is the default times this."""

_BELOW_LOWEST = 2.0  # the rate that is chosen is so many times lower than the one with the lowest loss
_SMOOTHING = 0.9  # part of the mean loss so far that a step keeps
_HOPELESS = 4.0  # times the first loss: rates can only be worse from there on
_DIGITS = 3


def find_learning_rate(
    config: RunConfig,
    kind: TaskKind,
    examples: list[Example],
    batches: MixedBatches,
    backbone: Backbone,
    processes: Processes,
    report: Reporter,
) -> float:
    """Finds a learning rate for what a method trains.

    The head has the same rate, and so have values, where they have none of their own. Random state is what it was, and
    so is the backbone.

    Args:
        config: resolved settings, without `training.learning_rate`.
        kind: of the task.
        examples: to train on.
        batches: of them.
        backbone: without prompts.
        processes: of the run, which share every batch.
        report: who is told.

    Returns:
        The rate, with three digits.

    Raises:
        TrainingError: the loss is no number even at the lowest rate, or memory ran out.
    """
    usual = usual_learning_rate(config, backbone.description.hidden_size)
    assert usual is not None
    rates = [usual * SPAN ** (2 * step / (STEPS - 1) - 1) for step in range(STEPS)]
    with kept_random_state():
        seed_everything(config.training.seed)
        model: PromptedModel | None = None
        try:
            model = assemble_model(config, backbone, kind, examples)
            seed_process(config.training.seed, processes.index)
            losses = _losses(model, config, rates, kind, examples, batches, backbone, processes, report)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise out_of_memory_error(config, error) from error
            raise
        finally:
            if model is not None:
                model.detach()
    if not losses:
        raise TrainingError(
            f"the loss is not finite at learning_rate {rates[0]:g}, the lowest that training.learning_rate_probe "
            f"tries (precision {config.training.precision}), expected a number. Set training.precision to fp32, or "
            "look for what is wrong with the data."
        )
    lowest, chosen = choose_rate(rates, losses)
    report.note(
        f"learning_rate {chosen:g}, half of {lowest:.3g}, where the loss was lowest in {len(losses)} steps with "
        f"rates from {rates[0]:.3g} to {rates[len(losses) - 1]:.3g}"
    )
    return chosen


def choose_rate(rates: Sequence[float], losses: Sequence[float]) -> tuple[float, float]:
    """Returns the rate at which the smoothed loss is lowest, and the one to train with: half of it.

    Args:
        rates: ascending.
        losses: at least one, of the steps with the first of these rates; all finite.
    """
    smoothed = list(_smoothed(losses))
    lowest = rates[smoothed.index(min(smoothed))]
    chosen = max(lowest / _BELOW_LOWEST, rates[0])
    return lowest, float(f"{chosen:.{_DIGITS}g}")


def _smoothed(losses: Sequence[float]) -> Iterator[float]:
    """The moving average after each loss, without its bias towards 0 at the beginning."""
    average = 0.0
    for step, loss in enumerate(losses, start=1):
        average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
        yield average / (1 - _SMOOTHING**step)


def _losses(
    model: PromptedModel,
    config: RunConfig,
    rates: Sequence[float],
    kind: TaskKind,
    examples: list[Example],
    batches: MixedBatches,
    backbone: Backbone,
    processes: Processes,
    report: Reporter,
) -> list[float]:
    """The loss before each step, as far as losses are finite and not hopelessly high."""
    training = config.training
    known = {"learning_rate": rates[0], "head_learning_rate": training.head_learning_rate or rates[0]}
    optimizer = make_optimizer(model, [config.model_copy(update={"training": training.model_copy(update=known)})])
    parameters = list(trained_parameters(model).values())
    accelerator = processes.accelerator
    micro_batches = MicroBatches(
        model,
        [kind],
        padding=padding_ids(backbone.tokenizer),
        accelerator=accelerator,
        processes=processes,
        config=config,
        report=report,
    )
    coming = _endless(batches, examples)
    losses: list[float] = []
    model.train()
    for rate in rates:
        chosen = [next(coming) for _ in range(training.accumulation)]
        found = micro_batches.backward(chosen, training.accumulation)
        norm = accelerator.clip_grad_norm_(parameters, training.max_grad_norm)
        loss = float(torch.stack([loss for _, loss in found]).mean())
        if not (math.isfinite(loss) and math.isfinite(float(norm))):
            break
        losses.append(loss)
        *_, smoothed = _smoothed(losses)
        if smoothed > _HOPELESS * losses[0]:
            break
        prompts, *head = optimizer.param_groups
        for group in (prompts, *head) if training.head_learning_rate is None else (prompts,):
            group["lr"] = rate
        if FACTOR in prompts:
            assert training.value_learning_rate is not None
            prompts[FACTOR] = training.value_learning_rate / rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return losses


def _endless(batches: MixedBatches, examples: list[Example]) -> Iterator[Chosen]:
    """The batches of all epochs, one after another."""
    epoch = 0
    while True:
        for part, indices in batches.batches(epoch):
            yield {0: (part, [examples[index] for index in indices])}
        epoch += 1
