"""Biases, a low-rank change, all weights: what each is equal to, and that the backbone stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ptuning.backbones.families import find_trunk
from ptuning.backbones.loading import Backbone
from ptuning.errors import BackboneError, ConfigError
from ptuning.heads import PooledHead
from ptuning.methods import Adaptation, AllWeights, Biases, LowRank, with_own_weights
from ptuning.model import PromptedModel, trained_parameters
from ptuning.prompts import PromptBank
from ptuning.training.adapting import no_prompts

LENGTHS = (9, 6, 3)


@pytest.fixture
def make_backbone(tiny_model: Callable[..., Any]) -> Callable[..., Backbone]:
    def make(name: str = "bert", dtype: torch.dtype = torch.float32) -> Backbone:
        model = tiny_model(name, dtype=dtype).requires_grad_(False)
        return Backbone(model, find_trunk(model)[1], source="tiny", name="tiny", revision=None)

    return make


def _model(backbone: Backbone, adaptation: Adaptation) -> PromptedModel:
    bank = PromptBank(backbone.description.num_layers)
    bank.add(no_prompts(backbone))
    head = PooledHead(32, 3, pooling="cls", generator=torch.Generator().manual_seed(1))
    return PromptedModel(backbone, bank, [head], adaptation=adaptation)


def _make(method: str, backbone: Backbone) -> tuple[Adaptation, Backbone]:
    trunk, family = find_trunk(backbone.model)
    if method == "bitfit":
        return Biases(trunk, family.model_type), backbone
    if method == "lora":
        return LowRank(trunk, family, rank=2, alpha=4.0), backbone
    own = with_own_weights(backbone)
    return AllWeights(own.model, precision="fp32"), own


def _draw(parameters: Any) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


@pytest.mark.parametrize("method", ["bitfit", "lora", "fine-tuning"])
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "deberta", "deberta-v2", "mpnet"])
def test_a_step_moves_what_is_trained_and_leaves_the_given_backbone_bit_for_bit(
    method: str, name: str, make_backbone: Callable[..., Backbone], ragged_batch: Callable[..., Any]
) -> None:
    backbone = make_backbone(name)
    before = {key: tensor.clone() for key, tensor in backbone.model.state_dict().items()}
    modules = [type(module) for module in backbone.model.modules()]
    adaptation, used = _make(method, backbone)
    model = _model(used, adaptation).train()
    trained = trained_parameters(model)
    saved = {
        name: tensor.clone() for name, tensor in {**adaptation.saved_tensors(), **adaptation.saved_weights()}.items()
    }
    assert sum(tensor.numel() for tensor in saved.values()) == adaptation.num_saved()
    assert adaptation.num_saved() == sum(p.numel() for name, p in trained.items() if not name.startswith("heads."))
    optimizer = torch.optim.AdamW(trained.values(), lr=0.1)
    model(**ragged_batch(used.model.config, LENGTHS))[0].logits.square().sum().backward()
    with_gradient = {key for key, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient <= set(trained) and any(not key.startswith("heads.") for key in with_gradient)
    optimizer.step()
    moved = {**adaptation.saved_tensors(), **adaptation.saved_weights()}
    assert any(not torch.equal(moved[key], tensor) for key, tensor in saved.items())
    model.detach()
    after = backbone.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert [type(module) for module in backbone.model.modules()] == modules
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


@pytest.mark.parametrize("name", ["bert", "deberta"])
def test_changed_biases_are_biases(
    name: str, make_backbone: Callable[..., Backbone], ragged_batch: Callable[..., Any]
) -> None:
    """Equal to the model whose biases are what they are with the changes."""
    backbone = make_backbone(name)
    batch = ragged_batch(backbone.model.config, LENGTHS)
    adaptation, _ = _make("bitfit", backbone)
    _draw(adaptation.parameters())
    other = copy.deepcopy(backbone)
    with torch.no_grad():
        for key, change in adaptation.saved_tensors().items():
            module: Any = other.model.get_submodule(key.removeprefix("bias_changes."))
            module.bias += change
        found = _model(backbone, adaptation).eval()(**batch)[0].logits
        zero, _ = _make("bitfit", other)
        expected = _model(other, zero).eval()(**batch)[0].logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "deberta", "deberta-v2", "deberta-v2-conv", "distilbert", "mpnet"])
def test_every_linear_layer_and_norm_has_its_bias_trained(name: str, make_backbone: Callable[..., Backbone]) -> None:
    backbone = make_backbone(name)
    adaptation, _ = _make("bitfit", backbone)
    of_all = {name: p for name, p in backbone.model.named_parameters() if name.endswith(".bias")}
    biases = {name: p for name, p in of_all.items() if not name.endswith("conv.bias")}  # of DeBERTa-v2's convolution
    assert {f"bias_changes.{name.removesuffix('.bias')}" for name in biases} == set(adaptation.saved_tensors())
    assert adaptation.num_saved() == sum(parameter.numel() for parameter in biases.values())


def test_a_backbone_without_biases_is_refused(make_backbone: Callable[..., Backbone]) -> None:
    with pytest.raises(BackboneError, match="bitfit trains biases, but a t5 has none"):
        _make("bitfit", make_backbone("t5"))


def test_a_low_rank_change_is_added_to_query_and_value(
    make_backbone: Callable[..., Backbone], ragged_batch: Callable[..., Any]
) -> None:
    """Equal to the model with weight + alpha / rank * B A."""
    backbone = make_backbone()
    batch = ragged_batch(backbone.model.config, LENGTHS)
    adaptation, _ = _make("lora", backbone)
    model = _model(backbone, adaptation).eval()
    _draw(parameter for name, parameter in trained_parameters(model).items() if "lora_" in name)
    with torch.no_grad():
        found = model(**batch)[0].logits
        saved = {name: tensor.clone() for name, tensor in adaptation.saved_tensors().items()}
        model.detach()
        names = {name.removeprefix("lora.").rpartition(".lora_")[0] for name in saved}
        assert names == {f"encoder.layer.{i}.attention.self.{part}" for i in range(3) for part in ("query", "value")}
        for name in names:
            down, up = (saved[f"lora.{name}.lora_{part}.weight"] for part in "AB")
            backbone.model.get_submodule(name).weight += 2.0 * up @ down
        bank = PromptBank(3)
        bank.add(no_prompts(backbone))
        head = PooledHead(32, 3, pooling="cls", generator=torch.Generator().manual_seed(1))
        expected = PromptedModel(backbone, bank, [head]).eval()(**batch)[0].logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_low_rank_change_is_kept_in_float32_on_a_backbone_in_bf16(make_backbone: Callable[..., Backbone]) -> None:
    backbone = make_backbone(dtype=torch.bfloat16)
    adaptation, _ = _make("lora", backbone)
    model = _model(backbone, adaptation)
    assert {parameter.dtype for parameter in trained_parameters(model).values()} == {torch.float32}
    model(torch.ones(2, 4, dtype=torch.long), torch.ones(2, 4, dtype=torch.long))[0].logits.sum().backward()


def test_layers_for_lora_that_are_not_there_are_refused(make_backbone: Callable[..., Backbone]) -> None:
    backbone = make_backbone()
    trunk, family = find_trunk(backbone.model)
    with pytest.raises(
        ConfigError, match="lora.modules is qkv, but no linear layer of this bert has such a name. Name"
    ):
        LowRank(trunk, family, rank=2, alpha=4.0, modules=["qkv"])
    assert (
        len(LowRank(trunk, family, rank=2, alpha=4.0, modules=["dense"])._targets) == 10
    )  # three a layer, and the pooler


def test_fine_tuning_in_bf16_keeps_its_weights_in_float32(
    make_backbone: Callable[..., Backbone], ragged_batch: Callable[..., Any]
) -> None:
    backbone = make_backbone()
    own = with_own_weights(backbone)
    seen: list[torch.dtype] = []
    query: nn.Module = own.model.get_submodule("encoder.layer.0.attention.self.query")
    query.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    model = _model(own, AllWeights(own.model, precision="bf16")).train()
    seen.clear()  # attaching looks at the output too
    model(**ragged_batch(own.model.config, LENGTHS))[0].logits.square().sum().backward()
    assert seen == [torch.bfloat16]
    trained = trained_parameters(model)
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}
    assert all(parameter.grad is not None for name, parameter in trained.items() if ".layer.0." in name)
