from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ptuning.backbones.families import find_trunk
from ptuning.backbones.loading import Backbone
from ptuning.errors import BackboneError, CheckpointError, PromptError
from ptuning.heads import PooledHead, TokenHead
from ptuning.methods import VirtualTokens
from ptuning.model import PromptedModel, trained_parameters
from ptuning.prompts import PromptBank
from ptuning.prompts.input_prompts import InputPrompts
from ptuning.training.adapting import no_prompts

LENGTHS = (9, 6, 3)
TAKE_EMBEDDINGS = (
    "bert",
    "roberta",
    "xlm-roberta",
    "albert",
    "electra",
    "distilbert",
    "deberta-v2",
    "modernbert",
    "t5",
)


class Tokens(nn.Module):
    """A head that gives hidden states as they are."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor, input_ids: Tensor) -> Tensor:
        self.mask, self.ids = attention_mask, input_ids
        return hidden_states


@pytest.fixture
def make_backbone(tiny_model: Callable[..., Any]) -> Callable[[str], Backbone]:
    def make(name: str = "bert") -> Backbone:
        model = tiny_model(name).requires_grad_(False)
        return Backbone(model, find_trunk(model)[1], source="tiny", name="tiny", revision=None)

    return make


def _virtual(backbone: Backbone, place: Any, length: int = 4, mixture: int = 1, **more: Any) -> VirtualTokens:
    width = find_trunk(backbone.model)[0].get_input_embeddings().weight.shape[1]
    start = torch.randn(mixture, length, width, generator=torch.Generator().manual_seed(3))
    return VirtualTokens(InputPrompts(start), backbone.family, place=place, stand_in=7, **more)


def _model(backbone: Backbone, adaptation: VirtualTokens, head: nn.Module) -> PromptedModel:
    bank = PromptBank(backbone.description.num_layers)
    bank.add(no_prompts(backbone))
    return PromptedModel(backbone, bank, [head], adaptation=adaptation).eval()


@pytest.mark.parametrize("name", TAKE_EMBEDDINGS)
def test_tokens_in_front_are_embeddings_in_front(
    name: str, make_backbone: Callable[..., Backbone], ragged_batch: Callable[..., Any]
) -> None:
    """Equal to the library's model on embeddings that were put together by hand."""
    backbone = make_backbone(name)
    batch = ragged_batch(backbone.model.config, LENGTHS)
    adaptation = _virtual(backbone, "front")
    trunk: Any = find_trunk(backbone.model)[0]
    with torch.no_grad():
        made = adaptation.prompts()[0].expand(len(LENGTHS), -1, -1)
        embeddings = torch.cat([made, trunk.get_input_embeddings()(batch["input_ids"])], 1)
        mask = torch.cat([torch.ones(len(LENGTHS), 4, dtype=torch.long), batch["attention_mask"]], 1)
        expected = trunk(inputs_embeds=embeddings, attention_mask=mask)[0][:, 4:]
        model = _model(backbone, adaptation, head := Tokens())
        found = model(**batch)[0].logits
    real = batch["attention_mask"].bool()
    assert torch.equal(head.mask, batch["attention_mask"]) and torch.equal(head.ids, batch["input_ids"])
    torch.testing.assert_close(found[real], expected[real], rtol=1e-5, atol=1e-5)


def test_tokens_around_stand_behind_the_first_and_before_the_last(
    make_backbone: Callable[..., Backbone], ragged_batch: Callable[..., Any]
) -> None:
    backbone = make_backbone()
    batch = ragged_batch(backbone.model.config, LENGTHS)
    adaptation = _virtual(backbone, "around", length=3)
    trunk: Any = find_trunk(backbone.model)[0]
    model = _model(backbone, adaptation, Tokens())
    with torch.no_grad():
        found = model(**batch)[0].logits
        model.detach()
        first, second, third = adaptation.prompts()[0]
        for row, length in enumerate(LENGTHS):
            own = trunk.get_input_embeddings()(batch["input_ids"][row, :length])
            pieces = [own[:1], first[None], second[None], own[1:-1], third[None], own[-1:]]
            expected = trunk(inputs_embeds=torch.cat(pieces)[None])[0][0]
            kept = [0, *range(3, length + 1), length + 2]
            torch.testing.assert_close(found[row, :length], expected[kept], rtol=1e-5, atol=1e-5)


