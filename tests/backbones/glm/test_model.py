"""The model equals the equations, with and without prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, AutoModelForMaskedLM

import ptuning
from ptuning.backbones.glm import Glm2021Config, Glm2021ForMaskedLM, Glm2021Model, tied_logits
from ptuning.backbones.recomputation import start_recomputing
from ptuning.errors import BackboneError

LENGTHS = [11, 8, 6]  # real tokens of each row
CONTEXTS = [7, 8, 3]  # of which so many are context
BOUNDS = [(torch.float32, 1e-5), (torch.float64, 1e-10)]


def _ids(size: int = 11, seed: int = 5) -> Tensor:
    return torch.randint(0, 64, (3, size), generator=torch.Generator().manual_seed(seed))


def _mask(lengths: list[int] = LENGTHS, size: int = 11) -> Tensor:
    return (torch.arange(size) < torch.tensor(lengths).unsqueeze(1)).long()


def _build(weights: dict[str, Tensor], raw: dict[str, Any], *, attention: str = "sdpa", **more: Any) -> Glm2021Model:
    """In eval mode, with these weights: names and shapes have to be the model's own."""
    config = Glm2021Config.from_published({**raw, **more})
    config._attn_implementation = attention
    model = Glm2021Model(config).to(next(iter(weights.values())).dtype)
    model.load_state_dict(weights)
    return model.eval()


