"""From a run's settings to what it will need."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from ptuning.backbones.loading import Backbone
from ptuning.config import METHODS, RunConfig
from ptuning.devices import find_dtype
from ptuning.planning.fitting import largest_that_fits
from ptuning.planning.known import KnownTask, know_task
from ptuning.planning.machine import is_here, libraries_of, memory_of, planned_device
from ptuning.planning.rate import matrix_rate
from ptuning.planning.traced import ANSWER_LENGTH, TracedModel
from ptuning.training.micro_batches import tokens_at_once
from ptuning.training.run import with_absolute_paths

USABLE = 0.95
"""The part of a memory that a plan fills: allocators leave gaps."""

EFFICIENCY = {"cpu": 0.5}
"""The part of the rate of products that a whole step reaches, as measured on a CPU."""
_OTHER_EFFICIENCY = 0.4  # of GPUs, not measured

_FEW_SECONDS = 1.0  # for measuring a rate
_FEW_SHAPES = 3
_LONG_PRODUCT = 40_000_000_000  # operations; half a second of a CPU's core, which reaches its rate with less


@dataclass(frozen=True)
class Plan:
    """What a training needs. Sizes are in bytes of the device's memory.

    Attributes:
        backbone: its name.
        model_type: its family.
        task: its name.
        method: what is trained.
        device: type of the device.
        precision: of the backbone's products: `fp32` or `bf16`.
        num_parameters: of the backbone.
        num_transformer_parameters: those without embeddings.
        trained_parameters: what training changes, the head too.
        max_length: tokens a sequence at most.
        batch_size: examples a batch.
        weights_bytes: frozen weights.
        laid_out_bytes: weights that a CPU keeps once more in the layout of its products.
        trained_bytes: what is trained.
        gradient_bytes: gradients of that.
        optimizer_bytes: moments of the optimizer.
        activation_bytes_per_batch: kept for the backward by what goes through the model at once.
        workspace_bytes: what comes and goes at the highest point.
        evaluation_bytes: the most that an evaluation holds, weights and all.
        peak_bytes: the most that is held at once.
        libraries_bytes: what the imported libraries take besides.
        memory_bytes: that the machine has.
        fits: whether peak and libraries are within it.
        largest_batch_size: the most examples of `max_length` that go through the model at once; None for methods
            without steps.
        operations_per_step: of matrix products, an optimizer step; None for methods without steps.
        rate: operations a second that products alone reach; None where it is not known.
        efficiency: the part of it that a whole step reaches.
        seconds_per_step: an optimizer step with rows of `max_length`.
        steps_per_epoch: optimizer steps; None where the data are not at hand.
        epochs: that the run would make; None where it is not known.
        training_seconds: of all steps, with the lengths that rows have, where they are known; without evaluations.
        assumptions: what was taken for granted.
    """

    backbone: str
    model_type: str
    task: str
    method: str
    device: str
    precision: str
    num_parameters: int
    num_transformer_parameters: int
    trained_parameters: int
    max_length: int
    batch_size: int
    weights_bytes: int
    laid_out_bytes: int
    trained_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes_per_batch: int
    workspace_bytes: int
    evaluation_bytes: int
    peak_bytes: int
    libraries_bytes: int
    memory_bytes: int
    fits: bool
    largest_batch_size: int | None
    operations_per_step: int | None
    rate: float | None
    efficiency: float
    seconds_per_step: float | None
    steps_per_epoch: int | None
    epochs: int | None
    training_seconds: float | None
    assumptions: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "assumptions": list(self.assumptions)}


def make_plan(config: RunConfig, *, memory_bytes: int | None = None, rate: float | None = None) -> Plan:
    """Says what a run would need, without its weights: of the backbone only `config.json` is read.

    Args:
        config: of the run, as `train` takes it.
        memory_bytes: of another machine's device, which need not be here; without it that of the device here.
        rate: operations a second of matrix products there; without it measured here, where the device is here.

    Raises:
        BackboneError: the backbone was not found, or is of an unsupported family.
        ConfigError: settings that contradict each other, the task or the backbone; or a device that is not here.
        DataError: data that are at hand are not what the task needs.
    """
    config = with_absolute_paths(config)
    device = planned_device(config.training.device, is_elsewhere=memory_bytes is not None)
    method, dtype = METHODS[config.method], _dtype_of(config, device)
    model = TracedModel(config, device, torch.float32 if method.trains_backbone else dtype)
    known = know_task(config, model.backbone)
    config, assumptions = _resolved(known, model.backbone, dtype)
    model.assemble(config, known.kind, known.max_length, num_sequences=known.num_sequences)
    memory = memory_of(device) if memory_bytes is None else memory_bytes
    libraries = libraries_of(device)
    room = int(memory * USABLE) - libraries

    evaluation = model.evaluation(max(1, tokens_at_once(config) // known.max_length), known.max_length)
    peak, activations, gradients = evaluation, 0, 0
    largest = operations = seconds = None
    efficiency = EFFICIENCY.get(device.type, _OTHER_EFFICIENCY)
    batch_size, at_once = _batch_size(config, known), _examples_at_once(config, known)
    if method.makes_steps:
        step = model.step(at_once * known.num_sequences, known.max_length)
        activations, gradients, peak = step.activations, step.gradients, max(evaluation, step.peak)
        operations = round(step.operations * batch_size / at_once) * config.training.accumulation
        largest = 0
        if evaluation <= room:
            largest = largest_that_fits(
                lambda examples: model.step(examples * known.num_sequences, known.max_length).peak, room, start=at_once
            )
        if rate is None and is_here(device):
            positions = at_once * known.num_sequences * known.max_length
            rate = _measured_rate(model, min(positions, tokens_at_once(config)), dtype, device)
            assumptions += [] if memory_bytes is None else ["products are as fast as on this machine"]
        seconds = None if rate is None else operations / (rate * efficiency)
        assumptions.append("no rate of products is known, so no time" if rate is None else "")
    held = model.weights + model.laid_out + model.trained + model.optimizer + activations
    description = model.backbone.description
    return Plan(
        backbone=model.backbone.name,
        model_type=description.model_type,
        task=config.task,
        method=config.method,
        device=device.type,
        precision=config.training.precision,
        num_parameters=description.num_parameters,
        num_transformer_parameters=description.num_transformer_parameters,
        trained_parameters=sum(model.counts.values()),
        max_length=known.max_length,
        batch_size=batch_size,
        weights_bytes=model.weights,
        laid_out_bytes=model.laid_out,
        trained_bytes=model.trained,
        gradient_bytes=gradients,
        optimizer_bytes=model.optimizer,
        activation_bytes_per_batch=activations,
        workspace_bytes=max(0, peak - held),
        evaluation_bytes=evaluation,
        peak_bytes=peak,
        libraries_bytes=libraries,
        memory_bytes=memory,
        fits=peak <= room,
        largest_batch_size=largest,
        operations_per_step=operations,
        rate=rate,
        efficiency=efficiency,
        seconds_per_step=seconds,
        steps_per_epoch=known.steps_per_epoch if method.makes_steps else None,
        epochs=known.epochs if method.makes_steps else 0,
        training_seconds=_training_seconds(config, known, seconds),
        assumptions=tuple(filter(None, [*_taken_for_granted(config, known, model), *assumptions])),
    )


def _dtype_of(config: RunConfig, device: torch.device) -> torch.dtype:
    """Of the products; `auto` on a device that is not here means what most of its kind have."""
    if config.training.precision == "auto" and not is_here(device):
        return torch.bfloat16
    return find_dtype(config.training.precision, device)


def _resolved(known: KnownTask, backbone: Backbone, dtype: torch.dtype) -> tuple[RunConfig, list[str]]:
    """The config with pooling, epochs and precision filled in, and what was assumed for that."""
    config, assumptions = known.config, []
    pooling = config.head.pooling
    if pooling is None and backbone.has_tokenizer_here:
        pooling = backbone.pooling
    elif pooling is None:
        pooling = _usual_pooling(backbone)
        if config.head.kind == "linear" and known.kind.head_kind in ("sequence", "choice"):
            assumptions.append(f"head.pooling is {pooling}")
    update: dict[str, dict[str, Any]] = {
        "head": {"pooling": pooling},
        "training": {"precision": "bf16" if dtype == torch.bfloat16 else "fp32", "epochs": known.epochs or 2},
    }
    groups = {name: getattr(config, name).model_copy(update=values) for name, values in update.items()}
    return config.model_copy(update=groups), assumptions


def _usual_pooling(backbone: Backbone) -> Literal["cls", "mean", "last"]:
    """What most backbones of its kind have, where neither the tokenizer nor a file of the checkpoint can be asked."""
    if backbone.family.is_decoder:
        return "last" if backbone.is_causal else "mean"
    return "mean" if backbone.family.positions == "relative" else "cls"


def _batch_size(config: RunConfig, known: KnownTask) -> int:
    """Examples a batch, all of `max_length`."""
    training = config.training
    if training.batch_tokens is None:
        return training.batch_size
    return max(1, training.batch_tokens // (known.max_length * known.num_sequences))


def _examples_at_once(config: RunConfig, known: KnownTask) -> int:
    """Examples that go through the model at once."""
    limit, examples = config.training.micro_batch_tokens, _batch_size(config, known)
    if limit is None:
        return examples
    return min(examples, max(1, limit // (known.max_length * known.num_sequences)))


def _measured_rate(model: TracedModel, positions: int, dtype: torch.dtype, device: torch.device) -> float:
    shapes = model.matrix_shapes()[:_FEW_SHAPES]
    if device.type == "cpu":
        positions = min(positions, max(1, _LONG_PRODUCT // (2 * max(rows * width for rows, width in shapes))))
    return matrix_rate(shapes, [positions], dtype, str(device), trials=5, seconds=_FEW_SECONDS)


def _training_seconds(config: RunConfig, known: KnownTask, seconds: float | None) -> float | None:
    """Seconds of all steps, by the positions that an epoch has where they are known."""
    if seconds is None or known.steps_per_epoch is None or known.epochs is None:
        return None
    steps = known.steps_per_epoch * known.epochs
    if config.training.max_steps is not None:
        steps = min(steps, config.training.max_steps)
    if known.positions_per_epoch is None:
        return seconds * steps
    of_step = _batch_size(config, known) * known.num_sequences * known.max_length * config.training.accumulation
    return seconds * steps * known.positions_per_epoch / (known.steps_per_epoch * of_step)


def _taken_for_granted(config: RunConfig, known: KnownTask, model: TracedModel) -> list[str]:
    said = [f"rows of a batch have {known.max_length} tokens, padding among them", *known.assumptions]
    if known.steps_per_epoch is None:
        said.append("the data are not at hand, so steps of an epoch are not known")
    if model.skips_trunk:
        said.append("layers below the prompts are run once, which is not in the time (training.trunk_reuse)")
    if model.fills_answers:
        said.append(f"answers have {ANSWER_LENGTH} tokens")
    if config.training.quantization != "none":
        said.append("weights are restored in every product, which is not in the time")
    if config.training.attention == "flex_attention" and config.training.packing != "off":
        said.append("batches are padded, not packed")
    if config.training.compile:
        said.append("layers are not compiled")
    return said
