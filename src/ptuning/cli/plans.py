"""A plan as people read it."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import typer

from ptuning.cli.tables import print_table, shown_share

if TYPE_CHECKING:
    from ptuning.planning import Plan

_WIDTH = 100


def print_plan(plan: Plan) -> None:
    """Prints what a training needs, and what was assumed for that."""
    rows = [
        ["backbone", f"{plan.num_parameters:,} parameters ({plan.num_transformer_parameters:,} of its transformer)"],
        ["trained", f"{plan.trained_parameters:,} ({shown_share(plan.trained_parameters, plan.num_parameters)})"],
        ["batch", f"{plan.batch_size} examples of at most {plan.max_length} tokens, {plan.precision} on {plan.device}"],
        ["frozen weights", shown_bytes(plan.weights_bytes)],
    ]
    if plan.laid_out_bytes:
        rows.append(["laid out for products", shown_bytes(plan.laid_out_bytes)])
    rows += [
        ["trained weights", shown_bytes(plan.trained_bytes)],
        ["gradients", shown_bytes(plan.gradient_bytes)],
        ["optimizer", shown_bytes(plan.optimizer_bytes)],
        ["activations of a batch", shown_bytes(plan.activation_bytes_per_batch)],
        ["workspace", shown_bytes(plan.workspace_bytes)],
        ["most at once", f"{shown_bytes(plan.peak_bytes)}, and {shown_bytes(plan.libraries_bytes)} of libraries"],
        ["memory", f"{shown_bytes(plan.memory_bytes)}: {'it fits' if plan.fits else 'it does not fit'}"],
    ]
    if plan.largest_batch_size is not None:
        rows.append(["largest batch", f"{plan.largest_batch_size:,} examples" if plan.largest_batch_size else "none"])
    if plan.seconds_per_step is not None and plan.rate is not None:
        rows.append(
            [
                "a step",
                f"{_shown_seconds(plan.seconds_per_step)}, at {plan.efficiency:.0%} of {plan.rate / 1e12:.3g} TFLOP/s",
            ]
        )
    if plan.steps_per_epoch is not None and plan.epochs is not None:
        steps = f"{plan.epochs} epochs of {plan.steps_per_epoch} steps"
        seconds = "" if plan.training_seconds is None else f", {_shown_seconds(plan.training_seconds)}"
        rows.append(["training", f"{steps}{seconds}"])
    print_table(["", f"{plan.method} for {plan.task} on {plan.backbone} ({plan.model_type})"], rows)
    typer.echo(textwrap.fill(f"Assumed: {'; '.join(plan.assumptions)}.", _WIDTH))


def shown_bytes(count: int) -> str:
    """`1.32 GB`, in powers of ten."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def _shown_seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