def _piece_positions() -> Tensor:
    """(3, 2, 11): what is behind the context fills a blank at 2, 5 and 0, counted in block positions."""
    at = torch.arange(11).expand(3, -1)
    context = torch.tensor(CONTEXTS).unsqueeze(1)
    blank = torch.tensor([[2], [5], [0]])
    return torch.stack([torch.where(at < context, at, blank), (at - context + 1).clamp(min=0)], dim=1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
def test_an_encoder_with_padding_equals_the_equations(
    dtype: torch.dtype,
    bound: float,
    attention: str,
    published_config: Any,
    random_weights: Any,
    plain_glm: Any,
    seen: Any,
) -> None:
    weights = random_weights(published_config(), dtype=dtype)
    model = _build(weights, published_config(), attention=attention)
    expected = plain_glm(weights, _ids(), seen(LENGTHS, [11] * 3, 11))
    with torch.no_grad():
        found = model(_ids(), _mask())[0]
        whole = model(_ids())[0]
    real = _mask().bool()
    assert expected[real].abs().max() > 2
    assert (found - expected)[real].abs().max() < bound
    assert (whole - plain_glm(weights, _ids(), seen([11] * 3, [11] * 3, 11))).abs().max() < bound


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("with_padding", [True, False])
def test_a_context_and_what_follows_equal_the_equations(
    with_padding: bool,
    dtype: torch.dtype,
    bound: float,
    attention: str,
    published_config: Any,
    random_weights: Any,
    plain_glm: Any,
    seen: Any,
) -> None:
    """Each row has a context of its own, and positions of both kinds."""
    weights = random_weights(published_config(), dtype=dtype)
    model = _build(weights, published_config(), attention=attention)
    lengths = LENGTHS if with_padding else [11] * 3
    positions = _piece_positions()
    expected = plain_glm(
        weights, _ids(), seen(lengths, CONTEXTS, 11), positions=positions[:, 0], blocks=positions[:, 1]
    )
    with torch.no_grad():
        found = model(
            _ids(),
            _mask(lengths) if with_padding else None,
            position_ids=positions,
            context_lengths=torch.tensor(CONTEXTS),
        )[0]
    real = _mask(lengths).bool()
    assert (found - expected)[real].abs().max() < bound


@pytest.mark.parametrize("context", [0, 1, 11, 20])
def test_no_context_is_left_to_right_and_a_whole_one_an_encoder(
    context: int, published_config: Any, random_weights: Any, plain_glm: Any, seen: Any
) -> None:
    weights = random_weights(published_config(), dtype=torch.float64)
    model = _build(weights, published_config())
    with torch.no_grad():
        found = model(_ids(), context_lengths=torch.tensor([context]))[0]
    expected = plain_glm(weights, _ids(), seen([11] * 3, [context] * 3, 11))
    assert (found - expected).abs().max() < 1e-10


def test_the_erf_gelu_is_an_option(published_config: Any, random_weights: Any, plain_glm: Any, seen: Any) -> None:
    weights = random_weights(published_config(), dtype=torch.float64)
    model = _build(weights, published_config(), hidden_act="gelu_erf")
    with torch.no_grad():
        found = model(_ids())[0]
    visible = seen([11] * 3, [11] * 3, 11)
    assert (found - plain_glm(weights, _ids(), visible, gelu="erf")).abs().max() < 1e-10
    assert (found - plain_glm(weights, _ids(), visible)).abs().max() > 1e-5, "the two are told apart"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("positions", ["unshifted", "shifted"])
def test_prompts_equal_the_equations_and_alone_get_gradients(
    positions: Any,
    dtype: torch.dtype,
    bound: float,
    attention: str,
    published_config: Any,
    random_weights: Any,
    plain_glm: Any,
    seen: Any,
) -> None:
    """Two of three layers, padding, contexts, positions of both kinds; shifted ones move the first kind alone."""
    weights = random_weights(published_config(), dtype=dtype)
    model = _build(weights, published_config(), attention=attention)
    prompts = torch.randn(2, 2, 4, 5, 8, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    ids, mask, placed = _ids(), _mask(), _piece_positions()
    real = mask.bool()
    upstream = torch.randn(3, 11, 32, generator=torch.Generator().manual_seed(2)).to(dtype) * real.unsqueeze(-1)

    expected = plain_glm(
        weights,
        ids,
        seen(LENGTHS, CONTEXTS, 11),
        positions=placed[:, 0] + (5 if positions == "shifted" else 0),
        blocks=placed[:, 1],
        prompts={0: (prompts[0, 0], prompts[0, 1]), 2: (prompts[1, 0], prompts[1, 1])},
    )
    (expected_gradient,) = torch.autograd.grad((expected * upstream).sum(), prompts)

    ptuning.attach(model, prompts, layers=[0, 2], positions=positions)
    found = model(ids, mask, position_ids=placed, context_lengths=torch.tensor(CONTEXTS))[0]
    (found * upstream).sum().backward()
    assert (found - expected)[real].abs().max() < bound
    assert prompts.grad is not None
    assert (prompts.grad - expected_gradient).abs().max() / expected_gradient.abs().max() < bound
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_pads_and_batch_mates_change_nothing(attention: str, published_config: Any, random_weights: Any) -> None:
    model = _build(random_weights(published_config(), dtype=torch.float64), published_config(), attention=attention)
    contexts = torch.tensor(CONTEXTS)
    ptuning.attach(model, torch.randn(3, 2, 4, 2, 8, dtype=torch.float64))
    with torch.no_grad():
        together = model(_ids(), _mask(), position_ids=_piece_positions(), context_lengths=contexts)[0]
        for row, length in enumerate(LENGTHS):
            alone = model(
                _ids()[row : row + 1, :length],
                position_ids=_piece_positions()[row : row + 1, :, :length],
                context_lengths=contexts[row : row + 1],
            )[0]
            assert (together[row, :length] - alone[0]).abs().max() < 1e-12
        other = torch.where(_mask().bool(), _ids(), _ids(seed=9))
        assert not torch.equal(other, _ids())
        again = model(other, _mask(), position_ids=_piece_positions(), context_lengths=contexts)[0]
    assert torch.equal(again[_mask().bool()], together[_mask().bool()])


def test_what_follows_is_not_seen_from_before(published_config: Any, random_weights: Any) -> None:
    model = _build(random_weights(published_config(), dtype=torch.float64), published_config())
    ids, contexts = _ids(), torch.tensor([4])
    changed = ids.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 64
    with torch.no_grad():
        moved = (
            (model(changed, context_lengths=contexts)[0] - model(ids, context_lengths=contexts)[0]).abs().amax((0, 2))
        )
    assert moved[:7].max() == 0 and moved[7:].min() > 1e-6
    changed = ids.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 64
    with torch.no_grad():
        moved = (
            (model(changed, context_lengths=contexts)[0] - model(ids, context_lengths=contexts)[0]).abs().amax((0, 2))
        )
    assert moved.min() > 1e-6, "the context is seen whole from everywhere"


def test_scores_of_tokens_are_tied_to_the_word_embeddings(
    published_config: Any, random_weights: Any, plain_glm: Any, seen: Any
) -> None:
    weights = random_weights(published_config(), dtype=torch.float64)
    whole = Glm2021ForMaskedLM(Glm2021Config.from_published(published_config())).double().eval()
    whole.glm.load_state_dict(weights)
    expected = plain_glm(weights, _ids(), seen(LENGTHS, CONTEXTS, 11)) @ weights["word_embeddings.weight"].T
    with torch.no_grad():
        found = whole(_ids(), _mask(), context_lengths=torch.tensor(CONTEXTS)).logits
        alone = tied_logits(whole.glm(_ids())[0], whole.glm.word_embeddings.weight)
        as_tuple = whole(_ids(), return_dict=False)
    assert found.shape == (3, 11, 64)
    assert (found - expected)[_mask().bool()].abs().max() < 1e-10
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], alone)


