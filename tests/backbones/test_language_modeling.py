"""The head behind the trunk gives what transformers' whole masked language model gives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM

import ptuning
from ptuning import load_backbone
from ptuning.backbones.families import FAMILIES, find_trunk
from ptuning.backbones.language_modeling import load_language_modeling_head
from ptuning.errors import BackboneError

TinyModel = Callable[..., Any]

FAMILIES_WITH_HEAD = sorted(
    name for name, family in FAMILIES.items() if not (family.is_encoder_of_seq2seq or family.is_decoder)
)
MODELS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in FAMILIES_WITH_HEAD),
    ("albert-groups", {}),
    ("deberta", {"legacy": False}),
    ("deberta-v2", {"legacy": False}),
    ("bert", {"tie_word_embeddings": False}),
    ("eurobert", {"tie_word_embeddings": True}),
]


@pytest.mark.parametrize(("name", "options"), MODELS, ids=[f"{name}{options or ''}" for name, options in MODELS])
def test_scores_are_those_of_the_whole_model(
    name: str, options: dict[str, Any], tmp_path: Path, tiny_model: TinyModel, ragged_batch: Any
) -> None:
    whole = tiny_model(name, auto=AutoModelForMaskedLM, **options)
    whole.save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path)
    head = load_language_modeling_head(backbone)
    batch = ragged_batch(whole.config, (9, 6, 3))
    expected = whole(**batch).logits
    hidden_states = backbone.model(**batch)[0]
    assert expected.shape == (3, 9, 60) and float(expected.detach().std()) > 0.1
    torch.testing.assert_close(head(hidden_states), expected, atol=1e-5, rtol=1e-4)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(head(hidden_states[real]), expected[real], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in FAMILIES_WITH_HEAD if name != "glm2021"])  # its head has no weights
def test_a_checkpoint_without_the_head_is_refused(name: str, tmp_path: Path, tiny_model: TinyModel) -> None:
    tiny_model(name).save_pretrained(tmp_path)
    words = r"has no pretrained language-modeling head, .* lacks \d+ weights of a \w+ForMaskedLM, first .* to linear"
    with pytest.raises(BackboneError, match=words):
        load_language_modeling_head(load_backbone(tmp_path))


@pytest.mark.parametrize("lost", ["cls.predictions.bias", "cls.predictions.transform.dense.weight"])
def test_a_head_that_is_not_whole_is_refused(lost: str, tmp_path: Path, tiny_model: TinyModel) -> None:
    tiny_model("bert", auto=AutoModelForMaskedLM).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[lost]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match="lacks . weights of a BertForMaskedLM, first cls.predictions"):
        load_language_modeling_head(load_backbone(tmp_path))


@pytest.mark.parametrize("name", ["gemma2", "llama", "mt5", "t5", "t5gemma", "umt5"])
def test_decoders_and_encoders_of_t5_are_refused(name: str, tmp_path: Path, tiny_model: TinyModel) -> None:
    tiny_model(name).save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match=rf"a {name} is not a masked language model\. .*head.kind to linear"):
        load_language_modeling_head(load_backbone(tmp_path))


def test_minilm_is_refused_by_name() -> None:
    with pytest.raises(BackboneError, match="the backbone minilm has no pretrained language-modeling head"):
        load_language_modeling_head(load_backbone("minilm"))


@pytest.mark.parametrize("name", ["bert", "albert", "electra", "distilbert", "modernbert", "deberta"])
def test_tied_weights_are_the_backbones_own(name: str, tmp_path: Path, tiny_model: TinyModel) -> None:
    tiny_model(name, auto=AutoModelForMaskedLM).save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path)
    trunk: Any = find_trunk(backbone.model)[0]
    head = load_language_modeling_head(backbone)
    embeddings = trunk.get_input_embeddings().weight
    assert any(parameter is embeddings for parameter in head.parameters())
    others = {id(parameter) for parameter in trunk.parameters()}
    own = [parameter for parameter in head.parameters() if id(parameter) not in others]
    assert 0 < sum(parameter.numel() for parameter in own) < 32 * 60, "neither the trunk nor a second matrix is kept"


def test_nothing_of_the_head_is_trained_and_gradients_go_through_it(tmp_path: Path, tiny_model: TinyModel) -> None:
    tiny_model("roberta", auto=AutoModelForMaskedLM).save_pretrained(tmp_path)
    head = load_language_modeling_head(load_backbone(tmp_path))
    assert not any(parameter.requires_grad for parameter in head.parameters())
    assert not any(module.training for module in head._model.modules())
    hidden_states = torch.randn(4, 32, requires_grad=True)
    head(hidden_states)[:, 7].sum().backward()
    assert hidden_states.grad is not None and hidden_states.grad.abs().min() > 0


@pytest.mark.parametrize(("name", "options"), [("bert", {}), ("deberta", {"legacy": False})])
def test_a_bfloat16_backbone_gives_float32_scores(
    name: str, options: dict[str, Any], tmp_path: Path, tiny_model: TinyModel
) -> None:
    tiny_model(name, auto=AutoModelForMaskedLM, **options).save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path, dtype=torch.bfloat16)
    head = load_language_modeling_head(backbone)
    assert {parameter.dtype for parameter in head.parameters()} == {torch.bfloat16}
    hidden_states = torch.randn(3, 5, 32).bfloat16()
    scores = head(hidden_states)
    assert scores.dtype == torch.float32
    whole = load_language_modeling_head(backbone)
    # what it computes when its own weights are in float32, with the rounding of bfloat16
    torch.testing.assert_close(scores, copy.deepcopy(whole).float()(hidden_states.float()))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
    assert torch.equal(head(hidden_states), scores), "weights are cast once, and not in each forward"


def test_it_loads_while_prompts_are_attached(tmp_path: Path, tiny_model: TinyModel) -> None:
    tiny_model("bert", auto=AutoModelForMaskedLM).save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path)
    hidden_states = torch.randn(2, 32)
    expected = load_language_modeling_head(backbone)(hidden_states)
    attached = ptuning.attach(backbone.model, torch.zeros(3, 2, 4, 2, 8))
    torch.testing.assert_close(load_language_modeling_head(backbone)(hidden_states), expected)
    attached.detach()
