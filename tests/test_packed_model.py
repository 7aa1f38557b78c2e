"""A model that packs its batches answers as one that pads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask

import ptuning
from ptuning.backbones.families import find_trunk
from ptuning.backbones.loading import Backbone
from ptuning.backbones.packing import packed_attention
from ptuning.data.batching import Example
from ptuning.errors import ConfigError
from ptuning.heads import PooledHead, TokenHead
from ptuning.inference import run_examples
from ptuning.model import PromptedModel
from ptuning.prompts import DeepPrompts, PromptBank
from ptuning.tasks.classification import Classification
from ptuning.training.assembly import assemble_model

TinyRun = Callable[..., Any]
LENGTHS = (9, 6, 12, 1)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="flex attention has no backward on a CPU")


def _heads() -> list[nn.Module]:
    generator = torch.Generator().manual_seed(9)
    return [
        PooledHead(32, 3, pooling="cls", generator=generator),
        TokenHead(32, 5, generator=generator),
        PooledHead(32, 1, pooling="mean", squeeze=True, generator=generator),
        PooledHead(32, 4, pooling="last", generator=generator),
    ]


@pytest.fixture
def make_model(tiny_model: Callable[..., Any]) -> Callable[..., PromptedModel]:
    def make(
        name: str = "bert",
        *,
        packing: bool,
        heads: list[nn.Module] | None = None,
        layers: str = "all",
        positions: Any = "unshifted",
        attention: str | None = None,
    ) -> PromptedModel:
        model = tiny_model(name, attention=attention or ("flex_attention" if packing else "sdpa")).requires_grad_(False)
        backbone = Backbone(model, find_trunk(model)[1], source="tiny", name="tiny", revision=None)
        numbers = backbone.description
        bank = PromptBank(numbers.num_layers)
        for seed in range(2):
            prompts = DeepPrompts(
                num_prompted_layers=1 if layers.endswith("1") else numbers.num_layers,
                num_kv_heads=numbers.num_kv_heads,
                prompt_length=4,
                head_dim=numbers.head_dim,
                init_std=1.0,
                generator=torch.Generator().manual_seed(seed),
            )
            bank.add(prompts, layers=layers, positions=positions)
        return PromptedModel(backbone, bank, heads or _heads(), check=False, packing=packing).eval()

    return make


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' own flex attention as a CPU does it within seconds."""

    def attend(query: Tensor, key: Tensor, value: Tensor, *, block_mask: Any, scale: Any, **kwargs: Any) -> Tensor:
        return packed_attention(query, key, value, block_mask, scaling=scale, dropout=0.0).transpose(1, 2)

    def make_mask(*args: Any, _compile: bool = False, **kwargs: Any) -> Any:
        return create_block_mask(*args, **kwargs)

    monkeypatch.setattr("transformers.integrations.flex_attention.compile_friendly_flex_attention", attend)
    monkeypatch.setattr("transformers.masking_utils.create_block_mask", make_mask)


def _examples() -> tuple[list[Example], list[int]]:
    """Sequences, tokens, choices and sequences again, of ragged lengths, and the head of each."""
    draw = torch.Generator().manual_seed(4)

    def tokens(length: int) -> list[int]:
        return torch.randint(5, 60, (length,), generator=draw).tolist()

    sequences = [(tokens(9),), (tokens(13),), (tokens(4), tokens(7), tokens(2)), (tokens(6),), (tokens(11), tokens(3))]
    heads = [0, 1, 2, 3, 2]
    types = [tuple([0] * 2 + [1] * (len(one) - 2) for one in each) for each in sequences]
    return [Example(each, own, None, row) for row, (each, own) in enumerate(zip(sequences, types, strict=True))], heads


