from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ptuning import load_backbone
from ptuning.backbones import quantization
from ptuning.backbones.families import FAMILIES, find_trunk
from ptuning.backbones.loading import Backbone
from ptuning.backbones.quantization import (
    BITS,
    QuantizedLinear,
    as_quantization,
    quantization_of,
    quantize_layers,
    quantized_linears,
)
from ptuning.backbones.recomputation import start_recomputing
from ptuning.errors import BackboneError, BackboneMismatchError, ConfigError, MissingDependencyError
from ptuning.heads import PooledHead
from ptuning.methods import Biases, LowRank, with_own_weights
from ptuning.model import PromptedModel, trained_parameters
from ptuning.prompts import DeepPrompts, GivenPrompts, PromptBank

pytest.importorskip("bitsandbytes", reason="weights in 8 or 4 bits need bitsandbytes")

TinyModel = Callable[..., Any]
RaggedBatch = Callable[..., dict[str, Tensor]]
CPU = torch.device("cpu")
LENGTHS = (9, 6, 3)
FORMATS = ("int8", "nf4")


@pytest.fixture
def make_backbone(tiny_model: TinyModel) -> Callable[..., Backbone]:
    def make(name: str = "bert", kind: str = "none", dtype: torch.dtype = torch.float32) -> Backbone:
        model = tiny_model(name, dtype=dtype).requires_grad_(False)
        trunk, family = find_trunk(model)
        if kind != "none":
            quantize_layers(trunk, family, as_quantization(kind), device=CPU, dtype=dtype)
        return Backbone(model, family, source="tiny", name="tiny", revision=None)

    return make


def _dequantized(backbone: Backbone) -> Backbone:
    """A copy whose layers are ordinary ones with the rounded weights."""
    other = copy.deepcopy(backbone)
    for name, linear in quantized_linears(other.model).items():
        dtype = linear.weight.dtype
        plain = nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None, dtype=dtype)
        with torch.no_grad():
            plain.weight.copy_(linear.restored(dtype))
            if linear.bias is not None:
                plain.bias.copy_(linear.bias)
        parent, _, last = name.rpartition(".")
        setattr(other.model.get_submodule(parent), last, plain.requires_grad_(False))
    assert not quantized_linears(other.model)
    return other


def _bank(backbone: Backbone, *lengths: int) -> PromptBank:
    description = backbone.description
    bank = PromptBank(description.num_layers)
    for seed, length in enumerate(lengths):
        bank.add(
            DeepPrompts(
                num_prompted_layers=description.num_layers,
                num_kv_heads=description.num_kv_heads,
                prompt_length=length,
                head_dim=description.head_dim,
                init_std=1.0,
                generator=torch.Generator().manual_seed(seed),
            )
        )
    return bank


def _model(backbone: Backbone, *lengths: int, **options: Any) -> PromptedModel:
    head = PooledHead(32, 3, pooling="mean", generator=torch.Generator().manual_seed(0))
    return PromptedModel(backbone, _bank(backbone, *lengths), [head], **options).train()


def _no_prompts(backbone: Backbone) -> PromptBank:
    description = backbone.description
    bank = PromptBank(description.num_layers)
    bank.add(GivenPrompts(torch.zeros(description.num_layers, 2, description.num_kv_heads, 0, description.head_dim)))
    return bank


def _run(model: PromptedModel, batch: dict[str, Tensor], **asked: Any) -> list[Tensor]:
    """Logits, and the gradients of all that is trained."""
    logits = model(**batch, **asked)[0].logits
    return [logits.detach(), *torch.autograd.grad(logits.square().sum(), list(trained_parameters(model).values()))]


