"""The demo: one frozen backbone learns three tasks of a help desk, and answers a batch in which they are mixed.

Everything comes inside the package and its extra `minilm`; nothing is fetched. The tickets, sentences and articles
were written for this project.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptuning.backbones.loading import Backbone, load_backbone
from ptuning.checkpoint import TENSORS_FILE
from ptuning.config import load_config
from ptuning.linear_probe import best_probe, linear_probe
from ptuning.predictor import load
from ptuning.tasks.kind import Prediction
from ptuning.training.reporting import Reporter
from ptuning.training.run import RunResult, prepare_task, train


@dataclass(frozen=True)
class DemoTask:
    """One of the three tasks.

    Attributes:
        preset: its name in `ptuning tasks`.
        floor: what the metric must at least reach, a fraction.
        times_probe: and how many times the linear probe's.
        settings: what differs from the defaults.
    """

    preset: str
    floor: float
    settings: Mapping[str, Any]
    times_probe: float = 0.0


TASKS = (
    DemoTask(
        "helpdesk/tickets",
        floor=0.85,
        settings={"training.epochs": 4},
    ),
    DemoTask(
        "helpdesk/entities",
        floor=0.70,
        settings={"training.epochs": 8},
    ),
    DemoTask(
        "helpdesk/questions",
        floor=0.45,
        times_probe=2.0,
        settings={
            "training.epochs": 3,
            "training.batch_size": 8,
            "training.learning_rate": 2e-2,
        },
    ),
)

QUICK: Mapping[str, Any] = {
    "training.epochs": 1,
    "data.max_train_rows": 64,
    "data.max_validation_rows": 32,
}
"""Enough to see that everything runs, and too little to learn."""

_ARTICLE = (
    "Halden gift cards come in values from 10 to 250 euros, either by e-mail or as a silver card in an envelope. The "
    "printed version adds 2 euros postage. Cards are valid for three years and never exchanged for cash. Lost yours? "
    "Bring the receipt number to the Cork Street counter."
)
MIXED_BATCH: tuple[tuple[str, dict[str, str]], ...] = (
    ("tickets", {"text": "The tracking says handed over on Friday, but nobody here has seen a parcel."}),
    ("entities", {"text": "Mrs Adeyemi in Leeds says her Luma 3 shows E-17 since Friday, order HD-55102."}),
    ("questions", {"question": "how long can I use a gift card?", "context": _ARTICLE}),
    ("tickets", {"text": "i cant get in any more, it keeps telling me the code from the text message is wrong"}),
    ("entities", {"text": "Please send the Fenwick kettle to 14 Quarry Road, Truro, before 3 March."}),
    ("questions", {"question": "Can I pay a gift card in instalments?", "context": _ARTICLE}),
)
"""Rows that are in no training data: (task, row)."""


@dataclass(frozen=True)
class TaskReport:
    """One line of the demo's table.

    Attributes:
        task: what was asked for.
        result: of the training run.
        probe: the better pooling and score of the linear probe.
        file_bytes: size of the saved prompts and head.
    """

    task: DemoTask
    result: RunResult
    probe: tuple[str, float]
    file_bytes: int

    @property
    def score(self) -> float:
        """The task's metric on the validation rows."""
        return self.result.metrics[self.result.metric]

    def missed(self) -> list[str]:
        """What was promised and not reached, one sentence each."""
        sentences = []
        if self.score < self.task.floor:
            sentences.append(f"{self.task.preset}: {self.result.metric} {self.score:.3f}, floor {self.task.floor:.2f}")
        least = self.task.times_probe * self.probe[1]
        if self.score < least:
            sentences.append(
                f"{self.task.preset}: {self.result.metric} {self.score:.3f}, less than {self.task.times_probe:g} times "
                f"the linear probe's {self.probe[1]:.3f}"
            )
        return sentences


@dataclass
class DemoReport:
    """What the demo came to.

    Attributes:
        backbone: shared by all tasks.
        tasks: a report a task.
        answers: (task, row, prediction) of the mixed batch.
    """

    backbone: Backbone
    tasks: list[TaskReport] = field(default_factory=list)
    answers: list[tuple[str, dict[str, str], Prediction]] = field(default_factory=list)

    def missed(self) -> list[str]:
        """Everything that was promised and not reached."""
        return [sentence for task in self.tasks for sentence in task.missed()]


def run_demo(
    directory: Path, *, quick: bool = False, seed: int = 11, report_for: Callable[[str], Reporter]
) -> DemoReport:
    """Trains the three tasks one after another on one backbone, then answers a mixed batch.

    Args:
        directory: the runs go below it; runs that are there are replaced.
        quick: a few rows and one epoch only.
        seed: of everything random.
        report_for: makes who is told about a task's training.

    Raises:
        MissingDependencyError: the embedded backbone is not installed.
    """
    backbone = load_backbone("minilm")
    report = DemoReport(backbone)
    for task in TASKS:
        name = task.preset.rpartition("/")[2]
        settings = {**task.settings, **(QUICK if quick else {}), "training.seed": seed}
        config = load_config(
            None, {"task": task.preset, "output": str(directory / name), "training.device": "cpu", **settings}
        )
        prepared = prepare_task(config, backbone)
        rows = prepared.data.validation or []
        probes = linear_probe(backbone, prepared.kind, prepared.train, prepared.validation, rows)
        result = train(config, overwrite=True, backbone=backbone, prepared=prepared, report=report_for(name))
        size = (directory / name / "prompt" / TENSORS_FILE).stat().st_size
        report.tasks.append(TaskReport(task, result, best_probe(probes, result.metric), size))
    predictor = load([directory / task.preset.rpartition("/")[2] for task in TASKS], backbone)
    try:
        predictions = predictor.predict([row for _, row in MIXED_BATCH], [task for task, _ in MIXED_BATCH])
    finally:
        predictor.close()
    report.answers = [(task, row, made) for (task, row), made in zip(MIXED_BATCH, predictions, strict=True)]
    return report