def test_positions_and_embeddings_may_be_given(published_config: Any, random_weights: Any) -> None:
    model = _build(random_weights(published_config()), published_config())
    ids, at = _ids(), torch.arange(11)
    with torch.no_grad():
        expected = model(ids)[0]
        for given in (at.unsqueeze(0), at.expand(3, -1), torch.stack([at, torch.zeros_like(at)]).unsqueeze(0)):
            assert torch.equal(model(ids, position_ids=given)[0], expected)
        assert torch.equal(model(inputs_embeds=model.word_embeddings(ids))[0], expected)
        assert not torch.equal(model(ids, position_ids=torch.stack([at, at]).unsqueeze(0))[0], expected)


def test_hidden_states_of_all_layers(published_config: Any, random_weights: Any) -> None:
    model = _build(random_weights(published_config()), published_config())
    with torch.no_grad():
        output = model(_ids(), output_hidden_states=True)
        plain = model(_ids(), return_dict=False)
    assert len(output.hidden_states) == 4 and torch.equal(output.hidden_states[-1], output.last_hidden_state)
    embedded = model.word_embeddings(_ids()) + model.transformer.position_embeddings.weight[:11]
    embedded = embedded + model.transformer.block_position_embeddings.weight[0]
    torch.testing.assert_close(output.hidden_states[0], embedded)
    assert isinstance(plain, tuple) and len(plain) == 1 and torch.equal(plain[0], output.last_hidden_state)
    assert model(_ids()).hidden_states is None


def test_checkpointed_layers_give_prompts_the_same_gradients(published_config: Any, random_weights: Any) -> None:
    none = {name: 0.0 for name in ("attention_dropout_prob", "embedding_dropout_prob", "output_dropout_prob")}
    model = _build(random_weights(published_config(), dtype=torch.float64), published_config(), **none).train()
    prompts = torch.randn(3, 2, 4, 2, 8, dtype=torch.float64, requires_grad=True)
    ptuning.attach(model, prompts)
    gradients = []
    for _ in range(2):
        loss = model(_ids(), _mask(), context_lengths=torch.tensor(CONTEXTS))[0].square().sum()
        gradients.append(torch.autograd.grad(loss, prompts)[0])
        start_recomputing(model)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-12)


def test_dropout_acts_in_training_alone(published_config: Any, random_weights: Any) -> None:
    """Each of the three probabilities by itself."""
    for name in ("attention_dropout_prob", "embedding_dropout_prob", "output_dropout_prob"):
        none = {other: 0.0 for other in ("attention_dropout_prob", "embedding_dropout_prob", "output_dropout_prob")}
        model = _build(random_weights(published_config()), published_config(), **{**none, name: 0.5})
        with torch.no_grad():
            assert torch.equal(model(_ids())[0], model(_ids())[0])
            model.train()
            assert not torch.equal(model(_ids())[0], model(_ids())[0]), name
        still = _build(random_weights(published_config()), published_config(), **none).train()
        with torch.no_grad():
            assert torch.equal(still(_ids())[0], still.eval()(_ids())[0])


def test_it_is_saved_under_the_published_names_and_found_again(
    tmp_path: Path, published_config: Any, random_weights: Any
) -> None:
    weights = random_weights(published_config())
    model = _build(weights, published_config())
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == weights.keys()
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "glm2021"
    again = AutoModel.from_pretrained(tmp_path)
    assert type(again) is Glm2021Model
    with torch.no_grad():
        assert torch.equal(again(_ids())[0], model(_ids())[0])
    assert torch.equal(ptuning.load_backbone(tmp_path).model(_ids())[0], model(_ids())[0])
    whole = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert type(whole) is Glm2021ForMaskedLM and torch.equal(whole.glm(_ids())[0], model(_ids())[0])


