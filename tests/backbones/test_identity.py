from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import ptuning
from ptuning.backbones.families import find_trunk
from ptuning.backbones.identity import BackboneIdentity, fingerprint
from ptuning.errors import BackboneMismatchError

IDENTITY = BackboneIdentity("roberta-large", "abc", {"model_type": "roberta", "num_layers": 24}, "f" * 64)


def _print(model: Any) -> str:
    return fingerprint(find_trunk(model)[0])


@pytest.mark.parametrize("name", ["bert", "t5", "deberta-v2"])
def test_fingerprint_knows_weights_and_not_their_storage(name: str, tiny_model: Callable[..., Any]) -> None:
    known = _print(tiny_model(name))
    assert _print(tiny_model(name)) == known
    assert _print(tiny_model(name).bfloat16()) == known
    assert _print(tiny_model(name, seed=1)) != known
    changed = tiny_model(name)
    with torch.no_grad():
        changed.get_input_embeddings().weight[0, 0] += 0.5
    assert _print(changed) != known


def test_fingerprint_is_of_the_encoder_alone(tiny_model: Callable[..., Any]) -> None:
    """Not of a head, nor of a pooler (it may be drawn at random), nor of prompts that are attached."""
    model = tiny_model("bert")
    known = _print(model)
    headed = tiny_model("bert", auto=AutoModelForSequenceClassification)
    headed.bert.load_state_dict(model.state_dict())
    assert _print(headed) == known
    with torch.no_grad():
        model.pooler.dense.weight.zero_()
    assert _print(model) == known
    prompts = ptuning.DeepPrompts(num_prompted_layers=3, num_kv_heads=4, prompt_length=2, head_dim=8)
    ptuning.attach(model, prompts)
    assert _print(model) == known
    model.pooler = None
    assert _print(model) == known


def test_goes_through_json() -> None:
    assert BackboneIdentity.from_dict(json.loads(json.dumps(IDENTITY.to_dict()))) == IDENTITY
    with pytest.raises(KeyError):
        BackboneIdentity.from_dict({"name": "x"})


def test_an_encoders_prompt_is_told_of_the_other_type_and_not_of_a_direction() -> None:
    """A decoder has one key more: the direction of its attention, which an encoder's prompt cannot ask for."""
    sizes = {"num_layers": 24, "hidden_size": 64}
    encoder = dataclasses.replace(IDENTITY, architecture={"model_type": "eurobert", **sizes})
    decoder = dataclasses.replace(
        IDENTITY, architecture={"model_type": "llama", **sizes, "attention_direction": "causal"}
    )
    for one, other, said in (
        (encoder, decoder, "eurobert against llama"),
        (decoder, encoder, "llama against eurobert"),
    ):
        with pytest.raises(BackboneMismatchError, match=f"model_type {said}") as raised:
            one.require(other)
        assert "Load it with attention_direction" not in str(raised.value)


def test_name_and_revision_may_differ() -> None:
    IDENTITY.require(dataclasses.replace(IDENTITY, name="./copy", revision=None))


def test_other_sizes_and_other_weights_are_told_apart() -> None:
    other = BackboneIdentity("bert-base-cased", None, {"model_type": "bert", "num_layers": 12}, "e" * 64)
    with pytest.raises(
        BackboneMismatchError,
        match=r"trained on roberta-large \(roberta, 24 layers\), but the backbone is bert-base-cased "
        r"\(bert, 12 layers\): model_type roberta against bert, num_layers 24 against 12. Use --backbone roberta-large",
    ):
        IDENTITY.require(other)
    with pytest.raises(
        BackboneMismatchError,
        match="has the same sizes and other weights .* Use the checkpoint and revision that it was",
    ):
        IDENTITY.require(dataclasses.replace(IDENTITY, fingerprint="e" * 64))
