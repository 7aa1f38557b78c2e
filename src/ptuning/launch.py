"""What a launcher such as torchrun has told this process: its number, and how many there are. It imports no torch."""

from __future__ import annotations

import os

from ptuning.errors import ConfigError

ADVICE = (
    "Start them with torchrun; or, where LOCAL_RANK and WORLD_SIZE are left from another program, unset LOCAL_RANK for "
    "one process."
)


def num_processes() -> int:
    """Processes that were started together; 1 without a launcher.

    Raises:
        ConfigError: `WORLD_SIZE` is not a number of processes.
    """
    return _number("WORLD_SIZE", 1, least=1) if "LOCAL_RANK" in os.environ else 1


def process_index() -> int:
    """The number of this one among all of them, from 0."""
    return _number("RANK", 0) if num_processes() > 1 else 0


def local_index() -> int:
    """The number of this one among those on its machine, from 0."""
    return _number("LOCAL_RANK", 0) if num_processes() > 1 else 0


def address() -> str:
    """Where process 0 is: `MASTER_ADDR:MASTER_PORT`."""
    return f"{os.environ['MASTER_ADDR']}:{_number('MASTER_PORT', 0)}"


def require_address() -> None:
    """Makes sure that this process was told which of several it is and where they meet.

    Raises:
        ConfigError: it was not.
    """
    count = num_processes()
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {count}, but {', '.join(missing)} are not set, expected all that a launcher sets for each "
            f"of {count} processes. {ADVICE}"
        )
    if process_index() >= count:
        raise ConfigError(f"RANK is {process_index()}, expected a number below WORLD_SIZE, {count}. {ADVICE}")
    address()


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


def _number(name: str, default: int, *, least: int = 0) -> int:
    value = os.environ.get(name, str(default))
    if not (value.isascii() and value.isdigit()) or int(value) < least:
        raise ConfigError(f"{name} is {value!r}, expected a whole number from {least}. {ADVICE}")
    return int(value)