def _assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_outputs_and_gradients_are_those_of_the_rounded_weights(
    name: str, kind: str, make_backbone: Callable[..., Backbone], ragged_batch: RaggedBatch
) -> None:
    backbone = make_backbone(name, kind)
    plain = _dequantized(backbone)
    assert quantized_linears(backbone.model)
    batch = ragged_batch(backbone.model.config, LENGTHS)
    with torch.no_grad():
        unrounded = make_backbone(name).model(**batch)[0]
        assert not torch.allclose(backbone.model(**batch)[0], unrounded, atol=1e-4), "it makes a difference"
    _assert_close(_run(_model(backbone, 4), batch), _run(_model(plain, 4), batch), 1e-5)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", ["bert", "deberta-v2", "eurobert", "t5"])
def test_in_bfloat16_they_are_so_within_its_rounding(
    name: str, kind: str, make_backbone: Callable[..., Backbone], ragged_batch: RaggedBatch
) -> None:
    backbone = make_backbone(name, kind, torch.bfloat16)
    plain, batch = _dequantized(backbone), ragged_batch(backbone.model.config, LENGTHS)
    _assert_close(_run(_model(backbone, 4), batch), _run(_model(plain, 4), batch), 2**-6)


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_choose_their_prompts(
    kind: str, make_backbone: Callable[..., Backbone], ragged_batch: RaggedBatch
) -> None:
    backbone = make_backbone("roberta", kind)
    plain, batch = _dequantized(backbone), ragged_batch(backbone.model.config, LENGTHS)
    mixed = _run(_model(backbone, 2, 5), batch, entries=[1, 0, 1])
    _assert_close(mixed, _run(_model(plain, 2, 5), batch, entries=[1, 0, 1]), 1e-5)


