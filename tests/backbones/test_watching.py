"""Attention on virtual tokens, told by the attention functions, against weights that are computed otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import ptuning
from ptuning.attachment import Attached, attach_bank_or_prompts
from ptuning.backbones import dot_product, interface
from ptuning.backbones.capture import capture_keys_values
from ptuning.backbones.description import describe_trunk
from ptuning.backbones.families import FAMILIES, find_trunk
from ptuning.backbones.native import fused
from ptuning.errors import BackboneError, PromptError
from ptuning.prompts import GivenPrompts, PromptBank

TinyModel = Callable[..., Any]
RaggedBatch = Callable[..., dict[str, Tensor]]
NATIVE = sorted(name for name, family in FAMILIES.items() if family.native_forward is not None)
LENGTHS = (11, 8, 7)


def _prompts(model: Any, length: int = 5, layers: int | None = None, seed: int = 7) -> Tensor:
    numbers = describe_trunk(*find_trunk(model))
    shape = (layers or numbers.num_layers, 2, numbers.num_kv_heads, length, numbers.head_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=model.dtype)


def _watched(attached: Attached, model: Any, batch: dict[str, Tensor]) -> tuple[dict[int, Tensor], Tensor]:
    """What was told, by layer, and the output."""
    found: dict[int, Tensor] = {}

    def keep(layer: int, share: Tensor) -> None:
        assert layer not in found, "each layer tells once"
        found[layer] = share

    with torch.no_grad(), attached.watched(attention=keep):
        output = model(**batch)[0]
    return found, output


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_it_is_the_eager_attention_weights_on_virtual_tokens(
    attention: str, tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    model, stock = tiny_model("bert", attention=attention), tiny_model("bert", attention="eager")
    batch, prompts = ragged_batch(model.config, LENGTHS), _prompts(model)
    with torch.no_grad():
        ptuning.attach(stock, prompts)
        weights = stock(**batch, output_attentions=True).attentions
    found, _ = _watched(ptuning.attach(model, prompts), model, batch)
    real = batch["attention_mask"].bool()[:, None]
    assert sorted(found) == [0, 1, 2]
    for layer, share in found.items():
        assert weights[layer].shape == (3, 4, 11, 5 + 11) and share.shape == (3, 4, 11)
        expected = weights[layer][..., :5].sum(-1)
        torch.testing.assert_close(share[real.expand_as(share)], expected[real.expand_as(share)], rtol=1e-5, atol=1e-6)
        assert 0.05 < share[real.expand_as(share)].mean() < 0.95


@pytest.mark.parametrize("name", NATIVE)
def test_families_with_attention_of_our_own_tell_their_weights(
    name: str, tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    model = tiny_model(name)
    batch, prompts = ragged_batch(model.config, LENGTHS), _prompts(model)
    options: Any = {"layers": "all", "positions": "unshifted", "freeze": True, "check": False}
    attached = attach_bank_or_prompts(model, prompts, **options, eager=False)
    found, _ = _watched(attached, model, batch)
    with torch.no_grad():
        weights = model(**batch, output_attentions=True).attentions
    real = batch["attention_mask"].bool()[:, None].expand(3, 4, 11)
    for layer in range(3):
        torch.testing.assert_close(found[layer][real], weights[layer][..., :5].sum(-1)[real], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [*sorted(FAMILIES), "albert-groups", "deberta-absolute", "deberta-v2-conv"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_family_tells_what_its_context_is_made_of(
    name: str, attention: str, tiny_model: TinyModel, ragged_batch: RaggedBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With values of one for virtual tokens and zero for real ones, what attention puts out is the share itself."""
    model = tiny_model(name, attention=attention, dtype=torch.float64)
    batch, prompts = ragged_batch(model.config, LENGTHS), _prompts(model)
    attached = attach_bank_or_prompts(
        model, prompts, layers="all", positions="unshifted", freeze=True, check=False, eager=attention == "eager"
    )
    contexts: list[Tensor] = []
    base, in_steps = interface._base_attention, dot_product.attention_in_steps

    def with_shares(value: Tensor, run: Callable[[Tensor], Tensor]) -> None:
        marks = torch.zeros_like(value)
        marks[:, :, :5] = 1.0
        contexts.append(run(marks))

    def spied_base(name: str, module: Any) -> Any:
        function = base(name, module)

        def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
            def run(marks: Tensor) -> Tensor:
                return function(module, query, key, marks, mask, **kwargs)[0][..., 0].transpose(1, 2)  # (B, H, Q)

            with_shares(value, run)
            return function(module, query, key, value, mask, **kwargs)

        return attend

    monkeypatch.setattr(interface, "_base_attention", spied_base)
    if name.removesuffix("-absolute").removesuffix("-conv") in NATIVE:

        def spied_steps(query: Tensor, key: Tensor, value: Tensor, bias: Any, **kwargs: Any) -> Any:
            with_shares(value, lambda marks: in_steps(query, key, marks, bias, **kwargs)[0][..., 0])
            return in_steps(query, key, value, bias, **kwargs)

        monkeypatch.setattr(fused, "attention_in_steps", spied_steps)
        monkeypatch.setattr(fused, "is_faster_in_steps", lambda query, key: True)
    found, _ = _watched(attached, model, batch)
    real = batch["attention_mask"].bool()[:, None]
    assert sorted(found) == list(range(len(contexts)))
    for layer, expected in enumerate(contexts):
        at = real.expand_as(found[layer])
        # the softmax of the library's eager attention is float32 in two families
        torch.testing.assert_close(found[layer][at], expected[at], rtol=0, atol=1e-6)


