from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast
from transformers.utils import is_flash_attn_2_available

import ptuning
from ptuning import load_backbone
from ptuning.backbones.families import FAMILIES
from ptuning.backbones.outline import outline_backbone
from ptuning.errors import BackboneError, ConfigError
from ptuning.planning.recording import ShapesAlone

TinyModel = Callable[..., Any]


def _save(model: Any, directory: Path) -> Path:
    """A directory in hub layout, with a tokenizer."""
    model.save_pretrained(directory)
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"])}
    inner = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    tokenizer.save_pretrained(directory)
    return directory


def _take_out(directory: Path, lost: str) -> None:
    """Takes out the weights whose names begin so."""
    tensors = load_file(directory / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(lost)}
    assert len(kept) < len(tensors)
    save_file(kept, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_local_directory_loads_frozen_in_eval_mode(name: str, tmp_path: Path, tiny_model: TinyModel) -> None:
    model = tiny_model(name)
    backbone = load_backbone(_save(model, tmp_path))
    assert backbone.name == backbone.source == str(tmp_path) and backbone.revision is None
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert not any(module.training for module in backbone.model.modules())
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(backbone.model(ids)[0], model(ids)[0])
    assert backbone.description.model_type == name
    if name == "glm2021":
        with pytest.raises(BackboneError, match="is not one of a GLM"):
            _ = backbone.tokenizer
    else:
        assert backbone.tokenizer("a b")["input_ids"] == [4, 5]
    assert backbone.family is FAMILIES[name]
    assert getattr(backbone.model, "pooler", None) is None, "it costs nothing where no head reads it"


def test_the_pretrained_pooler_is_kept_aside(tmp_path: Path, tiny_model: TinyModel) -> None:
    hidden = torch.randn(2, 3, 32)
    for name in ("bert", "roberta", "albert", "mpnet", "megatron-bert", "ernie"):
        model = tiny_model(name)
        backbone = load_backbone(_save(model, tmp_path / name))
        assert backbone.pooler is not None
        assert not any(parameter.requires_grad for parameter in backbone.pooler.parameters())
        if name == "albert":
            expected = model.pooler_activation(model.pooler(hidden[:, 0]))
        else:
            expected = model.pooler(hidden)
        torch.testing.assert_close(backbone.pooler(hidden), expected)


def test_a_checkpoint_without_a_pooler_has_none(tmp_path: Path, tiny_model: TinyModel) -> None:
    directory = _save(tiny_model("bert"), tmp_path)
    _take_out(directory, "pooler.")
    backbone = load_backbone(directory)
    assert backbone.pooler is None and backbone.model.pooler is None
    assert load_backbone(_save(tiny_model("electra"), tmp_path / "electra")).pooler is None


def test_options(tmp_path: Path, tiny_model: TinyModel) -> None:
    directory = _save(tiny_model("bert"), tmp_path)
    backbone = load_backbone(directory, attention="eager", dtype=torch.bfloat16, device="cpu")
    assert backbone.eager and backbone.model.config._attn_implementation == "eager"
    assert {parameter.dtype for parameter in backbone.model.parameters()} == {torch.bfloat16}
    assert backbone.identity.fingerprint == load_backbone(directory).identity.fingerprint
    assert backbone.identity.architecture == load_backbone(directory).identity.architecture


def test_families_with_attention_of_their_own_have_sdpa_and_eager(tmp_path: Path, tiny_model: TinyModel) -> None:
    directory = _save(tiny_model("deberta"), tmp_path)
    assert load_backbone(directory, attention="eager").eager
    assert not load_backbone(directory, attention="sdpa").eager
    with pytest.raises(BackboneError, match="a deberta, which has sdpa and eager attention, got 'flash_attention_2'"):
        load_backbone(directory, attention="flash_attention_2")


@pytest.mark.skipif(is_flash_attn_2_available(), reason="flash-attn is installed")
@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("bert", r"sdpa, or install what flash_attention_2 needs \(the package flash-attn, and a GPU\)\.$"),
        ("glm2021", r"sdpa, or install what flash_attention_2 needs \(the package flash-attn, and a GPU\)\.$"),
        ("gemma2", r"eager\.$"),
    ],
)
def test_a_missing_flash_attention_is_called_that(
    name: str, advice: str, tmp_path: Path, tiny_model: TinyModel
) -> None:
    """And not weights that do not load. Gemma 2's windows and caps are not for flash anyway."""
    tiny_model(name).save_pretrained(tmp_path)
    words = (
        f"a {name}, cannot be had with attention 'flash_attention_2': .*FlashAttention2.* be installed. Expected one .*"
        f"Set training.attention, or attention= in Python, to {advice}"
    )
    with pytest.raises(BackboneError, match=words):
        load_backbone(tmp_path, attention="flash_attention_2")
    with pytest.raises(BackboneError, match=words), ShapesAlone(torch.device("cpu")).running():
        outline_backbone(tmp_path, attention="flash_attention_2")


