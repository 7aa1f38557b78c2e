"""What multi-task training came to: every run's scores, and for each data set their mean over seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from ptuning.multitask.settings import MultitaskConfig

RESULTS_NAME = "results.json"
Stage = Literal["single", "multi", "shared"]
STAGES: tuple[Stage, ...] = ("single", "multi", "shared")
"""Alone; from the shared prompts on; the shared prompts with the head that they were trained with."""


@dataclass(frozen=True)
class StageResult:
    """What one run reached on one data set.

    Attributes:
        stage: which.
        seed: of the run.
        task: name of the data set.
        metrics: validation metrics of the best epoch.
        best_epoch: from 1.
        steps: optimizer steps of the run; of the shared one over all data sets.
        seconds: trained; of the shared one over all data sets.
        prompt: the saved prompt that reaches this, in the output directory.
    """

    stage: Stage
    seed: int
    task: str
    metrics: dict[str, float]
    best_epoch: int
    steps: int
    seconds: float
    prompt: str


@dataclass(frozen=True)
class Summary:
    """Scores of one data set in one way of training, over seeds.

    Attributes:
        mean: of the metric that the data set is judged by.
        deviation: its standard deviation over seeds (divided by n - 1); None for one seed.
        steps: optimizer steps for this data set, mean over seeds; of the shared stage's an equal part is counted.
        seconds: as the steps.
    """

    mean: float
    deviation: float | None
    steps: float
    seconds: float


@dataclass(frozen=True)
class MultitaskResult:
    """All runs.

    Attributes:
        directory: output.
        config: resolved settings.
        metrics: for each data set the metric that it is judged by.
        runs: what each run reached.
    """

    directory: Path
    config: MultitaskConfig
    metrics: Mapping[str, str]
    runs: Sequence[StageResult]

    def summary(self, task: str, stage: Stage) -> Summary | None:
        """Returns what a way of training comes to for a data set; None where there was no such run."""
        own = [run for run in self.runs if (run.task, run.stage) == (task, stage)]
        if not own:
            return None
        scores = [run.metrics[self.metrics[task]] for run in own]
        steps, seconds = fmean(run.steps for run in own), fmean(run.seconds for run in own)
        if stage == "shared":
            steps, seconds = steps / len(self.metrics), seconds / len(self.metrics)
        elif stage == "multi":
            shared = self.summary(task, "shared")
            assert shared is not None  # it comes first
            steps, seconds = steps + shared.steps, seconds + shared.seconds
        return Summary(fmean(scores), stdev(scores) if len(scores) > 1 else None, steps, seconds)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        tasks = {}
        for name, metric in self.metrics.items():
            summaries = {stage: self.summary(name, stage) for stage in STAGES}
            tasks[name] = {
                "task": self.config.tasks[name].task,
                "metric": metric,
                "summary": {
                    stage: {
                        "mean": found.mean,
                        "standard_deviation": found.deviation,
                        "steps": found.steps,
                        "seconds": round(found.seconds, 3),
                    }
                    for stage, found in summaries.items()
                    if found is not None
                },
                "runs": [
                    {
                        "stage": run.stage,
                        "seed": run.seed,
                        "metrics": run.metrics,
                        "best_epoch": run.best_epoch,
                        "steps": run.steps,
                        "seconds": round(run.seconds, 3),
                        "prompt": run.prompt,
                    }
                    for run in self.runs
                    if run.task == name
                ],
            }
        return {
            "kind": self.config.kind,
            "backbone": self.config.backbone,
            "steps": self.config.steps,
            "shared_fraction": self.config.shared_fraction,
            "sampling": self.config.sampling,
            "head_init": self.config.head_init,
            "seeds": self.config.seeds,
            "tasks": tasks,
        }

    def to_json(self) -> str:
        """As text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
