"""What the planner says of a training that is measured: the same backbone, sizes, prompts, storage and head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from large_parts.building import STORAGES
from large_parts.measuring import Setup
from ptuning.config import load_config
from ptuning.planning import Plan, make_plan


def plan_setup(
    directory: Path,
    storage: str,
    setup: Setup,
    device: str,
    *,
    method: str = "p-tuning-v2",
    memory_bytes: int | None = None,
    rate: float | None = None,
) -> Plan:
    """Plans a training of two classes by the first token, as `measure_steps` does it.

    Args:
        directory: with the backbone's `config.json`.
        storage: of its weights, a key of `building.STORAGES`; of `fine-tuning`, which has them in float32, the
            precision of products.
        setup: sizes.
        device: that it is for.
        method: what is trained.
        memory_bytes: of a device that is not here.
        rate: operations a second of matrix products; without it measured here, where the device is here.
    """
    dtype, quantization = STORAGES[storage]
    precision = "fp32" if dtype == torch.float32 else "bf16"
    settings: dict[str, Any] = {
        "task": "classification",  # with two labels, where there are no data
        "backbone": str(directory),
        "method": method,
        "data.max_length": setup.seq_len,
        "head.pooling": "cls",
        "training.device": device,
        "training.batch_size": setup.batch_size,
        "training.micro_batch_tokens": setup.batch_size * setup.seq_len,  # evaluations have as many rows
        "training.gradient_checkpointing": setup.recomputes,
        "training.precision": precision,
        "training.backbone_dropout": "off",
    }
    if method == "p-tuning-v2":
        settings |= {
            "prompts.layers": "all",
            "prompts.prompt_length": setup.prompt_length,
            "training.quantization": quantization,
        }
    return make_plan(load_config(None, settings), memory_bytes=memory_bytes, rate=rate)
