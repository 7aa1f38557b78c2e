"""A saved prompt scored on labelled rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ptuning.backbones.loading import Backbone
from ptuning.checkpoint import find_prompt, read_prompt, save_prompt
from ptuning.config import RunConfig, load_config
from ptuning.data.rows import Row
from ptuning.data.sources import Split, load_data, source_directory
from ptuning.errors import ConfigError, DataError
from ptuning.predictor import LoadedTask, load
from ptuning.tasks import TaskKind, get_task
from ptuning.tasks.kind import Prediction
from ptuning.tasks.question_answering import QuestionAnswering, best_threshold, with_threshold

CONFIG_NAME = "config.yaml"


@dataclass(frozen=True)
class Evaluation:
    """What a saved prompt scored.

    Attributes:
        split: of the data.
        num_rows: that were scored.
        metrics: fractions in [0, 1], but for correlations in [-1, 1] and errors in the labels' unit.
        notes: what the user should know of the data.
    """

    split: str
    num_rows: int
    metrics: dict[str, float]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"split": self.split, "num_rows": self.num_rows, "metrics": self.metrics}


def evaluate(
    directory: str | Path,
    *,
    data: str | Path | None = None,
    split: Split = "validation",
    backbone: Backbone | str | None = None,
    fit_threshold: bool = False,
) -> Evaluation:
    """Scores a saved prompt.

    Args:
        directory: a run or its `prompt/`.
        data: directory or data set; by default what the run was trained on, or the preset's own.
        split: which rows.
        backbone: by default the one it was trained on.
        fit_threshold: question answering with unanswerable questions: find the no-answer threshold with the best F1
            on these rows, score with it, and keep it in the saved prompt.

    Raises:
        CheckpointError: the prompt is missing or damaged.
        DataError: the rows are missing, or have no labels.
        ConfigError: no data are known, or there is no threshold to fit.
    """
    predictor = load(directory, backbone)
    try:
        task = predictor.tasks[0]
        rows, notes = _labelled_rows(directory, task, data, split)
        kind: TaskKind = task.kind
        predictions = predictor.predict_rows(rows)
        if fit_threshold:
            kind = _with_best_threshold(kind, predictions, rows)
            predictions = with_threshold(predictions, kind.no_answer_threshold)
            _keep(directory, kind)
        return Evaluation(split, len(rows), kind.score(predictions, rows), notes)
    finally:
        predictor.close()


def _labelled_rows(
    directory: str | Path, task: LoadedTask, data: str | Path | None, split: Split
) -> tuple[list[Row], tuple[str, ...]]:
    run = _run_config(task.directory)
    saved = read_prompt(directory)
    preset = get_task(str((saved.task or {})["name"]))
    source = data or (run.data.path if run else None) or preset.source
    if source is None:
        raise ConfigError(
            f"{directory} does not say which data it was trained on. Give a directory or a data set with --data."
        )
    held_out = {} if run is None else {"seed": run.training.seed, "development_fraction": run.data.development_fraction}
    loaded = load_data(
        source_directory(str(source)),
        kind=task.kind.name,
        # Ids say nothing of a task, and other data may have none.
        columns={role: column for role, column in task.columns.items() if role != "id"} or None,
        labels=getattr(task.kind, "label_names", None),
        # With train comes validation, whose rows may have to be held out of it.
        splits=[split, "validation"] if split == "train" else [split],
        **held_out,  # type: ignore[arg-type]
    )
    rows = getattr(loaded, split) or []
    if not all(task.kind.label_role in row for row in rows):
        raise DataError(
            f"the {split} rows of {loaded.source} have no labels, so there is nothing to score against. Use another "
            "--split, or `ptuning predict`."
        )
    return rows, loaded.notes


def _run_config(prompt: Path) -> RunConfig | None:
    """The settings of the run that a prompt directory is in, or None for a prompt on its own."""
    path = prompt.parent / CONFIG_NAME
    return load_config(path) if prompt.name == "prompt" and path.is_file() else None


def _with_best_threshold(kind: TaskKind, predictions: Sequence[Prediction], rows: Sequence[Row]) -> QuestionAnswering:
    if not isinstance(kind, QuestionAnswering) or not kind.allow_no_answer:
        raise ConfigError(
            f"--fit-threshold is for question answering with unanswerable questions, and the prompt is for {kind.name}"
            f"{' without them' if isinstance(kind, QuestionAnswering) else ''}. Leave it out."
        )
    return replace(kind, no_answer_threshold=best_threshold(predictions, rows))


def _keep(directory: str | Path, kind: TaskKind) -> None:
    saved = read_prompt(directory)
    save_prompt(find_prompt(directory), replace(saved, task={**(saved.task or {}), **kind.to_dict()}))
