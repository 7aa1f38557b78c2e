"""From trained prompts to numbers and figures: one call for `ptuning diagnose`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ptuning.attachment import attach_bank_or_prompts
from ptuning.backbones.loading import Backbone
from ptuning.checkpoint import read_directory
from ptuning.config.methods import METHODS
from ptuning.data.rows import Row
from ptuning.data.splits import Split
from ptuning.diagnostics.attention import Watched, watch_prompts
from ptuning.diagnostics.history import NormPoint, read_norms
from ptuning.diagnostics.similarity import MEASURE, Similarity, compare_layers, compare_tasks
from ptuning.errors import BackboneMismatchError, ConfigError
from ptuning.evaluation import load_split, run_config_of
from ptuning.predictor import LoadedTask, load
from ptuning.prompts import GivenPrompts, PromptBank
from ptuning.prompts.norms import entry_norms
from ptuning.reports.diagnostics import draw_attention, draw_norms, draw_similarity
from ptuning.reports.style import require_matplotlib, save_figure
from ptuning.storage import replace_file
from ptuning.training.directory import CONFIG_NAME, PROMPT_NAME

DIRECTORY_NAME = "diagnostics"
NUMBERS_NAME = "diagnostics.json"


@dataclass(frozen=True)
class TaskDiagnosis:
    """What was seen of one task's prompts.

    Attributes:
        name: by which the task was loaded.
        directory: of its prompt.
        method: that trained it.
        prompt_length: virtual tokens at each prompted layer.
        layers: with prompts.
        num_rows: that were run.
        num_tokens: real tokens of these rows, each of which is a query.
        attention: for each layer of the backbone and each head the mean share of a real query's attention on virtual
            tokens; zero at layers without.
        keys: mean norm of the virtual tokens' keys at each of `layers`, of one head.
        values: that of their values.
        real_keys: mean norm of real tokens' keys on these rows, at each layer of the backbone.
        real_values: that of their values.
        training: the norms at each evaluation of the run; empty where they are not known.
    """

    name: str
    directory: Path
    method: str
    prompt_length: int
    layers: tuple[int, ...]
    num_rows: int
    num_tokens: int
    attention: tuple[tuple[float, ...], ...]
    keys: tuple[float, ...]
    values: tuple[float, ...]
    real_keys: tuple[float, ...]
    real_values: tuple[float, ...]
    training: tuple[NormPoint, ...]


@dataclass(frozen=True)
class Diagnosis:
    """What was seen of one or several tasks' prompts.

    Attributes:
        split: of which the rows are.
        tasks: in the order in which they were given.
        similarity: between tasks, or between the layers of one; None where there is nothing to compare.
        notes: what the user should know.
        files: what was written.
    """

    split: str
    tasks: tuple[TaskDiagnosis, ...]
    similarity: Similarity | None
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON: all numbers behind the figures."""
        tasks = [{**asdict(task), "directory": str(task.directory)} for task in self.tasks]
        similarity = None if self.similarity is None else {"measure": MEASURE, **asdict(self.similarity)}
        return {"split": self.split, "tasks": tasks, "similarity": similarity, "notes": list(self.notes)}


