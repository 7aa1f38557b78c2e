"""The high-level door: saved prompts on one frozen backbone, asked in one batch.

task = ptuning.load("runs/rte")
task.predict([{"sentence1": "...", "sentence2": "..."}])

tasks = ptuning.load(["runs/tickets", "runs/entities"])         # one backbone in memory, two tasks
tasks.predict(rows, tasks=["tickets", "entities", "tickets"])   # one batch, each row with its own prompts
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ptuning.backbones.loading import Backbone, load_backbone
from ptuning.backbones.quantization import Quantization
from ptuning.checkpoint import PromptDirectory, SavedPrompt, load_tensors_into, read_directory
from ptuning.config import METHODS
from ptuning.data.rows import Row
from ptuning.data.template import Template
from ptuning.data.unlabelled import rows_from_records
from ptuning.devices import find_device, find_dtype
from ptuning.errors import CheckpointError, PromptError
from ptuning.heads import DrawnPooler
from ptuning.inference import TOKENS_AT_ONCE, run_examples
from ptuning.methods import Adaptation, restore_adaptation
from ptuning.model import PromptedModel
from ptuning.prompts import GivenPrompts, PromptBank
from ptuning.sharing import is_in_hub_cache
from ptuning.tasks import TaskKind
from ptuning.tasks.heads import linear_head
from ptuning.tasks.kind import Prediction
from ptuning.tasks.saving import kind_of, template_of
from ptuning.tasks.verbalizing import make_verbalizer


@dataclass(frozen=True)
class LoadedTask:
    """A saved task, ready to be asked.

    Attributes:
        name: by which rows ask for it: the name of the run's directory, or of the prompt's where it is in none; the
            task's own for a prompt in the hub's cache, whose directory is named by a commit; the whole path where
            several that are loaded would have one name.
        kind: what is asked of the model.
        columns: role -> column, as in training; with a template what it reads -> column.
        template: makes roles of columns; None where columns are roles.
        max_length: tokens a sequence at most.
        directory: the prompt directory that it came from.
        saved: what is in it.
    """

    name: str
    kind: TaskKind
    columns: dict[str, str]
    template: Template | None
    max_length: int
    directory: Path
    saved: SavedPrompt = field(repr=False, compare=False)


class Predictor:
    """Saved tasks on one backbone. Made by `load`.

    Attributes:
        backbone: frozen, shared by all tasks.
        tasks: in the order in which they were given.
    """

    def __init__(self, backbone: Backbone, tasks: Sequence[LoadedTask], model: PromptedModel) -> None:
        self.backbone = backbone
        self.tasks = list(tasks)
        self._model = model
        self._is_closed = False

    def predict(
        self,
        rows: Sequence[Mapping[str, Any]],
        tasks: Sequence[str | int] | str | int | None = None,
        *,
        batch_tokens: int = TOKENS_AT_ONCE,
    ) -> list[Prediction]:
        """Predicts rows, of one task or of several mixed in the same batches.

        Args:
            rows: dicts with the columns that the task was trained with, or their roles (`text`, `tokens`, `question`,
                `context`, …); labels are ignored.
            tasks: name or index of each row's task, or one for all; may be left out where there is one task.
            batch_tokens: positions a batch at most.

        Returns:
            One prediction a row, in order; its keys depend on the kind of task.

        Raises:
            PromptError: `tasks` is missing, of the wrong length, or names a task that is not there; or all were closed.
            DataError: a row lacks what its task needs.
        """
        rows = list(rows)
        indices = self._indices(tasks, len(rows))
        own_rows = {}
        for index in sorted(set(indices)):
            task = self.tasks[index]
            records = [row for row, number in zip(rows, indices, strict=True) if number == index]
            own_rows[index] = rows_from_records(records, task.kind.name, task.columns, task.template, name=task.name)
        answers = {index: iter(own) for index, own in self._answer(own_rows, batch_tokens).items()}
        return [next(answers[index]) for index in indices]

    def predict_rows(
        self, rows: Sequence[Row], task: str | int = 0, *, batch_tokens: int = TOKENS_AT_ONCE
    ) -> list[Prediction]:
        """Predicts rows of one task whose columns are roles already, such as those of `load_data` and `load_rows`."""
        index = self._index(task)
        return self._answer({index: rows}, batch_tokens)[index]

    def close(self) -> None:
        """Takes the prompts off the backbone, which is then bit for bit what it was. A tuned one stays tuned."""
        if not self._is_closed:
            self._is_closed = True
            self._model.detach()

    def _answer(self, rows: Mapping[int, Sequence[Row]], batch_tokens: int) -> dict[int, list[Prediction]]:
        """Task index -> rows, to task index -> predictions, all tasks in the same batches."""
        if self._is_closed:
            raise PromptError("the tasks were closed, so their prompts are off the backbone. Load them again.")
        tokenizer = self.backbone.tokenizer
        examples = {
            index: self.tasks[index].kind.encode(own, tokenizer, self.tasks[index].max_length, training=False)
            for index, own in rows.items()
        }
        numbers = [index for index, own in examples.items() for _ in own]
        logits = iter(
            run_examples(
                self._model,
                [example for own in examples.values() for example in own],
                tokenizer,
                entries=numbers,
                heads=numbers,
                batch_tokens=batch_tokens,
            )
        )
        return {
            index: self.tasks[index].kind.predict([next(logits) for _ in own], own, rows[index])
            for index, own in examples.items()
        }

    def _indices(self, tasks: Sequence[str | int] | str | int | None, num_rows: int) -> list[int]:
        if tasks is None:
            if len(self.tasks) > 1:
                raise PromptError(
                    f"{len(self.tasks)} tasks are loaded ({', '.join(task.name for task in self.tasks)}), so each row "
                    "must say which one it asks. Pass tasks=, a name or index for each row."
                )
            return [0] * num_rows
        if isinstance(tasks, str | int):
            return [self._index(tasks)] * num_rows
        if len(tasks) != num_rows:
            raise PromptError(f"tasks has {len(tasks)} items, expected one for each of the {num_rows} rows.")
        return [self._index(task) for task in tasks]

    def _index(self, task: str | int) -> int:
        names = [loaded.name for loaded in self.tasks]
        if isinstance(task, str) and task in names:
            return names.index(task)
        if isinstance(task, int) and 0 <= task < len(names):
            return task
        raise PromptError(f"there is no task {task!r}. Loaded are {', '.join(names)}; use a name or its index.")


def load(
    directories: str | Path | Sequence[str | Path],
    backbone: Backbone | str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    quantization: Quantization | None = None,
) -> Predictor:
    """Loads one or several saved prompts, and their backbone once.

    Args:
        directories: runs, or their `prompt/` directories.
        backbone: a loaded one without prompts, which stays where it is; or a name or directory; by default the one they
            were trained on.
        device: where a backbone that has to be loaded goes, such as `cpu` or `cuda:1`; by default the best there is.
        dtype: storage of its weights; by default float32 where a prompt was trained so, else bfloat16 on GPUs and
            CPUs that compute it natively. A tuned backbone is stored in float32, and computes its products in this.
        quantization: of its layers' weights; by default that of the prompts, which must then agree, as must a backbone
            that is given. Another one is taken only where it is asked for.

    Raises:
        CheckpointError: a prompt is missing, damaged, or has no task.
        BackboneMismatchError: a prompt was trained on another backbone, or on its weights in another quantization.
        BackboneError: the backbone cannot be loaded.
        PromptError: no directory was given, or several of methods, quantizations or directions of attention that
            cannot share a backbone.
        ConfigError: this machine does not have the device.
    """
    given = [directories] if isinstance(directories, str | Path) else list(directories)
    if not given:
        raise PromptError("load got no directories, expected at least one run or prompt directory.")
    read = [read_directory(directory) for directory in given]
    saved = [directory.prompt for directory in read]
    alone = [prompt.method for prompt in saved if not METHODS[prompt.method].has_deep_prompts]
    if alone and len(saved) > 1:
        raise PromptError(
            f"{len(saved)} prompts were given, one of them of method {alone[0]}, which has the backbone for itself, "
            "expected prompts at every layer (p-tuning-v2, prefix-tuning) to load several. Load that one alone."
        )
    is_both_ways = _common_direction(saved) == "bidirectional"
    is_spare = not isinstance(backbone, Backbone)
    if not isinstance(backbone, Backbone):
        first = saved[0].backbone
        name = backbone or first.name
        revision = first.revision if backbone is None else None
        place = find_device(None if device is None else str(device))
        # What was trained in full precision is asked in it; else the device decides.
        precision = "fp32" if any(prompt.precision == "fp32" for prompt in saved) else "auto"
        dtype = dtype or find_dtype(precision, place)
        is_tuned = any(METHODS[prompt.method].trains_backbone for prompt in saved)
        backbone = load_backbone(
            name,
            revision=revision,
            device=place,
            dtype=torch.float32 if is_tuned else dtype,
            attention_direction="bidirectional" if is_both_ways else None,
            quantization=quantization or _common_quantization(saved),
        )
    elif quantization is not None and quantization != backbone.quantization:
        raise PromptError(
            f"quantization {quantization} was asked for, but the backbone that was given has {backbone.quantization}. "
            "Leave one of the two out."
        )
    for prompt in saved:
        prompt.backbone.require(backbone.identity, any_quantization=quantization is not None)
    tasks = [_task(directory) for directory in read]
    model, backbone = _model(backbone, saved, tasks, dtype=dtype, is_spare=is_spare)
    return Predictor(backbone, _with_names_that_differ(tasks), model)


def read_task(directory: str | Path) -> LoadedTask:
    """Reads what a saved prompt asks, without the backbone that answers.

    Args:
        directory: run, or its `prompt/` directory.

    Raises:
        CheckpointError: the prompt is missing, damaged, or has no task.
    """
    return _task(read_directory(directory))


def _common_direction(saved: Sequence[SavedPrompt]) -> str | None:
    """Which way the attention of the prompts' decoder looks; None of an encoder."""
    directions = (prompt.backbone.architecture.get("attention_direction") for prompt in saved)
    found = sorted({str(direction) for direction in directions if direction is not None})
    if len(found) > 1:
        raise PromptError(
            f"the prompts were trained with attention of different directions ({', '.join(found)}), and those of two "
            "directions cannot share a backbone. Load them apart."
        )
    return found[0] if found else None


