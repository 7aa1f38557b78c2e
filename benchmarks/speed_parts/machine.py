"""What a measurement was made on, without anything that names the machine or its owner."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("ptuning", "torch", "transformers", "peft")


def describe_machine(device: str, threads: int) -> dict[str, Any]:
    """Returns processor, cores, memory and versions, as JSON values."""
    description: dict[str, Any] = {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "python": platform.python_version(),
    }
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        description["gpu"] = properties.name
        description["gpu_memory_gb"] = round(properties.total_memory / 1e9, 1)
        description["cuda"] = torch.version.cuda
    for package in PACKAGES:
        description[package] = _version(package)
    return description


def processor_name() -> str:
    """Returns the processor's name with those of its features that low precision needs."""
    information = Path("/proc/cpuinfo")
    if not information.is_file():
        return platform.processor() or platform.machine()
    lines = [line.partition(":") for line in information.read_text(encoding="utf-8").splitlines()]
    fields = {name.strip(): value.strip() for name, _, value in lines}
    features = [name for name in ("avx512_bf16", "amx_bf16") if name in fields.get("flags", "").split()]
    return " ".join([fields.get("model name", platform.machine()), *features])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
