from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import ptuning
from ptuning.backbones.description import describe_trunk
from ptuning.backbones.families import FAMILIES, find_trunk
from ptuning.backbones.late_start import LateStart
from ptuning.errors import BackboneError

TinyModel = Callable[..., Any]
RaggedBatch = Callable[..., dict[str, Tensor]]
CANNOT = ["albert", "deberta-v2-conv", "mt5", "t5", "umt5"]
LENGTHS = (9, 6, 3)


def _prompts(num_layers: int) -> Tensor:
    return torch.randn(num_layers, 2, 4, 5, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", [*sorted(set(FAMILIES) - set(CANNOT)), "deberta-biased", "mistral-bidirectional"])
@pytest.mark.parametrize("first", [1, 2])
def test_a_forward_from_recorded_states_equals_a_whole_one(
    name: str, first: int, tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    model = tiny_model(name)
    trunk, family = find_trunk(model)
    late = LateStart(trunk, family, first)
    batch = ragged_batch(model.config, LENGTHS)
    heads = describe_trunk(trunk, family).num_kv_heads
    prompts = _prompts(3 - first)[:, :, :heads].clone().requires_grad_()
    ptuning.attach(model, prompts, layers=list(range(first, 3)))
    whole = model(**batch)[0]
    (expected,) = torch.autograd.grad(whole.square().sum(), prompts)
    states = late.record(batch)
    with late.started(states):
        again = model(**batch)[0]
        (gradient,) = torch.autograd.grad(again.square().sum(), prompts)
    assert torch.equal(again, whole)
    assert torch.equal(gradient, expected)
    assert torch.equal(model(**batch)[0], whole)  # the layers are back


def test_the_layers_below_do_not_run(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model("bert")
    late = LateStart(*find_trunk(model), 2)
    batch = ragged_batch(model.config, LENGTHS)
    states = late.record(batch)
    ran: list[int] = []
    for number, layer in enumerate(model.encoder.layer):
        layer.attention.register_forward_hook(lambda *_, number=number: ran.append(number))
    with late.started(states):
        model(**batch)
    assert ran == [2]
    assert late.record(batch).equal(states) and ran == [2, 0, 1]


def test_other_states_give_another_result(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model("bert")
    late = LateStart(*find_trunk(model), 1)
    batch = ragged_batch(model.config, LENGTHS)
    states = late.record(batch)
    whole = model(**batch)[0]
    with late.started(states + 1.0):
        assert not torch.allclose(model(**batch)[0], whole, atol=1e-2)


def test_a_forward_that_fails_leaves_the_layers_as_they_were(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model("bert")
    late = LateStart(*find_trunk(model), 1)
    batch = ragged_batch(model.config, LENGTHS)
    whole = model(**batch)[0]
    with pytest.raises(RuntimeError), late.started(torch.zeros(3, 9, 7)):
        model(**batch)
    assert torch.equal(model(**batch)[0], whole)
    assert all("forward" not in layer.__dict__ for layer in model.encoder.layer)


@pytest.mark.parametrize("name", CANNOT)
def test_families_whose_layers_hang_together_are_refused(name: str, tiny_model: TinyModel) -> None:
    trunk, family = find_trunk(tiny_model(name))
    with pytest.raises(
        BackboneError, match=rf"lower layers of this {family.model_type} cannot.*Set training.trunk_reuse to off"
    ):
        LateStart(trunk, family, 1)