def test_damaged_weights_are_called_that_whatever_the_attention(tmp_path: Path, tiny_model: TinyModel) -> None:
    tiny_model("bert").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"garbage" * 100)
    with pytest.raises(BackboneError, match="the weights of .* do not load: .*. Check that the directory"):
        load_backbone(tmp_path, attention="flex_attention")


def test_attention_that_a_family_has_not_is_refused_without_advice_to_install(
    tmp_path: Path, tiny_model: TinyModel
) -> None:
    tiny_model("t5").save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match="'flash_attention_2': T5EncoderModel does not support Flash") as raised:
        load_backbone(tmp_path, attention="flash_attention_2")
    assert str(raised.value).endswith("to sdpa.") and "request" not in str(raised.value)


def test_prompts_attach_to_what_was_loaded(tmp_path: Path, tiny_model: TinyModel) -> None:
    backbone = load_backbone(_save(tiny_model("t5"), tmp_path))
    ptuning.attach(backbone.model, torch.zeros(3, 2, 4, 2, 8)).save(tmp_path / "prompt")
    saved = ptuning.read_prompt(tmp_path / "prompt")
    saved.backbone.require(backbone.identity)


def test_is_decoder_means_nothing_where_the_family_has_no_such_setting(tmp_path: Path, tiny_model: TinyModel) -> None:
    """An ALBERT with it in its file looks both ways, so its first token may be pooled, and no prompt says otherwise."""
    directory = _save(tiny_model("albert"), tmp_path)
    plain = load_backbone(directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "is_decoder": True}))
    backbone = load_backbone(directory)
    assert backbone.model.config.is_decoder and not backbone.is_causal
    assert backbone.pooling == "cls"
    assert backbone.identity.architecture == plain.identity.architecture
    assert not load_backbone(directory, attention_direction="bidirectional").is_causal
    with pytest.raises(ConfigError, match="is causal, but this albert was trained with attention both ways"):
        load_backbone(directory, attention_direction="causal")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is not asked; its library has read HF_HUB_OFFLINE when it was imported."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline")
def test_wrong_names(tmp_path: Path) -> None:
    words = "was not found or has no readable config.json: .*. Give a Hugging Face name, a local directory in hub"
    for wrong in ("not a name!", "no-such-owner/no-such-name"):
        with pytest.raises(BackboneError, match=words):
            load_backbone(wrong)
    tmp_path.joinpath("config.json").write_text("{")
    with pytest.raises(BackboneError, match=words):
        load_backbone(tmp_path)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("wrong", ["./nowhere", "../nowhere", "a/b/c", "a/nowhere", "~/nowhere", r"a\b", "{}/nowhere"])
