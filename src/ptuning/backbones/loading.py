"""Loading a frozen backbone, with its tokenizer, its numbers and its identity."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer

from ptuning.backbones import embedded
from ptuning.backbones.description import BackboneDescription, describe_trunk
from ptuning.backbones.families import Family, find_family, find_trunk
from ptuning.backbones.identity import BackboneIdentity, fingerprint
from ptuning.errors import BackboneError

Attention = Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"]


@dataclass
class Backbone:
    """A frozen pretrained encoder.

    Attributes:
        model: the encoder, headless, every parameter frozen, in eval mode. Its pooler is taken out, so that it costs
            nothing where no head reads it.
        family: what is particular to its family.
        source: where it was loaded from.
        name: the name it was asked for by.
        revision: the Hugging Face commit, where known.
        pooler: its own pretrained pooler, or None where the checkpoint has none.
        eager: whether attention weights are computed step by step.
    """

    model: Any
    family: Family
    source: str
    name: str
    revision: str | None
    pooler: nn.Module | None = None
    eager: bool = False
    load_options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def description(self) -> BackboneDescription:
        """Its numbers."""
        return describe_trunk(find_trunk(self.model)[0], self.family)

    @cached_property
    def identity(self) -> BackboneIdentity:
        """What a saved prompt remembers of it."""
        trunk = find_trunk(self.model)[0]
        return BackboneIdentity(self.name, self.revision, self.description.architecture(), fingerprint(trunk))

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer.

        Raises:
            BackboneError: there is none beside the weights.
        """
        return self._load_tokenizer()

    @cached_property
    def word_tokenizer(self) -> Any:
        """The tokenizer for text that is split into words: byte-level ones put a space in front of each word."""
        if not getattr(self.tokenizer, "is_fast", False):
            raise BackboneError(
                f"the tokenizer of {self.name} is a {type(self.tokenizer).__name__} without a fast version, which "
                "tagging needs to align words. Use a backbone with a tokenizer.json."
            )
        if "ByteLevel" not in str(self.tokenizer.backend_tokenizer.pre_tokenizer):
            return self.tokenizer
        return self._load_tokenizer(add_prefix_space=True)

    def _load_tokenizer(self, **options: Any) -> Any:
        try:
            return AutoTokenizer.from_pretrained(self.source, **self.load_options, **options)
        except (OSError, ValueError) as error:
            raise BackboneError(
                f"the backbone {self.name} has no tokenizer that loads from {self.source}: {_first_line(error)}. "
                "Put the tokenizer's files (tokenizer.json, tokenizer_config.json) beside the weights."
            ) from error


def load_backbone(
    name: str | Path,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    attention: Attention = "sdpa",
    trust_remote_code: bool = False,
) -> Backbone:
    """Loads an encoder and freezes it.

    Args:
        name: a Hugging Face name, a local directory in hub layout, or `minilm`, the embedded one.
        revision: commit, branch or tag on the hub.
        device: where to put it; the CPU by default.
        dtype: storage of its weights.
        attention: base implementation. Families with attention of their own have sdpa and eager only.
        trust_remote_code: whether code of a stranger may run; off unless asked for.

    Raises:
        BackboneError: not found, of an unsupported family, or its weights are incomplete.
        MissingDependencyError: `minilm` without its package.
    """
    name = str(name)
    source = str(embedded.minilm_directory()) if name == embedded.NAME else name
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = _load_config(name, source, options)
    family = find_family(config)
    eager = attention == "eager"
    if family.native_forward is not None:
        if attention not in ("sdpa", "eager"):
            raise BackboneError(
                f"the backbone is a {family.model_type}, which has sdpa and eager attention, got {attention!r}. "
                "Use one of those."
            )
        attention = "eager"  # transformers knows no other for these; ours is chosen when prompts are attached
    loader: Any = AutoModelForTextEncoding if family.is_encoder_of_seq2seq else AutoModel
    try:
        model, report = loader.from_pretrained(
            source, config=config, dtype=dtype, attn_implementation=attention, output_loading_info=True, **options
        )
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise BackboneError(
            f"the weights of {name} do not load: {_first_line(error)}. Check that the directory or repository holds "
            "model.safetensors for its config.json."
        ) from error
    missing = sorted(str(key) for key in report["missing_keys"])
    if [key for key in missing if not key.startswith("pooler.")]:
        raise BackboneError(
            f"the checkpoint of {name} lacks {len(missing)} weights of a {type(model).__name__}, first "
            f"{missing[0]}. They would be random; use a checkpoint that has them."
        )
    pooler = _take_pooler(model) if not missing else None
    if missing:
        _take_pooler(model)
    model.requires_grad_(False).eval().to(device or "cpu")
    if pooler is not None:
        pooler.requires_grad_(False).eval().to(device or "cpu")
    found_revision = getattr(config, "_commit_hash", None) or revision
    return Backbone(model, family, source, name, found_revision, pooler, eager, options)


def _take_pooler(model: Any) -> nn.Module | None:
    """Removes the pooler from a model, so that it does not run where nobody reads it, and returns it."""
    pooler = getattr(model, "pooler", None)
    if not isinstance(pooler, nn.Module):
        return None
    model.pooler = None
    activation = getattr(model, "pooler_activation", None)  # ALBERT keeps the two apart
    if activation is not None:
        model.pooler_activation = None
        return FirstTokenPooler(pooler, activation)
    return pooler


class FirstTokenPooler(nn.Module):
    """A linear layer and an activation on the first token's hidden state."""

    def __init__(self, dense: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.dense = dense
        self.activation = activation

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch_size, seq_len, hidden_size) -> (batch_size, hidden_size)."""
        pooled: torch.Tensor = self.activation(self.dense(hidden_states[:, 0]))
        return pooled


def _load_config(name: str, source: str, options: dict[str, Any]) -> Any:
    try:
        return AutoConfig.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError) as error:
        raise BackboneError(
            f"the backbone {name!r} was not found or has no readable config.json: {_first_line(error)}. "
            "Give a Hugging Face name, a local directory in hub layout, or `minilm`."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
