"""Decoders as backbones: what a token sees, how a model is switched, and who notices."""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

import ptuning
from ptuning import load_backbone
from ptuning.attachment import attach_bank_or_prompts
from ptuning.backbones.description import describe_trunk
from ptuning.backbones.direction import direction_of, switch_config, window_counts_itself
from ptuning.backbones.families import FAMILIES, find_trunk
from ptuning.backbones.interface import refuse_windows_under_flash
from ptuning.errors import BackboneError, BackboneMismatchError, ConfigError
from ptuning.prompts import GivenPrompts, PromptBank

TinyModel = Callable[..., Any]
RaggedBatch = Callable[..., dict[str, Tensor]]
CAUSAL = sorted(name for name, family in FAMILIES.items() if family.is_decoder)
ENCODERS = sorted(set(FAMILIES) - set(CAUSAL))
BOTH_WAYS = [
    "gemma2-bidirectional",
    "gemma3_text-bidirectional",
    "gemma3_text-trained-both-ways",
    "glm4-bidirectional",
    "llama-bidirectional",
    "mistral-bidirectional",
    "qwen2-bidirectional",
]
WINDOWED = ("gemma2", "gemma3_text", "mistral", "qwen2")


def _prompts(model: Any, length: int = 5, layers: int | None = None, seed: int = 7) -> Tensor:
    numbers = describe_trunk(*find_trunk(model))
    shape = (layers or numbers.num_layers, 2, numbers.num_kv_heads, length, numbers.head_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=model.dtype)


@torch.no_grad()
@pytest.mark.parametrize("layers", ["all", "last:1"])
@pytest.mark.parametrize("has_mask", [True, False])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", [*CAUSAL, *BOTH_WAYS])
def test_what_stands_behind_a_token_matters_to_it_only_where_attention_looks_both_ways(
    name: str, attention: str, has_mask: bool, layers: str, tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    """Without padding transformers hands over no mask: a prefix would push tokens out, or a switch be forgotten."""
    model = tiny_model(name, attention=attention, dtype=torch.float64)
    ids = ragged_batch(model.config, (9, 9))["input_ids"]
    ptuning.attach(model, _prompts(model, layers=3 if layers == "all" else 1), layers=layers)

    def run(tokens: Tensor) -> Tensor:
        hidden: Tensor = model(tokens, attention_mask=torch.ones_like(tokens) if has_mask else None)[0]
        return hidden

    def changed(place: int) -> Tensor:
        other = ids.clone()
        other[:, place] = (other[:, place] - 4) % 50 + 5
        return (run(other) - run(ids)).abs().amax(-1)  # (2, 9)

    last, first = changed(8), changed(0)
    if name in CAUSAL:
        assert last[:, :8].max() < 1e-12, "no token knows what comes"
    else:
        assert last[:, 0].min() > 1e-6, "through three layers the last token reaches the first one"
    assert last[:, 8].min() > 1e-3
    assert first[:, 8].min() > 1e-6, "and the last token knows the first one, whatever prompts stand in front"


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["gemma", "glm", "glm4", "llama", "qwen3"])
def test_prompts_are_what_past_keys_and_values_would_be(
    name: str, attention: str, tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    """The library's own cache, filled with the prompts: another way to the same attention, where there is no window."""
    model = tiny_model(name, attention=attention, dtype=torch.float64)
    batch, prompts = ragged_batch(model.config, (9, 6, 3)), _prompts(model)
    real = batch["attention_mask"].bool()
    cache = DynamicCache()
    for layer, (key, value) in enumerate(prompts):
        cache.update(key.expand(3, -1, -1, -1).clone(), value.expand(3, -1, -1, -1).clone(), layer)
    takes = inspect.signature(type(model).forward).parameters
    name_of_cache = "cache" if "cache" in takes else "past_key_values"  # its newer and older name
    expected = model(
        batch["input_ids"],
        attention_mask=torch.cat([torch.ones(3, 5, dtype=torch.long), batch["attention_mask"]], 1),
        position_ids=torch.arange(9).expand(3, -1),
        use_cache=True,
        **{name_of_cache: cache},
    )[0][real]
    ptuning.attach(model, prompts)
    torch.testing.assert_close(model(**batch, use_cache=False)[0][real], expected, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "llama", "llama-bidirectional", "mistral-bidirectional"])
