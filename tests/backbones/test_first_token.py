from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import ptuning
from ptuning.backbones.families import FAMILIES, find_trunk
from ptuning.backbones.first_token import FirstTokenOnly

TinyModel = Callable[..., Any]
RaggedBatch = Callable[..., dict[str, Tensor]]
CAN = sorted(name for name, family in FAMILIES.items() if family.can_end_at_first_token)
LENGTHS = (9, 6, 3)


def test_it_is_for_bert_and_its_siblings() -> None:
    assert CAN == ["bert", "camembert", "electra", "ernie", "roberta", "xlm-roberta", "xlm-roberta-xl"]


@pytest.mark.parametrize("name", CAN)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("lengths", [LENGTHS, (7, 7)])
def test_the_first_token_is_what_a_whole_layer_gives(
    name: str, attention: str, lengths: tuple[int, ...], tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    model = tiny_model(name, attention=attention, dtype=torch.float64)
    prompts = torch.randn(3, 2, 4, 5, 8, dtype=torch.float64, requires_grad=True)
    ptuning.attach(model, prompts)
    batch = ragged_batch(model.config, lengths)
    whole = model(**batch)[0][:, 0]
    (expected,) = torch.autograd.grad(whole.square().sum(), prompts)
    shorter = FirstTokenOnly(*find_trunk(model))
    first = model(**batch)[0]
    (gradient,) = torch.autograd.grad(first.square().sum(), prompts)
    assert first.shape == (len(lengths), 1, 32)
    torch.testing.assert_close(first[:, 0], whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-10)
    shorter.remove()
    assert torch.equal(model(**batch)[0][:, 0], whole)


def test_the_feed_forward_sees_one_token(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model("bert")
    ptuning.attach(model, torch.randn(3, 2, 4, 5, 8))
    FirstTokenOnly(*find_trunk(model))
    shapes: list[tuple[int, ...]] = []
    for layer in model.encoder.layer:
        layer.output.register_forward_hook(lambda *call: shapes.append(tuple(call[2].shape)))
    model(**ragged_batch(model.config, LENGTHS))
    assert shapes == [(3, 9, 32), (3, 9, 32), (3, 1, 32)]
