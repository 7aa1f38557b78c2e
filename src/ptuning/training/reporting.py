"""What a run says while it runs: to a person on stderr, or to nobody."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@dataclass(frozen=True)
class EpochReport:
    """One look at the validation rows.

    Attributes:
        candidate: whose, where there are several.
        epoch: that it ends, from 1.
        step: optimizer steps done.
        train_loss: mean over the epoch's batches.
        metrics: validation metrics.
        seconds: trained so far.
        is_best: whether the deciding metric is the best so far.
    """

    candidate: int | None
    epoch: int
    step: int
    train_loss: float
    metrics: Mapping[str, float]
    seconds: float
    is_best: bool


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

    def evaluated(self, evaluation: EpochReport, metric: str) -> None:
        """An evaluation is done, in which `metric` decides."""

    def stop(self) -> None:
        """Training is over, well or not."""


class Silent:
    """Tells nobody."""

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def start(self, total_steps: int, done: int) -> None: ...

    def step(self, step: int, loss: float) -> None: ...

    def evaluated(self, evaluation: EpochReport, metric: str) -> None: ...

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

    def evaluated(self, evaluation: EpochReport, metric: str) -> None:
        score = evaluation.metrics[metric]
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], score=f"validation {metric} {score:.3f}")
        mark = " (best so far)" if evaluation.is_best else ""
        label = self._label if evaluation.candidate is None else f"candidate {evaluation.candidate}"
        self._console.print(
            f"{label}: epoch {evaluation.epoch}, loss {evaluation.train_loss:.4f}, "
            f"validation {metric} {score:.4f}{mark}",
            markup=False,
            soft_wrap=True,
        )

    def stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
