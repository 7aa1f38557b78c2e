"""Where a backbone runs and in which precision it is stored: one answer for training, evaluation and prediction."""

from __future__ import annotations

import torch

from ptuning.errors import ConfigError


def find_device(name: str | None = None) -> torch.device:
    """Returns a device that this machine has.

    Args:
        name: such as `cpu`, `cuda`, `cuda:1` or `mps`; None for the accelerator that torch finds, else the CPU.

    Raises:
        ConfigError: there is no such device.
    """
    if name is None:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")[:100]
        raise ConfigError(
            f"the device is {name!r}, which this machine does not have ({reason}). "
            "Use cpu, or leave it out for the best there is."
        ) from error
    return device


def find_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Returns the dtype that a frozen backbone is stored in.

    Args:
        precision: `fp32`, `bf16`, or `auto`: bf16 on GPUs and CPUs that compute it natively, else fp32.
        device: where it runs.
    """
    if precision == "auto":
        return torch.bfloat16 if _computes_bf16(device) else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _computes_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16, on a CPU those of AVX-512 or AMX: elsewhere it is emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has_instructions = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cpu" and bool(has_instructions)
