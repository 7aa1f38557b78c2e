"""Runs that are trained to a score: the time that each side needs, and what the upper layers alone come to.

Ours with prompts at all layers, ours with `layers: last:2` on a trunk that is computed once, and PEFT's usual script
learn the same set in turns of twenty steps. Time is that of optimizer steps; evaluations are left out, and so is the
first step, with which a process starts: a median step stands for it. Our sides are scored after each epoch, PEFT after
each quarter.
"""

from __future__ import annotations

import statistics
from typing import Any

from speed_parts.jobs import our_job, usual_job
from speed_parts.options import Options
from speed_parts.rows import RealSet
from speed_parts.workers import Job, Worker, start_all, stop_all

_STRETCH = 20  # steps of a side before it is the turn of the next
ALL, REUSE, PEFT = "ptuning all layers", "ptuning upper layers, trunk reuse", "peft"


def train_to_score(options: Options, real_set: RealSet, *, epochs: int, with_peft: bool) -> dict[str, Any]:
    """Trains the sides in turns.

    Args:
        options: for the target, and the epochs of PEFT at most.
        real_set: what is learned.
        epochs: of our sides.
        with_peft: whether PEFT learns too, until it reaches the target.

    Returns:
        Side -> seconds of each epoch, scores, and seconds to the target (None where it was not reached), as JSON
        values.
    """
    of_epoch = [len(real_set.our_batches(epoch)) for epoch in range(epochs)]
    jobs: dict[str, Job] = {ALL: our_job(options, real_set, "all", training__epochs=epochs)}
    upper = {"prompts__layers": options.upper_layers, "training__trunk_reuse": "on"}
    jobs[REUSE] = our_job(options, real_set, "reuse", training__epochs=epochs, **upper)
    usual_epoch = len(real_set.random_batches())
    if with_peft:
        jobs[PEFT] = usual_job(
            options,
            real_set,
            "peft",
            real_set.write(options.directory),
            in_order=False,
            epochs=epochs,
            evaluate_steps=max(1, usual_epoch // 4),
        )
    workers = start_all(jobs, options.directory)
    try:
        active = dict(workers)
        while active:
            for name, worker in list(active.items()):
                for _ in range(_STRETCH):
                    worker.advance()
                    if worker.is_over or (name == PEFT and _is_enough(worker, options, usual_epoch)):
                        worker.stop()
                        del active[name]
                        break
        return {name: _result(worker, options, of_epoch if name != PEFT else None) for name, worker in workers.items()}
    finally:
        stop_all(workers)


def _is_enough(worker: Worker, options: Options, steps_of_epoch: int) -> bool:
    """Whether PEFT has reached the target, or had the time that it is given."""
    is_reached = _turns_to(worker, options.target) is not None
    return is_reached or len(worker.seconds) >= options.usual_epochs * steps_of_epoch


def _result(worker: Worker, options: Options, of_epoch: list[int] | None) -> dict[str, Any]:
    seconds = [statistics.median(worker.seconds), *worker.seconds[1:]]
    turns = _turns_to(worker, options.target)
    result: dict[str, Any] = {
        "steps": len(seconds),
        "scores": [[turn, round(score, 4)] for turn, score in worker.scores],
        "best_score": round(max(score for _, score in worker.scores), 4) if worker.scores else None,
        "target": options.target,
        "seconds_to_target": None if turns is None else round(sum(seconds[:turns]), 2),
        "seconds": round(sum(seconds), 2),
        "peak_mb": round(worker.peak_bytes / 1e6, 1),
    }
    if of_epoch is not None:
        ends = [sum(of_epoch[: epoch + 1]) for epoch in range(len(of_epoch))]
        starts = [0, *ends[:-1]]
        result["epoch_seconds"] = [
            round(sum(seconds[start:end]), 3) for start, end in zip(starts, ends, strict=True) if end <= len(seconds)
        ]
    return result


def _turns_to(worker: Worker, target: float) -> int | None:
    return next((turn for turn, score in worker.scores if score >= target), None)


def trunk_reuse_ratio(result: dict[str, Any]) -> float | None:
    """Returns how many times faster later epochs of the upper layers alone are than epochs of all layers."""
    if REUSE not in result:
        return None
    later = result[REUSE]["epoch_seconds"][1:]
    return round(statistics.median(result[ALL]["epoch_seconds"]) / statistics.median(later), 3) if later else None
