"""Time and memory of training steps with prompts on a frozen backbone."""

from __future__ import annotations

import gc
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from ptuning.backbones.loading import Backbone
from ptuning.backbones.recomputation import start_recomputing
from ptuning.heads import make_head
from ptuning.model import PromptedModel, trained_parameters
from ptuning.prompts import DeepPrompts, PromptBank
from ptuning.training.guard import is_out_of_memory

_NUM_LABELS = 2


@dataclass(frozen=True)
class Setup:
    """What a step is made of.

    Attributes:
        prompt_length: virtual tokens a layer.
        batch_size: rows.
        seq_len: tokens a row; none is padding.
        recomputes: whether layers are computed again in the backward.
        steps: that are timed, after one that is not.
    """

    prompt_length: int
    batch_size: int
    seq_len: int
    recomputes: bool
    steps: int


def measure_steps(backbone: Backbone, setup: Setup, device: torch.device) -> dict[str, Any]:
    """Trains a few steps.

    Returns:
        `seconds` and `cpu_seconds`, the medians of a step; `peak_bytes`: on CUDA what tensors took at most, on a CPU
        what the process did (None where the system does not say); and `trained`, the number of parameters with
        gradients.

    Raises:
        RuntimeError: it does not fit, where `is_out_of_memory` says so; on CUDA a `torch.OutOfMemoryError`.
    """
    description = backbone.description
    bank = PromptBank(description.num_layers)
    bank.add(
        DeepPrompts(
            num_prompted_layers=description.num_layers,
            num_kv_heads=description.num_kv_heads,
            prompt_length=setup.prompt_length,
            head_dim=description.head_dim,
        )
    )
    head = make_head("sequence", description.hidden_size, _NUM_LABELS, pooling="cls")
    model = PromptedModel(backbone, bank, [head], backbone_dropout="off", check=False)
    try:
        if setup.recomputes:
            start_recomputing(backbone.model)
        model.train()
        parameters = trained_parameters(model)
        optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2)
        shape = (setup.batch_size, setup.seq_len)
        ids = torch.randint(description.vocab_size // 2, description.vocab_size, shape, device=device)
        mask, labels = torch.ones_like(ids), torch.zeros(setup.batch_size, dtype=torch.long, device=device)
        _forget_peak(device)
        seconds, cpu_seconds = [], []
        for _ in range(setup.steps + 1):
            _wait(device)
            start, cpu_start = time.perf_counter(), time.process_time()
            logits = model(ids, mask)[0].logits
            functional.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            _wait(device)
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu_start)
        return {
            "seconds": round(statistics.median(seconds[1:]), 4),
            "cpu_seconds": round(statistics.median(cpu_seconds[1:]), 4),
            "peak_bytes": _peak(device),
            "trained": sum(parameter.numel() for parameter in parameters.values()),
        }
    finally:
        model.detach()


def largest_batch(backbone: Backbone, setup: Setup, device: torch.device, most: int = 4096) -> int:
    """Returns the most rows whose step fits into a GPU's memory, to an eighth of itself."""
    fits, fails = 0, most + 1
    while fits == 0 or fails - fits > max(1, fits // 8):
        tried = min(2 * max(fits, 1), most) if fails > most else (fits + fails) // 2
        if tried in (fits, 0):
            break
        try:
            measure_steps(backbone, Setup(setup.prompt_length, tried, setup.seq_len, setup.recomputes, 1), device)
            fits = tried
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            fails = tried
        gc.collect()
        torch.cuda.empty_cache()
        if fits == most:
            break
    return fits


def resident_bytes(field: str = "VmRSS") -> int | None:
    """Returns what this process has in memory (`VmRSS`) or had at most (`VmHWM`); None where it is not on Linux."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    lines = [line.split() for line in status.read_text(encoding="utf-8").splitlines()]
    return next((int(line[1]) * 1024 for line in lines if line[0] == f"{field}:"), None)


def _forget_peak(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").is_file():
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # of VmHWM; see proc(5)


def _peak(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident_bytes("VmHWM")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
