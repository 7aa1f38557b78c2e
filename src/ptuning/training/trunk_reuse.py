"""Trunk reuse: the layers below the lowest prompt are run once, and their output is read back in every epoch.

    DIRECTORY/trunk/
      index.json    what the states belong to, and how many bytes there are
      states.bin    hidden states of all sequences one after another, in the backbone's precision

The backbone is frozen and those layers see tokens alone, so their output is the same in every epoch: training from it
equals training without it, but for dropout in those layers, which there is none of. Whether it is done is decided when
a run begins, and kept in its checkpoints. The directory is moved into place when it is whole, and deleted when the run
is finished.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ptuning.backbones.families import find_trunk
from ptuning.backbones.late_start import can_start_late
from ptuning.backbones.sharding import is_sharded
from ptuning.config import RunConfig
from ptuning.config.methods import backbone_dropout
from ptuning.data.batching import Example, collate, evaluation_batches, num_positions
from ptuning.errors import ConfigError
from ptuning.inference import padding_ids
from ptuning.lower_states import LowerStates, map_states, unique_sequences
from ptuning.model import PromptedModel
from ptuning.storage import recover_directory, replace_directory
from ptuning.training.directory import TRUNK_NAME
from ptuning.training.micro_batches import tokens_at_once
from ptuning.training.reporting import Reporter

_INDEX, _STATES = "index.json", "states.bin"
_FORMAT = 1
_OTHERWISE = "set training.trunk_reuse to off or auto."
_ADVICE = f"Make room on the disk or give another --output, or {_OTHERWISE}"


@dataclass(frozen=True)
class TrunkPlan:
    """What is to be run once.

    Attributes:
        sequences: every different sequence: its key, and an example that has it with its number there.
        lengths: tokens of each.
        index: what `index.json` holds.
        is_asked: whether going without it is an error.
    """

    sequences: dict[bytes, tuple[Example, int]]
    lengths: list[int]
    index: dict[str, Any]
    is_asked: bool


def plan_trunk(
    directory: Path,
    model: PromptedModel,
    examples: Sequence[Example],
    config: RunConfig,
    *,
    origin: Mapping[str, str],
    before: bool | None,
    report: Reporter,
) -> TrunkPlan | None:
    """Returns what `reuse_trunk` is to do, or None where the trunk is not to be reused.

    Args:
        directory: of the run.
        model: with all entries of its bank.
        examples: that it will see.
        config: resolved settings.
        origin: what tells data and backbone from others.
        before: what a run that goes on did; None for one that begins. It goes on so, since without reuse there is
            dropout in the layers below.
        report: who is told why it is not reused where it could be.

    Raises:
        ConfigError: `training.trunk_reuse` is on, and it cannot be.
    """
    if config.training.trunk_reuse == "off" or before is False:
        return None
    is_asked = config.training.trunk_reuse == "on" or before is True
    obstacle = obstacle_to_reuse(model, config, is_asked=is_asked)
    advice = f"Change that, or {_OTHERWISE}"
    if obstacle is None:
        recover_directory(directory / TRUNK_NAME)
        sequences = unique_sequences(examples)
        lengths = [num_positions(example.sequences[number]) for example, number in sequences.values()]
        parameter = next(model.backbone.parameters())
        hidden_size = int(model.backbone.config.hidden_size)
        index = {
            "format": _FORMAT,
            **origin,
            "first_layer": model.lowest_prompted_layer,
            "shift": sorted(model.shifts),
            "dtype": str(parameter.dtype).removeprefix("torch."),
            "hidden_size": hidden_size,
            "num_tokens": sum(lengths),
            "num_bytes": sum(lengths) * hidden_size * parameter.element_size(),
        }
        lack = None
        if not _is_there(directory / TRUNK_NAME, index):
            lack = _foreign(directory / TRUNK_NAME) or _lack_of_space(directory, int(index["num_bytes"]))
        if lack is None:
            return TrunkPlan(sequences, lengths, index, is_asked)
        obstacle, advice = lack, _ADVICE
        if not is_asked:
            report.note(f"the layers below the prompts run in every epoch, since {lack}")
    if is_asked:
        then = " (as when this run began)" if before else ""
        raise ConfigError(f"training.trunk_reuse is on{then}, but {obstacle}. {advice}")
    return None


def reuse_trunk(
    directory: Path, model: PromptedModel, tokenizer: Any, plan: TrunkPlan, config: RunConfig, *, report: Reporter
) -> bool:
    """Gives a model the output of its layers below the prompts for all sequences of a plan.

    Args:
        directory: of the run.
        model: on its device.
        tokenizer: for padding.
        plan: of `plan_trunk`.
        config: resolved settings.
        report: who is told.

    Returns:
        Whether it did; not where the disk could not be written, and the plan allows to go without.

    Raises:
        ConfigError: the disk cannot be written, and the plan does not.
    """
    trunk, index = directory / TRUNK_NAME, plan.index
    model.start_late()
    if not _is_there(trunk, index):
        report.note(
            f"running the {index['first_layer']} layers below the prompts once for {len(plan.lengths)} sequences, "
            f"without dropout there; their output takes {index['num_bytes'] / 1e6:.1f} MB until the run is finished"
        )
        try:
            replace_directory(trunk, lambda made: _write(made, model, tokenizer, plan, tokens_at_once(config)))
        except OSError as error:
            lack = f"their output cannot be written to {directory}: {error.strerror or error}"
            if plan.is_asked:
                raise ConfigError(f"training.trunk_reuse is on, but {lack}. {_ADVICE}") from error
            report.note(f"the layers below the prompts run in every epoch, since {lack}")
            return False
    dtype = getattr(torch, index["dtype"])
    states = map_states(str(trunk / _STATES), index["num_tokens"], index["hidden_size"], dtype)
    model.lower_states = LowerStates(states, zip(plan.sequences, plan.lengths, strict=True))
    return True


def forget_trunk(directory: Path) -> None:
    """Deletes what `reuse_trunk` has written."""
    shutil.rmtree(directory / TRUNK_NAME, ignore_errors=True)


def obstacle_to_reuse(model: PromptedModel, config: RunConfig, *, is_asked: bool) -> str | None:
    """Why the layers below cannot be run once for all, or are not where it was not asked for; None where they are."""
    trunk, family = find_trunk(model.backbone)
    if model.adaptation is not None:
        return f"method {model.adaptation.name} changes what all layers see"
    if is_sharded(model.backbone):
        return "the backbone is divided among processes (training.sharding), which have to run it together"
    if model.lowest_prompted_layer == 0:
        whose = "" if len(model.bank) == 1 else " of some candidate"
        return f"the prompts{whose} begin at layer 0 (prompts.layers), which leaves no layer below them"
    if not can_start_late(trunk, family):
        return f"the lower layers of this {family.model_type} cannot be left out"
    if len(model.shifts) > 1:
        return "candidates shift positions by different prompt lengths"
    if is_asked:
        return None
    if (config.training.epochs or 0) < 2 and len(model.bank) == 1:
        return "there is one epoch only"
    dropout = backbone_dropout(config)
    if isinstance(dropout, float | int) and dropout > 0.0:
        return "training.backbone_dropout asks for dropout in the layers below"
    return None


def _is_there(directory: Path, index: Mapping[str, Any]) -> bool:
    """Whether a whole file of just these states is there."""
    try:
        found = json.loads((directory / _INDEX).read_text(encoding="utf-8"))
        size = (directory / _STATES).stat().st_size
    except (OSError, ValueError):
        return False
    return bool(found == index) and size == index["num_bytes"]


def _foreign(trunk: Path) -> str | None:
    others = sorted({path.name for path in trunk.iterdir()} - {_INDEX, _STATES}) if trunk.is_dir() else []
    return f"{trunk} holds {', '.join(others)}, which no run has written" if others else None


def _lack_of_space(directory: Path, num_bytes: int) -> str | None:
    free = shutil.disk_usage(directory).free
    if num_bytes * 1.05 < free:
        return None
    return (
        f"the output of the layers below the prompts takes {num_bytes / 1e6:.1f} MB, and {directory} has "
        f"{free / 1e6:.1f} MB free"
    )


def _write(directory: Path, model: PromptedModel, tokenizer: Any, plan: TrunkPlan, batch_tokens: int) -> None:
    singles = [_alone(example, number) for example, number in plan.sequences.values()]
    device = next(model.backbone.parameters()).device
    num_tokens, hidden_size, dtype = (plan.index[name] for name in ("num_tokens", "hidden_size", "dtype"))
    states = map_states(str(directory / _STATES), num_tokens, hidden_size, getattr(torch, dtype), writing=True)
    ends = torch.tensor(plan.lengths).cumsum(0).tolist()
    was_training = model.training
    model.eval()
    try:
        for indices in evaluation_batches(plan.lengths, batch_tokens=batch_tokens):
            batch = collate([singles[i] for i in indices], *padding_ids(tokenizer)).to(device)
            hidden_states = model.lower_layers(batch.input_ids, batch.attention_mask, batch.token_type_ids).cpu()
            for i, own in zip(indices, hidden_states, strict=True):
                states[ends[i] - plan.lengths[i] : ends[i]] = own[: plan.lengths[i]]
    finally:
        model.train(was_training)
    (directory / _INDEX).write_text(json.dumps(plan.index), encoding="utf-8")


def _alone(example: Example, number: int) -> Example:
    """One sequence of an example, without label."""
    token_types = None if example.token_types is None else (example.token_types[number],)
    return Example((example.sequences[number],), token_types, None, example.row)