def test_a_pattern_says_where_each_virtual_token_stands(make_backbone: Callable[..., Backbone]) -> None:
    backbone = make_backbone()
    adaptation = _virtual(backbone, "pattern", length=3)
    ids = torch.tensor([[9, -1, 8, -2, -3, 12], [9, 8, -1, 11, -2, -3]])
    model = _model(backbone, adaptation, head := Tokens())
    with torch.no_grad():
        found = model(ids, torch.ones_like(ids))[0].logits
    model.detach()
    assert head.ids.tolist() == [[9, 8, 12], [9, 8, 11]]
    trunk: Any = find_trunk(backbone.model)[0]
    with torch.no_grad():
        made = adaptation.prompts()[0]
        for row in range(2):
            embeddings = trunk.get_input_embeddings()(ids[row].clamp(min=0))
            virtual = ids[row] < 0
            embeddings[virtual] = made[-ids[row][virtual] - 1]
            expected = trunk(inputs_embeds=embeddings[None])[0][0]
            torch.testing.assert_close(found[row], expected[~virtual], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("place", ["front", "around"])
@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "deberta-v2"])
def test_a_row_does_not_depend_on_padding_or_batch_mates(
    name: str, place: str, make_backbone: Callable[..., Backbone], ragged_batch: Callable[..., Any]
) -> None:
    backbone = make_backbone(name)
    batch = ragged_batch(backbone.model.config, LENGTHS)
    model = _model(backbone, _virtual(backbone, place), TokenHead(32, 5))
    with torch.no_grad():
        together = model(**batch)[0].logits
        for row, length in enumerate(LENGTHS):
            alone = model(**{name: tensor[row : row + 1, :length] for name, tensor in batch.items()})[0].logits
            torch.testing.assert_close(together[row, :length], alone[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_perturbed", [0, 2])
@pytest.mark.parametrize("name", ["bert", "roberta", "deberta-v2", "t5"])
def test_a_step_moves_virtual_tokens_and_head_and_leaves_the_backbone_bit_for_bit(
    name: str, num_perturbed: int, make_backbone: Callable[..., Backbone], ragged_batch: Callable[..., Any]
) -> None:
    backbone = make_backbone(name)
    before = {key: tensor.clone() for key, tensor in backbone.model.state_dict().items()}
    adaptation = _virtual(backbone, "front", mixture=2, num_perturbed=num_perturbed, hidden_size=32)
    model = _model(backbone, adaptation, PooledHead(32, 3, pooling="mean")).train()
    trained = trained_parameters(model)
    assert len(trained) == 4 + bool(num_perturbed)  # embeddings, mixture, perturbations, weight and bias of the head
    kept = {key: parameter.detach().clone() for key, parameter in trained.items()}
    optimizer = torch.optim.AdamW(trained.values(), lr=0.1)
    model(**ragged_batch(backbone.model.config, LENGTHS))[0].logits.square().sum().backward()
    assert {key for key, parameter in model.named_parameters() if parameter.grad is not None} == set(trained)
    optimizer.step()
    model.detach()
    after = backbone.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert all(not torch.equal(parameter, kept[key]) for key, parameter in trained.items())
    assert not backbone.model.get_input_embeddings()._forward_hooks


def test_what_is_added_at_layers_reaches_virtual_tokens_alone(
    make_backbone: Callable[..., Backbone], ragged_batch: Callable[..., Any]
) -> None:
    """The sum behind each layer, written out with the library's own layers."""
    backbone = make_backbone()
    batch = ragged_batch(backbone.model.config, (6, 6))
    adaptation = _virtual(backbone, "front", num_perturbed=2, hidden_size=32)
    with torch.no_grad():
        assert adaptation.perturbations is not None
        adaptation.perturbations.normal_(generator=torch.Generator().manual_seed(4))
        model = _model(backbone, adaptation, Tokens())
        found = model(**batch)[0].logits
        model.detach()
        trunk: Any = find_trunk(backbone.model)[0]
        made = adaptation.prompts()[0].expand(2, -1, -1)
        states = trunk.embeddings(
            inputs_embeds=torch.cat([made, trunk.embeddings.word_embeddings(batch["input_ids"])], 1)
        )
        for number, layer in enumerate(trunk.encoder.layer):
            output = layer(states)
            states = output[0] if isinstance(output, tuple) else output
            if number < 2:
                states = states.clone()
                states[:, :4] += adaptation.perturbations[0, number]
    torch.testing.assert_close(found, states[:, 4:], rtol=1e-5, atol=1e-5)


def test_a_mixture_is_the_weighted_mean_of_what_its_prompts_say(
    make_backbone: Callable[..., Backbone], ragged_batch: Callable[..., Any]
) -> None:
    backbone = make_backbone()
    batch = ragged_batch(backbone.model.config, LENGTHS)
    head = PooledHead(32, 3, pooling="mean")
    adaptation = _virtual(backbone, "front", mixture=2)
    with torch.no_grad():
        assert adaptation.mixture is not None
        adaptation.mixture.copy_(torch.tensor([0.0, 1.0]))
        model = _model(backbone, adaptation, head)
        found = model(**batch)[0].logits.exp()
        model.detach()
        each = []
        for number in range(2):
            one = VirtualTokens(
                InputPrompts(adaptation.prompts.embeddings[number][None]), backbone.family, place="front", stand_in=7
            )
            model = _model(backbone, one, head)
            each.append(model(**batch)[0].logits.softmax(-1))
            model.detach()
    weights = torch.tensor([0.0, 1.0]).softmax(0)
    torch.testing.assert_close(found, weights[0] * each[0] + weights[1] * each[1], rtol=1e-5, atol=1e-6)


def test_what_is_saved_gives_the_outputs_that_it_gave(
    make_backbone: Callable[..., Backbone], ragged_batch: Callable[..., Any]
) -> None:
    backbone = make_backbone()
    batch = ragged_batch(backbone.model.config, LENGTHS)
    start = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(3))
    prompts = InputPrompts(start, reparameterization="lstm", dropout=0.5)
    adaptation = VirtualTokens(prompts, backbone.family, place="around", stand_in=7, num_perturbed=2, hidden_size=32)
    head = PooledHead(32, 3, pooling="mean")
    with torch.no_grad():
        for parameter in (adaptation.perturbations, adaptation.mixture):
            assert parameter is not None
            parameter.normal_(generator=torch.Generator().manual_seed(5))
        model = _model(backbone, adaptation, head)
        before = model(**batch)[0].logits
        model.detach()
        made = VirtualTokens.from_saved(adaptation.saved_tensors(), adaptation.options(), backbone.family, stand_in=7)
        after = _model(backbone, made, head)(**batch)[0].logits
    assert set(adaptation.saved_tensors()) == {"input_prompts", "perturbations", "mixture"}
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6)


