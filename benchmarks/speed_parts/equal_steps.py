"""Our step against PEFT's on equal batches in equal precision: what the two libraries themselves cost.

The batches are ours, products are in bfloat16 on both sides: our backbone is stored so, PEFT's has float32 weights
under autocast, as its users have it. Before timing, both sides must agree in loss and gradients in float32, and in the
loss in bfloat16; so token types are left out on both sides, since PEFT drops them. The backbone's dropout is off on
both sides, then on.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ptuning import load_backbone
from ptuning.data.batching import collate
from ptuning.inference import padding_ids
from speed_parts.options import Options
from speed_parts.rows import RealSet
from speed_parts.sides import Inputs, Setup, Side, check_equal, our_side, peft_side, start_equal, timed_step

_LOSS_TOLERANCE = 0.02  # in bfloat16, where each side rounds in its own places


def compare_equal_steps(options: Options, real_set: RealSet) -> dict[str, Any]:
    """Times both sides in turns.

    Returns:
        `off` and `on` -> seconds of an epoch of each side, and PEFT's over ours, as JSON values; the numbers are
        medians over repeats, each of which runs the same sample of batches.
    """
    everything = real_set.our_batches()
    drawn = real_set.sample(everything, options.equal_steps)
    padding = padding_ids(load_backbone(options.backbone).tokenizer)
    batches = [_tensors(real_set, indices, padding, options.device) for indices in drawn]
    scale = sum(map(real_set.positions, everything)) / sum(map(real_set.positions, drawn[1:]))
    results = {}
    for mode in ("off", "on"):
        setup = Setup(
            options.backbone,
            options.device,
            options.prompt_length,
            real_set.prepared.kind.num_outputs,
            has_dropout=mode == "on",
        )
        sides = {
            "ptuning": our_side(setup, torch.bfloat16),
            "peft": peft_side(setup, torch.float32, autocast=torch.bfloat16),
        }
        if mode == "off":
            _check(setup, sides, batches[0])
        for side in sides.values():
            side.step(*batches[0])
        epochs: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(options.repeats):
            seconds = dict.fromkeys(sides, 0.0)
            for number, (inputs, labels) in enumerate(batches[1:]):
                for name in sides if number % 2 else reversed(sides):
                    seconds[name] += timed_step(sides[name], inputs, labels, options.device)
            for name, value in seconds.items():
                epochs[name].append(scale * value)
        results[mode] = {
            "batches": len(drawn) - 1,
            "is_extrapolated": len(drawn) - 1 < len(everything),
            "ptuning_epoch_seconds": round(statistics.median(epochs["ptuning"]), 3),
            "peft_epoch_seconds": round(statistics.median(epochs["peft"]), 3),
            "ratio": round(statistics.median(b / a for a, b in zip(epochs["ptuning"], epochs["peft"], strict=True)), 3),
        }
    return results


def _check(setup: Setup, timed: Mapping[str, Side], batch: tuple[Inputs, Tensor]) -> None:
    """Makes sure that both compute the same: loss and gradients in float32, and the loss as it is timed.

    Raises:
        SystemExit: they do not.
    """
    ours, theirs = our_side(setup, torch.float32), peft_side(setup, torch.float32)
    start_equal(ours, theirs)
    check_equal(ours, theirs, *batch, tolerance=1e-4)
    start_equal(timed["ptuning"], timed["peft"])
    with torch.no_grad():
        mine, other = (float(timed[name].loss(*batch)) for name in ("ptuning", "peft"))
    if abs(mine - other) > _LOSS_TOLERANCE * abs(other):
        raise SystemExit(f"the sides differ in bfloat16: ours has a loss of {mine:.4f}, PEFT of {other:.4f}")


def _tensors(
    real_set: RealSet, indices: list[int], padding: tuple[int, int], device: str
) -> tuple[dict[str, Tensor], Tensor]:
    batch = collate([real_set.examples[index] for index in indices], *padding).to(device)
    assert batch.labels is not None
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}, batch.labels
