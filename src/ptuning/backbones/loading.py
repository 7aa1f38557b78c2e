"""Loading a frozen backbone, with its tokenizer, its numbers and its identity."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoTokenizer
from transformers.utils.hub import cached_file, extract_commit_hash

from ptuning.backbones import glm
from ptuning.backbones.configuring import Attention, configure, first_line, refused_attention
from ptuning.backbones.description import BackboneDescription, describe_trunk
from ptuning.backbones.direction import Direction, switch_modules
from ptuning.backbones.families import Family, attention_modules, find_trunk
from ptuning.backbones.identity import BackboneIdentity, fingerprint
from ptuning.backbones.interface import PREFIX
from ptuning.backbones.pairs import part_pairs
from ptuning.backbones.pieces import PieceTokens, piece_tokens
from ptuning.backbones.poolers import take_pooler
from ptuning.backbones.quantization import Quantization, as_quantization, quantization_of, quantize_layers
from ptuning.errors import BackboneError, PtuningError

if TYPE_CHECKING:
    from ptuning.backbones.language_modeling import LanguageModelingHead

# What a tokenizer may keep its vocabulary in.
_VOCABULARY_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)


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
        has_weights: False where it was made from its config alone, to count what it would need.
    """

    model: Any
    family: Family
    source: str
    name: str
    revision: str | None
    pooler: nn.Module | None = None
    eager: bool = False
    load_options: dict[str, Any] = field(default_factory=dict)
    has_weights: bool = True

    @cached_property
    def description(self) -> BackboneDescription:
        """Its numbers."""
        return describe_trunk(find_trunk(self.model)[0], self.family)

    @cached_property
    def identity(self) -> BackboneIdentity:
        """What a saved prompt remembers of it."""
        trunk = find_trunk(self.model)[0]
        architecture = self.description.architecture()
        own = fingerprint(trunk) if self.has_weights else ""
        return BackboneIdentity(self.name, self.revision, architecture, own, self.quantization)

    @property
    def quantization(self) -> Quantization:
        """What the weights of its layers are rounded to."""
        return quantization_of(self.model)

    @property
    def has_tokenizer_here(self) -> bool:
        """Whether its tokenizer is in a local directory, so that nothing has to be downloaded for it."""
        return any((Path(self.source) / name).is_file() for name in _VOCABULARY_FILES)

    @property
    def attention(self) -> Attention:
        """Its base implementation of attention."""
        if self.family.native_forward is not None:
            return "eager" if self.eager else "sdpa"
        name: Attention = self.model.config._attn_implementation.removeprefix(PREFIX)
        return name

    @property
    def is_causal(self) -> bool:
        """Whether a token sees only what is to its left, and the virtual tokens."""
        return self.description.attention_direction == "causal"

    @cached_property
    def language_modeling_head(self) -> LanguageModelingHead:
        """The head that it was pretrained with: (…, hidden_size) -> (…, vocab_size), frozen.

        Raises:
            BackboneError: its checkpoint has none.
        """
        from ptuning.backbones.language_modeling import load_language_modeling_head  # which knows this class

        return load_language_modeling_head(self)

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer.

        Raises:
            BackboneError: there is none beside the weights, or it is not a GLM's where they are.
        """
        is_glm = self.family.is_glm
        # whose config.json transformers would take for that of another model
        known = {"config": self.model.config} if is_glm else {}
        try:
            if is_glm and glm.has_published_tokenizer(self._file):
                sizes = self.model.config
                return glm.load_tokenizer(self._file, vocab_size=sizes.vocab_size, max_length=sizes.max_sequence_length)
            # Without any, transformers makes an empty tokenizer, to which every text is unknown.
            if not any(self._file(name) for name in _VOCABULARY_FILES):
                raise OSError(f"none of {', '.join(_VOCABULARY_FILES)} is there")
            tokenizer = AutoTokenizer.from_pretrained(self.source, **known, **self.load_options)
        except PtuningError:
            raise
        except Exception as error:  # a damaged file may give any: the tokenizers library raises Exception itself
            files = glm.TOKENIZER_FILES if is_glm else "tokenizer.json, tokenizer_config.json"
            reach = "" if Path(self.source).is_dir() else "; if they are there on the hub, it was not reachable"
            raise BackboneError(
                f"the backbone {self.name} has no tokenizer that loads from {self.source}: {first_line(error)}. "
                f"Put the tokenizer's files ({files}) beside the weights{reach}."
            ) from error
        if is_glm:
            glm.require_tokens(tokenizer, self.source)
            tokenizer.model_input_names = ["input_ids", "attention_mask"]  # it has no token types
        if self.family.is_decoder:
            part_pairs(tokenizer)
        return tokenizer

    @cached_property
    def pieces(self) -> PieceTokens | None:
        """The tokens by which it fills blanks behind a text; None where it fills them where they are."""
        return piece_tokens(self.tokenizer)

    @cached_property
    def pooling(self) -> Literal["cls", "mean", "last"]:
        """How its tokens are best pooled into one vector.

        What the checkpoint was trained with, where it says so (sentence-transformers' `1_Pooling/config.json`). Else of
        a causal one `last`, whose last token alone sees the whole text; of a decoder that looks both ways `mean`; else
        `cls` where the tokenizer has such a token, else `mean` (T5).

        Raises:
            BackboneError: the file that says so is damaged.
        """
        path = self._file("1_Pooling/config.json")
        modes = self._pooling_modes(path) if path else {}
        if modes.get("pooling_mode_mean_tokens"):
            return "mean"
        if modes.get("pooling_mode_lasttoken"):
            return "last"
        if self.is_causal:
            return "last"
        if self.family.is_decoder:
            return "mean"
        return "cls" if getattr(self.tokenizer, "cls_token_id", None) is not None else "mean"

    def _pooling_modes(self, path: str) -> dict[str, Any]:
        try:
            modes = json.loads(Path(path).read_text(encoding="utf-8"))
            if not isinstance(modes, dict):
                raise ValueError(f"it is a {type(modes).__name__}, not an object")
        except (OSError, ValueError) as error:
            raise BackboneError(
                f"the backbone {self.name} has a damaged 1_Pooling/config.json: {first_line(error)}. It says how its "
                "tokens are pooled; put it right, or set head.pooling to cls or mean."
            ) from error
        return modes

    def _file(self, name: str) -> str | None:
        """Path of one of the checkpoint's files, downloaded where it has to be, or None where there is no such file."""
        return _cached_file(self.source, name, revision=self.revision)


def _cached_file(source: str, name: str, *, revision: str | None) -> str | None:
    path: str | None = cached_file(
        source,
        name,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return path


def load_backbone(
    name: str | Path,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    attention: Attention = "auto",
    attention_direction: Direction | None = None,
    quantization: Quantization = "none",
    trust_remote_code: bool = False,
) -> Backbone:
    """Loads an encoder and freezes it.

    Weights go from the file to where they stay, one by one: on a CPU those that are stored as they are in the file are
    not even read until they are needed.

    Args:
        name: a Hugging Face name, a local directory in hub layout, or `minilm`, the embedded one.
        revision: commit, branch or tag on the hub.
        device: where to put it; the CPU by default.
        dtype: storage of its weights.
        attention: base implementation. `auto` is sdpa, or eager where scores are capped, which sdpa cannot (Gemma 2).
            Families with attention of their own have sdpa and eager only.
        attention_direction: `bidirectional` lets the tokens of a decoder see those behind them too, which is not how it
            was trained; by default as it was.
        quantization: what the weights of its layers' linear layers are rounded to: `int8` (8.5 bits an entry) or `nf4`
            (4.5 bits). All else is stored in `dtype`, in which products are computed too.
        trust_remote_code: whether code of a stranger may run; off unless asked for.

    Raises:
        BackboneError: not found, of an unsupported family, weights are incomplete, or it does not have the attention.
        ConfigError: `attention_direction` is `causal`, and it was trained to look both ways, or `bidirectional`, and
            it is a decoder of an encoder's family (BERT); or no such quantization.
        MissingDependencyError: `minilm` or a quantization without its package.
    """
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    asked = configure(name, options, attention=attention, attention_direction=attention_direction)
    config, family, source, name = asked.config, asked.family, asked.source, asked.name
    place = torch.device(device or "cpu")
    # What is to be rounded comes as the file has it, whatever its config says, or it would be rounded twice: on a CPU
    # that is a view of the file, read as it is rounded.
    storage: dict[str, Any] = {"dtype": dtype, "device_map": None if place.type == "cpu" else {"": place}}
    if as_quantization(quantization) != "none":
        storage = {"dtype": "auto"}
        config.dtype = None
    try:
        if family.is_glm:
            find = partial(_cached_file, source, revision=revision)
            where = {"dtype": dtype, "device": place} if quantization == "none" else {"dtype": None}
            model: Any = glm.load_model(config, find, source=source, attention=asked.attention, **where)
            report: dict[str, Any] = {"missing_keys": ()}  # it is strict by itself
        else:
            model, report = asked.loader.from_pretrained(
                source,
                config=config,
                attn_implementation=asked.attention,
                output_loading_info=True,
                **storage,
                **options,
            )
    except PtuningError:
        raise
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        if refusal := refused_attention(asked):
            raise refusal from error
        raise BackboneError(
            f"the weights of {name} do not load: {first_line(error)}. Check that the directory or repository holds "
            "model.safetensors for its config.json."
        ) from error
    missing = sorted(str(key) for key in report["missing_keys"])
    if [key for key in missing if not key.startswith("pooler.")]:
        raise BackboneError(
            f"the checkpoint of {name} lacks {len(missing)} weights of a {type(model).__name__}, first "
            f"{missing[0]}. They would be random; use a checkpoint that has them."
        )
    trunk, _ = find_trunk(model)
    switch_modules(family, config, attention_modules(trunk, family))
    pooler = take_pooler(model) if not missing else None
    if missing:
        take_pooler(model)
    model.requires_grad_(False).eval()
    if pooler is not None:
        pooler.requires_grad_(False).eval()
    if quantization != "none":
        quantize_layers(find_trunk(model)[0], family, quantization, device=place, dtype=dtype)
        _store(model, asked.loader, dtype, place)
        if pooler is not None:
            pooler.to(place, dtype)
    found_revision = getattr(config, "_commit_hash", None) or _commit_of(source, revision) or revision
    return Backbone(model, family, source, name, found_revision, pooler, asked.is_eager, options)


def _commit_of(source: str, revision: str | None) -> str | None:
    """The commit that a repository's files in the cache are of; transformers 5.24 does not note it in configs."""
    if Path(source).is_dir():
        return None
    commit: str | None = extract_commit_hash(_cached_file(source, "config.json", revision=revision), None)
    return commit


def _store(model: Any, loader: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Puts what is not rounded where it stays, one tensor at a time, in the precision that loading it so would give."""
    with torch.device("meta"):
        shell = loader.from_config(copy.deepcopy(model.config), dtype=dtype)
    # some parameters are in float32 whatever is asked for, and so are rotary frequencies, but not all buffers
    usual = {name: tensor.dtype for name, tensor in (*shell.named_parameters(), *shell.named_buffers())}
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(device, usual[name])
    for name, buffer in list(model.named_buffers()):
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, buffer.to(device, usual.get(name, buffer.dtype)))
    model.config.dtype = dtype
