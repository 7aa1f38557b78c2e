"""What `config.json` and the settings say of a backbone before there are weights: its family, and how to make it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding

from ptuning.backbones import embedded, glm
from ptuning.backbones.direction import Direction, switch_config
from ptuning.backbones.families import Family, find_family, has_capped_scores
from ptuning.backbones.paths import no_directory, require_directory
from ptuning.errors import BackboneError, PtuningError

Attention = Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"]


@dataclass(frozen=True)
class Configured:
    """A backbone that is not made yet.

    Attributes:
        name: that it was asked for by.
        source: where its files are.
        config: transformers' own, switched as asked.
        family: what is particular to its family.
        attention: base implementation to make it with; where it has attention of its own, `eager`.
        is_eager: whether attention weights are to be computed step by step.
        loader: the Auto class that makes it.
    """

    name: str
    source: str
    config: Any
    family: Family
    attention: Attention
    is_eager: bool
    loader: Any


def configure(
    name: str | Path, options: dict[str, Any], *, attention: Attention, attention_direction: Direction | None
) -> Configured:
    """Reads the config of a backbone, and nothing else of it.

    Args:
        name: a Hugging Face name, a local directory in hub layout, or `minilm`.
        options: `revision` and `trust_remote_code`, as transformers takes them.
        attention: that was asked for.
        attention_direction: that was asked for.

    Raises:
        BackboneError: not found, of an unsupported family, or it does not have the attention.
        ConfigError: `attention_direction` is `causal`, and it was trained to look both ways, or `bidirectional`, and
            it is a decoder of an encoder's family (BERT).
        MissingDependencyError: `minilm` without its package.
    """
    name = str(name)
    source = str(embedded.minilm_directory()) if name == embedded.NAME else name
    config = _load_config(name, source, options)
    family = find_family(config)
    switch_config(family, config, attention_direction)
    attention = _attention_for(family, config, attention)
    is_eager = attention == "eager"
    if family.is_decoder:
        config.use_cache = False  # nothing is generated
    if family.is_encoder_of_seq2seq:
        config.is_encoder_decoder = False  # the encoder alone
    if family.native_forward is not None:
        if attention not in ("sdpa", "eager"):
            raise BackboneError(
                f"the backbone is a {family.model_type}, which has sdpa and eager attention, got {attention!r}. "
                "Use one of those."
            )
        attention = "eager"  # transformers knows no other for these; ours is chosen when prompts are attached
    loader = AutoModelForTextEncoding if family.is_encoder_of_seq2seq else AutoModel
    return Configured(name, source, config, family, attention, is_eager, loader)


def _attention_for(family: Family, config: Any, asked: Attention) -> Attention:
    """The implementation to load with.

    Raises:
        BackboneError: sdpa was asked for, and attention scores are capped.
    """
    is_capped = has_capped_scores(family, config)
    if asked == "auto":
        return "eager" if is_capped else "sdpa"
    if asked == "sdpa" and is_capped:
        raise BackboneError(
            f"the backbone is a {family.model_type}, whose attention scores are or can be capped, which sdpa attention "
            "cannot, expected eager or flex_attention. Set training.attention to auto, or to one of these."
        )
    return asked


def refused_attention(asked: Configured) -> BackboneError | None:
    """Returns what to say where no model can be made because of the attention that was asked for, else None.

    To be asked when a model could not be made: one of shapes alone shows whether it was that, before any weights.
    """
    if asked.attention in ("sdpa", "eager"):
        return None  # every family has what `_attention_for` lets through of these
    error = _why_not(asked, asked.attention)
    if error is None or _why_not(asked, "eager") is not None:
        return None
    other = "eager" if has_capped_scores(asked.family, asked.config) else "sdpa"
    install = ""
    if isinstance(error, ImportError) and asked.attention.partition("_")[0] in asked.family.attention:
        package = " (the package flash-attn, and a GPU)" if asked.attention == "flash_attention_2" else ""
        install = f", or install what {asked.attention} needs{package}"
    reason = first_line(error).partition(". Please")[0]
    return BackboneError(
        f"the backbone {asked.name}, a {asked.family.model_type}, cannot be had with attention {asked.attention!r}: "
        f"{reason}. Expected one that the family and what is installed here can do. Set training.attention, or "
        f"attention= in Python, to {other}{install}."
    )


def _why_not(asked: Configured, attention: str) -> Exception | None:
    try:
        with torch.device("meta"):
            asked.loader.from_config(copy.deepcopy(asked.config), attn_implementation=attention)
    except (OSError, ValueError, ImportError, RuntimeError, TypeError) as error:
        return error
    return None


def _load_config(name: str, source: str, options: dict[str, Any]) -> Any:
    require_directory(name)
    if refusal := glm.missing_config(source):
        raise refusal
    try:
        # before any Auto class, which would take its file for that of another model
        return glm.read_config(source, options["revision"]) or AutoConfig.from_pretrained(source, **options)
    except PtuningError:
        raise
    except (OSError, ValueError, KeyError) as error:
        may_be_a_path = Path(source).parent.name and Path(source).parent.is_dir() and not Path(source).exists()
        if may_be_a_path and isinstance(error, OSError):
            raise no_directory(name, on_the_hub=first_line(error)) from error
        raise BackboneError(
            f"the backbone {name!r} was not found or has no readable config.json: {first_line(error)}. "
            "Give a Hugging Face name, a local directory in hub layout, or `minilm`."
        ) from error


def first_line(error: Exception) -> str:
    """What an error of a library says, on one line and without its full stop, to go on behind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
