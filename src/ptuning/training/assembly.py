"""From a run's settings to a model that can be trained: the one place where settings become modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ptuning.backbones.capture import capture_keys_values
from ptuning.backbones.families import position_limit
from ptuning.backbones.loading import Backbone
from ptuning.backbones.packing import can_pack, require_packing
from ptuning.backbones.recomputation import start_recomputing
from ptuning.checkpoint import load_tensors_into, read_prompt
from ptuning.config import PromptsConfig, RunConfig
from ptuning.data.batching import Example, collate
from ptuning.errors import ConfigError
from ptuning.heads import draw_pooler, make_head
from ptuning.inference import padding_ids
from ptuning.model import PromptedModel
from ptuning.prompts import DeepPrompts, Entry, PromptBank, resolve_layers
from ptuning.prompts.initialization import from_saved, pick_tokens
from ptuning.tasks import TaskKind


def fitting_max_length(config: RunConfig, backbone: Backbone, usual: int) -> int:
    """Returns the tokens a sequence may have: what the config says, or what is usual as far as it fits.

    Args:
        config: of the run.
        backbone: whose positions limit it.
        usual: where the config does not say: of the task, or of its kind.

    Raises:
        ConfigError: the config's length (plus prompt_length in shifted mode) is more than the backbone's positions.
    """
    limit = position_limit(backbone.model.config, backbone.family)
    shift = config.prompts.prompt_length if config.prompts.positions == "shifted" else 0
    asked = config.data.max_length
    if limit is None:
        return asked or usual
    if limit - shift < 3:
        raise ConfigError(
            f"prompts.prompt_length is {shift} with `positions: shifted`, which leaves {limit - shift} of the {limit} "
            f"positions of {backbone.name} for tokens. Use shorter prompts or `positions: unshifted`."
        )
    if asked is not None and asked + shift > limit:
        raise ConfigError(
            f"data.max_length is {asked}"
            + (f" and prompts.positions `shifted` adds prompt_length {shift}" if shift else "")
            + f", but {backbone.name} has {limit} positions. Set data.max_length to at most {limit - shift}"
            + (", or prompts.positions to unshifted." if shift else ".")
        )
    return min(asked or usual, limit - shift)


def assemble_model(
    config: RunConfig,
    backbone: Backbone,
    kind: TaskKind,
    examples: Sequence[Example],
    *,
    other_kinds: Sequence[TaskKind] = (),
    other_configs: Sequence[RunConfig] = (),
) -> PromptedModel:
    """Makes prompts, bank and head as the config says, and joins them to the backbone.

    Args:
        config: resolved settings.
        backbone: frozen, without prompts.
        kind: decides the head.
        examples: training examples, for `prompts.init: tokens`.
        other_kinds: those of further data sets that share the prompts, each with a head of its own after the first.
        other_configs: those of further candidates, each with an entry of the bank and all heads of its own.

    Raises:
        ConfigError: settings that contradict each other or the backbone.
        PromptError: a saved prompt to start from does not fit.
        CheckpointError: a saved prompt to start from is damaged, or its head is of another form.
    """
    if config.training.gradient_checkpointing and not backbone.family.gradient_checkpointing:
        raise ConfigError(
            f"training.gradient_checkpointing is on, but transformers has none for {backbone.family.model_type}. "
            "Turn it off; a smaller training.batch_size with training.accumulation saves memory too."
        )
    is_packed = _is_packed(config, backbone)
    bank = PromptBank(backbone.description.num_layers)
    heads: list[nn.Module] = []
    for one in (config, *other_configs):
        generator = torch.Generator().manual_seed(one.training.seed)
        layers = resolve_layers(one.prompts.layers, backbone.description.num_layers)
        prompts = _make_prompts(one.prompts, backbone, layers, examples, generator)
        bank.add(prompts, layers=layers, positions=one.prompts.positions)
        heads += _make_heads(one, backbone, (kind, *other_kinds), generator)
    model = PromptedModel(
        backbone,
        bank,
        heads,
        backbone_dropout=config.training.backbone_dropout,
        packing=is_packed,
        compiled=config.training.compile,
    )
    if config.training.gradient_checkpointing:
        start_recomputing(backbone.model)
    return model


def _is_packed(config: RunConfig, backbone: Backbone) -> bool:
    """Whether batches are packed.

    Raises:
        ConfigError: flex attention, which packing needs, is not there or cannot train here: it has gradients on a GPU
            only, and no dropout of attention weights.
    """
    trunk_config = backbone.model.config
    device = next(backbone.model.parameters()).device
    is_flex, is_asked = can_pack(backbone.family, trunk_config), config.training.packing == "on"
    if device.type in ("cpu", "mps") and (is_flex or is_asked):
        setting, other = ("packing", "auto") if is_asked else ("attention", "sdpa")
        raise ConfigError(
            f"training.{setting} is {getattr(config.training, setting)}, but the device is {device.type}, where torch "
            f"computes no gradients of flex attention. Set training.{setting} to {other}, or train on a GPU."
        )
    if is_asked:
        require_packing(backbone.family, trunk_config)
    names = ("attention_probs_dropout_prob", "attention_dropout")
    dropout = max(float(getattr(trunk_config, name, None) or 0.0) for name in names)
    if is_flex and dropout and config.training.backbone_dropout != "off":
        raise ConfigError(
            f"training.attention is flex_attention, which cannot drop attention weights, but the checkpoint drops them "
            f"with probability {dropout} (training.backbone_dropout is {config.training.backbone_dropout}). "
            "Set training.backbone_dropout to off, or training.attention to sdpa."
        )
    return is_asked or (is_flex and config.training.packing == "auto")


def _make_prompts(
    settings: PromptsConfig,
    backbone: Backbone,
    layers: tuple[int, ...],
    examples: Sequence[Example],
    generator: torch.Generator,
) -> DeepPrompts:
    description = backbone.description
    return DeepPrompts(
        num_prompted_layers=len(layers),
        num_kv_heads=description.num_kv_heads,
        prompt_length=settings.prompt_length,
        head_dim=description.head_dim,
        init_std=settings.init_std,
        initial=_initial_prompts(settings, backbone, layers, examples, generator),
        reparameterization=settings.reparameterization,
        hidden_size=description.hidden_size,
        reparameterization_size=settings.reparameterization_size,
        dropout=settings.dropout,
        generator=generator,
    )


def _make_heads(
    config: RunConfig, backbone: Backbone, kinds: Sequence[TaskKind], generator: torch.Generator
) -> list[nn.Module]:
    """A head for each data set; the first may start from a saved one."""
    description = backbone.description
    pooling, pooler = config.head.pooling or backbone.pooling, backbone.pooler
    if pooling == "pooler" and pooler is None and config.head.missing_pooler == "draw":
        pooler = draw_pooler(description.hidden_size, std=description.initializer_range, seed=config.training.seed)
    heads: list[nn.Module] = [
        make_head(
            kind.head_kind,
            description.hidden_size,
            kind.num_outputs,
            pooling=pooling,
            pooler=pooler,
            dropout=config.head.dropout,
            generator=generator,
        )
        for kind in kinds
    ]
    if config.head.init != "normal":
        _start_head(heads[0], config.head.init, backbone, kinds[0])
    return heads


def _initial_prompts(
    prompts: PromptsConfig,
    backbone: Backbone,
    layers: tuple[int, ...],
    examples: Sequence[Example],
    generator: torch.Generator,
) -> Tensor | None:
    """Returns the values that prompts start from, or None for the normal start."""
    if prompts.init == "normal" or prompts.prompt_length == 0:
        return None
    if prompts.init == "tokens":
        return _from_examples(prompts, backbone, layers, examples, generator)
    if prompts.init == "text":
        encoded = backbone.tokenizer(prompts.init_text, return_tensors="pt", truncation=True)
        tokens = pick_tokens(int(encoded["attention_mask"].sum()), prompts.prompt_length)
        return _captured(backbone, encoded, layers, tokens)
    if not Path(prompts.init).exists():
        raise ConfigError(
            f"prompts.init is {prompts.init!r}, expected normal, tokens, text, or the path of a saved prompt, "
            "and there is no such path. Correct it."
        )
    saved = read_prompt(prompts.init)
    saved.backbone.require(backbone.identity)
    entry, wanted = Entry(tuple(saved.layers), saved.positions), Entry(layers, prompts.positions)
    return from_saved(saved.prompts, entry, wanted=wanted, prompt_length=prompts.prompt_length)


def _start_head(head: nn.Module, init: str, backbone: Backbone, kind: TaskKind) -> None:
    """Gives a new head the weights of a saved one."""
    if not Path(init).exists():
        raise ConfigError(
            f"head.init is {init!r}, expected normal or the path of a saved prompt, and there is no such path. "
            "Correct it."
        )
    saved = read_prompt(init)
    saved.backbone.require(backbone.identity)
    names = None if saved.task is None else saved.task.get("label_names")
    wanted = getattr(kind, "label_names", None)
    if saved.task is None or saved.task["kind"] != kind.name or (names and tuple(names)) != wanted:
        found = "no head" if saved.task is None else f"a head for {saved.task['kind']} with {_shown(names)}"
        raise ConfigError(
            f"head.init is {init!r}, which has {found}, expected one for {kind.name} with {_shown(wanted)}. Name a "
            "prompt that was trained for the same labels, or set head.init to normal."
        )
    load_tensors_into(head, saved.head_tensors, f"the head of {init}")


def _shown(names: Sequence[str] | None) -> str:
    return f"the labels {', '.join(names)}" if names else "no label names"


def _from_examples(
    prompts: PromptsConfig,
    backbone: Backbone,
    layers: Sequence[int],
    examples: Sequence[Example],
    generator: torch.Generator,
) -> Tensor:
    """Picks tokens at random from as many training examples as there are virtual tokens."""
    order = torch.randperm(len(examples), generator=generator)[: max(prompts.prompt_length, 8)]
    batch = collate([examples[int(index)] for index in order], *padding_ids(backbone.tokenizer))
    tokens = pick_tokens(int(batch.attention_mask.sum()), prompts.prompt_length, generator)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if batch.token_type_ids is not None:
        inputs["token_type_ids"] = batch.token_type_ids
    return _captured(backbone, inputs, layers, tokens)


def _captured(backbone: Backbone, inputs: Mapping[str, Tensor], layers: Sequence[int], tokens: Tensor) -> Tensor:
    device = next(backbone.model.parameters()).device
    moved = {name: tensor.to(device) for name, tensor in inputs.items()}
    return capture_keys_values(backbone.model, **moved, layers=layers, tokens=tokens).cpu()
