"""What a run says while it runs: to a person on stderr, or to nobody."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Reporter(Protocol):
    """Who is told how a run goes."""

    def note(self, text: str) -> None:
        """Something the user should know."""

    def warn(self, text: str) -> None:
        """Something the user should act on."""

    def start(self, total_steps: int, done: int) -> None:
        """Training begins, or goes on after `done` optimizer steps."""

    def step(self, step: int, loss: float) -> None:
        """`step` optimizer steps are done; `loss` is the mean of the epoch so far."""

    def evaluated(
        self,
        epoch: int,
        loss: float,
        metrics: Mapping[str, float],
        metric: str,
        is_best: bool,
        *,
        candidate: int | None = None,
    ) -> None:
        """An evaluation is done, of one of several candidates where that is said. Epochs count from 1."""

    def stop(self) -> None:
        """Training is over, well or not."""


class Silent:
    """Tells nobody."""

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def start(self, total_steps: int, done: int) -> None: ...

    def step(self, step: int, loss: float) -> None: ...

    def evaluated(
        self,
        epoch: int,
        loss: float,
        metrics: Mapping[str, float],
        metric: str,
        is_best: bool,
        *,
        candidate: int | None = None,
    ) -> None: ...

    def stop(self) -> None: ...


class Named(Silent):
    """Passes warnings on with the name of what they are about, one of several that are trained together."""

    def __init__(self, name: str, report: Reporter) -> None:
        self._name, self._report = name, report

    def warn(self, text: str) -> None:
        self._report.warn(f"{self._name}: {text}")


class Terminal:
    """Writes to stderr: a progress bar with loss and metric on a terminal, and a line for each evaluation everywhere.

    Args:
        label: written in front of the bar.
    """

    def __init__(self, label: str = "training") -> None:
        self._console = Console(file=sys.stderr, highlight=False)
        self._label = label
        self._progress: Progress | None = None

    def note(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        self._console.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)

    def start(self, total_steps: int, done: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TextColumn("{task.fields[score]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._progress.add_task(self._label, total=total_steps, completed=done, loss="", score="")
        self._progress.start()

    def step(self, step: int, loss: float) -> None:
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=step, loss=f"loss {loss:.3f}")

    def evaluated(
        self,
        epoch: int,
        loss: float,
        metrics: Mapping[str, float],
        metric: str,
        is_best: bool,
        *,
        candidate: int | None = None,
    ) -> None:
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], score=f"validation {metric} {metrics[metric]:.3f}")
        mark = " (best so far)" if is_best else ""
        label = self._label if candidate is None else f"candidate {candidate}"
        self._console.print(
            f"{label}: epoch {epoch}, loss {loss:.4f}, validation {metric} {metrics[metric]:.4f}{mark}",
            markup=False,
            soft_wrap=True,
        )

    def stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
