"""GLM (2021) written out from its equations, sharing no code with the package; and tiny checkpoints of it.

Letters in shape comments: B batch, N tokens, C hidden size, H heads, D head width, P virtual tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import pre_tokenizers
from torch import Tensor

HIDDEN, HEADS, LAYERS, LENGTH = 32, 4, 3, 39

Weights = dict[str, Tensor]


def _published_config(**more: Any) -> dict[str, Any]:
    """A `config.json` with the fields of the one that GLM-2B was published with."""
    return {
        "_name_or_path": "somewhere/glm-tiny",
        "architectures": ["GLMModel"],
        "attention_dropout_prob": 0.1,
        "attention_scale": 1.0,
        "auto_map": {"AutoConfig": "configuration_glm.GLMConfig", "AutoModel": "modeling_glm.GLMModel"},
        "block_position_encoding": True,
        "checkpoint_activations": False,
        "checkpoint_num_layers": 1,
        "embedding_dropout_prob": 0.1,
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "max_sequence_length": LENGTH,
        "model_type": "glm",
        "num_attention_heads": HEADS,
        "num_layers": LAYERS,
        "output_dropout_prob": 0.1,
        "output_predict": True,
        "parallel_output": True,
        "pool_token": "cls",
        "relative_encoding": False,
        "spell_func": "lstm",
        "spell_length": None,
        "torch_dtype": "float32",
        "transformers_version": "4.23.1",
        "vocab_size": 64,
        **more,
    }


def _random_weights(config: Mapping[str, Any], *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Weights:
    """Large random weights, biases and norms too, under the published names."""
    width, rows = config["hidden_size"], config["max_sequence_length"] + 1
    shapes: dict[str, tuple[int, ...]] = {
        "word_embeddings.weight": (config["vocab_size"], width),
        "transformer.position_embeddings.weight": (rows, width),
        "transformer.block_position_embeddings.weight": (rows, width),
        "transformer.final_layernorm.weight": (width,),
        "transformer.final_layernorm.bias": (width,),
    }
    for number in range(config["num_layers"]):
        at = f"transformer.layers.{number}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes |= {f"{at}.{norm}.weight": (width,), f"{at}.{norm}.bias": (width,)}
        for linear, outputs, inputs in (
            ("attention.query_key_value", 3 * width, width),
            ("attention.dense", width, width),
            ("mlp.dense_h_to_4h", 4 * width, width),
            ("mlp.dense_4h_to_h", width, 4 * width),
        ):
            shapes |= {f"{at}.{linear}.weight": (outputs, inputs), f"{at}.{linear}.bias": (outputs,)}
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        is_norm = "layernorm.weight" in name
        weights[name] = (1 + 0.2 * drawn if is_norm else drawn * (0.2 if len(shape) == 2 else 0.1)).to(dtype)
    return weights


def _normed(states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    mean = states.mean(-1, keepdim=True)
    variance = ((states - mean) ** 2).mean(-1, keepdim=True)
    return (states - mean) / torch.sqrt(variance + 1e-5) * weight + bias


def _gelu(values: Tensor, kind: str) -> Tensor:
    if kind == "erf":
        return 0.5 * values * (1 + torch.erf(values / math.sqrt(2)))
    return 0.5 * values * (1 + torch.tanh(math.sqrt(2 / math.pi) * (values + 0.044715 * values**3)))


def _plain_glm(
    weights: Weights,
    ids: Tensor,
    visible: Tensor,
    *,
    positions: Tensor | None = None,
    blocks: Tensor | None = None,
    prompts: Mapping[int, tuple[Tensor, Tensor]] | None = None,
    gelu: str = "tanh",
) -> Tensor:
    """Hidden states behind the last norm, (B, N, C).

    Args:
        weights: by published name.
        ids: (B, N).
        visible: (B, N, N), whether query i sees key j.
        positions: (B, N), 0, 1, 2, … by default.
        blocks: (B, N), 0 by default.
        prompts: by layer, key and value (H, P, D), which every query sees.
        gelu: tanh or erf.
    """
    batch_size, length = ids.shape
    positions = torch.arange(length).expand(batch_size, -1) if positions is None else positions
    blocks = torch.zeros_like(ids) if blocks is None else blocks
    states = (
        weights["word_embeddings.weight"][ids]
        + weights["transformer.position_embeddings.weight"][positions]
        + weights["transformer.block_position_embeddings.weight"][blocks]
    )
    width = states.shape[-1]
    size = width // HEADS
    for number in range(LAYERS):
        own = {
            name.removeprefix(f"transformer.layers.{number}."): weight
            for name, weight in weights.items()
            if name.startswith(f"transformer.layers.{number}.")
        }
        inner = _normed(states, own["input_layernorm.weight"], own["input_layernorm.bias"])
        fused = inner @ own["attention.query_key_value.weight"].T + own["attention.query_key_value.bias"]
        query, key, value = fused[..., :width], fused[..., width : 2 * width], fused[..., 2 * width :]
        context = []
        for head in range(HEADS):
            at = slice(head * size, (head + 1) * size)
            keys, values, seen = key[..., at], value[..., at], visible
            if prompts is not None and number in prompts:
                front_key, front_value = (part[head].expand(batch_size, -1, -1) for part in prompts[number])
                keys, values = torch.cat([front_key, keys], 1), torch.cat([front_value, values], 1)
                front = torch.ones(batch_size, length, front_key.shape[1], dtype=torch.bool)
                seen = torch.cat([front, visible], 2)
            scores = torch.einsum("bqd,bkd->bqk", query[..., at], keys) / math.sqrt(size)
            shares = scores.masked_fill(~seen, float("-inf")).softmax(-1).nan_to_num(0.0)
            context.append(torch.einsum("bqk,bkd->bqd", shares, values))
        attended = torch.cat(context, -1) @ own["attention.dense.weight"].T + own["attention.dense.bias"]
        states = states + attended
        inner = _normed(states, own["post_attention_layernorm.weight"], own["post_attention_layernorm.bias"])
        wide = _gelu(inner @ own["mlp.dense_h_to_4h.weight"].T + own["mlp.dense_h_to_4h.bias"], gelu)
        states = states + wide @ own["mlp.dense_4h_to_h.weight"].T + own["mlp.dense_4h_to_h.bias"]
    return _normed(states, weights["transformer.final_layernorm.weight"], weights["transformer.final_layernorm.bias"])


def _seen(lengths: list[int], contexts: list[int], size: int) -> Tensor:
    """(B, N, N): key j is seen by query i when it is a real token, and j < context or j <= i."""
    rows = [
        [[j < length and (j < context or j <= i) for j in range(size)] for i in range(size)]
        for length, context in zip(lengths, contexts, strict=True)
    ]
    return torch.tensor(rows)


def _write_byte_level(directory: Path, *, words: tuple[str, ...] = (), first: tuple[str, ...] = (), last: str) -> None:
    """vocab.json and merges.txt of byte-level BPE: all bytes, whole words behind a space, and some named tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    pieces: list[str] = []
    for word in words:
        piece = "Ġ"
        for letter in word:
            if (piece, letter) not in merges:
                merges.append((piece, letter))
                pieces.append(piece + letter)
            piece += letter
    vocabulary = list(dict.fromkeys([*first, *letters, *pieces, last]))
    (directory / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(vocabulary)}))
    (directory / "merges.txt").write_text("".join(["#version: 0.2\n", *(f"{a} {b}\n" for a, b in merges)]))


