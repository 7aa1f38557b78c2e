"""`checkpoints/last`: everything needed to go on exactly where a run stood, in safetensors and JSON.

    checkpoints/last/
      state.json             where the run stands: epoch, batch, step, best scores, lines of metrics.jsonl
      tensors.safetensors    trained parameters, optimizer moments, averages, random state of each process

Ours, because accelerate's `save_state` pickles.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import ConfigDict, TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ptuning.errors import CheckpointError
from ptuning.storage import recover_directory, replace_directory, sha256_of
from ptuning.training.seed import random_state, restore_random_state

_ORIGIN = {
    "data": "the data are not those the run was started with (other rows, labels or tokenization)",
    "backbone": "the backbone's weights are not those the run was started with",
}


@dataclass
class Standing:
    """How a candidate stands.

    Attributes:
        loss_sum: sum of the epoch's batch losses so far.
        best_score: best validation score so far, None before the first evaluation.
        best_epoch: the epoch it is from.
        last_score: the latest.
        evaluations_without_gain: for early stopping.
        is_over: whether it is trained no further: it has stopped early, was dropped, or has diverged.
        has_diverged: whether a loss or gradient of it was not finite.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    loss_sum: float = 0.0
    best_score: float | None = None
    best_epoch: int = 0
    last_score: float = 0.0
    evaluations_without_gain: int = 0
    is_over: bool = False
    has_diverged: bool = False


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        epoch: the epoch it is in, from 0.
        batch: batches of that epoch that are done.
        step: optimizer steps done.
        standings: of each candidate; mostly there is one.
        metric_lines: lines of metrics.jsonl that belong to this state.
        seconds: time trained, over all sittings.
        finished: whether nothing is left to train.
        reuses_trunk: whether the layers below the prompts run once for all; see `trunk_reuse.py`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    epoch: int = 0
    batch: int = 0
    step: int = 0
    standings: list[Standing] = field(default_factory=lambda: [Standing()])
    metric_lines: int = 0
    seconds: float = 0.0
    finished: bool = False
    reuses_trunk: bool = False

    @property
    def alive(self) -> list[int]:
        """The candidates that are still trained."""
        return [number for number, standing in enumerate(self.standings) if not standing.is_over]


_PROGRESS = TypeAdapter(Progress)


def reused_trunk(directory: Path) -> bool | None:
    """Whether a run reuses the trunk, as its `checkpoints/last` says; None without one that can be read."""
    try:
        found = json.loads((directory / "state.json").read_text(encoding="utf-8")).get("reuses_trunk")
    except (OSError, ValueError, AttributeError):
        return None  # what is wrong with it, `load_state` says
    return found if isinstance(found, bool) else None


def save_state(
    directory: Path,
    progress: Progress,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    origin: Mapping[str, str],
    averages: Mapping[str, Tensor] | None = None,
    randoms: Sequence[Mapping[str, Tensor]] | None = None,
) -> None:
    """Writes `checkpoints/last` as a whole.

    Args:
        directory: `checkpoints/last`.
        progress: where the run stands.
        parameters: the trained parameters by name.
        optimizer: over the same parameters.
        origin: digests of the `data` and the `backbone`.
        averages: what moving averages of the parameters go on from, by name.
        randoms: the random state of each process, where there are several.
    """

    def write(temporary: Path) -> None:
        tensors: dict[str, Tensor] = {f"parameter.{name}": p.detach() for name, p in parameters.items()}
        for name, parameter in parameters.items():
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = value if isinstance(value, Tensor) else torch.tensor(value)
        tensors |= {f"average.{name}": value for name, value in (averages or {}).items()}
        for index, of_process in enumerate(randoms or [random_state()]):
            tensors |= {_random_key(index) + name: value for name, value in of_process.items()}
        tensors = {name: value.cpu().contiguous().clone() for name, value in tensors.items()}
        save_file(tensors, temporary / "tensors.safetensors")
        state = asdict(progress) | {"origin": dict(origin), "sha256": sha256_of(temporary / "tensors.safetensors")}
        (temporary / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")

    replace_directory(directory, write)


def load_state(
    directory: Path,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    origin: Mapping[str, str],
    averages: Mapping[str, Tensor] | None = None,
    process: int = 0,
) -> Progress | None:
    """Puts back parameters, optimizer and random state, and returns where the run stood.

    Args:
        directory: `checkpoints/last`.
        parameters: the trained parameters by name; filled in place.
        optimizer: over the same parameters; filled in place.
        origin: digests of the `data` and the `backbone` at hand, which must be those of the run.
        averages: what moving averages of the parameters go on from, by name; filled in place.
        process: the number of this one among those of the run. One that was not there when the state was kept goes on
            with the random numbers that it has.

    Returns:
        None when the run was stopped before its first checkpoint.

    Raises:
        CheckpointError: the state is damaged, or belongs to other settings, other data or another backbone.
    """
    recover_directory(directory)
    if not directory.exists():
        return None
    try:
        state = json.loads((directory / "state.json").read_text(encoding="utf-8"))
        found = sha256_of(directory / "tensors.safetensors")
        tensors = load_file(directory / "tensors.safetensors") if found == state["sha256"] else None
        started_with = dict(state.pop("origin"))
        state.pop("sha256")
        progress = _PROGRESS.validate_python(state)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        problem = str(error).splitlines()[0]
        raise CheckpointError(f"{directory} is damaged: {problem}. Start again with --overwrite.") from error
    if tensors is None:
        raise CheckpointError(f"{directory}/tensors.safetensors was altered or cut off. Start again with --overwrite.")
    for what, digest in origin.items():
        if started_with.get(what) != digest:
            raise CheckpointError(
                f"{_ORIGIN[what]}, so it cannot go on exactly. Put back what it was started with, or start again with "
                "--overwrite."
            )
    names = {name.removeprefix("parameter.") for name in tensors if name.startswith("parameter.")}
    if names != set(parameters):
        raise CheckpointError(
            f"{directory} has trained parameters {sorted(names)}, expected {sorted(parameters)}. "
            "Resume with the settings the run was started with, or start again with --overwrite."
        )
    averaged = {name.removeprefix("average.") for name in tensors if name.startswith("average.")}
    if averaged != set(averages or {}):
        raise CheckpointError(
            f"{directory} has averages of {sorted(averaged)}, expected {sorted(averages or {})}. "
            "Resume with the settings the run was started with, or start again with --overwrite."
        )
    for name, parameter in parameters.items():
        shape = tuple(tensors[f"parameter.{name}"].shape)
        if shape != tuple(parameter.shape):
            raise CheckpointError(
                f"{directory} has {name} of shape {shape}, expected {tuple(parameter.shape)}. "
                "Resume with the settings the run was started with, or start again with --overwrite."
            )
    with torch.no_grad():
        for name, average in (averages or {}).items():
            average.copy_(tensors[f"average.{name}"])
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"parameter.{name}"])
            moments = {
                key.split(".", 2)[1]: value
                for key, value in tensors.items()
                if key.startswith("optimizer.") and key.split(".", 2)[2] == name
            }
            if moments:
                # AdamW keeps its step count on the CPU and its moments beside the parameter.
                optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(parameter.device) for key, value in moments.items()
                }
    own = _random_key(process)
    random = {key.removeprefix(own): value for key, value in tensors.items() if key.startswith(own)}
    if random:
        restore_random_state(random)
    return progress


def _random_key(process: int) -> str:
    return "random." if process == 0 else f"random{process}."
