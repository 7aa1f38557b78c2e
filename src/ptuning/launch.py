"""What a launcher such as torchrun has told this process: its number, and how many there are. It imports no torch."""

from __future__ import annotations

import os

from ptuning.errors import ConfigError


def num_processes() -> int:
    """Processes that were started together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1


def process_index() -> int:
    """The number of this one among all of them, from 0."""
    return int(os.environ.get("RANK", 0)) if num_processes() > 1 else 0


def local_index() -> int:
    """The number of this one among those on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", 0)) if num_processes() > 1 else 0


def require_one(command: str | None) -> None:
    """Makes sure that what is to be one process was not started as several.

    Args:
        command: that is to be one process; None where that is a call of the library.

    Raises:
        ConfigError: a launcher has started several.
    """
    count = num_processes()
    if count > 1:
        what = "this" if command is None else f"`ptuning {command}`"
        raise ConfigError(
            f"{what} was started as {count} processes, expected one: of several only `ptuning train` makes one run. "
            "Start it without a launcher."
        )
