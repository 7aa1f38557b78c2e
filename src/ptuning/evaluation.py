"""A saved prompt scored on labelled rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ptuning.backbones.loading import Backbone
from ptuning.backbones.quantization import Quantization
from ptuning.checkpoint import save_prompt
from ptuning.config import RunConfig, load_config
from ptuning.data.learned import Learned
from ptuning.data.rows import Row
from ptuning.data.sources import TaskData, load_data
from ptuning.data.splits import SPLIT_NAMES, Split
from ptuning.errors import CheckpointError, ConfigError, DataError
from ptuning.predictor import LoadedTask, load
from ptuning.sharing import is_in_hub_cache
from ptuning.tasks import PRESETS, Task, TaskKind, get_task
from ptuning.tasks.loading import load_task_data, task_source
from ptuning.tasks.question_answering import QuestionAnswering, best_threshold, with_threshold
from ptuning.training.directory import CONFIG_NAME, PROMPT_NAME
from ptuning.training.population import common_config


@dataclass(frozen=True)
class Evaluation:
    """What a saved prompt scored.

    Attributes:
        split: of the data.
        num_rows: that were scored.
        metrics: fractions in [0, 1], but for correlations in [-1, 1] and errors in the labels' unit.
        notes: what the user should know of the data.
        majority: what always giving the most frequent answer scores on these rows, by metric.
    """

    split: str
    num_rows: int
    metrics: dict[str, float]
    notes: tuple[str, ...] = ()
    majority: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"split": self.split, "num_rows": self.num_rows, "metrics": self.metrics}


@dataclass(frozen=True)
class LoadedSplit:
    """Rows of a saved task.

    Attributes:
        split: of the data.
        rows: perhaps without labels.
        source: the path or name of the data.
        notes: what the user should know of them.
    """

    split: str
    rows: list[Row]
    source: str
    notes: tuple[str, ...]


def evaluate(
    directory: str | Path,
    *,
    data: str | Path | None = None,
    split: Split = "validation",
    backbone: Backbone | str | None = None,
    fit_threshold: bool = False,
    device: str | torch.device | None = None,
    quantization: Quantization | None = None,
) -> Evaluation:
    """Scores a saved prompt.

    Args:
        directory: a run or its `prompt/`.
        data: directory or data set; by default what the run was trained on, read as training read it, or the preset's
            own.
        split: which rows.
        backbone: by default the one it was trained on.
        fit_threshold: question answering with unanswerable questions: find the no-answer threshold with the best F1
            on these rows, score with it, and keep it in the saved prompt.
        device: where a backbone that has to be loaded goes; by default the best there is.
        quantization: of its layers' weights; by default the one the prompt was trained with.

    Raises:
        CheckpointError: the prompt is missing or damaged, or is not to be changed where it is.
        DataError: the rows are missing, have no labels, or are not those of training any more.
        ConfigError: no data are known, there is no threshold to fit, or no such device.
    """
    predictor = load(directory, backbone, device=device, quantization=quantization)
    try:
        task = predictor.tasks[0]
        check_split(split, task)
        if fit_threshold:
            _check_can_be_fitted(task)
        is_own = run_config_of(task.directory) is not None and data is None
        loaded = load_split(task, data=data, split=split)
        rows = labelled(loaded, task.kind.label_role)
        kind: TaskKind = task.kind
        predictions = predictor.predict_rows(rows)
        if isinstance(kind, QuestionAnswering) and fit_threshold:
            kind = replace(kind, no_answer_threshold=best_threshold(predictions, rows))
            predictions = with_threshold(predictions, kind.no_answer_threshold)
        metrics = kind.score(predictions, rows)
        if fit_threshold:
            _keep(task, kind, metrics if is_own and split == "validation" else None)
        majority = kind.score(kind.constant_predictions(rows), rows)
        return Evaluation(split, len(rows), metrics, loaded.notes, majority)
    finally:
        predictor.close()


def load_split(task: LoadedTask, *, data: str | Path | None = None, split: Split = "validation") -> LoadedSplit:
    """Loads rows of a saved task: of its own data as its training read them, or of others.

    Args:
        task: what was trained.
        data: directory or data set; by default what the run was trained on, or the preset's own.
        split: which rows.

    Raises:
        DataError: the rows are missing, or are not those of training any more.
        ConfigError: no data are known, or the task has no such split.
    """
    check_split(split, task)
    run = run_config_of(task.directory)
    if run is not None and data is None:
        loaded = _load_as_training_did(run, task, split)
    else:
        loaded = _load(task, data, split, run)
    rows = loaded.rows(split)
    if rows is None:
        available = [name for name in (*SPLIT_NAMES, *loaded.others) if loaded.rows(name) is not None]
        raise DataError(
            f"{loaded.source} has no {split} split, only {', '.join(available)}. Add a file for it, or ask for another "
            "split."
        )
    return LoadedSplit(split, rows, loaded.source, _notes(loaded, task, split, run))


def _load_as_training_did(run: RunConfig, task: LoadedTask, split: Split) -> TaskData:
    """The rows of a run's own data, with its limits, its held-out rows and its reading of labels."""
    splits = None if split in SPLIT_NAMES else ["train", "validation", split]
    loaded = load_task_data(run, get_task(run.task), splits)
    names = getattr(task.kind, "label_names", None)
    if loaded.label_names != names:
        raise DataError(
            f"the data of {loaded.source} have the labels {_shown(loaded.label_names)}, but the prompt was trained for "
            f"{_shown(names)}: they have changed since. Restore them, or give others with --data."
        )
    return loaded


