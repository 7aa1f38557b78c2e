"""What the planner says of large backbones, as Markdown tables: memory, and the largest batch."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from large_parts.measuring import Setup
from large_parts.predicting import plan_setup
from large_parts.sizes import write_config

FINE_TUNING = "fine-tuning"

_ANY_RATE = 1.0  # of products: no time is asked for, so none is measured


def plan_all(
    names: Sequence[str], storages: Sequence[str], setup: Setup, device: str, memory_bytes: int, *, tiny: bool
) -> dict[str, dict[str, Any]]:
    """Plans trainings of prompts on each storage, and fine-tuning with products in bf16.

    Returns:
        For each backbone its `num_parameters`, and for each storage, and for `FINE_TUNING`, what the tables show.
    """
    plans: dict[str, dict[str, Any]] = {}
    for name in names:
        with tempfile.TemporaryDirectory() as directory:
            write_config(name, Path(directory), tiny=tiny)
            plans[name] = {}
            for case in (*storages, FINE_TUNING):
                is_tuned = case == FINE_TUNING
                plan = plan_setup(
                    Path(directory),
                    "bf16" if is_tuned else case,
                    setup,
                    device,
                    method="fine-tuning" if is_tuned else "p-tuning-v2",
                    memory_bytes=memory_bytes,
                    rate=_ANY_RATE,
                )
                plans[name]["num_parameters"] = plan.num_parameters
                plans[name][case] = {
                    "trained_parameters": plan.trained_parameters,
                    "weights_bytes": plan.weights_bytes,
                    "peak_bytes": plan.peak_bytes,
                    "largest_batch_size": plan.largest_batch_size,
                }
                print(f"{name}, {case}: {plan.peak_bytes / 1e9:.1f} GB", file=sys.stderr)
    return plans


def memory_table(plans: dict[str, dict[str, Any]], storages: Sequence[str]) -> str:
    """Memory in GB, 10^9 bytes: of the weights, and the most at once of a training."""
    titles = [f"{what} {storage}" for what in ("weights", "training") for storage in storages]
    rows = [["backbone", "parameters", *titles, FINE_TUNING]]
    for name, plan in plans.items():
        sizes = [plan[storage]["weights_bytes"] for storage in storages]
        sizes += [plan[case]["peak_bytes"] for case in (*storages, FINE_TUNING)]
        rows.append([name, f"{plan['num_parameters'] / 1e9:.2f}B", *(f"{size / 1e9:.1f}" for size in sizes)])
    return _markdown(rows)


def batch_table(plans: dict[str, dict[str, Any]], storages: Sequence[str]) -> str:
    """The largest batch that fits."""
    rows = [["backbone", *storages, FINE_TUNING]]
    for name, plan in plans.items():
        found = [plan[case]["largest_batch_size"] for case in (*storages, FINE_TUNING)]
        rows.append([name, *(str(number or "none") for number in found)])
    return _markdown(rows)


def _markdown(rows: list[list[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