def test_padding_on_the_left_changes_nothing(name: str, tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    """Rotary positions matter by their differences, but keys of virtual tokens have none: real tokens begin at 0."""
    model = tiny_model(name)  # in float64 the library's eager softmax has no answer for padding that sees nothing
    bank = PromptBank(3)
    for length in (5, 0, 3):
        bank.add(GivenPrompts(_prompts(model, length)))
    lengths = (9, 6, 3)
    right = ragged_batch(model.config, lengths)
    left = {
        key: torch.stack([row.roll(9 - length) for row, length in zip(tensor, lengths, strict=True)])
        for key, tensor in right.items()
    }
    attached = ptuning.attach(model, bank)
    with attached.rows([0, 1, 2]):
        one, other = model(**right)[0], model(**left)[0]
    for row, length in enumerate(lengths):
        torch.testing.assert_close(other[row, 9 - length :], one[row, :length], rtol=0, atol=2e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", [*CAUSAL, *BOTH_WAYS, "t5gemma"])
def test_texts_without_padding_have_the_values_that_they_have_with_some(
    name: str, attention: str, tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    """Without any the library hands no mask to attention, which is another way to the same values."""
    model = tiny_model(name, attention=attention, dtype=torch.float64)
    bank = PromptBank(3)
    bank.add(GivenPrompts(_prompts(model, 5).requires_grad_()))
    bank.add(GivenPrompts(_prompts(model, 2, layers=2, seed=8)), layers="last:2")
    bank.add(GivenPrompts(_prompts(model, 0)))
    attached = ptuning.attach(model, bank)
    # Windows are between these lengths. No more padding than all of them reach: where eager attention sees nothing, the
    # library has no answer.
    for length, rows in itertools.product((1, 3, 9), ([0, 1, 2], [1, 1, 1])):  # all layers prompted, and the last two
        padded = ragged_batch(find_trunk(model)[0].config, (length, length, length, length + 2))
        ids = padded["input_ids"][:3, :length]
        with attached.rows([*rows, 1]), torch.no_grad():
            expected = model(**padded)[0][:3, :length]
        for mask, has_grad in itertools.product((None, torch.ones_like(ids)), (False, True)):
            with attached.rows(rows), torch.set_grad_enabled(has_grad):
                hidden = model(input_ids=ids, attention_mask=mask)[0]
            torch.testing.assert_close(hidden.detach(), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_token_by_token_with_a_cache_it_is_the_same(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model("llama", auto=AutoModelForCausalLM)
    ids = ragged_batch(model.config, (6, 6))["input_ids"]
    ptuning.attach(model, _prompts(model))
    full = model(ids, use_cache=False).logits
    cache: dict[str, Any] = {}
    steps = []
    for place in range(6):
        output = model(ids[:, place : place + 1], use_cache=True, **cache)
        key = "cache" if "cache" in output.keys() else "past_key_values"  # its newer and older name
        cache = {key: output[key]}
        steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, 1), full, rtol=1e-4, atol=1e-5)


# Loading


@pytest.mark.parametrize("name", CAUSAL)
def test_a_decoder_is_loaded_as_it_was_trained_or_switched(
    name: str, tmp_path: Path, tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    language_model = tiny_model(name, auto=AutoModelForCausalLM)
    language_model.save_pretrained(tmp_path)
    causal = load_backbone(tmp_path)
    switched = load_backbone(tmp_path, attention_direction="bidirectional")
    assert causal.is_causal and not switched.is_causal
    assert load_backbone(tmp_path, attention_direction="causal").identity == causal.identity
    for backbone in (causal, switched):
        assert "lm_head.weight" not in dict(backbone.model.named_parameters()), "the trunk alone"
        assert backbone.model.config.use_cache is False
        assert backbone.pooling == ("last" if backbone.is_causal else "mean")
        assert backbone.identity.architecture["attention_direction"] == (
            "causal" if backbone.is_causal else "bidirectional"
        )
    ids = ragged_batch(language_model.config, (6, 6))["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(causal.model(ids)[0], language_model.base_model(ids)[0])
        assert (switched.model(ids)[0] - causal.model(ids)[0]).abs().amax((0, 2)).min() > 1e-4
        padded = switched.model(ids, attention_mask=torch.tensor([[1] * 6, [1] * 5 + [0]]))[0]
        torch.testing.assert_close(padded[0], switched.model(ids)[0][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", WINDOWED)
def test_what_a_window_is(name: str, tiny_model: TinyModel) -> None:
    for variant, expected in ((name, True), (f"{name}-bidirectional", False)):
        model = tiny_model(variant)
        assert window_counts_itself(FAMILIES[name], model.config) is expected
    assert window_counts_itself(FAMILIES["modernbert"], tiny_model("modernbert").config)
    assert not window_counts_itself(FAMILIES["t5gemma"], tiny_model("t5gemma").encoder.config)


def test_a_checkpoint_that_was_trained_both_ways_stays_so(tmp_path: Path, tiny_model: TinyModel) -> None:
    tiny_model("gemma3_text-trained-both-ways").save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path)
    assert not backbone.is_causal and getattr(backbone.model.config, "is_causal", None) is not False
    with pytest.raises(ConfigError, match="attention_direction is causal, but this gemma3_text was trained with"):
        load_backbone(tmp_path, attention_direction="causal")


def test_the_older_gemmas_setting_reaches_their_masks(tmp_path: Path, tiny_model: TinyModel) -> None:
    """The library makes causal masks for them whatever it says, where a batch has padding."""
    tiny_model("gemma").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "use_bidirectional_attention": True}))
    backbone = load_backbone(tmp_path)
    assert not backbone.is_causal
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 9]])
    with torch.no_grad():
        padded = backbone.model(torch.cat([ids, ids[:, :1]], 1), attention_mask=torch.tensor([[1, 1, 1, 1, 0]] * 2))[0]
        torch.testing.assert_close(padded[:, :4], backbone.model(ids)[0], rtol=1e-4, atol=1e-5)
        assert (padded[0, 0] - padded[1, 0]).abs().max() > 1e-3