def diagnose(
    directories: str | Path | Sequence[str | Path],
    *,
    data: str | Path | None = None,
    split: Split = "validation",
    rows: int = 64,
    output: str | Path | None = None,
    backbone: Backbone | str | None = None,
    device: str | torch.device | None = None,
) -> Diagnosis:
    """Looks at trained prompts: attention on virtual tokens, norms over training, and similarity.

    Args:
        directories: runs or their `prompt/`, of methods with prompts at the layers, on one backbone.
        data: directory or data set for all of them; by default what each was trained on.
        split: whose rows are run.
        rows: how many of them at most, spread evenly over the split.
        output: where figures and numbers are written; without it nothing is.
        backbone: by default the one they were trained on.
        device: where a backbone that has to be loaded goes; by default the best there is.

    Returns:
        The numbers, and which files were written.

    Raises:
        CheckpointError: a prompt is missing or damaged, or `metrics.jsonl` is.
        BackboneMismatchError: the prompts were trained on different backbones.
        ConfigError: a method has no prompts at the layers, a prompt is given twice, no data are known, or `rows`,
            `split`, `output` or `device` cannot be.
        DataError: the rows are missing.
        MissingDependencyError: matplotlib is not installed.
    """
    given = [directories] if isinstance(directories, str | Path) else list(directories)
    if rows < 1:
        raise ConfigError(f"rows is {rows}, expected at least 1. Give the number of rows to run.")
    if output is not None:  # before anything long
        require_matplotlib()
        if Path(output).exists() and not Path(output).is_dir():
            raise ConfigError(f"output is {output}, a file, expected a directory for the figures. Give another.")
    _check_prompts(given)
    predictor = load(given, backbone, device=device)
    predictor.close()  # what it knows is needed, and the backbone without its shortcuts
    tasks = predictor.tasks
    splits = [load_split(task, data=data, split=split) for task in tasks]
    diagnosed = _diagnose(predictor.backbone, tasks, [_spread(loaded.rows, rows) for loaded in splits])
    notes = [note for loaded in splits for note in loaded.notes]
    notes += [_without_history(task) for task in diagnosed if not task.training]
    similarity = _similarity(tasks)
    if _start_alike(tasks):
        notes.append(
            "Some of these prompts were drawn from one seed and began as the same numbers, so a part of their "
            "similarity is their start. Give runs a training.seed of their own to see what they learned."
        )
    if similarity is None:
        notes.append("The prompts have no two layers to compare, so there is no figure of similarity.")
    diagnosis = Diagnosis(split, diagnosed, similarity, tuple(dict.fromkeys(notes)))
    if output is None:
        return diagnosis
    return replace(diagnosis, files=_write(diagnosis, Path(output)))


def usual_output(directories: Sequence[str | Path]) -> Path:
    """Where `ptuning diagnose` writes: beside the prompt of a run, and for several or a prompt in no run here."""
    if len(directories) == 1:
        prompt = read_directory(directories[0]).path
        if prompt.name == PROMPT_NAME and (prompt.parent / CONFIG_NAME).is_file():
            return prompt.parent / DIRECTORY_NAME
    return Path(DIRECTORY_NAME)


def _check_prompts(directories: Sequence[str | Path]) -> None:
    """Makes sure of all that can be known before the backbone is loaded."""
    read = [read_directory(directory) for directory in directories]
    for found in read:
        saved = found.prompt
        if not METHODS[saved.method].has_deep_prompts or saved.prompts.shape[3] == 0:
            able = ", ".join(name for name, one in METHODS.items() if one.has_deep_prompts)
            raise ConfigError(
                f"{found.path} was trained with {saved.method} and has no prompts at the layers, so there is nothing "
                f"to diagnose, expected one of {able} with a prompt_length of 1 or more. Leave it out."
            )
        try:
            saved.backbone.require(read[0].prompt.backbone)
        except BackboneMismatchError as error:
            raise BackboneMismatchError(
                f"{found.path} was trained on {saved.backbone.name} and {read[0].path} on "
                f"{read[0].prompt.backbone.name}, or on other weights of that name, expected prompts of one backbone. "
                "Diagnose them one at a time."
            ) from error
    paths = [found.path for found in read]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice} is given twice, expected each prompt once. Leave one out.")


