"""Rows a second without gradients: the tokenized validation rows through each side, a pass a turn.

Ours is what `predict` and `evaluate` run: the longest rows first, a fixed number of tokens a batch. Theirs is
`Trainer.predict` with its batches of 32 in the order of the rows. What a model has learned makes no difference to the
time, so none has learned anything.
"""

from __future__ import annotations

import statistics
from typing import Any

from speed_parts.jobs import our_job, usual_job
from speed_parts.options import Options
from speed_parts.rows import RealSet
from speed_parts.workers import start_all, stop_all, take_turns


def compare_inference(options: Options, real_set: RealSet) -> dict[str, Any]:
    """Times passes in turns.

    Returns:
        Side -> seconds of a pass, rows a second and peak memory, as JSON values; medians over repeats.
    """
    rows = real_set.write(options.directory)
    methods = ("peft", "full")
    jobs = {"ptuning": our_job(options, real_set, "predict", mode="predict")} | {
        method: usual_job(options, real_set, method, rows, in_order=True, mode="predict") for method in methods
    }
    workers = start_all(jobs, options.directory)
    try:
        take_turns(workers, dict.fromkeys(workers, options.repeats), stretches=options.repeats)
        results = {}
        for name, worker in workers.items():
            seconds = statistics.median(worker.seconds[1:])
            results[name] = {
                "seconds": round(seconds, 3),
                "rows_per_second": round(len(real_set.prepared.validation) / seconds, 1),
                "peak_mb": round(worker.peak_bytes / 1e6, 1),
            }
        return results
    finally:
        stop_all(workers)