def test_layers_that_are_one_module_cannot_be_perturbed_apart(make_backbone: Callable[..., Backbone]) -> None:
    with pytest.raises(BackboneError, match="albert are one module that runs several times. Use p-tuning"):
        _virtual(make_backbone("albert"), "front", num_perturbed=2, hidden_size=32)


def test_virtual_tokens_serve_one_task(
    make_backbone: Callable[..., Backbone], ragged_batch: Callable[..., Any]
) -> None:
    backbone = make_backbone()
    bank = PromptBank(backbone.description.num_layers)
    bank.add(no_prompts(backbone))
    heads = [TokenHead(32, 5), TokenHead(32, 3)]
    model = PromptedModel(backbone, bank, heads, adaptation=_virtual(backbone, "front"))
    with pytest.raises(PromptError, match="2 heads, but method virtual tokens serves one task at a time"):
        model(**ragged_batch(backbone.model.config, LENGTHS), heads=[0, 1, 0])


def test_tensors_that_do_not_fit_together_are_refused(make_backbone: Callable[..., Backbone]) -> None:
    family = make_backbone().family
    wrong = {"input_prompts": torch.zeros(2, 4, 32), "mixture": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"have input_prompts \(2, 4, 32\), mixture \(3,\) at 'front', expected"):
        VirtualTokens.from_saved(wrong, {"place": "front"}, family, stand_in=7)
    with pytest.raises(CheckpointError, match="at 'nowhere'"):
        VirtualTokens.from_saved({"input_prompts": torch.zeros(1, 4, 32)}, {"place": "nowhere"}, family, stand_in=7)