def test_random_weights_start_as_the_original_does(published_config: Any) -> None:
    torch.manual_seed(0)
    config = Glm2021Config.from_published(published_config(hidden_size=128, num_layers=8))
    model = Glm2021Model(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert parameter.abs().max() == 0, name
        elif "layernorm" in name:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        else:
            is_last = name.endswith(("attention.dense.weight", "dense_4h_to_h.weight"))
            assert float(parameter.detach().std()) == pytest.approx(0.02 / 4 if is_last else 0.02, rel=0.1), name


def test_the_number_of_parameters_is_the_known_one(published_config: Any) -> None:
    with torch.device("meta"):
        for layers, width, heads, vocab, length, expected in (
            (12, 768, 12, 30592, 512, 109_338_624),
            (36, 2048, 32, 50304, 1024, 1_920_122_880),
            (48, 4096, 64, 50304, 1024, 9_880_682_496),
        ):
            sizes = {"num_layers": layers, "hidden_size": width, "num_attention_heads": heads, "vocab_size": vocab}
            config = Glm2021Config.from_published(published_config(**sizes, max_sequence_length=length))
            assert sum(parameter.numel() for parameter in Glm2021Model(config).parameters()) == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "input_ids or inputs_embeds is needed, got neither"),
        ({"input_ids": _ids(), "inputs_embeds": torch.zeros(3, 11, 32)}, "is needed, got both"),
        ({"input_ids": _ids(41)}, "has 41 tokens, but the backbone has 40 positions"),
        ({"input_ids": _ids(), "position_ids": torch.zeros(2, 11)}, r"\(2, 11\), expected \(batch_size, 2, seq_len\)"),
        ({"input_ids": _ids(), "position_ids": torch.zeros(3, 3, 11)}, r"\(3, 3, 11\), expected .* = \(3, 2, 11\)"),
        (
            {"input_ids": _ids(), "attention_mask": torch.ones(3, 1, 11, 11)},
            r"attention_mask has shape \(3, 1, 11, 11\)",
        ),
        (
            {"input_ids": _ids(), "context_lengths": torch.ones(2)},
            r"context_lengths has shape \(2,\), expected .* \(3,\)",
        ),
    ],
)
def test_wrong_inputs_are_refused(given: dict[str, Any], words: str, published_config: Any) -> None:
    model = Glm2021Model(Glm2021Config.from_published(published_config()))
    with pytest.raises(BackboneError, match=words):
        model(**given)


def test_flash_attention_takes_no_context_lengths(published_config: Any) -> None:
    model = Glm2021Model(Glm2021Config.from_published(published_config()))
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(BackboneError, match="flash attention cannot see a context whole .* training.attention to sdpa"):
        model(_ids(), context_lengths=torch.tensor(CONTEXTS))


def test_too_long_for_shifted_positions_is_an_error(published_config: Any) -> None:
    model = Glm2021Model(Glm2021Config.from_published(published_config()))
    ptuning.attach(model, torch.zeros(3, 2, 4, 10, 8), positions="shifted")
    model(_ids(30))
    with pytest.raises(ptuning.PtuningError, match="31 tokens shifted by prompt_length 10, .* has 40 positions"):
        model(_ids(31))


def test_each_row_shifts_its_positions_by_its_own_prompts(
    published_config: Any, random_weights: Any, plain_glm: Callable[..., Tensor], seen: Any
) -> None:
    """Positions given once for all rows; one row without prompts keeps them."""
    from ptuning.prompts import GivenPrompts, PromptBank

    weights = random_weights(published_config(), dtype=torch.float64)
    model = _build(weights, published_config())
    prompts = torch.randn(3, 2, 4, 5, 8, dtype=torch.float64)
    bank = PromptBank(3)
    bank.add(GivenPrompts(prompts), positions="shifted")
    bank.add(GivenPrompts(prompts[:, :, :, :0]))
    attached = ptuning.attach(model, bank)
    at = torch.arange(11)
    given = torch.stack([at, at % 2]).unsqueeze(0)
    with attached.rows([0, 1]), torch.no_grad():
        found = model(_ids()[:2], position_ids=given)[0]
    by_layer = {layer: (prompts[layer, 0], prompts[layer, 1]) for layer in range(3)}
    visible, blocks = seen([11], [11], 11), (at % 2).unsqueeze(0)
    first = plain_glm(weights, _ids()[:1], visible, positions=at.unsqueeze(0) + 5, blocks=blocks, prompts=by_layer)
    second = plain_glm(weights, _ids()[1:2], visible, positions=at.unsqueeze(0), blocks=blocks)
    assert (found - torch.cat([first, second])).abs().max() < 1e-10
