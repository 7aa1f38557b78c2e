"""What the command line asks for, checked before anything is built: what is measured on a GPU must not end in vain."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

import torch

from ptuning.errors import ConfigError
from ptuning.planning.machine import planned_device

MEASURED_LENGTHS = [16, 128]
PLANNED_LENGTHS = [16]
PLANNED_GB = 80.0
_MEASURED_DEVICES = ("cpu", "cuda")


def complete(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Fills in what was left out and depends on other arguments.

    Raises:
        SystemExit: with status 2 and the parser's message, what is asked for cannot be.
    """
    for wrong in (_wrong_combination(arguments), _wrong_device(arguments), _wrong_output(arguments.output)):
        if wrong is not None:
            parser.error(wrong)
    if arguments.prompt_length is None:
        arguments.prompt_length = PLANNED_LENGTHS if arguments.plan else MEASURED_LENGTHS
    if arguments.memory is None:
        arguments.memory = PLANNED_GB


def count(text: str) -> int:
    """Reads a whole number from 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}, expected 1 or more")
    return number


def size(text: str) -> float:
    """Reads a number above 0."""
    number = float(text)
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text}, expected more than 0")
    return number


def _wrong_combination(arguments: argparse.Namespace) -> str | None:
    if len(arguments.backbone or []) > 1 and not arguments.plan:
        return "--backbone names several, and one is measured at a time. Name one, or add --plan."
    if arguments.plan and max(len(arguments.prompt_length or [0]), len(arguments.batch_size)) > 1:
        return "--plan takes one --prompt-length and one --batch-size. Give one of each."
    if arguments.memory is not None and not arguments.plan:
        return "--memory is of a device that is planned for, and this one is measured. Add --plan, or leave it out."
    return None


def _wrong_device(arguments: argparse.Namespace) -> str | None:
    """Looks at no GPU itself: that would take memory from the processes that measure."""
    try:
        device = planned_device(arguments.device, is_elsewhere=True)
    except ConfigError as error:
        return f"--device: {error}"
    if arguments.plan:
        return None
    if device.type not in _MEASURED_DEVICES:
        return f"--device is {arguments.device}, and memory is measured on cpu and cuda. Give one of those."
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= count:
        return f"--device is {arguments.device}, and torch finds {count} of that kind here. Give one that is here."
    return None


def _wrong_output(output: Path | None) -> str | None:
    if output is None:
        return None
    directory = output.absolute().parent
    if not directory.is_dir():
        return f"--output is {output}, and {directory} is no directory. Make it, or name another file."
    if output.is_dir() or not os.access(output if output.exists() else directory, os.W_OK):
        return f"--output is {output}, which is a directory or may not be written. Name another file."
    return None
