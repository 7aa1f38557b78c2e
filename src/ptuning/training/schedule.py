"""Learning-rate schedules, as a factor of the base rate for each optimizer step."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Literal

Schedule = Literal["linear", "constant", "exponential_per_epoch"]
DECAY_PER_EPOCH = 0.95


def schedule_factor(
    schedule: Schedule, *, epoch_ends: Sequence[int], total_steps: int, warmup: float
) -> Callable[[int], float]:
    """Returns step -> factor, for steps counted from 0.

    Args:
        schedule: `linear` falls to 0 at the end; `constant` stays; `exponential_per_epoch` is multiplied by 0.95
            after each epoch, and does not warm up.
        epoch_ends: optimizer steps done at the end of each epoch, ascending.
        total_steps: optimizer steps of the run.
        warmup: fraction of all steps in which the factor rises from near 0 to 1.

    Source: `exponential_per_epoch` is the official code's ExponentialTrainer for NER, SRL and QA.
    """
    if schedule == "exponential_per_epoch":
        return lambda step: float(DECAY_PER_EPOCH ** bisect_right(epoch_ends, step))
    warmup_steps = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        if schedule == "constant":
            return 1.0
        return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))

    return factor
