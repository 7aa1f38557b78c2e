"""How a comparison goes, for people on stderr."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ptuning.compare.cells import Cell


class Silent:
    """Tells nobody."""

    def start(self, total: int, finished: int, workers: int) -> None: ...

    def moved(self, done: float, seconds_left: float | None) -> None: ...

    def ended(self, cell: Cell, came: str, number: int, seconds: float, seconds_left: float | None) -> None: ...

    def stop(self) -> None: ...


class Terminal:
    """Writes to stderr: a line for each cell, and on a terminal a bar with the time left."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr, highlight=False)
        self._total = 0
        self._progress: Progress | None = None

    def start(self, total: int, finished: int, workers: int) -> None:
        self._total = total
        there = f", {finished} of them finished before" if finished else ""
        at_once = f", {workers} at once" if workers > 1 else ""
        self._print(f"{total} cells{there}{at_once}")
        if self._console.is_terminal and finished < total:
            self._progress = Progress(
                TextColumn("comparing"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[done]}"),
                TextColumn("{task.fields[left]}"),
                console=self._console,
                transient=True,
            )
            self._progress.add_task("", total=total, completed=finished, done=f"{finished}/{total}", left="")
            self._progress.start()

    def moved(self, done: float, seconds_left: float | None) -> None:
        if self._progress is not None:
            task = self._progress.task_ids[0]
            self._progress.update(
                task, completed=done, done=f"{int(done)}/{self._total}", left=shown_left(seconds_left)
            )

    def ended(self, cell: Cell, came: str, number: int, seconds: float, seconds_left: float | None) -> None:
        left = shown_left(seconds_left) if number < self._total else ""
        self._print(f"[{number}/{self._total}] {cell.name}: {came}; {seconds:.0f} s{f'; {left}' if left else ''}")

    def stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


def shown_left(seconds: float | None) -> str:
    """`about 12 min left`; empty where it is not known."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"about {round(seconds / 5) * 5} s left"
    minutes = round(seconds / 60)
    return f"about {minutes} min left" if minutes < 120 else f"about {minutes / 60:.1f} h left"
