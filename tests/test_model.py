from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ptuning.backbones.families import FAMILIES, find_trunk
from ptuning.backbones.loading import Backbone, load_backbone
from ptuning.backbones.recomputation import is_recomputing, start_recomputing
from ptuning.errors import BackboneError, PromptError
from ptuning.heads import PooledHead, TokenHead, make_head
from ptuning.model import PromptedModel, count_trained, is_head_parameter, trained_parameters
from ptuning.prompts import DeepPrompts, PromptBank

TinyModel = Callable[..., Any]
RaggedBatch = Callable[..., dict[str, Tensor]]
LENGTHS = (9, 6, 3)


@pytest.fixture
def make_backbone(tiny_model: TinyModel) -> Callable[..., Backbone]:
    def make(name: str = "bert", *, eager: bool = False, **overrides: Any) -> Backbone:
        model = tiny_model(name, attention="eager" if eager else "sdpa", **overrides).requires_grad_(False)
        return Backbone(model, find_trunk(model)[1], source="tiny", name="tiny", revision=None, eager=eager)

    return make


def _bank(backbone: Backbone, *lengths: int, dropout: float = 0.0) -> PromptBank:
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
                dropout=dropout,
                generator=torch.Generator().manual_seed(seed),
            )
        )
    return bank


def _heads() -> list[nn.Module]:
    generator = torch.Generator().manual_seed(9)
    return [
        PooledHead(32, 3, pooling="cls", generator=generator),
        TokenHead(32, 5, generator=generator),
        PooledHead(32, 1, pooling="mean", squeeze=True, generator=generator),
    ]