def test_encoders_look_both_ways_and_cannot_be_made_causal(tmp_path: Path, tiny_model: TinyModel) -> None:
    tiny_model("bert").save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path, attention_direction="bidirectional")
    assert not backbone.is_causal and "attention_direction" not in backbone.identity.architecture
    with pytest.raises(
        ConfigError,
        match=r"attention_direction is causal, but this bert was trained with attention both ways, expected a decoder.*"
        "Leave attention_direction out",
    ):
        load_backbone(tmp_path, attention_direction="causal")


def test_a_bert_decoder_is_causal(tiny_model: TinyModel) -> None:
    assert direction_of(FAMILIES["bert"], tiny_model("bert").config) == "bidirectional"
    assert direction_of(FAMILIES["bert"], tiny_model("bert", is_decoder=True).config) == "causal"


@torch.no_grad()
@pytest.mark.parametrize("is_decoder", [True, False])
@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoders_direction_is_said_as_its_tokens_see(
    name: str, is_decoder: bool, tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    """Whatever `is_decoder` in a config says: some families heed it, others know no such field."""
    model = tiny_model(name, dtype=torch.float64, is_decoder=is_decoder)
    trunk, family = find_trunk(model)
    said = describe_trunk(trunk, family).attention_direction
    assert direction_of(family, model.config) == said, "as it is read from the file, before there is a model"
    ids = ragged_batch(trunk.config, (6, 6))["input_ids"]
    other = ids.clone()
    other[:, 5] = (other[:, 5] - 4) % 50 + 5

    def first_tokens_change(mask: Tensor | None) -> float:
        change = model(input_ids=other, attention_mask=mask)[0] - model(input_ids=ids, attention_mask=mask)[0]
        return float(change[:, 0].abs().amax(-1).min())

    for has_prompts in (False, True):
        if has_prompts:
            ptuning.attach(model, _prompts(model))
        for mask in (None, torch.ones_like(ids)):
            change = first_tokens_change(mask)
            assert change < 1e-12 if said == "causal" else change > 1e-4
    if not is_decoder:
        assert said == "bidirectional"


def test_a_bert_decoder_cannot_be_switched(tmp_path: Path, tiny_model: TinyModel) -> None:
    tiny_model("bert", is_decoder=True).save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path)
    assert backbone.is_causal and backbone.pooling == "last", "its first token sees nothing behind itself"
    with pytest.raises(
        ConfigError,
        match="attention_direction is bidirectional, but the config.json of this bert has is_decoder, .* Leave "
        "attention_direction out, or set is_decoder to false",
    ):
        load_backbone(tmp_path, attention_direction="bidirectional")


def test_switching_leaves_causal_models_alone(tiny_model: TinyModel) -> None:
    config = tiny_model("llama").config
    for asked in (None, "causal"):
        switch_config(FAMILIES["llama"], config, asked)  # type: ignore[arg-type]
        assert getattr(config, "is_causal", None) is not False


def test_prompts_of_one_direction_are_refused_on_the_other(tmp_path: Path, tiny_model: TinyModel) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    causal = load_backbone(tmp_path)
    switched = load_backbone(tmp_path, attention_direction="bidirectional")
    ptuning.attach(switched.model, _prompts(switched.model)).save(tmp_path / "prompt")
    saved = ptuning.read_prompt(tmp_path / "prompt")
    saved.backbone.require(switched.identity)
    with pytest.raises(
        BackboneMismatchError,
        match="with bidirectional attention, but that of the backbone .* is causal. Load it with "
        "attention_direction='bidirectional'",
    ):
        saved.backbone.require(causal.identity)


