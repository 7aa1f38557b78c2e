"""Backbones whose weights are stored in few bits, and GLM's of 2021/22, as plans see them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptuning.config import load_config
from ptuning.planning import Plan, make_plan

RATE = 1e10
GLM = {
    "model_type": "glm",
    "architectures": ["GLMModel"],
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "vocab_size": 128,
    "max_sequence_length": 64,
    "block_position_encoding": True,
    "embedding_dropout_prob": 0.1,
    "attention_dropout_prob": 0.1,
    "output_dropout_prob": 0.1,
}


def _plan(directory: Path, **settings: Any) -> Plan:
    return make_plan(load_config(None, {"task": "classification", "backbone": str(directory), **settings}), rate=RATE)


@pytest.mark.parametrize(("name", "bits"), [("int8", 8.5), ("nf4", 4.5)])
def test_rounded_weights_take_their_bits(name: str, bits: float, config_alone: Callable[..., Path]) -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    directory = config_alone("bert", **sizes)
    whole, rounded = _plan(directory), _plan(directory, **{"training.quantization": name})
    in_linears = 2 * (4 * 64 * 64 + 2 * 64 * 128)
    assert whole.weights_bytes - rounded.weights_bytes == in_linears * (32 - bits) / 8
    assert (rounded.num_parameters, rounded.trained_parameters) == (whole.num_parameters, whole.trained_parameters)
    assert rounded.operations_per_step == whole.operations_per_step


def test_rounded_weights_take_what_they_take_with_numbers(
    tiny_backbone: Path, tiny_run: Callable[..., Any], tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason="weights in 8 or 4 bits need bitsandbytes")
    from ptuning.training.run import load_backbone_of

    config = tiny_run(tmp_path, **{"training.quantization": "nf4"})
    backbone = load_backbone_of(config)
    assert backbone.pooler is not None
    tensors = (*backbone.model.parameters(), *backbone.model.buffers(), *backbone.pooler.parameters())
    stored = {tensor.untyped_storage().data_ptr(): tensor.nbytes for tensor in tensors}
    assert make_plan(config, rate=RATE).weights_bytes == pytest.approx(sum(stored.values()), rel=0.02)


@pytest.mark.parametrize("kind", ["classification", "token_classification", "question_answering"])
def test_a_glm_is_planned_by_its_config_as_published(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GLM))
    found = _plan(tmp_path, task=kind)
    layer = 12 * 32 * 32 + 13 * 32  # four matrices with biases, two norms
    assert found.model_type == "glm2021"
    assert found.num_parameters == 128 * 32 + 2 * 65 * 32 + 2 * layer + 2 * 32
    assert found.max_length == 65 and found.largest_batch_size  # one position more than its config says


def test_without_weights_and_tokenizer_decoders_are_pooled_as_they_look(config_alone: Callable[..., Path]) -> None:
    directory = config_alone("llama")
    assert "head.pooling is last" in _plan(directory).assumptions
    assert "head.pooling is mean" in _plan(directory, attention_direction="bidirectional").assumptions