@pytest.mark.parametrize(("kind", "step"), [("int8", 0.5 / 127), ("nf4", (1 - 0.6961928) / 2)])
@pytest.mark.parametrize("shape", [(8, 64), (5, 7), (3, 100), (1, 1)])
def test_a_weight_is_rounded_to_the_nearest_step_of_its_block(kind: str, step: float, shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    linear = QuantizedLinear(weight, None, as_quantization(kind), device=CPU, dtype=torch.float32)
    restored = linear.restored(torch.float32)
    assert restored.shape == weight.shape and linear.weight.shape == weight.shape
    blocks = nn.functional.pad(weight.view(-1), (0, -weight.numel() % 64)).view(-1, 64).abs().amax(1)
    largest = blocks.repeat_interleave(64)[: weight.numel()].view(shape)
    assert ((restored - weight).abs() <= largest * step * 1.001).all()
    if weight.numel() > 64:
        assert (restored - weight).abs().max() > largest.min() * step * 0.1, "it is rounded at all"
        stored = linear.codes.nbytes + linear.scales.nbytes
        assert stored * 8 == BITS[as_quantization(kind)] * linear.scales.numel() * 64
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        other = linear.restored(dtype)
        assert other.dtype == dtype
        torch.testing.assert_close(other.float(), restored, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("kind", FORMATS)
def test_in_pieces_or_at_once_it_is_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(7, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    whole = QuantizedLinear(weight, None, as_quantization(kind), device=CPU, dtype=torch.float32)
    monkeypatch.setattr(quantization, "_PIECE", 128)
    pieces = QuantizedLinear(weight, None, as_quantization(kind), device=CPU, dtype=torch.float32)
    assert torch.equal(whole.codes, pieces.codes) and torch.equal(whole.scales, pieces.scales)


@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_of_a_weights_size_is_kept_for_the_backward(kind: str) -> None:
    weight = torch.randn(24, 48, generator=torch.Generator().manual_seed(0))
    linear = QuantizedLinear(weight, torch.zeros(24), as_quantization(kind), device=CPU, dtype=torch.float32)
    inputs = torch.randn(2, 3, 48, requires_grad=True)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = linear(inputs)
    assert {tensor.data_ptr() for tensor in kept} == {linear.codes.data_ptr(), linear.scales.data_ptr()}
    (found,) = torch.autograd.grad(output.sum(), inputs)
    torch.testing.assert_close(found, linear.restored(torch.float32).sum(0).expand(2, 3, -1))


@pytest.mark.parametrize("shape", [(48,), (5, 48), (2, 3, 48)])
def test_a_bias_that_is_trained_has_its_gradient(shape: tuple[int, ...]) -> None:
    weight = torch.randn(24, 48, generator=torch.Generator().manual_seed(0))
    linear = QuantizedLinear(weight, torch.ones(24), "int8", device=CPU, dtype=torch.float64)
    linear.bias.requires_grad_()
    inputs = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plain = nn.functional.linear(inputs, linear.restored(torch.float64), linear.bias)
    (expected,) = torch.autograd.grad(plain.square().sum(), linear.bias)
    (found,) = torch.autograd.grad(linear(inputs).square().sum(), linear.bias)  # of inputs without a gradient
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", FORMATS)
def test_training_leaves_what_is_stored_bit_for_bit(
    kind: str, make_backbone: Callable[..., Backbone], ragged_batch: RaggedBatch
) -> None:
    backbone = make_backbone("bert", kind)
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    assert any(name.endswith("codes") for name in before)
    model = _model(backbone, 4)
    optimizer = torch.optim.AdamW(trained_parameters(model).values(), lr=0.1)
    model(**ragged_batch(backbone.model.config, LENGTHS))[0].logits.square().sum().backward()
    optimizer.step()
    model.detach()
    after = backbone.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_what_is_stored_is_moved_and_not_cast(make_backbone: Callable[..., Backbone]) -> None:
    linear = next(iter(quantized_linears(make_backbone("bert", "int8").model).values()))
    before = linear.restored(torch.float32)
    linear.to(torch.bfloat16)
    assert torch.equal(linear.restored(torch.float32), before)
    assert linear.bias.dtype == linear.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", ["bert", "eurobert", "t5"])
def test_layers_that_are_computed_again_give_the_same_gradients(
    name: str, kind: str, make_backbone: Callable[..., Backbone], ragged_batch: RaggedBatch
) -> None:
    backbone = make_backbone(name, kind)
    batch = ragged_batch(backbone.model.config, LENGTHS)
    model = _model(backbone, 4, backbone_dropout="off")
    plain = _run(model, batch)
    start_recomputing(backbone.model)
    model.train()
    ran: list[int] = []
    model.attached.attention_modules[0].register_forward_pre_hook(lambda *_: ran.append(1))
    _assert_close(_run(model, batch), plain, 1e-5)
    assert len(ran) == 2, "once in the forward, once in the backward"


@pytest.mark.parametrize("kind", FORMATS)
def test_biases_and_low_rank_changes_are_trained_on_rounded_weights(
    kind: str, make_backbone: Callable[..., Backbone], ragged_batch: RaggedBatch
) -> None:
    backbone = make_backbone("bert", kind)
    backbone.model.pooler = None
    batch = ragged_batch(backbone.model.config, LENGTHS)
    for name in ("bitfit", "lora"):
        found: list[list[Tensor]] = []
        for used in (backbone, _dequantized(backbone)):
            trunk, family = find_trunk(used.model)
            torch.manual_seed(0)
            change = Biases(trunk, "bert") if name == "bitfit" else LowRank(trunk, family, rank=2, alpha=4.0)
            head = PooledHead(32, 3, pooling="mean", generator=torch.Generator().manual_seed(0))
            model = PromptedModel(used, _no_prompts(used), [head], adaptation=change).train()
            found.append(_run(model, batch))
            model.detach()
        assert any(float(gradient.abs().max()) > 0 for gradient in found[0][1:-2])
        _assert_close(found[0], found[1], 1e-5)
    assert quantization_of(backbone.model) == kind, "it is as it was"


def test_its_layers_are_not_compiled(make_backbone: Callable[..., Backbone]) -> None:
    with pytest.raises(ConfigError, match="compile is on, but the backbone's weights are stored in int8, which"):
        _model(make_backbone("bert", "int8"), 4, compiled=True)


def test_its_weights_cannot_be_trained(make_backbone: Callable[..., Backbone]) -> None:
    with pytest.raises(BackboneError, match="fine-tuning trains all weights, but those of tiny are stored in nf4"):
        with_own_weights(make_backbone("bert", "nf4"))


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_loading_rounds_the_files_weights_and_stores_the_rest_as_ever(
    name: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    tiny_model(name).save_pretrained(tmp_path)
    ordinary = load_backbone(tmp_path, dtype=torch.bfloat16)
    rounded = load_backbone(tmp_path, dtype=torch.bfloat16, quantization="int8")
    assert rounded.quantization == "int8" and ordinary.quantization == "none"
    linears = quantized_linears(rounded.model)
    weights = {f"{name}.weight" for name in linears}
    expected = {
        key: (tensor.shape, tensor.dtype, tensor.device)
        for key, tensor in (*ordinary.model.named_parameters(), *ordinary.model.named_buffers())
        if key not in weights
    }
    found = {
        key: (tensor.shape, tensor.dtype, tensor.device)
        for key, tensor in (*rounded.model.named_parameters(), *rounded.model.named_buffers())
        if not key.endswith((".codes", ".scales"))
    }
    assert found == expected
    assert not any(parameter.requires_grad for parameter in rounded.model.parameters())
    assert not any(module.training for module in rounded.model.modules())
    assert rounded.description == ordinary.description
    assert rounded.identity.fingerprint == ordinary.identity.fingerprint
    source = load_backbone(tmp_path)  # in the file's precision
    key, linear = next(iter(linears.items()))
    again = QuantizedLinear(source.model.get_submodule(key).weight, None, "int8", device=CPU, dtype=torch.bfloat16)
    assert torch.equal(linear.codes, again.codes) and torch.equal(linear.scales, again.scales)
    layers = {key for key, module in source.model.named_modules() if type(module) is nn.Linear}
    assert len(linears) >= 0.8 * len(layers)


def test_weights_are_rounded_once_where_the_config_names_another_dtype(tiny_model: TinyModel, tmp_path: Path) -> None:
    tiny_model("bert").half().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dtype": "bfloat16"}))
    plain, rounded = (load_backbone(tmp_path, quantization=kind) for kind in ("none", "int8"))
    found, expected = (one.model.embeddings.word_embeddings.weight for one in (rounded, plain))
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    assert not torch.equal(expected, expected.bfloat16().float()), "bfloat16 would be another"
    for key, linear in quantized_linears(rounded.model).items():
        again = QuantizedLinear(plain.model.get_submodule(key).weight, None, "int8", device=CPU, dtype=torch.float32)
        assert torch.equal(linear.codes, again.codes) and torch.equal(linear.scales, again.scales)
    assert rounded.identity.fingerprint == plain.identity.fingerprint


def test_an_identity_says_what_the_weights_were_rounded_to(make_backbone: Callable[..., Backbone]) -> None:
    plain, rounded = make_backbone().identity, make_backbone("bert", "int8").identity
    assert rounded.fingerprint == plain.fingerprint and rounded.weights != plain.weights
    assert "quantization" not in plain.to_dict() and rounded.to_dict()["quantization"] == "int8"
    assert type(rounded).from_dict(rounded.to_dict()) == rounded
    words = (
        "was trained on tiny with weights in int8, but the backbone tiny has weights that are not quantized: what it "
        "says would differ by their rounding. Load the backbone with quantization int8, or ask for quantization none"
    )
    with pytest.raises(BackboneMismatchError, match=words):
        rounded.require(plain)
    rounded.require(plain, any_quantization=True)


def test_an_unknown_name_and_a_missing_package_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="quantization is 'int3', expected none, int8, nf4. Use one of these."):
        as_quantization("int3")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    quantization._functional.cache_clear()
    with pytest.raises(
        MissingDependencyError, match=r'not installed. Install it: pip install "ptuning\[quantization\]"'
    ):
        as_quantization("nf4")
    assert as_quantization("none") == "none"
