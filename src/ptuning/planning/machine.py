"""What a machine has: the device that a plan is for, and its memory."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ptuning.devices import find_device
from ptuning.errors import ConfigError

_CGROUP = Path("/sys/fs/cgroup/memory.max")

# What is taken before a weight is loaded: Python and the imported libraries; a context and kernels of CUDA besides.
LIBRARIES = {"cpu": 600_000_000}
ON_GPU = 1_000_000_000


def planned_device(name: str | None, *, is_elsewhere: bool) -> torch.device:
    """Returns the device that a plan is for.

    Args:
        name: of `training.device`; None for the best that is here.
        is_elsewhere: whether the plan is for another machine, so that the device need not be here.

    Raises:
        ConfigError: there is no such device, here or at all.
    """
    if not is_elsewhere or name is None:
        return find_device(name)
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"training.device is {name!r}, expected cpu, cuda, mps, or one of those with a number. Correct it."
        ) from error


def is_here(device: torch.device) -> bool:
    """Whether this machine has a device."""
    if device.type == "cpu":
        return True
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found is not None and found.type == device.type


def memory_of(device: torch.device) -> int:
    """Returns a device's memory in bytes; of a CPU that of the machine, or what a container allows."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = _CGROUP.read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def libraries_of(device: torch.device) -> int:
    """Returns what libraries take of a device's memory before anything is loaded, in bytes, as measured."""
    return LIBRARIES.get(device.type, ON_GPU)
