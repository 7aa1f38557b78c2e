"""A training that stops after every optimizer step until it is told to go on: the side of the process that trains.

Whole trainings, each with a loop of its own, can so be measured in turns on one machine. The process writes a line of
JSON to its stdout after each step, with the seconds since it was told to go on, and reads a line from stdin. When stdin
ends it is no longer needed and ends at once.

Peak memory is the process's own: `VmHWM` on Linux, since `ru_maxrss` may hold what the parent had when it started the
process; on CUDA what torch has allocated at most.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook


class Turns:
    """Speaks with the process that measures.

    Args:
        device: `cpu` or a CUDA device, which is waited for before a time is taken.
    """

    def __init__(self, device: str) -> None:
        self._channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # what libraries print is no message
        self._device = device
        self._started = time.perf_counter()

    def hold_steps(self) -> None:
        """Makes every optimizer's step the end of a turn."""
        register_optimizer_step_post_hook(lambda optimizer, args, kwargs: self.end_turn("step"))

    def end_turn(self, event: str, **more: Any) -> None:
        """Says what was done and how long it took, and waits to be told to go on."""
        self.say(event, seconds=self._seconds(), **more)
        if not sys.stdin.readline():
            os._exit(0)
        self.restart()

    def say(self, event: str, **more: Any) -> None:
        """Sends a message."""
        message = {"event": event, "peak_bytes": peak_bytes(self._device), **more}
        print(json.dumps(message), file=self._channel, flush=True)

    def restart(self) -> None:
        """What happened since the turn began is left out of its time."""
        self._wait()
        self._started = time.perf_counter()

    def without_time(self, function: Callable[[], Any]) -> Any:
        """Calls a function whose time does not count."""
        spent = self._seconds()
        result = function()
        self._wait()
        self._started = time.perf_counter() - spent
        return result

    def _seconds(self) -> float:
        self._wait()
        return time.perf_counter() - self._started

    def _wait(self) -> None:
        if self._device.startswith("cuda"):
            torch.cuda.synchronize()


def peak_bytes(device: str) -> int:
    """Returns the most memory that this process has held so far."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
