"""The processes of each side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from speed_parts.options import Options
from speed_parts.rows import SEED, RealSet
from speed_parts.workers import Job

LEARNING_RATES = {"peft": 1e-2, "adapters": 1e-2, "full": 5e-5}
"""Of the alternatives. Prompts train as ours do by default; 5e-5 is the Trainer's own default."""


def our_job(options: Options, real_set: RealSet, output: str, *, mode: str = "train", **overrides: Any) -> Job:
    """A run of ours.

    Args:
        options: for prompts, device and threads.
        real_set: what it learns.
        output: name of the run's directory.
        mode: `train` or `predict`.
        overrides: settings, with `__` for the dot in their names.
    """
    directory = options.directory / f"{real_set.name}-{output}"
    base = {"prompts__prompt_length": options.prompt_length, "output": str(directory)}
    config = real_set.config(**base, **overrides)
    settings = {"config": config, "mode": mode, "device": options.device, "threads": options.threads}
    return Job("our_script", settings)


def usual_job(
    options: Options,
    real_set: RealSet,
    method: str,
    rows: Path,
    *,
    in_order: bool,
    epochs: float = 1.0,
    evaluate_steps: int | None = None,
    mode: str = "train",
    precision: str = "fp32",
) -> Job:
    """A Trainer's run.

    Args:
        options: for prompts, device and threads.
        real_set: whose rows they are.
        method: `peft`, `adapters` or `full`.
        rows: file of `RealSet.write`.
        in_order: whether rows are taken as they come.
        epochs: over these rows.
        evaluate_steps: steps from one evaluation to the next, or None for no evaluation.
        mode: `train` or `predict`.
        precision: `fp32`, or `bf16` under autocast.
    """
    settings = {
        "method": method,
        "model": options.model,
        "rows": str(rows),
        "num_labels": real_set.prepared.kind.num_outputs,
        "prompt_length": options.prompt_length,
        "batch_size": real_set.batch_size,
        "learning_rate": LEARNING_RATES[method],
        "epochs": epochs,
        "in_order": in_order,
        "precision": precision,
        "evaluate_steps": evaluate_steps,
        "mode": mode,
        "device": options.device,
        "threads": options.threads,
        "seed": SEED,
    }
    python = options.adapters_python if method == "adapters" else None
    return Job("usual_script", settings, python or sys.executable)