def _spread(rows: Sequence[Row], count: int) -> list[Row]:
    """As many rows, evenly over all of them, so that files in the order of their labels do no harm."""
    count = min(count, len(rows))
    return [rows[len(rows) * place // count] for place in range(count)]


def _diagnose(backbone: Backbone, tasks: Sequence[LoadedTask], rows: Sequence[list[Row]]) -> tuple[TaskDiagnosis, ...]:
    bank = PromptBank(backbone.description.num_layers)
    place = next(backbone.model.parameters()).device
    for task in tasks:
        saved = task.saved
        bank.add(GivenPrompts(saved.prompts.to(place)), layers=saved.layers, positions=saved.positions)
    attached = attach_bank_or_prompts(
        backbone.model,
        bank,
        layers="all",
        positions="unshifted",
        freeze=False,
        check=False,
        eager=backbone.eager,
    )
    try:
        diagnosed = []
        for entry, (task, own) in enumerate(zip(tasks, rows, strict=True)):
            examples = task.kind.encode(own, backbone.tokenizer, task.max_length, training=False)
            asks_words = (task.saved.head or {}).get("kind") == "verbalizer"
            pieces = backbone.pieces if asks_words else None
            watched = watch_prompts(attached, backbone, entry, examples, pieces=pieces)
            diagnosed.append(_task_diagnosis(task, len(own), watched, entry_norms(bank, entry) or {}))
        return tuple(diagnosed)
    finally:
        attached.detach()


def _task_diagnosis(
    task: LoadedTask, num_rows: int, watched: Watched, norms: Mapping[str, Sequence[float]]
) -> TaskDiagnosis:
    real_keys, real_values = watched.real_norms.t().tolist()
    return TaskDiagnosis(
        name=task.name,
        directory=task.directory,
        method=task.saved.method,
        prompt_length=int(task.saved.prompts.shape[3]),
        layers=task.saved.layers,
        num_rows=num_rows,
        num_tokens=watched.num_tokens,
        attention=tuple(_rounded(heads) for heads in watched.attention.tolist()),
        keys=tuple(norms["keys"]),
        values=tuple(norms["values"]),
        real_keys=_rounded(real_keys),
        real_values=_rounded(real_values),
        training=read_norms(task.directory),
    )


def _similarity(tasks: Sequence[LoadedTask]) -> Similarity | None:
    first = tasks[0].saved
    if len(tasks) == 1:
        return compare_layers(first.prompts, first.layers) if len(first.layers) > 1 else None
    found = compare_tasks(
        [task.saved.prompts for task in tasks], [task.saved.layers for task in tasks], [task.name for task in tasks]
    )
    return found if found.layers else None


def _start_alike(tasks: Sequence[LoadedTask]) -> bool:
    """Whether two runs drew their prompts by the same settings from the same seed."""
    runs = [run for run in (run_config_of(task.directory) for task in tasks) if run is not None]
    names = ("prompt_length", "layers", "init", "init_std", "reparameterization")
    starts = [str([run.training.seed, *(getattr(run.prompts, name) for name in names)]) for run in runs]
    return len(set(starts)) < len(starts)


def _without_history(task: TaskDiagnosis) -> str:
    return (
        f"The norms of {task.name} over training are not known, since its prompt is in no run, or in one of a ptuning "
        "that did not write them: only those of the saved prompt are shown."
    )


def _rounded(numbers: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(number, 6) for number in numbers)


def _write(diagnosis: Diagnosis, output: Path) -> tuple[Path, ...]:
    """Draws the figures and writes them and the numbers behind them."""
    files: list[Path] = []
    for task, name in zip(diagnosis.tasks, _file_names(diagnosis.tasks), strict=True):
        attention = draw_attention(task.attention, title=task.name)
        norms = draw_norms(
            title=task.name,
            layers=task.layers,
            steps=[point.step for point in task.training] or [0],
            keys=[point.keys for point in task.training] or [task.keys],
            values=[point.values for point in task.training] or [task.values],
            real_keys=[task.real_keys[layer] for layer in task.layers],
            real_values=[task.real_values[layer] for layer in task.layers],
            saved_at=next((point.step for point in reversed(task.training) if point.is_best), None),
        )
        files += save_figure(attention, output / f"attention-{name}")
        files += save_figure(norms, output / f"norms-{name}")
    found = diagnosis.similarity
    if found is not None:
        similarity = draw_similarity(
            found.pairs, found.layers, found.keys, found.values, between=found.between, chance=found.chance
        )
        files += save_figure(similarity, output / "similarity")
    replace_file(output / NUMBERS_NAME, json.dumps(diagnosis.to_dict(), indent=2, ensure_ascii=False) + "\n")
    return (*files, output / NUMBERS_NAME)


def _file_names(tasks: Sequence[TaskDiagnosis]) -> list[str]:
    """The tasks' names as parts of file names, all different."""
    names = [re.sub(r"[^\w.]+", "-", task.name).strip("-") for task in tasks]
    return [f"{name}-{place}" if names.count(name) > 1 else name for place, name in enumerate(names, start=1)]