@pytest.fixture(scope="session")
def published_config() -> Callable[..., dict[str, Any]]:
    """Fields of a tiny `config.json` as published: `published_config(num_layers=2)`."""
    return _published_config


@pytest.fixture(scope="session")
def random_weights() -> Callable[..., Weights]:
    """Random weights under the published names: `random_weights(config, dtype=torch.float64)`."""
    return _random_weights


@pytest.fixture(scope="session")
def plain_glm() -> Callable[..., Tensor]:
    """The model written out: `plain_glm(weights, ids, visible, prompts={0: (key, value)})`."""
    return _plain_glm


@pytest.fixture(scope="session")
def seen() -> Callable[..., Tensor]:
    """What sees what: `seen(lengths, context_lengths, num_tokens)`."""
    return _seen


@pytest.fixture(scope="session")
def write_byte_level() -> Callable[..., None]:
    """Writes a byte-level vocabulary: `write_byte_level(directory, words=("red",), last="<|endoftext|>")`."""
    return _write_byte_level


@pytest.fixture(scope="session")
def tiny_glm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GLM (32 wide, 2 layers) with a vocabulary of GPT-2's kind, its files as GLM-2B was published."""
    directory = tmp_path_factory.mktemp("glm") / "glm-tiny"
    directory.mkdir()
    words = ("red", "blue", "green", "grey", "lamp", "box", "is", "the", "what", "colour", "where", "door")
    _write_byte_level(directory, words=words, last="<|endoftext|>")
    size = len(json.loads((directory / "vocab.json").read_text()))
    added = ("<|startofpiece|>", "<|endofpiece|>", "[CLS]", "[MASK]", "[SEP]", "[UNUSED]", "[gMASK]", "[sMASK]")
    numbers = {token: size + place for place, token in enumerate(added)}
    (directory / "added_tokens.json").write_text(json.dumps(numbers))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GLMGPT2Tokenizer", "auto_map": {"AutoTokenizer": ["tokenization_glm.X", None]}})
    )
    rows = -(-(size + len(added)) // 128) * 128
    config = _published_config(num_layers=2, vocab_size=rows, max_sequence_length=128)
    (directory / "config.json").write_text(json.dumps(config))
    torch.save(_random_weights(config), directory / "pytorch_model.bin")
    return directory