def test_a_directory_that_does_not_exist_is_called_that(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not a wrong name of the hub; `a/nowhere` might be one, but there is a directory `a`."""
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)
    wrong = wrong.format(tmp_path)
    with pytest.raises(BackboneError) as raised:
        load_backbone(wrong)
    said = str(raised.value)
    assert said.startswith(f"the backbone {wrong!r} was not found: there is no such directory")
    assert "Expected a directory in hub layout" in said and "Correct the path" in said and "epo id" not in said
    assert (f"directory in {tmp_path}" in said) == (wrong[0] not in "~/")
    assert ("as a name of the hub" in said) == (wrong == "a/nowhere")


@pytest.mark.usefixtures("offline")
def test_a_directory_with_an_owners_name_does_not_hide_why_the_hub_gave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "facebook").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        BackboneError,
        match="there is no such directory in .*, and as a name of the hub it gave: We couldn't connect to .*. Expected",
    ):
        load_backbone("facebook/xlm-roberta-xl")


@pytest.mark.usefixtures("offline")
def test_what_a_repository_of_the_hub_lacks_is_not_called_a_missing_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was found there, or in the cache, whatever directories are here."""
    (tmp_path / "owner").mkdir()
    monkeypatch.chdir(tmp_path)

    def read(source: str, **options: Any) -> Any:
        raise ValueError("the model type `new` is not recognized")

    monkeypatch.setattr(AutoConfig, "from_pretrained", read)
    monkeypatch.setattr("ptuning.backbones.glm.read_config", lambda source, revision: None)
    with pytest.raises(
        BackboneError, match="has no readable config.json: the model type `new` is not recognized. Give"
    ):
        load_backbone("owner/name")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("wrong", ["{}/model.safetensors", "tiny/config.json", "pytorch_model.bin", "./config.json"])
def test_a_file_is_no_backbone(wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its path could be a name of the hub, and where it is a config.json, which the library would take."""
    (tmp_path / "tiny").mkdir()
    for name in ("model.safetensors", "pytorch_model.bin", "config.json", "tiny/config.json"):
        (tmp_path / name).write_text('{"model_type": "bert"}' if name.endswith("json") else "")
    monkeypatch.chdir(tmp_path)
    wrong = wrong.format(tmp_path)
    with pytest.raises(BackboneError) as raised:
        load_backbone(wrong)
    assert str(raised.value).startswith(f"the backbone {wrong!r} is a file. Expected a directory in hub layout, with")


def test_unsupported_types_are_refused_by_name(tmp_path: Path) -> None:
    tmp_path.joinpath("config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(BackboneError, match=r"of type `gpt2`, .* Supported types: albert, bert, camembert, deberta, "):
        load_backbone(tmp_path)


def test_no_weights_and_damaged_weights(tmp_path: Path, tiny_model: TinyModel) -> None:
    directory = _save(tiny_model("bert"), tmp_path)
    weights = directory / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"garbage" * 100):
        weights.write_bytes(damaged)
        with pytest.raises(BackboneError, match="the weights of .* do not load: .*. Check that the directory"):
            load_backbone(directory)
    weights.unlink()
    with pytest.raises(BackboneError, match="the weights of .* do not load: .*. Check that the directory"):
        load_backbone(directory)


def test_missing_weights_are_not_drawn_at_random(tmp_path: Path, tiny_model: TinyModel) -> None:
    directory = _save(tiny_model("bert"), tmp_path)
    lost = "encoder.layer.1.output.dense.weight"
    _take_out(directory, lost)
    with pytest.raises(BackboneError, match=rf"lacks 1 weights of a BertModel, first {lost}. They would be random"):
        load_backbone(directory)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_missing_tokenizer_is_an_error_when_it_is_needed(name: str, tmp_path: Path, tiny_model: TinyModel) -> None:
    """Of many families transformers makes an empty tokenizer then, to which every text is unknown."""
    tiny_model(name).save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path)
    with pytest.raises(BackboneError, match="has no tokenizer that loads from .* Put the tokenizer's files"):
        _ = backbone.tokenizer


@pytest.mark.parametrize("content", ["", "garbage", "{}", '{"version": "1.0", "added_tokens": [], "model": {}}'])
def test_a_damaged_tokenizer_is_an_error(content: str, tmp_path: Path, tiny_model: TinyModel) -> None:
    backbone = load_backbone(_save(tiny_model("bert"), tmp_path))
    tmp_path.joinpath("tokenizer.json").write_text(content)
    with pytest.raises(BackboneError, match="has no tokenizer that loads from .* Put the tokenizer's files"):
        _ = backbone.tokenizer


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "Expecting property name"), ("[1]", "it is a list, not an object"), ("\xff", "codec can't decode")],
)
def test_a_damaged_pooling_file_is_an_error(content: str, words: str, tmp_path: Path, tiny_model: TinyModel) -> None:
    backbone = load_backbone(_save(tiny_model("bert"), tmp_path))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(BackboneError, match=f"has a damaged 1_Pooling/config.json: .*{words}.* set head.pooling to"):
        _ = backbone.pooling


def test_weights_go_straight_to_a_gpu(tmp_path: Path, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What transformers is asked for: no model on the CPU first."""
    asked: list[dict[str, Any]] = []

    def load(source: str, **options: Any) -> Any:
        asked.append(options)
        raise OSError("no GPU here")

    directory = _save(tiny_model("bert"), tmp_path)
    monkeypatch.setattr(AutoModel, "from_pretrained", load)
    for device in ("cuda:1", "cpu"):
        with pytest.raises(BackboneError, match="no GPU here"):
            load_backbone(directory, device=device, dtype=torch.bfloat16)
    assert [options["device_map"] for options in asked] == [{"": torch.device("cuda:1")}, None]
    assert [options["dtype"] for options in asked] == [torch.bfloat16] * 2
