"""The time of an epoch: our training as it is, against the usual scripts as they are.

Ours is `ptuning.train` with its defaults and batches of 32, in the precision that `training.precision: auto` takes
here, and in the other one. Theirs is the Trainer with random batches of 32. All sides take their steps in turns.
A step's time is all that passes from one optimizer step to the next: reading, padding, forward, backward, clipping.

An epoch's steps are cut into blocks. Of each block the time a position is taken; their median times the positions of a
whole epoch is the epoch's time. Where not all steps were measured, it is extrapolated, and marked so. The first step
after a side has stood still is left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from speed_parts.jobs import our_job, usual_job
from speed_parts.options import Options
from speed_parts.rows import RealSet
from speed_parts.workers import Job, Worker, start_all, stop_all, take_turns

WITH_DROPOUT = ", backbone dropout"  # how the name of such a side ends
WARM_UP = 2  # steps of a side that nobody counts; a Trainer's have the largest batch


@dataclass(frozen=True)
class EpochOfSide:
    """What an epoch of a side consists of.

    Attributes:
        job: that runs it.
        precision: of the matrix products.
        measured: positions of each step that is timed, in order.
        epoch: positions of each step of the whole epoch.
        warm_up: steps before those.
    """

    job: Job
    precision: str
    measured: list[int]
    epoch: list[int]
    warm_up: int = WARM_UP


def compare_epochs(options: Options, real_set: RealSet) -> dict[str, Any]:
    """Times ours in both precisions, in bf16 also with the checkpoint's dropout, and the usual scripts in fp32.

    Returns:
        Side -> what was measured, as JSON values.
    """
    sides = {f"ptuning {precision}": our_side(options, real_set, precision) for precision in ("bf16", "fp32")}
    sides[f"ptuning bf16{WITH_DROPOUT}"] = our_side(options, real_set, "bf16", training__backbone_dropout="checkpoint")
    for method, steps in {"peft": options.usual_steps, "full": options.full_steps}.items():
        sides[method] = usual_side(options, real_set, method, steps)
    if options.adapters_python:
        sides["adapters"] = usual_side(options, real_set, "adapters", options.full_steps)
    return time_epochs(options, real_set, sides)


def time_epochs(options: Options, real_set: RealSet, sides: Mapping[str, EpochOfSide]) -> dict[str, Any]:
    """Times sides in turns.

    Returns:
        Side -> what was measured, as JSON values.
    """
    workers = start_all({name: side.job for name, side in sides.items()}, options.directory)
    try:
        take_turns(workers, {name: side.warm_up - 1 for name, side in sides.items()}, stretches=1)
        counts = {name: len(side.measured) for name, side in sides.items()}
        first = take_turns(workers, counts, stretches=options.stretches)
        return {
            name: _result(real_set, side, first[name], options.blocks, workers[name]) for name, side in sides.items()
        }
    finally:
        stop_all(workers)


def our_side(
    options: Options, real_set: RealSet, precision: str, *, warm_up: int = WARM_UP, **overrides: Any
) -> EpochOfSide:
    """Our first epoch, from its start.

    Args:
        options: for the number of steps.
        real_set: what is learned.
        precision: of the backbone.
        warm_up: steps that are not counted.
        overrides: settings, with `__` for the dot in their names.

    Raises:
        SystemExit: the epoch has no more steps than the warm-up.
    """
    epoch = [real_set.positions(batch) for batch in real_set.our_batches()]
    end = min(warm_up + options.our_steps, len(epoch))
    if end <= warm_up:
        raise SystemExit(f"{real_set.name} has {len(epoch)} batches, expected more than {warm_up}. Give it more rows.")
    output = "-".join(["epoch", precision, *(str(value) for value in overrides.values())])
    job = our_job(options, real_set, output, training__precision=precision, training__epochs=1, **overrides)
    return EpochOfSide(job, precision, epoch[warm_up:end], epoch, warm_up)


def usual_side(options: Options, real_set: RealSet, method: str, steps: int, *, precision: str = "fp32") -> EpochOfSide:
    """Some batches of a Trainer's first epoch, of all sizes.

    Args:
        options: for the prompts.
        real_set: what is learned.
        method: `peft`, `adapters` or `full`.
        steps: that are measured at most.
        precision: `fp32`, or `bf16` under autocast.
    """
    batches = real_set.random_batches()
    first, *rest = real_set.sample(batches, steps)
    rows = real_set.write(options.directory, [*[first] * WARM_UP, *rest], name=method)
    job = usual_job(options, real_set, method, rows, in_order=True, precision=precision)
    epoch = [real_set.positions(batch) for batch in batches]
    return EpochOfSide(job, precision, [real_set.positions(batch) for batch in rest], epoch)


def _result(real_set: RealSet, side: EpochOfSide, first: set[int], blocks: int, worker: Worker) -> dict[str, Any]:
    """What is known of a side.

    Args:
        real_set: of the epoch.
        side: that was timed.
        first: steps, of the measured ones, before which it stood still.
        blocks: of which the median counts.
        worker: that timed it.
    """
    whole = worker.seconds[side.warm_up :]
    kept = [step for step in range(len(whole)) if step not in first or len(first) == len(whole)]
    seconds, positions = [whole[step] for step in kept], [side.measured[step] for step in kept]
    of_blocks = epoch_seconds_of_blocks(seconds, positions, sum(side.epoch), blocks)
    epoch_seconds = statistics.median(of_blocks)
    return {
        "precision": side.precision,
        "steps_measured": len(kept),
        "steps_of_epoch": len(side.epoch),
        "is_extrapolated": len(kept) < len(side.epoch),
        "step_ms": round(1000 * statistics.median(seconds), 2),
        "epoch_seconds": round(epoch_seconds, 3),
        "epoch_seconds_of_blocks": [round(value, 3) for value in of_blocks],
        "tokens_per_second": round(real_set.num_tokens / epoch_seconds, 1),
        "positions_of_epoch": sum(side.epoch),
        "padding_share": round(1 - real_set.num_tokens / sum(side.epoch), 4),
        "peak_mb": round(worker.peak_bytes / 1e6, 1),
    }


def epoch_seconds_of_blocks(
    seconds: Sequence[float], positions: Sequence[int], epoch_positions: int, blocks: int
) -> list[float]:
    """Returns what an epoch takes as each of some blocks of steps has it.

    Args:
        seconds: of each step.
        positions: of each step.
        epoch_positions: of the whole epoch.
        blocks: to cut the steps into; fewer where there are fewer steps.
    """
    blocks = min(blocks, len(seconds))
    cuts = [block * len(seconds) // blocks for block in range(blocks + 1)]
    return [
        epoch_positions * sum(seconds[start:end]) / sum(positions[start:end])
        for start, end in zip(cuts, cuts[1:], strict=False)
    ]


def ratio(result: Mapping[str, Any], theirs: str, ours: str) -> float:
    """Returns how many times longer their epoch takes."""
    return round(result[theirs]["epoch_seconds"] / result[ours]["epoch_seconds"], 3)