def test_capped_scores_are_refused_under_sdpa_by_name(tmp_path: Path, tiny_model: TinyModel) -> None:
    for name, saved in (("gemma2", "gemma2"), ("t5gemma", "t5gemma")):
        directory = tmp_path / saved
        tiny_model(name).save_pretrained(directory)
        with pytest.raises(
            BackboneError,
            match=f"is a {name}, whose attention scores are or can be capped, .* cannot, expected eager or flex_.*"
            "Set training.attention to auto",
        ):
            load_backbone(directory, attention="sdpa")
        assert load_backbone(directory).attention == "eager"
        assert load_backbone(directory, attention="flex_attention").attention == "flex_attention"
    tiny_model("llama").save_pretrained(tmp_path / "llama")
    assert load_backbone(tmp_path / "llama").attention == "sdpa"


@pytest.mark.parametrize("name", ["gemma2", "t5gemma"])
def test_a_config_without_a_cap_is_loaded_too(name: str, tmp_path: Path, tiny_model: TinyModel) -> None:
    """Under eager attention: the library refuses sdpa to these classes whatever their config says."""
    tiny_model(name).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config.get("encoder", config)["attn_logit_softcapping"] = None
    (tmp_path / "config.json").write_text(json.dumps(config))
    backbone = load_backbone(tmp_path)
    assert find_trunk(backbone.model)[0].config.attn_logit_softcapping is None
    assert backbone.attention == "eager"


@pytest.mark.parametrize(
    ("name", "instead"),
    [("gemma2", "'eager' or 'flex_attention'"), ("t5gemma", "'eager' or 'flex_attention'"), ("mistral", "'sdpa'")],
)
def test_windows_under_flash_are_refused_when_prompts_are_attached(
    name: str, instead: str, tiny_model: TinyModel
) -> None:
    """By name, without a forward, and not with advice that is refused in its turn."""
    assert name == "mistral" or "flash" not in FAMILIES[name].attention
    model = tiny_model(name)
    trunk, _ = find_trunk(model)
    trunk.config._attn_implementation = "flash_attention_2"
    with pytest.raises(BackboneError, match=f"every window of a layer with local .*attn_implementation={instead}"):
        attach_bank_or_prompts(
            model, _prompts(model), layers="all", positions="unshifted", freeze=True, check=False, eager=False
        )
    assert trunk.config._attn_implementation == "flash_attention_2", "nothing was changed"


def test_layers_without_a_window_take_prompts_under_flash(tiny_model: TinyModel) -> None:
    model = tiny_model("gemma2")
    model.config._attn_implementation = "flash_attention_2"
    full = model.config.layer_types.index("full_attention")
    refuse_windows_under_flash(model, [full])
    with pytest.raises(BackboneError, match="every window"):
        refuse_windows_under_flash(model, [full - 1, full])
    encoder = tiny_model("bert")
    encoder.config._attn_implementation = "flash_attention_2"
    refuse_windows_under_flash(encoder, range(3))


@torch.no_grad()
def test_a_window_that_is_prompted_later_is_refused_under_flash_too(
    tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    """With the same advice where nothing is capped: the library has no sdpa for these classes."""
    model = tiny_model("gemma2", attn_logit_softcapping=None)
    model.config._attn_implementation = "flash_attention_2"
    bank = PromptBank(3)
    bank.add(GivenPrompts(_prompts(model, layers=1)), layers=[model.config.layer_types.index("full_attention")])
    attached = attach_bank_or_prompts(
        model, bank, layers="all", positions="unshifted", freeze=True, check=False, eager=False
    )
    bank.add(GivenPrompts(_prompts(model)))
    with attached.rows([1, 1]), pytest.raises(BackboneError, match="every window .*'eager' or 'flex_attention'"):
        model(**ragged_batch(model.config, (6, 6)))


def test_the_cap_matters(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    """In the tiny models of these tests too: or the parity of capped scores would show nothing."""
    outputs = []
    for cap in (2.0, 50.0):
        model = tiny_model("gemma2", attn_logit_softcapping=cap)
        ptuning.attach(model, _prompts(model))
        with torch.no_grad():
            outputs.append(model(**ragged_batch(model.config, (9, 6)))[0])
    assert (outputs[0] - outputs[1]).abs().max() > 1e-2
