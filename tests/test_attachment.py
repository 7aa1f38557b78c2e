"""The contract of `ptuning.attach`."""

from __future__ import annotations

import copy
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

import ptuning
from ptuning.attachment import attach_bank_or_prompts
from ptuning.backbones.description import describe_trunk
from ptuning.backbones.families import FAMILIES, find_trunk
from ptuning.errors import BackboneError, ConfigError, PromptError
from ptuning.prompts import DeepPrompts, GivenPrompts, PromptBank

Batch = dict[str, Tensor]
TinyModel = Callable[..., Any]
RaggedBatch = Callable[..., Batch]
LENGTHS = (9, 6, 3)


def _prompts(model: Any, prompt_length: int = 4, seed: int = 1) -> Tensor:
    description = describe_trunk(*find_trunk(model))
    shape = (description.num_layers, 2, description.num_kv_heads, prompt_length, description.head_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _bank(model: Any, *lengths: int) -> PromptBank:
    bank = PromptBank(describe_trunk(*find_trunk(model)).num_layers)
    for seed, length in enumerate(lengths):
        bank.add(GivenPrompts(_prompts(model, length, seed)))
    return bank


# What is given


def test_a_tensor_is_used_as_it_is(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model("bert")
    source = _prompts(model).requires_grad_()
    prompts = source * 2.0  # not a leaf
    attached = ptuning.attach(model, prompts)
    assert attached.bank.prompts[0]() is prompts
    assert not hasattr(model, "ptuning_prompts")
    model(**ragged_batch(model.config, LENGTHS))[0].sum().backward()
    assert source.grad is not None and source.grad.abs().max() > 0
    before = model(**ragged_batch(model.config, LENGTHS))[0]
    with torch.no_grad():
        prompts.mul_(0.5)
    assert not torch.equal(model(**ragged_batch(model.config, LENGTHS))[0], before)


@pytest.mark.parametrize("kind", ["module", "bank"])
def test_a_module_is_registered_on_the_model(kind: str, tiny_model: TinyModel) -> None:
    model = tiny_model("bert")
    prompts = DeepPrompts(num_prompted_layers=3, num_kv_heads=4, prompt_length=2, head_dim=8)
    module: Any = prompts
    if kind == "bank":
        module = PromptBank(3)
        module.add(prompts)
    attached = ptuning.attach(model, module)
    assert model.ptuning_prompts is module
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(trained) == 1 and trained[0] is prompts.prompts
    model.to(torch.float64)
    assert prompts.prompts is not None and prompts.prompts.dtype == torch.float64
    attached.detach()
    assert not hasattr(model, "ptuning_prompts")


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((3, 2, 4, 2), torch.float32, r"prompts has shape \(3, 2, 4, 2\) .* Axis 1 is key, then value"),
        ((3, 1, 4, 2, 8), torch.float32, r"expected a floating-point tensor"),
        ((3, 2, 4, 2, 8), torch.int64, r"dtype torch.int64, expected a floating-point tensor"),
        ((2, 2, 4, 2, 8), torch.float32, r"the prompts have 2 layers, but layers='all' names 3"),
        ((3, 2, 2, 2, 8), torch.float32, r"this bert has num_kv_heads=4 and head_dim=8"),
        ((3, 2, 4, 2, 16), torch.float32, r"expected \(num_prompted_layers, 2, 4, prompt_length, 8\)"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(
    shape: tuple[int, ...], dtype: torch.dtype, words: str, tiny_model: TinyModel
) -> None:
    with pytest.raises(PromptError, match=words):
        ptuning.attach(tiny_model("bert"), torch.zeros(shape, dtype=dtype))


@pytest.mark.parametrize("kind", ["tensor", "module", "mlp"])
def test_prompts_on_another_device_are_refused(kind: str, tiny_model: TinyModel) -> None:
    model = tiny_model("bert")
    sizes: dict[str, Any] = {"num_prompted_layers": 3, "num_kv_heads": 4, "prompt_length": 2, "head_dim": 8}
    prompts: Any = torch.zeros(3, 2, 4, 2, 8)
    if kind != "tensor":
        mlp = {"reparameterization": "mlp", "hidden_size": 8} if kind == "mlp" else {}
        prompts = DeepPrompts(**sizes, **mlp)
    with pytest.raises(PromptError) as caught:
        ptuning.attach(model, prompts.to("meta"))
    assert str(caught.value) == (
        "the prompts are on meta, but the model is on cpu. Move one to the other before attaching: prompts.to('cpu')."
    )
    assert not model._forward_pre_hooks


def test_layers_and_positions_belong_to_a_bank_where_one_is_given(tiny_model: TinyModel) -> None:
    model = tiny_model("bert")
    with pytest.raises(ConfigError, match=r"were given with a bank.*Give them to PromptBank.add"):
        ptuning.attach(model, _bank(model, 2), layers="last:1")
    with pytest.raises(PromptError, match="the bank has no entries"):
        ptuning.attach(model, PromptBank(3))
    with pytest.raises(PromptError, match="the bank is for a backbone of 5 layers, but this bert has 3"):
        ptuning.attach(model, PromptBank(5))
    with pytest.raises(ConfigError, match="`sideways`|'sideways'"):
        ptuning.attach(model, _prompts(model), positions="sideways")  # type: ignore[arg-type]


def test_prompts_in_a_subset_of_layers_leave_the_layers_below_alone(
    tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    model = tiny_model("bert")
    batch = ragged_batch(model.config, LENGTHS)
    before = model(**batch, output_hidden_states=True).hidden_states
    prompts = _prompts(model)[:1].requires_grad_()
    ptuning.attach(model, prompts, layers="last:1")
    after = model(**batch, output_hidden_states=True).hidden_states
    assert all(torch.equal(a, b) for a, b in zip(before[:3], after[:3], strict=True))
    assert not torch.equal(before[3], after[3])
    assert not after[2].requires_grad, "no gradient below the lowest prompted layer"


# Families


def test_unsupported_families_are_refused_by_name() -> None:
    config = GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
    with pytest.raises(BackboneError, match=r"type `gpt2`, which cannot .* Supported types: albert, bert, .*xlm-rob"):
        ptuning.attach(GPT2Model(config), torch.zeros(1, 2, 2, 1, 4))
    with pytest.raises(BackboneError, match="a Linear without a config, expected a transformers PreTrainedModel"):
        ptuning.attach(nn.Linear(2, 2), torch.zeros(1, 2, 2, 1, 4))


def test_a_changed_model_is_refused(tiny_model: TinyModel) -> None:
    model = tiny_model("bert")
    del model.encoder.layer[1].attention.self
    with pytest.raises(BackboneError, match=r"BertModel has no self-attention at `encoder.layer"):
        ptuning.attach(model, torch.zeros(3, 2, 4, 1, 8))


def test_other_attention_implementations_are_refused(tiny_model: TinyModel) -> None:
    model = tiny_model("bert")
    prompts = _prompts(model)
    model.config._attn_implementation = "paged|sdpa"
    with pytest.raises(BackboneError, match=r"attention implementation is 'paged\|sdpa', expected one of sdpa, eager"):
        ptuning.attach(model, prompts)
    assert model.config._attn_implementation == "paged|sdpa"
    assert not model._forward_hooks and not model._forward_pre_hooks


@pytest.mark.parametrize("name", ["t5", "mt5", "umt5"])
def test_flex_attention_is_refused_with_a_position_bias(name: str, tiny_model: TinyModel) -> None:
    model = tiny_model(name, attention="flex_attention")
    with pytest.raises(BackboneError, match="flex attention does not work with the relative position bias"):
        ptuning.attach(model, _prompts(model))


@pytest.mark.parametrize(
    "auto",
    [
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
        AutoModelForQuestionAnswering,
        AutoModelForMaskedLM,
    ],
)
@pytest.mark.parametrize("name", ["bert", "roberta", "deberta-v2", "modernbert"])
def test_works_on_models_with_a_head(name: str, auto: Any, tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model(name, auto=auto)
    batch = ragged_batch(model.config, LENGTHS)
    before = model(**batch)[0]
    prompts = _prompts(model).requires_grad_()
    attached = ptuning.attach(model, prompts)
    with_prompts = model(**batch)[0]
    assert not torch.allclose(before, with_prompts, atol=1e-2)
    assert not any(parameter.requires_grad for parameter in model.base_model.parameters())
    head = [p for n, p in model.named_parameters() if not n.startswith(model.base_model_prefix + ".")]
    assert head and all(parameter.requires_grad for parameter in head), "a head is left alone"
    with_prompts.sum().backward()
    assert prompts.grad is not None and bool((prompts.grad.abs().amax((1, 2, 3, 4)) > 0).all())
    attached.detach()
    assert torch.equal(model(**batch)[0], before)


@pytest.mark.parametrize("name", ["t5", "mt5", "umt5"])
def test_only_the_encoder_of_an_encoder_decoder_sees_prompts(
    name: str, tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    model = tiny_model(name, auto=AutoModelForSeq2SeqLM)
    batch = ragged_batch(model.config, LENGTHS)
    labels = {"decoder_input_ids": torch.tensor([[0, 7, 8]] * 3)}
    before = model(**batch, **labels)
    prompts = _prompts(model)
    attached = ptuning.attach(model, prompts)
    assert all(module is not m for module in attached.attention_modules for m in model.decoder.modules())
    after = model(**batch, **labels)
    assert not torch.allclose(before.logits, after.logits, atol=1e-2)
    # the decoder, given the old encoding, does what it did
    again = model(encoder_outputs=(before.encoder_last_hidden_state,), attention_mask=batch["attention_mask"], **labels)
    torch.testing.assert_close(again.logits, before.logits)
    # and the encoder does what it does alone
    encoder = copy.deepcopy(model.encoder)
    torch.testing.assert_close(encoder(**batch)[0], after.encoder_last_hidden_state)
    generated = model.generate(**batch, max_new_tokens=3, do_sample=False)
    assert generated.shape[0] == 3
    attached.detach()
    assert torch.equal(model(**batch, **labels).logits, before.logits)


@pytest.mark.parametrize("name", ["bert", "roberta", "megatron-bert"])
def test_a_decoder_of_a_supported_family_has_causal_prompts(
    name: str, tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    """Without padding a causal model gets no mask: the base function's own would drop real tokens behind a prefix."""
    if name == "megatron-bert" and not hasattr(PreTrainedModel, "activation_checkpointing_enable"):
        pytest.skip("before transformers 5.24 the library's own Megatron-BERT decoder sees later tokens")
    for attention in ("sdpa", "eager"):
        model = tiny_model(name, auto=AutoModelForCausalLM, attention=attention, is_decoder=True)
        ids = ragged_batch(model.config, (6, 6))["input_ids"]
        ptuning.attach(model, _prompts(model))
        full = model(ids, use_cache=False).logits
        for length in (1, 3):  # a token sees the prompts and the tokens before it, and no others
            torch.testing.assert_close(model(ids[:, :length], use_cache=False).logits, full[:, :length])
        moved = model(torch.cat([(ids[:, :1] - 4) % 50 + 5, ids[:, 1:]], 1), use_cache=False).logits
        assert not torch.allclose(moved[:, -1], full[:, -1], atol=1e-3), "the last token sees the first"
        # token by token with a cache, the same
        cache: dict[str, Any] = {}
        steps = []
        for i in range(6):
            output = model(ids[:, i : i + 1], use_cache=True, **cache)
            key = "cache" if "cache" in output.keys() else "past_key_values"  # its newer and older name
            cache = {key: output[key]}
            steps.append(output.logits)
        torch.testing.assert_close(torch.cat(steps, 1), full, rtol=1e-4, atol=1e-5)


def test_shifted_positions_with_a_cache_are_refused(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model("bert", auto=AutoModelForCausalLM, is_decoder=True)
    ids = ragged_batch(model.config, (6, 6))["input_ids"]
    ptuning.attach(model, _prompts(model), positions="shifted")
    model(ids)  # begins a cache: as without one
    with pytest.raises(PromptError, match="`shifted` .* cache.*use_cache=False"):
        model.generate(ids, max_new_tokens=2, do_sample=False, pad_token_id=0)


# Rows


def test_rows_choose_their_prompts(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model("bert")
    batch = ragged_batch(model.config, LENGTHS)
    attached = ptuning.attach(model, _bank(model, 4, 4))
    with attached.rows(torch.tensor([0, 0, 0])):
        zeros = model(**batch)[0]
    with attached.rows([1, 1, 1]):
        ones = model(**batch)[0]
    with attached.rows([0, 1, 0]):
        mixed = model(**batch)[0]
        with attached.rows([1, 0, 1]):
            inner = model(**batch)[0]
        assert torch.equal(model(**batch)[0], mixed), "an inner block ends with itself"
    torch.testing.assert_close(mixed[0], zeros[0])
    torch.testing.assert_close(mixed[1, :6], ones[1, :6])
    torch.testing.assert_close(inner[1, :6], zeros[1, :6])


def test_wrong_rows_are_errors(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model("bert")
    batch = ragged_batch(model.config, LENGTHS)
    attached = ptuning.attach(model, _bank(model, 4, 2))
    with pytest.raises(PromptError, match=r"the bank has 2 entries, so each row must say.*attached.rows\(rows\)"):
        model(**batch)
    wrong: list[tuple[Any, str]] = [
        ([0, 1], r"rows has shape \(2,\) .* expected \(batch_size,\) = \(3,\)"),
        (
            [],
            r"rows has shape \(0,\) and dtype torch.int64, expected \(batch_size,\) = \(3,\) integers. Give one entry",
        ),
        ([[0, 1, 1]], r"rows has shape \(1, 3\)"),
        ([0.0, 1.0, 1.0], r"dtype torch.float32, expected .* integers"),
        ([True, False, True], r"dtype torch.bool"),
        ([0, 1, 2], r"rows names entry 2, but the bank has 2 entries. Use indexes from 0 to 1"),
        ([0, -1, 1], r"rows names entry -1"),
    ]
    for rows, words in wrong:
        with attached.rows(rows), pytest.raises(PromptError, match=words):
            model(**batch)
    with attached.rows([0, 1, 1]):  # an error leaves nothing behind
        model(**batch)


def test_rows_of_one_model_do_not_reach_another(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    one, other = tiny_model("bert"), tiny_model("roberta")
    ptuning.attach(other, _prompts(other))
    attached = ptuning.attach(one, _bank(one, 2, 3))
    alone = other(**ragged_batch(other.config, (5, 5)))[0]
    with attached.rows([0, 1, 1]):
        one(**ragged_batch(one.config, LENGTHS))
        assert torch.equal(other(**ragged_batch(other.config, (5, 5)))[0], alone)


def test_threads_do_not_see_each_others_rows(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model("bert")
    batch = ragged_batch(model.config, LENGTHS)
    attached = ptuning.attach(model, _bank(model, 4, 7))
    expected = []
    for entry in (0, 1):
        with attached.rows([entry] * 3), torch.no_grad():
            expected.append(model(**batch)[0])
    wrong: list[int] = []

    def work(entry: int) -> None:
        for _ in range(10):
            with attached.rows([entry] * 3), torch.no_grad():
                if not torch.allclose(model(**batch)[0], expected[entry], atol=1e-6):
                    wrong.append(entry)

    threads = [threading.Thread(target=work, args=(entry,)) for entry in (0, 1, 0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Detach


def _state(model: Any) -> tuple[Any, ...]:
    """What `attach` may change on a model."""
    modules = list(model.named_modules())
    return (
        {
            name: (id(p), p.requires_grad, p.detach().clone().double().sum().item())
            for name, p in model.named_parameters()
        },
        [name for name, _ in modules],
        {name: module.training for name, module in modules},
        {name: sorted(k for k in vars(module) if not k.startswith("__")) for name, module in modules},
        [
            len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
            for _, module in modules
        ],
        [module.config._attn_implementation for _, module in modules if hasattr(module, "config")],
    )


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_detach_leaves_the_model_bit_for_bit_as_it_was(
    name: str, tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    model = tiny_model(name)
    batch = ragged_batch(model.config, LENGTHS)
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)  # what was frozen before stays frozen
    before, state = model(**batch)[0], _state(model)
    num_kv_heads = describe_trunk(*find_trunk(model)).num_kv_heads
    prompts = DeepPrompts(num_prompted_layers=3, num_kv_heads=num_kv_heads, prompt_length=3, head_dim=8, init_std=1.0)
    attached = ptuning.attach(model, prompts)
    assert not torch.equal(model(**batch)[0], before)
    assert not any(parameter.requires_grad for parameter in parameters)
    attached.detach()
    assert _state(model) == state
    assert torch.equal(model(**batch)[0], before)
    with pytest.raises(PromptError, match="already detached"):
        attached.detach()
    ptuning.attach(model, prompts).detach()  # and it can be attached again


def test_without_freeze_nothing_is_frozen(tiny_model: TinyModel) -> None:
    model = tiny_model("bert")
    attached = ptuning.attach(model, _prompts(model), freeze=False)
    assert all(parameter.requires_grad for parameter in model.parameters())
    attached.detach()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_second_attach_is_refused(tiny_model: TinyModel) -> None:
    model = tiny_model("bert", auto=AutoModelForSequenceClassification)
    attached = ptuning.attach(model, _prompts(model))
    for again in (model, model.base_model):
        with pytest.raises(BackboneError, match=r"this BertModel already has prompts attached. Call detach\(\)"):
            ptuning.attach(again, _prompts(model))
    attached.detach()
    ptuning.attach(model, _prompts(model))


def test_a_failed_attach_leaves_nothing_behind(tiny_model: TinyModel) -> None:
    model = tiny_model("bert")
    model.encoder.layer[2].attention.output.dense.weight.data.zero_()  # layer 2's attention is not heard
    state = _state(model)
    with pytest.raises(BackboneError, match=r"prompts of layers \[2\] does not move"):
        ptuning.attach(model, _prompts(model))
    assert _state(model) == state


def test_backward_works_after_detach(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model("bert")
    batch = ragged_batch(model.config, LENGTHS)
    prompts = _prompts(model).requires_grad_()
    gradients = []
    for detach_first in (False, True):
        attached = ptuning.attach(model, prompts)
        loss = model(**batch)[0].square().sum()
        if detach_first:
            attached.detach()
        gradients.append(torch.autograd.grad(loss, prompts)[0])
        if not detach_first:
            attached.detach()
    assert torch.equal(gradients[0], gradients[1])


def test_another_model_with_the_same_config_object_is_untouched(ragged_batch: RaggedBatch) -> None:
    for attention in ("sdpa", "eager"):
        config = BertConfig(
            vocab_size=60, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=40,
            attn_implementation=attention,
        )  # fmt: skip
        one, other = BertModel(config).eval(), BertModel(config).eval()
        assert one.config is other.config
        batches = [ragged_batch(config, LENGTHS), ragged_batch(config, (5, 5))]
        before = [other(**batch)[0] for batch in batches]
        attached = ptuning.attach(one, _prompts(one))
        assert all(torch.equal(other(**batch)[0], expected) for batch, expected in zip(batches, before, strict=True))
        # both may have prompts, and the first to go takes nothing from the second
        second = ptuning.attach(other, _prompts(other, 2, seed=5))
        both = [other(**batch)[0] for batch in batches]
        attached.detach()
        assert all(torch.equal(other(**batch)[0], expected) for batch, expected in zip(batches, both, strict=True))
        second.detach()
        assert config._attn_implementation == attention
        assert all(torch.equal(other(**batch)[0], expected) for batch, expected in zip(batches, before, strict=True))


def test_cross_attention_sees_no_prompts(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model("bert", is_decoder=True, add_cross_attention=True)
    called = []
    for layer in model.encoder.layer:
        layer.crossattention.self.key.register_forward_hook(lambda m, args, out: called.append(out.shape[1]))
    attached = ptuning.attach(model, _prompts(model))
    assert len(attached.attention_modules) == 3
    assert not any("crossattention" in n and m in attached.attention_modules for n, m in model.named_modules())
    model(**ragged_batch(model.config, LENGTHS), encoder_hidden_states=torch.randn(3, 5, 32))
    assert called == [5, 5, 5]


def test_a_deep_copy_has_its_own_prompts(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    for name in ("bert", "deberta"):
        model = tiny_model(name)
        batch = ragged_batch(model.config, LENGTHS)
        plain = model(**batch)[0]
        prompts = DeepPrompts(num_prompted_layers=3, num_kv_heads=4, prompt_length=2, head_dim=8, init_std=1.0)
        attached = ptuning.attach(model, prompts)
        expected = model(**batch)[0]
        twin = copy.deepcopy(model)
        assert torch.equal(twin(**batch)[0], expected)
        with torch.no_grad():
            twin.ptuning_prompts.prompts.mul_(2.0)
        assert not torch.equal(twin(**batch)[0], expected)
        assert torch.equal(model(**batch)[0], expected)
        attached.detach()
        assert torch.equal(model(**batch)[0], plain)
        assert not torch.equal(twin(**batch)[0], plain)


# The check


def test_check_restores_random_state_and_modes(tiny_model: TinyModel) -> None:
    model = tiny_model("bert", auto=AutoModelForSequenceClassification, hidden_dropout_prob=0.3)
    model.train()
    model.bert.encoder.layer[1].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    prompts = _prompts(model).requires_grad_()
    kept = prompts.detach().clone()
    ptuning.attach(model, prompts).check()
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1] and np.array_equal(np.random.get_state()[1], states[2])
    assert torch.equal(prompts, kept) and prompts.grad is None


@pytest.mark.parametrize("broken", [[0], [1], [0, 2]])
@pytest.mark.parametrize("name", ["bert", "t5", "deberta", "modernbert"])
def test_check_finds_layers_that_prompts_do_not_reach(name: str, broken: list[int], tiny_model: TinyModel) -> None:
    model = tiny_model(name)
    prompts = _prompts(model)
    paths = {"bert": "encoder.layer.{}.attention.output.dense", "t5": "encoder.block.{}.layer.0.SelfAttention.o"}
    path = {"deberta": paths["bert"], "modernbert": "layers.{}.attn.Wo"} | paths
    for layer in broken:
        for parameter in model.get_submodule(path[name].format(layer)).parameters():
            parameter.data.zero_()
    with pytest.raises(BackboneError, match=rf"prompts of layers \[{', '.join(map(str, broken))}\] does not move"):
        ptuning.attach(model, prompts)
    ptuning.attach(model, prompts, check=False)


def test_modules_replaced_after_attach_are_noticed(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model("bert")
    ptuning.attach(model, _prompts(model))
    model.encoder.layer[1].attention.self = copy.deepcopy(model.encoder.layer[1].attention.self)
    with pytest.raises(BackboneError, match=r"layers \[1\] ran without their prompts"):
        model(**ragged_batch(model.config, LENGTHS))


# Gradient checkpointing

CHECKPOINTING = [name for name, family in sorted(FAMILIES.items()) if family.gradient_checkpointing]


def _checkpointed(model: Any, **options: Any) -> Any:
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=options or None)
    else:  # before transformers 5.24
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options or None)
    model.train()
    return model


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("name", CHECKPOINTING)
def test_checkpointing_gives_exact_gradients_whatever_the_rows_are_by_then(
    name: str, freeze: bool, tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    gradients = []
    for checkpoint in (False, True):
        model = tiny_model(name)
        batch = ragged_batch(model.config, LENGTHS)
        prompts = [_prompts(model, length, seed=length).requires_grad_() for length in (4, 7)]
        bank = PromptBank(3)
        for tensor in prompts:
            bank.add(GivenPrompts(tensor))
        attached = ptuning.attach(model, bank, freeze=freeze)
        recomputed: list[int] = []
        if checkpoint:
            _checkpointed(model)
            attached.attention_modules[1].register_forward_pre_hook(
                lambda *_, recomputed=recomputed: recomputed.append(1)
            )
        with attached.rows([0, 1, 1]):
            loss = model(**batch)[0][batch["attention_mask"].bool()].square().sum()
        with attached.rows([1, 0, 0]):
            model(**batch)  # other rows in between
            seen = len(recomputed)
            loss.backward()
        assert not checkpoint or len(recomputed) == seen + 1, "the layer ran again in the backward"
        backbone = [p.grad for _, p in sorted(model.named_parameters()) if p.grad is not None]
        gradients.append([p.grad for p in prompts] + ([] if freeze else backbone))
    assert len(gradients[0]) == len(gradients[1]) > (2 if not freeze else 1)
    for plain, again in zip(*gradients, strict=True):
        assert plain is not None and again is not None
        torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(CHECKPOINTING)))
def test_families_that_transformers_cannot_checkpoint_say_so(name: str, tiny_model: TinyModel) -> None:
    model = tiny_model(name)
    ptuning.attach(model, _prompts(model))
    refused = rf"{type(model).__name__} does not support (activation|gradient) checkpointing"
    with pytest.raises(ValueError, match=refused):
        _checkpointed(model)


@pytest.mark.parametrize("options", [{"use_reentrant": True}, {"preserve_rng_state": True}])
def test_reentrant_checkpointing_is_refused(
    options: dict[str, bool], tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    """Torch takes use_reentrant=True when it is not told."""
    model = tiny_model("bert")
    ptuning.attach(model, _prompts(model))
    batch = ragged_batch(model.config, LENGTHS)
    _checkpointed(model, **options)
    with pytest.raises(BackboneError, match="reentrant, which drops gradients of prompts .* use_reentrant=False"):
        model(**batch)
    model.eval()
    model(**batch)  # not checkpointed, so nothing to refuse


def test_checkpointing_function_is_put_back(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = _checkpointed(tiny_model("bert"))
    functions = [m._gradient_checkpointing_func for m in model.modules() if hasattr(m, "_gradient_checkpointing_func")]
    ptuning.attach(model, _prompts(model).requires_grad_())
    model(**ragged_batch(model.config, LENGTHS))[0].sum().backward()
    after = [m._gradient_checkpointing_func for m in model.modules() if hasattr(m, "_gradient_checkpointing_func")]
    assert all(a is b for a, b in zip(functions, after, strict=True))


# Saving


@pytest.mark.parametrize("auto", [None, AutoModelForSequenceClassification])
def test_save_writes_prompts_only_and_they_come_back_bit_for_bit(
    auto: Any, tmp_path: Path, tiny_model: TinyModel
) -> None:
    from safetensors.torch import load_file

    model = tiny_model("bert", auto=auto)
    prompts = _prompts(model)[:2]
    attached = ptuning.attach(model, prompts, layers=[0, 2], positions="shifted")
    attached.save(tmp_path / "prompt")
    assert sorted(load_file(tmp_path / "prompt" / "prompts.safetensors")) == ["prompts"]
    saved = ptuning.read_prompt(tmp_path / "prompt")
    assert torch.equal(saved.prompts, prompts) and saved.prompts.dtype == torch.float32
    assert (saved.layers, saved.positions) == ((0, 2), "shifted")
    assert saved.backbone.architecture["num_layers"] == 3


def test_save_folds_the_reparameterization_and_takes_an_entry(tmp_path: Path, tiny_model: TinyModel) -> None:
    model = tiny_model("bert")
    bank = _bank(model, 3)
    module = DeepPrompts(
        num_prompted_layers=1, num_kv_heads=4, prompt_length=2, head_dim=8, reparameterization="mlp", hidden_size=32
    )
    bank.add(module, layers="last:1")
    attached = ptuning.attach(model, bank)
    attached.save(tmp_path / "prompt", entry=1)
    saved = ptuning.read_prompt(tmp_path / "prompt")
    assert torch.equal(saved.prompts, module.folded()) and saved.layers == (2,)


# Training


def test_trainer_trains_prompts_and_head_and_nothing_else(
    tmp_path: Path, tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    model = tiny_model("bert", auto=AutoModelForSequenceClassification, num_labels=2)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for label in (0, 1) * 16:
        ids = torch.randint(5, 60, (8,), generator=generator)
        ids[3] = 10 + label
        rows.append({"input_ids": ids, "attention_mask": torch.ones(8, dtype=torch.long), "labels": label})
    prompts = DeepPrompts(num_prompted_layers=3, num_kv_heads=4, prompt_length=4, head_dim=8)
    ptuning.attach(model, prompts)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=12,
        per_device_train_batch_size=8,
        learning_rate=2e-2,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)  # type: ignore[arg-type]
    first = trainer.evaluate(rows)["eval_loss"]  # type: ignore[arg-type]
    trainer.train()
    assert trainer.evaluate(rows)["eval_loss"] < 0.6 * first  # type: ignore[arg-type]
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {"ptuning_prompts.prompts", "classifier.weight", "classifier.bias"}


def test_native_families_compute_the_same_eagerly(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    for name in ("deberta", "deberta-v2", "mpnet", "megatron-bert"):
        model = tiny_model(name)
        batch = ragged_batch(model.config, LENGTHS)
        real = batch["attention_mask"].bool()
        outputs = []
        for eager in (False, True):
            attached = attach_bank_or_prompts(
                model, _prompts(model), layers="all", positions="unshifted", freeze=True, check=True, eager=eager
            )
            outputs.append(model(**batch)[0][real])
            attached.detach()
        torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=2e-5)


@pytest.mark.parametrize("lower", ["autocast", "storage"])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_prompts_stay_fp32_on_a_backbone_that_computes_in_bf16(
    name: str, lower: str, tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    for eager in (False, True):
        model = tiny_model(name, attention="eager" if eager else "sdpa")
        batch = ragged_batch(model.config, (9, 6, 4))
        real = batch["attention_mask"].bool()
        prompts = _prompts(model)[:2].requires_grad_()
        attach_bank_or_prompts(
            model, prompts, layers=[0, 2], positions="unshifted", freeze=True, check=True, eager=eager
        )
        expected = model(**batch)[0][real]
        (gradient,) = torch.autograd.grad(expected.square().sum(), prompts)
        if lower == "storage":
            model.to(torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16, enabled=lower == "autocast"):
            output = model(**batch)[0][real].float()
        assert (output - expected).abs().mean() < 0.05
        (lower_gradient,) = torch.autograd.grad(output.square().sum(), prompts)
        assert lower_gradient.dtype == torch.float32
        assert torch.cosine_similarity(lower_gradient.flatten(), gradient.flatten(), 0) > 0.95