@pytest.mark.parametrize("name", ["bert", "deberta-v2", "t5"])
def test_a_step_moves_prompts_and_head_and_leaves_the_backbone_bit_for_bit(
    name: str, make_backbone: Callable[..., Backbone], ragged_batch: RaggedBatch
) -> None:
    backbone = make_backbone(name)
    before = {key: tensor.clone() for key, tensor in backbone.model.state_dict().items()}
    model = PromptedModel(backbone, _bank(backbone, 4), [PooledHead(32, 3, pooling="mean")]).train()
    trained = trained_parameters(model)
    kept = {key: parameter.detach().clone() for key, parameter in trained.items()}
    optimizer = torch.optim.AdamW(trained.values(), lr=0.1, weight_decay=0.1)
    model(**ragged_batch(backbone.model.config, LENGTHS))[0].logits.square().sum().backward()
    with_gradient = {key for key, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == set(trained), "gradients reach prompts and head only"
    optimizer.step()
    after = backbone.model.state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert all(not torch.equal(parameter, kept[key]) for key, parameter in trained.items())


def test_trained_parameters_are_prompts_and_head_each_once(make_backbone: Callable[..., Backbone]) -> None:
    backbone = make_backbone()
    model = PromptedModel(backbone, _bank(backbone, 4, 2), [PooledHead(32, 3, pooling="cls"), TokenHead(32, 5)])
    shapes = {name: tuple(parameter.shape) for name, parameter in trained_parameters(model).items()}
    assert shapes == {
        "bank.prompts.0.prompts": (3, 2, 4, 4, 8),
        "bank.prompts.1.prompts": (3, 2, 4, 2, 8),
        "heads.0.linear.weight": (3, 32),
        "heads.0.linear.bias": (3,),
        "heads.1.linear.weight": (5, 32),
        "heads.1.linear.bias": (5,),
    }
    assert [is_head_parameter(name) for name in shapes] == [False, False, True, True, True, True]


def test_trained_numbers_are_counted_for_prompts_and_head(make_backbone: Callable[..., Backbone]) -> None:
    backbone = make_backbone()
    model = PromptedModel(backbone, _bank(backbone, 4, 2), [PooledHead(32, 3, pooling="cls"), TokenHead(32, 5)])
    assert count_trained(model) == {"prompts": 3 * 2 * 4 * (4 + 2) * 8, "head": 3 * 33 + 5 * 33}


def test_with_the_mlp_it_is_the_mlp_that_is_counted(make_backbone: Callable[..., Backbone]) -> None:
    backbone = make_backbone()
    bank = PromptBank(3)
    sizes = {"num_prompted_layers": 3, "num_kv_heads": 4, "prompt_length": 4, "head_dim": 8}
    bank.add(DeepPrompts(**sizes, reparameterization="mlp", hidden_size=32, reparameterization_size=10))
    model = PromptedModel(backbone, bank, [PooledHead(32, 3, pooling="pooler", pooler=backbone.model.pooler)])
    outputs = 3 * 2 * 4 * 8
    assert count_trained(model) == {"prompts": 4 * 32 + (32 + 1) * 10 + (10 + 1) * outputs, "head": 3 * 33}


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_no_gradient_runs_below_the_lowest_prompted_layer(
    name: str, make_backbone: Callable[..., Backbone], ragged_batch: RaggedBatch
) -> None:
    """Neither embeddings nor hidden states below it have a graph: nothing is kept there for a backward."""
    backbone = make_backbone(name)
    description = backbone.description
    bank = PromptBank(description.num_layers)
    shape = {"num_kv_heads": description.num_kv_heads, "prompt_length": 4, "head_dim": description.head_dim}
    bank.add(DeepPrompts(num_prompted_layers=1, **shape), layers="last:1")
    model = PromptedModel(backbone, bank, [PooledHead(32, 3, pooling="mean")]).train()
    *below, last = backbone.model(
        **ragged_batch(backbone.model.config, LENGTHS), output_hidden_states=True
    ).hidden_states
    assert len(below) == 3 and all(states.grad_fn is None for states in below)
    assert last.grad_fn is not None
    saved: list[Tensor] = []
    counted: list[int] = []  # when the last layer begins
    model.attached.attention_modules[-1].register_forward_pre_hook(lambda *_: counted.append(len(saved)))
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        model(**ragged_batch(backbone.model.config, LENGTHS))[0].logits.sum().backward()
    assert counted[-1] == 0 and saved


def test_a_pretrained_pooler_is_not_trained(make_backbone: Callable[..., Backbone]) -> None:
    backbone = make_backbone()
    pooler = backbone.model.pooler
    model = PromptedModel(backbone, _bank(backbone, 1), [PooledHead(32, 3, pooling="pooler", pooler=pooler)])
    assert set(trained_parameters(model)) == {"bank.prompts.0.prompts", "heads.0.linear.weight", "heads.0.linear.bias"}


def test_rows_go_to_their_heads_and_come_back_in_order(
    make_backbone: Callable[..., Backbone], ragged_batch: RaggedBatch
) -> None:
    backbone = make_backbone()
    model = PromptedModel(backbone, _bank(backbone, 4, 7, 2), _heads()).eval()
    batch = ragged_batch(backbone.model.config, (9, 6, 3, 8, 5))
    entries, heads = torch.tensor([1, 0, 2, 1, 0]), torch.tensor([2, 0, 1, 2, 0])
    outputs = model(**batch, entries=entries, heads=heads)
    assert [output.head for output in outputs] == [0, 1, 2]
    assert [output.rows.tolist() for output in outputs] == [[1, 4], [2], [0, 3]]
    assert [tuple(output.logits.shape) for output in outputs] == [(2, 3), (1, 9, 5), (2,)]
    for output in outputs:
        for row, logits in zip(output.rows.tolist(), output.logits, strict=True):
            length = int(batch["attention_mask"][row].sum())
            single = {key: tensor[row : row + 1, :length] for key, tensor in batch.items()}
            (alone,) = model(**single, entries=entries[row : row + 1], heads=heads[row : row + 1])
            ours = logits[:length] if output.head == 1 else logits
            torch.testing.assert_close(ours, alone.logits[0], rtol=1e-4, atol=1e-5)


def test_without_heads_all_rows_go_to_the_first(
    make_backbone: Callable[..., Backbone], ragged_batch: RaggedBatch
) -> None:
    backbone = make_backbone()
    model = PromptedModel(backbone, _bank(backbone, 4), _heads()).eval()
    batch = ragged_batch(backbone.model.config, LENGTHS)
    (output,) = model(**batch)
    assert output.rows.tolist() == [0, 1, 2]
    assert torch.equal(model(**batch)[0].logits, output.logits)
    token_types = torch.ones_like(batch["input_ids"])
    assert not torch.equal(model(**batch, token_type_ids=token_types)[0].logits, output.logits)


@pytest.mark.parametrize("heads", [None, [0, 0, 0], [1, 1, 1]])
def test_one_task_is_given_the_batch_as_it_is(
    heads: list[int] | None, make_backbone: Callable[..., Backbone], ragged_batch: RaggedBatch
) -> None:
    """Picking rows would copy hidden states, and wait for an accelerator."""
    backbone = make_backbone()
    model = PromptedModel(backbone, _bank(backbone, 4), _heads()).eval()
    given: list[Tensor] = []
    number = heads[0] if heads else 0
    model.heads[number].register_forward_pre_hook(lambda module, args: given.append(args[0]))
    states: list[Tensor] = []
    backbone.model.register_forward_hook(lambda module, args, output: states.append(output[0]))
    (output,) = model(**ragged_batch(backbone.model.config, LENGTHS), heads=heads)
    assert given[0] is states[0]
    assert (output.head, output.rows.tolist()) == (number, [0, 1, 2])


@pytest.mark.parametrize("heads", [[0, 1], [0, 1, 3], [0, -1, 1]])
def test_wrong_heads_are_errors(
    heads: list[int], make_backbone: Callable[..., Backbone], ragged_batch: RaggedBatch
) -> None:
    backbone = make_backbone()
    model = PromptedModel(backbone, _bank(backbone, 4), _heads()).eval()
    with pytest.raises(PromptError, match=r"heads is \[.*\], expected \(batch_size,\) = \(3,\) indexes from 0 to 2"):
        model(**ragged_batch(backbone.model.config, LENGTHS), heads=heads)


def test_one_backbone_carries_one_model(make_backbone: Callable[..., Backbone]) -> None:
    backbone = make_backbone()
    PromptedModel(backbone, _bank(backbone, 4), _heads())
    with pytest.raises(BackboneError, match="already has prompts attached"):
        PromptedModel(backbone, _bank(backbone, 4), _heads())


def test_detach_gives_the_backbone_back_as_it_was(
    make_backbone: Callable[..., Backbone], ragged_batch: RaggedBatch
) -> None:
    backbone = make_backbone(hidden_dropout_prob=0.4)
    batch = ragged_batch(backbone.model.config, LENGTHS)
    before = backbone.model(**batch)[0]
    model = PromptedModel(backbone, _bank(backbone, 4), _heads(), backbone_dropout=0.1)
    start_recomputing(backbone.model)
    model.train()(**batch)[0].logits.sum().backward()
    model.detach()
    assert torch.equal(backbone.model(**batch)[0], before)
    assert not any(module.training for module in backbone.model.modules())
    assert {m.p for m in backbone.model.modules() if isinstance(m, nn.Dropout)} == {0.0, 0.4}
    assert not is_recomputing(backbone.model)
    PromptedModel(backbone, _bank(backbone, 4), _heads())


# Dropout inside the backbone

DROPOUT = {"hidden_dropout_prob": 0.4, "attention_probs_dropout_prob": 0.3}


def _spread(model: PromptedModel, batch: dict[str, Tensor]) -> float:
    """How much two forwards of a model differ."""
    with torch.no_grad():
        return float((model(**batch)[0].logits - model(**batch)[0].logits).abs().max())


def test_backbone_dropout_is_as_the_checkpoint_says_or_off(
    make_backbone: Callable[..., Backbone], ragged_batch: RaggedBatch
) -> None:
    head = PooledHead(32, 3, pooling="mean")
    for setting, acts in (("checkpoint", True), ("off", False)):
        backbone = make_backbone(**DROPOUT)
        batch = ragged_batch(backbone.model.config, LENGTHS)
        model = PromptedModel(backbone, _bank(backbone, 4), [head], backbone_dropout=setting)  # type: ignore[arg-type]
        assert (_spread(model.train(), batch) > 0) is acts
        assert _spread(model.eval(), batch) == 0
    # off is about the backbone: dropout of prompts and head still acts
    backbone = make_backbone(**DROPOUT)
    model = PromptedModel(backbone, _bank(backbone, 4, dropout=0.5), [head], backbone_dropout="off").train()
    assert _spread(model, batch) > 0 and model.heads.training and not backbone.model.training
    assert _spread(model.eval(), batch) == 0


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_probability_sets_all_dropout_but_that_of_attention_weights(
    name: str, make_backbone: Callable[..., Backbone]
) -> None:
    rates = {
        "distilbert": {"dropout": 0.4, "attention_dropout": 0.3},
        "modernbert": {"embedding_dropout": 0.4, "mlp_dropout": 0.4, "attention_dropout": 0.3},
        "eurobert": {"attention_dropout": 0.3},
        "glm2021": {**DROPOUT, "embedding_dropout": 0.4},
        **{name: {"attention_dropout": 0.3} for name, family in FAMILIES.items() if family.is_decoder},
        **dict.fromkeys(("t5", "mt5", "umt5"), {"dropout_rate": 0.4}),
        "t5gemma": {"dropout_rate": 0.4, "attention_dropout": 0.3},
    }.get(name, DROPOUT)
    backbone = make_backbone(name, **rates)
    before = {key: m.p for key, m in backbone.model.named_modules() if isinstance(m, nn.Dropout)}
    PromptedModel(backbone, _bank(backbone, 1), _heads(), backbone_dropout=0.1)
    after = {key: m.p for key, m in backbone.model.named_modules() if isinstance(m, nn.Dropout)}
    assert set(before.values()) <= {0.3, 0.4}
    # ModernBERT's dropout behind attention has the attention's rate, and is not one of the weights.
    assert after == {key: 0.1 if rate == 0.4 or key.endswith("out_drop") else rate for key, rate in before.items()}
    floats = [getattr(m, "attention_dropout", None) for m in backbone.model.modules()]
    assert all(rate == 0.3 for rate in floats if isinstance(rate, float))


@pytest.mark.parametrize("name", [name for name, family in sorted(FAMILIES.items()) if family.gradient_checkpointing])
def test_checkpointed_layers_recompute_with_backbone_dropout_off(
    name: str, make_backbone: Callable[..., Backbone], ragged_batch: RaggedBatch
) -> None:
    rates = {"dropout_rate": 0.4} if FAMILIES[name].is_encoder_of_seq2seq else {}
    for field in (*DROPOUT, "attention_dropout"):
        rates |= {field: 0.4} if not rates or "dropout_rate" not in rates else {}
    backbone = make_backbone(name, **rates)
    batch = ragged_batch(backbone.model.config, LENGTHS)
    generator = torch.Generator().manual_seed(1)
    head = PooledHead(32, 3, pooling="mean", generator=generator)
    model = PromptedModel(backbone, _bank(backbone, 4), [head], backbone_dropout="off").train()
    plain = torch.autograd.grad(model(**batch)[0].logits.square().sum(), list(trained_parameters(model).values()))
    start_recomputing(backbone.model)
    model.train()
    ran: list[int] = []
    model.attached.attention_modules[0].register_forward_pre_hook(lambda *_: ran.append(1))
    loss = model(**batch)[0].logits.square().sum()
    again = torch.autograd.grad(loss, list(trained_parameters(model).values()))
    assert len(ran) == 2, "once in the forward, once in the backward"
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_prompt_dropout_is_the_same_when_checkpointed_layers_recompute(
    make_backbone: Callable[..., Backbone], ragged_batch: RaggedBatch
) -> None:
    backbone = make_backbone(**DROPOUT)
    batch = ragged_batch(backbone.model.config, LENGTHS)
    model = PromptedModel(backbone, _bank(backbone, 4, dropout=0.5), [PooledHead(32, 3, pooling="mean")])
    gradients = []
    for checkpoint in (False, True):
        if checkpoint:
            start_recomputing(backbone.model)
        model.train()
        torch.manual_seed(5)
        loss = model(**batch)[0].logits.square().sum()
        gradients.append(torch.autograd.grad(loss, list(trained_parameters(model).values())))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_eager_reaches_families_with_attention_of_their_own(
    make_backbone: Callable[..., Backbone], ragged_batch: RaggedBatch
) -> None:
    logits = []
    for eager in (False, True):
        backbone = make_backbone("deberta", eager=eager)
        head = PooledHead(32, 3, pooling="mean", generator=torch.Generator().manual_seed(1))
        model = PromptedModel(backbone, _bank(backbone, 4), [head]).eval()
        logits.append(model(**ragged_batch(backbone.model.config, LENGTHS))[0].logits)
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)


def test_a_second_detach_says_that_there_was_one(tiny_backbone: Path) -> None:
    backbone = load_backbone(tiny_backbone)
    bank = PromptBank(2)
    bank.add(DeepPrompts(num_prompted_layers=2, num_kv_heads=4, prompt_length=3, head_dim=8))
    heads = [make_head("sequence", 32, 2, pooling="cls")]  # with the last layer for the first token alone
    model = PromptedModel(backbone, bank, heads)
    model.detach()
    with pytest.raises(PromptError, match="already detached"):
        model.detach()
    assert all("forward" not in module.__dict__ for module in backbone.model.modules())
