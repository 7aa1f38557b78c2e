from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import ptuning
from ptuning.backbones.description import describe_trunk
from ptuning.backbones.families import find_trunk
from ptuning.backbones.recomputation import start_recomputing

TinyModel = Callable[..., Any]
RaggedBatch = Callable[..., dict[str, Tensor]]


class _Casts(TorchDispatchMode):
    """Counts casts of tensors that hold prompts, which alone have prompt_length 7."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and 7 in args[0].shape[-2:]:
            self.shapes.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


def _prompts(model: Any) -> Tensor:
    description = describe_trunk(*find_trunk(model))
    shape = (description.num_layers, 2, description.num_kv_heads, 7, description.head_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["bert", "deberta", "t5", "albert", "eurobert"])
def test_prompts_are_cast_once_a_forward_for_all_layers(
    name: str, tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    model = tiny_model(name, dtype=torch.bfloat16)
    batch = ragged_batch(model.config, (9, 6))
    prompts = _prompts(model).requires_grad_()
    ptuning.attach(model, prompts)
    with _Casts() as casts:
        output = model(**batch)[0]
    assert casts.shapes == [(prompts.shape[0], 2, 1, *prompts.shape[2:])]
    output.float().square().sum().backward()
    assert prompts.grad is not None and prompts.grad.dtype == torch.float32
    assert bool((prompts.grad.abs().amax((1, 2, 3, 4)) > 0).all())


def test_prompts_of_the_keys_dtype_are_not_cast(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model("bert")
    ptuning.attach(model, _prompts(model))
    with _Casts() as casts:
        model(**ragged_batch(model.config, (9, 6)))
    assert casts.shapes == []


@pytest.mark.parametrize("name", ["bert", "eurobert", "t5", "deberta"])
def test_keys_and_values_of_two_dtypes_get_each_their_own(
    name: str, tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    """Under autocast a rotation may leave keys in float32 and values in bfloat16."""
    model = tiny_model(name)
    batch = ragged_batch(model.config, (9, 6))
    prompts = _prompts(model).requires_grad_()
    ptuning.attach(model, prompts)
    full = model(**batch)[0]
    with torch.autocast("cpu", torch.bfloat16):
        lower = model(**batch)[0]
    torch.testing.assert_close(lower.float(), full, rtol=0, atol=0.05 * full.detach().abs().max().item())
    lower.float().square().sum().backward()
    assert prompts.grad is not None and prompts.grad.isfinite().all()


@pytest.mark.parametrize("name", ["bert", "deberta", "t5", "eurobert"])
def test_layers_that_are_checkpointed_share_what_was_cast(
    name: str, tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    gradients = []
    for checkpointed in (False, True):
        model = tiny_model(name, dtype=torch.float64).train()  # prompts are float32
        if checkpointed:
            start_recomputing(model)
        prompts = _prompts(model).requires_grad_()
        ptuning.attach(model, prompts)
        model(**ragged_batch(model.config, (9, 6)))[0].square().sum().backward()
        assert prompts.grad is not None
        gradients.append(prompts.grad)
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)