@pytest.mark.parametrize(
    ("name", "positions"), [("bert", "unshifted"), ("bert", "shifted"), ("electra", "unshifted"), ("albert", "shifted")]
)
def test_all_kinds_of_head_read_a_packed_batch_as_a_padded_one(
    name: str, positions: str, make_model: Callable[..., PromptedModel]
) -> None:
    examples, heads = _examples()
    results = []
    for packing in (False, True):
        model = make_model(name, packing=packing, positions=positions)
        results.append(run_examples(model, examples, None, entries=[1] * len(examples), heads=heads))
    for padded, packed in zip(*results, strict=True):
        torch.testing.assert_close(packed, padded, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("layers", ["all", "last:1", "first:1"])
@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_packing_goes_with_a_last_layer_for_the_first_token_alone(
    name: str, layers: str, make_model: Callable[..., PromptedModel], ragged_batch: Callable[..., Any]
) -> None:
    logits = []
    for packing in (False, True):
        head = PooledHead(32, 3, pooling="cls", generator=torch.Generator().manual_seed(1))
        model = make_model(name, packing=packing, heads=[head], layers=layers)
        batch = ragged_batch(model.backbone.config, LENGTHS)
        logits.append(model(**batch, entries=[1] * len(LENGTHS))[0].logits)
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("layers", ["all", "first:1"])
@pytest.mark.parametrize("reads", ["first token", "all tokens"])
def test_rows_with_prompts_of_their_own_keep_their_rows(
    reads: str,
    layers: str,
    uncompiled: None,
    make_model: Callable[..., PromptedModel],
    ragged_batch: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits = []
    for packing in (False, True):
        pooling: Any = "cls" if reads == "first token" else "mean"
        head = PooledHead(32, 3, pooling=pooling, generator=torch.Generator().manual_seed(1))
        model = make_model(packing=packing, heads=[head], layers=layers)
        monkeypatch.setattr("ptuning.model.pack_batch", None)  # would fail if it were called
        logits.append(model(**ragged_batch(model.backbone.config, LENGTHS), entries=[0, 1, 0, 1])[0].logits)
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_packing_goes_with_layers_that_are_left_out(
    uncompiled: None, make_model: Callable[..., PromptedModel], ragged_batch: Callable[..., Any]
) -> None:
    model = make_model(packing=True, layers="last:1")
    batch = ragged_batch(model.backbone.config, LENGTHS)
    rows: dict[str, Any] = {"entries": [1] * len(LENGTHS), "heads": [1] * len(LENGTHS)}
    whole = model(**batch, **rows)[0].logits
    model.start_late()
    late = model(**batch, **rows, lower_states=model.lower_layers(**batch))[0].logits
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(late[real], whole[real], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "attention", "message"),
    [
        ("bert", "sdpa", "packing is on, but the backbone was loaded with sdpa attention, expected flex_attention"),
        ("deberta", "sdpa", "packing is on, which needs flex attention, but deberta has sdpa and eager only"),
        ("t5", "flex_attention", "packing is on, which needs flex attention, but t5 has sdpa and eager only"),
    ],
)
def test_packing_is_refused_where_there_is_no_flex_attention(
    name: str, attention: str, message: str, make_model: Callable[..., PromptedModel]
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_model(name, packing=True, attention=attention)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"packing": "on"}, "packing is on, but the device is cpu, .*Set training.packing to auto, or train on a GPU"),
        ({"attention": "flex_attention"}, "attention is flex_attention, but the device is cpu.*attention to sdpa"),
    ],
)
@pytest.mark.parametrize("method", ["p-tuning-v2", "p-tuning"])
def test_training_with_flex_attention_on_a_cpu_is_refused(
    method: str, settings: dict[str, str], message: str, tiny_run: TinyRun, tmp_path: Path
) -> None:
    if method == "p-tuning" and "packing" in settings:
        message = "packing is on, but sequences with the virtual tokens of p-tuning are not packed. Set it to auto"
    own = {f"training.{name}": value for name, value in settings.items()}
    config = tiny_run(tmp_path / "run", method=method, **own)
    with pytest.raises(ConfigError, match=message):
        ptuning.train(config)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("kind", ["classification", "token_classification", "multiple_choice"])
def test_a_packed_run_learns_what_a_padded_one_learns(kind: str, tiny_run: TinyRun, tmp_path: Path) -> None:
    results = []
    for packing in ("off", "auto"):
        config = tiny_run(
            tmp_path / packing,
            kind,
            **{
                "backbone": "minilm",
                "training.device": "cuda",
                "training.precision": "fp32",
                "training.attention": "flex_attention",
                "training.backbone_dropout": "off",
                "training.packing": packing,
                "head.dropout": 0.0,
            },
        )
        ptuning.train(config)
        results.append(ptuning.read_prompt(tmp_path / packing / "prompt").prompts)
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", ["p-tuning-v2", "p-tuning"])
def test_dropout_of_attention_weights_is_refused_before_training(
    method: str, tiny_run: TinyRun, tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny_model("bert", attention="flex_attention", attention_probs_dropout_prob=0.1).to("meta")  # no CPU
    backbone = Backbone(model, find_trunk(model)[1], source="tiny", name="tiny", revision=None)
    for setting in ("checkpoint", 0.1):
        config = tiny_run(tmp_path / "run", method=method, **{"training.backbone_dropout": setting})
        with pytest.raises(ConfigError, match=r"but the checkpoint drops them with probability 0\.1.*dropout to off"):
            assemble_model(config, backbone, None, [])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("packing", "attention", "is_packed"),
    [("auto", "flex_attention", True), ("auto", "sdpa", False), ("off", "flex_attention", False)],
)
def test_auto_packs_where_attention_is_flex(
    packing: str,
    attention: str,
    is_packed: bool,
    tiny_run: TinyRun,
    tiny_model: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model("bert", attention=attention).to("meta")
    backbone = Backbone(model, find_trunk(model)[1], source="tiny", name="tiny", revision=None)
    asked = []

    def stop(*args: Any, packing: bool, **kwargs: Any) -> None:
        asked.append(packing)
        raise InterruptedError

    monkeypatch.setattr("ptuning.training.assembly.PromptedModel", stop)
    config = tiny_run(tmp_path / "run", **{"training.packing": packing, "head.pooling": "mean"})
    kind = Classification(("a", "b"))
    with pytest.raises(InterruptedError):
        assemble_model(config, backbone, kind, [])
    assert asked == [is_packed]
