"""What the cells of a comparison came to, as plain values: `results.json`, read and written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ptuning.errors import CheckpointError
from ptuning.storage import replace_file

RESULTS_NAME = "results.json"
FORMAT_VERSION = 1

Part = Literal["main", "try", "depth", "length"]
Selection = Literal["held_out", "paper"]


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Evaluation(_Plain):
    """A point of a learning curve.

    Attributes:
        epoch: that it ends, from 1; 0 for methods that make no steps.
        step: optimizer steps done.
        train_loss: mean over the epoch's batches.
        score: on the rows to choose by.
    """

    epoch: int
    step: int
    train_loss: float | None = None
    score: float | None = None


class Result(_Plain):
    """What one cell reached, and what it cost.

    Attributes:
        metric: that the task is judged by.
        score: that metric on the reported rows, a fraction.
        metrics: all metrics there.
        split: which rows those are.
        num_rows: how many.
        development_score: the metric at the best epoch on the rows that it was chosen by.
        majority_score: what always giving the most frequent answer scores on the reported rows; None in results that
            are older.
        best_epoch: from 1; 0 for methods that make no steps.
        steps: optimizer steps.
        curve: one point an evaluation.
        counts: parameters: `trained`, `head`, `backbone`, `transformer`, and what else the method counts.
        seconds: of training with its evaluations.
        cpu_seconds: of the process while it trained, over all its threads, loading among it; where the cell went on
            after a stop, since then. On a busy machine they say more than `seconds`.
        peak_memory_bytes: of the process, loading and training, on the CPU; None where the system does not say.
        peak_gpu_memory_bytes: the same on the GPU; None without one.
        file_bytes: of what is saved.
        settings: of the run, complete, without paths.
        machine: that it ran on.
        versions: package -> version.
    """

    metric: str
    score: float
    metrics: dict[str, float] = Field(default_factory=dict)
    split: str
    num_rows: int
    development_score: float
    majority_score: float | None = None
    best_epoch: int
    steps: int
    curve: list[Evaluation] = Field(default_factory=list)
    counts: dict[str, int]
    seconds: float
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    peak_gpu_memory_bytes: int | None = None
    file_bytes: int
    settings: dict[str, Any] = Field(default_factory=dict)
    machine: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str | None] = Field(default_factory=dict)

    @property
    def trained_share(self) -> float:
        """Trained parameters, the head apart, over those of the backbone."""
        return (self.counts["trained"] - self.counts["head"]) / self.counts["backbone"]


class Outcome(_Plain):
    """One cell: where it stands, and its result or what went wrong.

    Attributes:
        part: main (the table), try (of a search), depth or length (of a sweep).
        method: label.
        base_method: what `method` is in settings.
        task: name.
        backbone: name.
        seed: of everything random.
        place: settings of a try, point of a sweep.
        key: of what decides the result; equal for cells that are one run.
        num_tries: how many settings were tried to find those of this cell; 1 without a search.
        result: None where it failed.
        error: what went wrong.
    """

    part: Part
    method: str
    base_method: str
    task: str
    backbone: str
    seed: int
    place: dict[str, Any] = Field(default_factory=dict)
    key: str
    num_tries: int = 1
    result: Result | None = None
    error: str | None = None


class Comparison(_Plain):
    """All cells of a comparison.

    Attributes:
        selection: which rows chose and which are reported.
        outcomes: of cells that are finished or failed, in the order of the settings.
        missing: cells that have not run yet.
        kept: finished cells of earlier settings, which no table shows; they are not run again when they are asked for.
    """

    selection: Selection
    outcomes: tuple[Outcome, ...]
    missing: int = 0
    kept: tuple[Outcome, ...] = ()

    def part(self, *parts: Part) -> list[Outcome]:
        """Outcomes of some parts, those that failed too."""
        return [outcome for outcome in self.outcomes if outcome.part in parts]

    @property
    def failed(self) -> list[Outcome]:
        """Cells that went wrong."""
        return [outcome for outcome in self.outcomes if outcome.result is None]


def ordered(values: Sequence[str]) -> list[str]:
    """Values without repetition, in the order in which they come."""
    return list(dict.fromkeys(values))


def write_results(path: Path, comparison: Comparison) -> None:
    """Writes `results.json`."""
    values = {"format_version": FORMAT_VERSION, **comparison.model_dump(mode="json")}
    replace_file(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def read_results(path: str | Path) -> Comparison:
    """Reads `results.json`, or the one in a directory.

    Raises:
        CheckpointError: it is not there, or is not what `ptuning compare` writes.
    """
    path = Path(path)
    path = path / RESULTS_NAME if path.is_dir() else path
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror or error}. Give the results.json of a comparison, or its "
            "directory."
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not JSON ({error}), expected what `ptuning compare` writes. Delete it, and write it "
            "again with `ptuning compare CONFIG --tables-only`: finished cells are in cells/ too."
        ) from error
    if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
        found = values.get("format_version") if isinstance(values, dict) else type(values).__name__
        raise CheckpointError(
            f"{path} has format version {found!r}, expected {FORMAT_VERSION}. It may be of another version of ptuning, "
            "or no results of a comparison."
        )
    try:
        return Comparison.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"{path} is damaged: {place}: {first['msg']} ({error.error_count()} such places). Delete it, and write it "
            "again with `ptuning compare CONFIG --tables-only`: finished cells are in cells/ too."
        ) from error