def test_talking_heads_tell_the_weights_as_they_are_mixed(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model("deberta-talking")
    batch, prompts = ragged_batch(model.config, LENGTHS), _prompts(model)
    attached = ptuning.attach(model, prompts)
    found, _ = _watched(attached, model, batch)
    with torch.no_grad():
        weights = model(**batch, output_attentions=True).attentions
    real = batch["attention_mask"].bool()[:, None].expand(3, 4, 11)
    torch.testing.assert_close(found[1][real], weights[1][..., :5].sum(-1)[real])


@pytest.mark.parametrize("name", ["bert", "deberta-v2", "t5"])
def test_rows_of_different_entries_tell_what_they_tell_alone(
    name: str, tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    model = tiny_model(name)
    batch = ragged_batch(model.config, LENGTHS)
    bank = PromptBank(3)
    bank.add(GivenPrompts(_prompts(model, 5)))
    bank.add(GivenPrompts(_prompts(model, 2, layers=1, seed=8)), layers=[1])
    bank.add(GivenPrompts(_prompts(model, 0)))
    attached = ptuning.attach(model, bank)
    with attached.rows([0, 1, 2]):
        together, _ = _watched(attached, model, batch)
    assert sorted(together) == [0, 1, 2]
    for row, length in enumerate(LENGTHS):
        alone_batch = {key: tensor[row : row + 1, :length] for key, tensor in batch.items()}
        with attached.rows([row]):
            alone, _ = _watched(attached, model, alone_batch)
        for layer in range(3):
            share = together[layer][row, :, :length]
            if layer not in alone:
                assert torch.equal(share, torch.zeros_like(share)), "no virtual token, no attention on one"
            else:
                torch.testing.assert_close(share, alone[layer][0], rtol=1e-5, atol=1e-6)
    assert sorted(alone) == []


def test_layers_without_prompts_tell_nothing(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model("bert")
    attached = ptuning.attach(model, _prompts(model, layers=1), layers=[1])
    found, _ = _watched(attached, model, ragged_batch(model.config, LENGTHS))
    assert sorted(found) == [1]


@pytest.mark.parametrize("name", ["bert", "deberta", "eurobert", "t5"])
def test_watching_changes_nothing_and_ends_with_its_block(
    name: str, tiny_model: TinyModel, ragged_batch: RaggedBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(name)
    batch, prompts = ragged_batch(model.config, LENGTHS), _prompts(model)
    attached = ptuning.attach(model, prompts)
    with torch.no_grad():
        before = model(**batch)[0]
    found, during = _watched(attached, model, batch)
    assert torch.equal(before, during) and len(found) == 3
    for module in (interface, fused):
        monkeypatch.setattr(module, "attention_on_front", lambda *_, **__: pytest.fail("nobody watches"))
    with torch.no_grad():
        assert torch.equal(model(**batch)[0], before)
    with pytest.raises(RuntimeError, match="stop"), attached.watched(attention=lambda *_: None):
        raise RuntimeError("stop")
    with torch.no_grad():
        assert torch.equal(model(**batch)[0], before), "a block that fails ends too"


def test_keys_and_values_are_those_of_real_tokens_beside_the_prompts(
    tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    model = tiny_model("bert")
    batch = ragged_batch(model.config, (6,))
    plain = capture_keys_values(model, **batch)
    attached = ptuning.attach(model, _prompts(model, layers=1), layers=[1])
    found: dict[int, tuple[Tensor, Tensor]] = {}
    with torch.no_grad(), attached.watched(keys_values=lambda layer, key, value: found.update({layer: (key, value)})):
        model(**batch)
    assert [tuple(key.shape) for key, _ in found.values()] == [(1, 4, 6, 8)] * 3
    for layer in (0, 1):  # what comes below the prompts of layer 1, and into it, knows nothing of them
        torch.testing.assert_close(torch.stack(found[layer])[:, 0], plain[layer])
    assert not torch.allclose(torch.stack(found[2])[:, 0], plain[2], atol=1e-3)


def test_bfloat16_is_watched_in_float32(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model("bert", dtype=torch.bfloat16)
    found, _ = _watched(ptuning.attach(model, _prompts(model)), model, ragged_batch(model.config, LENGTHS))
    assert {share.dtype for share in found.values()} == {torch.float32}


def test_flex_attention_is_refused_by_name(tiny_model: TinyModel) -> None:
    model = tiny_model("bert", attention="flex_attention")
    attached = ptuning.attach(model, _prompts(model), check=False)
    with pytest.raises(BackboneError, match="watched with flex_attention, expected sdpa or eager. Load the backbone"):
        with attached.watched(attention=lambda *_: None):
            pass


def test_detached_prompts_cannot_be_watched(tiny_model: TinyModel) -> None:
    model = tiny_model("bert")
    attached = ptuning.attach(model, _prompts(model))
    attached.detach()
    with pytest.raises(PromptError, match=r"are detached, so no forward sees them. Call attach\(\) again"):
        with attached.watched(attention=lambda *_: None):
            pass
