from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ptuning.backbones.description import describe_trunk
from ptuning.backbones.families import FAMILIES, attention_modules, find_trunk, position_limit

GROUPED = ("eurobert", "t5gemma", *(name for name, family in FAMILIES.items() if family.is_decoder))


def test_the_table_is_sorted_and_keyed_by_model_type() -> None:
    assert list(FAMILIES) == sorted(FAMILIES)
    assert all(family.model_type == key for key, family in FAMILIES.items())


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_checkpointing_is_as_the_library_has_it(name: str, tiny_model: Callable[..., Any]) -> None:
    assert tiny_model(name).supports_gradient_checkpointing is FAMILIES[name].gradient_checkpointing


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_description(name: str, tiny_model: Callable[..., Any]) -> None:
    model = tiny_model(name)
    trunk, family = find_trunk(model)
    description = describe_trunk(trunk, family)
    limits = {"mt5": None, "t5": None, "umt5": None, "deberta": None, "deberta-v2": None}
    shorter = dict.fromkeys(("camembert", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl"), 38)
    assert description.architecture() == {
        "model_type": name,
        "num_layers": 3,
        "hidden_size": 32,
        "num_heads": 4,
        "num_kv_heads": 2 if name in GROUPED else 4,
        "head_dim": 8,
        "vocab_size": 60,
    } | ({"attention_direction": "causal"} if FAMILIES[name].is_decoder else {})
    assert description.max_positions == (limits | shorter).get(name, 40)
    assert description.num_parameters == sum({id(p): p.numel() for p in trunk.parameters()}.values())
    embeddings = description.num_parameters - description.num_transformer_parameters
    assert embeddings >= 60 * 16 and description.num_transformer_parameters > 3 * 4 * 32 * 32 / (
        3 if name == "albert" else 1
    )


def test_deberta_with_absolute_positions_is_limited(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("deberta-biased")
    assert position_limit(model.config, FAMILIES["deberta"]) == 40


def test_shared_layers_are_counted_each_time_they_run(tiny_model: Callable[..., Any]) -> None:
    trunk, family = find_trunk(tiny_model("albert-groups"))
    modules = attention_modules(trunk, family)
    order = [list(dict.fromkeys(modules)).index(module) for module in modules]
    assert order == [0, 1, 0, 1, 2, 3, 2, 3]  # two groups of two layers, each group run twice
    ran: list[int] = []
    for number, module in enumerate(dict.fromkeys(modules)):
        module.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
    trunk(input_ids=torch.tensor([[5, 6]]))
    assert ran == order
