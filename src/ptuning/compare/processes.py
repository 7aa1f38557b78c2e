"""Cells in processes of their own, some at once, with the time left."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import IO, Any, Protocol

from ptuning.compare.cells import Cell
from ptuning.compare.worker import CELL_NAME, FAILURE_NAME, LOG_NAME, RESULT_NAME

_WAIT = 0.5  # seconds between looks at what runs


class Watcher(Protocol):
    """Who is told how cells go."""

    def start(self, total: int, finished: int, workers: int) -> None:
        """`total` cells are asked for, of which `finished` are there already."""

    def moved(self, done: float, seconds_left: float | None) -> None:
        """`done` cells are done, parts of cells counted; the time left, where it can be guessed."""

    def ended(self, cell: Cell, came: str, number: int, seconds: float, seconds_left: float | None) -> None:
        """A cell has ended, as number `number` of all; `came` is what it came to, or why it failed."""

    def stop(self) -> None:
        """All is over, well or not."""


@dataclass
class _Running:
    cell: Cell
    process: subprocess.Popen[str]
    log: IO[str]
    listener: threading.Thread
    place: int
    started: float = field(default_factory=time.monotonic)
    part: float = 0.0  # of its steps

    def close(self) -> None:
        """Waits for the end, and closes what is open."""
        self.process.wait()
        self.listener.join()
        for stream in (self.process.stdin, self.process.stdout, self.log):
            if stream is not None:
                stream.close()


def run_cells(
    cells: Sequence[Cell],
    directory_of: Callable[[Cell], Path],
    *,
    workers: int,
    watcher: Watcher,
    done_before: int,
    ended: Callable[[Cell, str | None], str],
) -> None:
    """Runs cells, each in a process; one that fails leaves `failure.json`, and the others go on.

    Args:
        cells: with `cell.json` in their directories; each key once.
        directory_of: of a cell.
        workers: processes at once.
        watcher: who is told how it goes.
        done_before: cells that are not among these and were finished before, for counting.
        ended: called after each cell, with why it failed, if it did; returns what it came to, in words.
    """
    waiting = list(cells)
    running: dict[int, _Running] = {}  # by place
    said: queue.SimpleQueue[tuple[str, Mapping[str, Any]]] = queue.SimpleQueue()
    clock = _Clock()
    number, environments = done_before, places(workers)
    try:
        while waiting or running:
            for place in range(workers):
                if waiting and place not in running:
                    running[place] = _start(waiting.pop(0), directory_of, environments[place], place, said)
            with contextlib.suppress(queue.Empty):
                key, message = said.get(timeout=_WAIT)
                for one in running.values():
                    if one.cell.key == key and message.get("of"):
                        one.part = message["done"] / message["of"]
            for one in [one for one in running.values() if one.process.poll() is not None]:
                del running[one.place]
                one.close()
                number += 1
                error = _error_of(one, directory_of(one.cell))
                seconds = time.monotonic() - one.started
                if error is None:
                    clock.measured(one.cell, seconds)
                came, left = ended(one.cell, error), clock.left(waiting, running.values(), workers)
                watcher.ended(one.cell, came, number, seconds, left)
            done = number + sum(one.part for one in running.values())
            watcher.moved(done, clock.left(waiting, running.values(), workers))
    finally:
        for one in running.values():
            one.process.terminate()
        for one in running.values():
            one.close()
        watcher.stop()


def usual_workers() -> int:
    """As many processes as there are GPUs that this one may use; one where there are none."""
    return max(1, len(_gpus()))


def places(workers: int) -> list[dict[str, str]]:
    """Environment variables of each place where a process runs: its GPU, taken in turns, or its share of the cores."""
    shared = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONUNBUFFERED": "1"}
    if workers == 1:
        return [shared]
    devices = _gpus()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, cores // workers))}
    return [
        {**shared, **threads, **({"CUDA_VISIBLE_DEVICES": devices[place % len(devices)]} if devices else {})}
        for place in range(workers)
    ]


def _gpus() -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` takes for each GPU that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device.strip() for device in visible.split(",") if device.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def _start(
    cell: Cell, directory_of: Callable[[Cell], Path], environment: Mapping[str, str], place: int, said: Any
) -> _Running:
    directory = directory_of(cell)
    assert (directory / CELL_NAME).is_file()
    (directory / FAILURE_NAME).unlink(missing_ok=True)
    log = (directory / LOG_NAME).open("a", encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "ptuning.compare.worker", str(directory)],
        stdin=subprocess.PIPE,  # never written to: its end tells the worker that nobody waits for it any more
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env={**os.environ, **environment},
    )

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with contextlib.suppress(ValueError):  # something else that was printed
                message = json.loads(line)
                if isinstance(message, dict):
                    said.put((cell.key, message))
        said.put((cell.key, {}))  # it has ended: look now

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    return _Running(cell, process, log, listener, place)


def _error_of(one: _Running, directory: Path) -> str | None:
    """Why a process that has ended failed, None where it did not."""
    code = one.process.returncode
    if code == 0 and (directory / RESULT_NAME).is_file():
        return None
    if not (directory / FAILURE_NAME).is_file():
        ended = f"its process ended with status {code}"
        if code < 0:
            name = signal.Signals(-code).name if -code in list(signal.Signals) else str(-code)
            ended = f"its process was killed by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
        (directory / FAILURE_NAME).write_text(json.dumps({"error": f"{ended}; {LOG_NAME} has its last words"}) + "\n")
    return failure_in(directory)


def failure_in(directory: Path) -> str | None:
    """What went wrong with a cell when it was last run."""
    try:
        return str(json.loads((directory / FAILURE_NAME).read_text(encoding="utf-8"))["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


class _Clock:
    """Guesses the time left from the cells of this sitting: those most like a cell say how long it takes."""

    def __init__(self) -> None:
        self._seconds: list[tuple[Cell, float]] = []

    def measured(self, cell: Cell, seconds: float) -> None:
        self._seconds.append((cell, seconds))

    def left(self, waiting: Sequence[Cell], running: Any, workers: int) -> float | None:
        """Seconds, or None where nothing is known yet."""
        total, now = 0.0, time.monotonic()
        for one in running:
            elapsed = now - one.started
            whole = elapsed / one.part if one.part > 0.05 else self._expected(one.cell)
            if whole is None:
                return None
            total += max(0.0, whole - elapsed)
        for cell in waiting:
            expected = self._expected(cell)
            if expected is None:
                return None
            total += expected
        return total / workers

    def _expected(self, cell: Cell) -> float | None:
        for like in self._likenesses(cell):
            found = [seconds for other, seconds in self._seconds if like(other)]
            if found:
                return fmean(found)
        return None

    @staticmethod
    def _likenesses(cell: Cell) -> Iterator[Callable[[Cell], bool]]:
        yield lambda other: other.group == cell.group
        yield lambda other: other.group[1:] == cell.group[1:]
        yield lambda other: other.backbone == cell.backbone
        yield lambda other: True