def _common_quantization(saved: Sequence[SavedPrompt]) -> Quantization:
    found = sorted({prompt.backbone.quantization for prompt in saved})
    if len(found) > 1:
        raise PromptError(
            f"the prompts were trained on weights in different quantizations ({', '.join(found)}), and share one "
            "backbone. Pass quantization=, the one to ask all of them on, or load them apart."
        )
    return found[0]


def _model(
    backbone: Backbone,
    saved: Sequence[SavedPrompt],
    tasks: Sequence[LoadedTask],
    *,
    dtype: torch.dtype | None,
    is_spare: bool,
) -> tuple[PromptedModel, Backbone]:
    """The model of saved prompts, and the backbone in it: the given one, or a tuned one."""
    description = backbone.description
    bank = PromptBank(description.num_layers)
    heads: list[nn.Module] = []
    adaptation: Adaptation | None = None
    device = next(backbone.model.parameters()).device
    for prompt, task in zip(saved, tasks, strict=True):
        bank.add(GivenPrompts(prompt.prompts.to(device)), layers=prompt.layers, positions=prompt.positions)
        adaptation, used = restore_adaptation(
            prompt.method, prompt.adaptation, backbone, dtype=dtype, is_spare=is_spare
        )
        settings = prompt.head or {}
        if settings.get("kind") == "verbalizer":
            scores, penalty = used.language_modeling_head, settings.get("length_penalty", 0.0)
            heads.append(make_verbalizer(task.kind, backbone.tokenizer, scores, length_penalty=penalty))
            continue
        pooler = DrawnPooler(description.hidden_size) if settings.get("pooler") == "drawn" else None
        head = linear_head(task.kind, used, pooling=settings["pooling"], pooler=pooler)
        load_tensors_into(head, prompt.head_tensors, f"the head in {task.directory}")
        heads.append(head)
    return PromptedModel(used, bank, heads, adaptation=adaptation).eval(), used


def _task(read: PromptDirectory) -> LoadedTask:
    saved, path = read.prompt, read.path
    if saved.task is None:
        raise CheckpointError(
            f"{path} holds prompts without a task or head, so there is nothing to predict. Attach them to a model "
            "of your own: ptuning.attach(model, ptuning.read_prompt(DIR).prompts)."
        )
    if is_in_hub_cache(path):
        name = str(saved.task["name"])
    else:
        name = (path.parent if path.name == "prompt" else path).name
    task = saved.task
    return LoadedTask(name, kind_of(task), task["columns"], template_of(task), task["max_length"], path, saved)


def _with_names_that_differ(tasks: Sequence[LoadedTask]) -> list[LoadedTask]:
    """Gives tasks whose directories have one name the whole path as their name."""
    names = [task.name for task in tasks]
    return [replace(task, name=str(task.directory)) if names.count(task.name) > 1 else task for task in tasks]
