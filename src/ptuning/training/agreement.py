"""What all processes of a run must agree on before they take a step together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ptuning.training.directory import Settings
from ptuning.training.processes import Processes

_OF_A_MACHINE = ("output", "backbone", "data.path", "training.device")
"""Paths and devices, which may be others on another machine; weights and rows are compared by themselves."""


def require_same_settings(processes: Processes, settings: Settings) -> None:
    """Makes sure that all processes have the same settings, but for what is a machine's own.

    Raises:
        ConfigError: another process has others; they are named.
    """
    compared = {name: repr(value) for name, value in _flat(settings.model_dump()) if name not in _OF_A_MACHINE}
    processes.require_same(compared)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
