from __future__ import annotations

import copy
import platform
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ptuning.backbones import packed_weights
from ptuning.backbones.families import find_trunk
from ptuning.backbones.loading import Backbone
from ptuning.backbones.packed_weights import PackedWeights, can_pack_weights
from ptuning.heads import PooledHead
from ptuning.model import PromptedModel
from ptuning.prompts import DeepPrompts, PromptBank

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available(),
    reason="weights are packed by oneDNN on x86 alone",
)
LENGTHS = (9, 6, 3)


@pytest.fixture
def make_backbone(tiny_model: Callable[..., Any]) -> Callable[..., Backbone]:
    def make(name: str = "bert", dtype: torch.dtype = torch.float32) -> Backbone:
        model = tiny_model(name, dtype=dtype).requires_grad_(False)
        return Backbone(model, find_trunk(model)[1], source="tiny", name="tiny", revision=None)

    return make


def _model(backbone: Backbone) -> PromptedModel:
    description = backbone.description
    bank = PromptBank(description.num_layers)
    shape = {"num_kv_heads": description.num_kv_heads, "prompt_length": 4, "head_dim": description.head_dim}
    generator = torch.Generator().manual_seed(0)
    bank.add(DeepPrompts(num_prompted_layers=description.num_layers, generator=generator, init_std=1.0, **shape))
    return PromptedModel(backbone, bank, [PooledHead(32, 3, pooling="mean", generator=generator)]).train()


def _run(model: PromptedModel, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of the prompts."""
    logits = model(**batch)[0].logits
    logits.square().sum().backward()
    (prompts,) = model.bank.parameters()
    assert prompts.grad is not None
    return logits.detach(), prompts.grad


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "deberta-v2", "modernbert", "t5"])
def test_outputs_and_gradients_are_those_of_plain_weights(
    name: str,
    dtype: torch.dtype,
    tolerance: float,
    make_backbone: Callable[..., Backbone],
    ragged_batch: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN has no bfloat16 here")
    packed = _model(make_backbone(name, dtype))
    assert packed._packed_weights is not None
    batch = ragged_batch(packed.backbone.config, LENGTHS)
    found = _run(packed, batch)
    monkeypatch.setattr(packed_weights, "MOST_BYTES", 0)
    plain = _model(make_backbone(name, dtype))
    assert plain._packed_weights is None
    for own, other in zip(found, _run(plain, batch), strict=True):
        torch.testing.assert_close(own, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))


def test_layers_are_what_they_were_when_prompts_are_taken_off(make_backbone: Callable[..., Backbone]) -> None:
    backbone = make_backbone()
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    model = _model(backbone)
    linears = [module for module in backbone.model.modules() if isinstance(module, nn.Linear)]
    assert linears and all("forward" in vars(module) for module in linears)
    model.detach()
    assert not any("forward" in vars(module) for module in linears)
    after = backbone.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_layers_with_packed_weights_can_be_copied() -> None:
    trunk = nn.Sequential(nn.Linear(4, 4)).requires_grad_(False)
    PackedWeights(trunk)
    inputs = torch.randn(3, 4)
    before = trunk(inputs)
    copied = copy.deepcopy(trunk)
    with torch.no_grad():
        copied[0].weight.zero_()
    assert torch.equal(trunk(inputs), before)
    torch.testing.assert_close(copied(inputs), copied[0].bias.expand(3, -1))


def test_layers_that_are_trained_stay_plain() -> None:
    trunk = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).requires_grad_(False))
    packed = PackedWeights(trunk)
    trunk(torch.randn(3, 4)).sum().backward()
    assert trunk[0].weight.grad is not None and trunk[1].weight.grad is None
    assert "forward" not in vars(trunk[0]) and "forward" in vars(trunk[1])
    packed.remove()
    assert not can_pack_weights(trunk[0])


def test_double_precision_and_products_of_another_precision_are_left_alone() -> None:
    trunk = nn.Sequential(nn.Linear(4, 4)).requires_grad_(False)
    assert not can_pack_weights(trunk.double())
    packed = PackedWeights(trunk.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert trunk(torch.randn(3, 4)).dtype == torch.bfloat16
    packed.remove()