def _load(task: LoadedTask, data: str | Path | None, split: Split, run: RunConfig | None) -> TaskData:
    """The rows of other data, or those of a prompt that is in no run."""
    saved = task.saved.task or {}
    preset = preset_of(task, needs_source=data is None)
    source = preset.source if data is None else str(data)
    if source is None:
        raise ConfigError(
            f"{task.directory} does not say which data it was trained on. Give a directory or a data set with --data."
        )
    held_out: dict[str, Any] = saved.get("held_out") or {}
    if run is not None:
        held_out = {"seed": run.training.seed, "development_fraction": run.data.development_fraction}
        held_out["selection"] = run.data.selection
    return load_data(
        task_source(preset, source),
        kind=task.kind.name,
        # Ids say nothing of a task, and other data may have none.
        learned=Learned(
            {role: column for role, column in task.columns.items() if role != "id"},
            getattr(task.kind, "label_names", None),
        ),
        usual_columns=preset.columns,
        template=task.template,
        # With train comes validation, whose rows may have to be held out of it.
        splits=[split, "validation"] if split == "train" else [split],
        **held_out,
    )


def preset_of(task: LoadedTask, *, needs_source: bool) -> Task:
    """The preset that a prompt was trained for; its bare kind where this version does not have it."""
    name = str((task.saved.task or {})["name"])
    return get_task(name if name in PRESETS or needs_source else task.kind.name)


def check_split(split: Split, task: LoadedTask) -> None:
    """Checks that the task may have a split of this name.

    Raises:
        ConfigError: it has none.
    """
    known = (*SPLIT_NAMES, *preset_of(task, needs_source=False).more_splits)
    if split not in known:
        raise ConfigError(f"split is {split!r}, expected one of {', '.join(known)}. Name one of those.")


def labelled(loaded: LoadedSplit, label_role: str) -> list[Row]:
    """Returns the rows of a split.

    Args:
        loaded: the split.
        label_role: what the labels of its rows are called.

    Raises:
        DataError: some have no labels.
    """
    if not all(label_role in row for row in loaded.rows):
        raise DataError(
            f"the {loaded.split} rows of {loaded.source} have no labels, so there is nothing to score against. Use "
            "another --split, or `ptuning predict`."
        )
    return loaded.rows


def _notes(loaded: TaskData, task: LoadedTask, split: Split, run: RunConfig | None) -> tuple[str, ...]:
    is_known = run is not None or (task.saved.task or {}).get("held_out") is not None
    if loaded.held_out is None or is_known or split not in ("train", "validation"):
        return loaded.notes
    return (
        *loaded.notes,
        "The prompt does not say which rows its training held out, so it may have learned from some of these. "
        "Give a directory with a validation file to be sure.",
    )


def run_config_of(prompt: Path) -> RunConfig | None:
    """The settings of the run that a prompt directory is in, or None for a prompt on its own.

    Of a population's best prompt those that all candidates have in common.
    """
    path = prompt.parent / CONFIG_NAME
    if prompt.name != PROMPT_NAME or not path.is_file():
        return None
    return common_config(path) or load_config(path)


def _check_can_be_fitted(task: LoadedTask) -> None:
    kind = task.kind
    if not isinstance(kind, QuestionAnswering) or not kind.allow_no_answer:
        raise ConfigError(
            f"--fit-threshold is for question answering with unanswerable questions, and the prompt is for {kind.name}"
            f"{' without them' if isinstance(kind, QuestionAnswering) else ''}. Leave it out."
        )
    if is_in_hub_cache(task.directory):
        raise CheckpointError(
            f"--fit-threshold would change {task.directory}, which is in the hub's cache, shared by all that use it. "
            f"Copy it first, such as with `cp -rL {task.directory} my-prompt`, and give the copy."
        )


def _keep(task: LoadedTask, kind: TaskKind, metrics: dict[str, float] | None) -> None:
    """Writes the prompt with a kind that has another threshold.

    Args:
        task: as it was loaded.
        kind: as it is from now on.
        metrics: what the prompt reaches with it on the validation rows of its training, or None where that is not
            known: the saved metrics then stay, with a word on what they are from.
    """
    saved = replace(task.saved, task={**(task.saved.task or {}), **kind.to_dict()})
    if metrics is not None:
        saved = replace(saved, metrics=metrics, metrics_from=None)
    elif saved.metrics_from is None and isinstance(task.kind, QuestionAnswering):
        before = f"{task.kind.no_answer_threshold:g}"
        saved = replace(saved, metrics_from=f"with a no-answer threshold of {before}; another was fitted to other rows")
    save_prompt(task.directory, saved)


def _shown(names: tuple[str, ...] | None) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") if names else "none"
