"""What a cell ran on and how much memory it took, without anything that names the machine or its owner."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("ptuning", "torch", "transformers", "peft", "scikit-learn")
_LOW_PRECISION = ("avx512_bf16", "amx_bf16")


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Returns processor, cores, threads, memory and GPU, as JSON values."""
    description: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": _memory_gb(),
        "system": platform.system(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        description["gpu"] = properties.name
        description["gpu_memory_gb"] = round(properties.total_memory / 1e9, 1)
    return description


def describe_versions() -> dict[str, str | None]:
    """Returns package -> version, None for those that are not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def peak_memory_bytes() -> int | None:
    """Returns the most memory that this process has held; None where the system does not say.

    On Linux from its own counter, since the usual one begins with what the parent of the process held.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def _processor() -> str:
    """The name, with those features that low precision needs."""
    information = Path("/proc/cpuinfo")
    if not information.is_file():
        return platform.processor() or platform.machine()
    lines = [line.partition(":") for line in information.read_text(encoding="utf-8").splitlines()]
    fields = {name.strip(): value.strip() for name, _, value in lines}
    features = [name for name in _LOW_PRECISION if name in fields.get("flags", "").split()]
    return " ".join([fields.get("model name", platform.machine()), *features])


def _memory_gb() -> float | None:
    if not hasattr(os, "sysconf"):
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
