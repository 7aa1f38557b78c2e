"""Decoders as encoders, from settings to predictions: causal or both ways, for every kind of head."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

import ptuning
from ptuning.backbones.loading import load_backbone
from ptuning.config import METHODS, load_config
from ptuning.data.batching import Example, collate
from ptuning.errors import BackboneMismatchError, ConfigError, PromptError
from ptuning.inference import padding_ids
from ptuning.training.assembly import assemble_model
from ptuning.training.reporting import Silent
from ptuning.training.run import prepare_task, resolve_config, train
from ptuning.training.trunk_reuse import plan_trunk, reuse_trunk

TinyRun = Callable[..., Any]
KINDS = ("classification", "multiple_choice", "token_classification", "question_answering")


def _config(tiny_run: TinyRun, directory: Path, backbone: Path, kind: str, **settings: Any) -> Any:
    steps = {"training.epochs": 1, "training.batch_size": 12}
    usual = steps if METHODS[settings.get("method", "p-tuning-v2")].makes_steps else {}
    return tiny_run(directory, kind, **{"backbone": str(backbone), "data.max_length": 60, **usual, **settings})


@pytest.fixture(scope="module")
def one_of_each_direction(
    tmp_path_factory: pytest.TempPathFactory, tiny_run: TinyRun, tiny_decoder: Callable[[str], Path]
) -> dict[str, Path]:
    """A run each."""
    top = tmp_path_factory.mktemp("directions")
    for direction in ("causal", "bidirectional"):
        settings = {"attention_direction": direction}
        train(_config(tiny_run, top / direction, tiny_decoder("llama"), "classification", **settings))
    return {direction: top / direction for direction in ("causal", "bidirectional")}


@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
@pytest.mark.parametrize(("name", "kinds"), [("llama", KINDS), ("gemma2", KINDS[2:])])
def test_a_decoder_is_trained_saved_loaded_and_asked(
    name: str,
    kinds: tuple[str, ...],
    direction: str,
    tmp_path: Path,
    tiny_run: TinyRun,
    tiny_decoder: Callable[[str], Path],
    tiny_data: Callable[..., Path],
) -> None:
    for kind in kinds:
        output = tmp_path / kind
        given = {} if direction == "causal" else {"attention_direction": direction}
        result = train(_config(tiny_run, output, tiny_decoder(name), kind, **given))
        resolved = load_config(output / "config.yaml")
        assert resolved.attention_direction == direction
        assert resolved.training.attention == ("eager" if name == "gemma2" else "sdpa")
        assert resolved.head.pooling == ("last" if direction == "causal" else "mean")
        saved = json.loads((output / "prompt" / "config.json").read_text())
        assert saved["backbone"]["architecture"]["attention_direction"] == direction
        scored = ptuning.evaluate(output).metrics
        assert scored == pytest.approx(result.metrics), "what is loaded is what was trained, the same way round"
        rows = [json.loads(line) for line in (tiny_data(kind) / "validation.jsonl").read_text().splitlines()]
        asked = [
            {key: value for key, value in row.items() if key not in ("label", "ner_tags", "answers")} for row in rows
        ]
        assert len(ptuning.load(output).predict(asked)) == len(rows)


def test_a_prompt_asks_for_the_direction_it_was_trained_with(
    tmp_path: Path, tiny_run: TinyRun, tiny_decoder: Callable[[str], Path]
) -> None:
    backbone = tiny_decoder("llama")
    train(_config(tiny_run, tmp_path / "run", backbone, "classification", attention_direction="bidirectional"))
    with closing(ptuning.load(tmp_path / "run")) as predictor:
        assert predictor.tasks[0].saved.backbone.architecture["attention_direction"] == "bidirectional"
    with closing(ptuning.load(tmp_path / "run", backbone=backbone)) as predictor:  # by name it is loaded the same way
        first = predictor.predict([{"text": "the red lamp"}])
    switched = load_backbone(backbone, attention_direction="bidirectional")
    with closing(ptuning.load(tmp_path / "run", backbone=switched)) as predictor:
        assert predictor.predict([{"text": "the red lamp"}]) == first
    with pytest.raises(BackboneMismatchError, match="is causal. Load it with attention_direction='bidirectional'"):
        ptuning.load(tmp_path / "run", backbone=load_backbone(backbone))


@pytest.mark.parametrize("order", [("causal", "bidirectional"), ("bidirectional", "causal")])
@pytest.mark.parametrize("is_given", [False, True])
def test_prompts_of_two_directions_do_not_share_a_backbone(
    order: tuple[str, str], is_given: bool, one_of_each_direction: dict[str, Path], tiny_decoder: Callable[[str], Path]
) -> None:
    backbone = load_backbone(tiny_decoder("llama")) if is_given else None
    with pytest.raises(
        PromptError,
        match=r"of different directions \(bidirectional, causal\), .* cannot share a backbone. Load them apart",
    ):
        ptuning.load([one_of_each_direction[direction] for direction in order], backbone=backbone)


def test_training_leaves_a_decoder_bit_for_bit(
    tmp_path: Path, tiny_run: TinyRun, tiny_decoder: Callable[[str], Path]
) -> None:
    backbone = load_backbone(tiny_decoder("llama"))
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    train(_config(tiny_run, tmp_path / "run", tiny_decoder("llama"), "classification"), backbone=backbone)
    after = backbone.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_the_trunk_is_reused_below_prompts_of_a_causal_backbone(
    tmp_path: Path, tiny_run: TinyRun, tiny_decoder: Callable[[str], Path]
) -> None:
    metrics = []
    for reuse in ("on", "off"):
        settings = {"prompts.layers": "last:1", "training.trunk_reuse": reuse, "training.epochs": 2}
        config = _config(tiny_run, tmp_path / reuse, tiny_decoder("llama"), "classification", **settings)
        train(config)
        line = (tmp_path / reuse / "metrics.jsonl").read_text().splitlines()[-1]
        metrics.append(json.loads(line)["train_loss"])
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-5)


def test_a_text_without_tokens_is_kept_below_the_prompts_as_one_of_padding(
    tmp_path: Path, tiny_run: TinyRun, tiny_decoder: Callable[[str], Path]
) -> None:
    """What a tokenizer without special tokens makes of invisible characters, in training's batches one token long."""
    settings = {"prompts.layers": "last:1", "training.trunk_reuse": "on"}
    config = _config(tiny_run, tmp_path, tiny_decoder("llama"), "classification", **settings)
    backbone = load_backbone(tiny_decoder("llama"))
    prepared = prepare_task(config, backbone)
    config = resolve_config(config, prepared, backbone, tmp_path)
    model = assemble_model(config, backbone, prepared.kind, prepared.train)
    examples = [Example((ids,), None, None, 0) for ids in ([], [5, 6, 7])]
    plan = plan_trunk(tmp_path, model, examples, config, origin={}, before=None, report=Silent())
    assert plan is not None and plan.lengths == [1, 3]
    assert reuse_trunk(tmp_path, model, backbone.tokenizer, plan, config, report=Silent())
    batch = collate(examples, *padding_ids(backbone.tokenizer))
    assert model.lower_states is not None
    kept = model.lower_states.of(batch)
    assert kept is not None
    expected = model.lower_layers(batch.input_ids, batch.attention_mask, None)
    real = batch.attention_mask.bool()
    assert real.sum(1).tolist() == [1, 3]
    torch.testing.assert_close(kept[real].to(expected.dtype), expected[real], rtol=1e-4, atol=1e-5)
    assert kept[0, 0].abs().max() > 0
    model.detach()


def test_the_first_token_of_a_causal_backbone_is_no_pooling(
    tmp_path: Path, tiny_run: TinyRun, tiny_decoder: Callable[[str], Path]
) -> None:
    config = _config(tiny_run, tmp_path / "run", tiny_decoder("llama"), "classification", **{"head.pooling": "cls"})
    with pytest.raises(ConfigError, match="head.pooling is cls, but the first token of a causal backbone sees nothing"):
        train(config)


@pytest.mark.parametrize("method", ["prompt-tuning", "p-tuning", "linear-probe", "lora"])
def test_other_methods_take_a_causal_backbone_too(
    method: str, tmp_path: Path, tiny_run: TinyRun, tiny_decoder: Callable[[str], Path]
) -> None:
    result = train(_config(tiny_run, tmp_path / "run", tiny_decoder("llama"), "classification", method=method))
    assert ptuning.evaluate(tmp_path / "run").metrics == pytest.approx(result.metrics)


def _start_and_vocabulary(config: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Virtual tokens before the first step, and what the embedding layer gives for all tokens."""
    backbone = load_backbone(config.backbone)
    prepared = prepare_task(config, backbone)
    config = resolve_config(config, prepared, backbone, Path(config.output))
    model = assemble_model(config, backbone, prepared.kind, prepared.train)
    started = model.adaptation.prompts()[0].detach()  # type: ignore[union-attr, operator]
    model.detach()
    with torch.no_grad():
        return started, backbone.model.get_input_embeddings()(torch.arange(backbone.description.vocab_size))


def test_virtual_tokens_start_as_what_the_embedding_layer_gives(
    tmp_path: Path, tiny_run: TinyRun, tiny_decoder: Callable[[str], Path]
) -> None:
    """Gemma's gives more than it holds: its weights times the root of the width."""
    for name in ("gemma3_text", "llama"):
        config = _config(tiny_run, tmp_path, tiny_decoder(name), "classification", method="prompt-tuning")
        started, vocabulary = _start_and_vocabulary(config)
        assert torch.cdist(started, vocabulary, compute_mode="donot_use_mm_for_euclid_dist").amin(1).max() < 1e-4


def test_noise_for_virtual_tokens_is_as_wide_as_what_the_embedding_layer_gives(
    tmp_path: Path, tiny_run: TinyRun, tiny_decoder: Callable[[str], Path]
) -> None:
    for name in ("gemma3_text", "llama"):
        settings = {"method": "prompt-tuning", "prompts.init": "normal", "prompts.init_std": 0.5}
        config = _config(
            tiny_run, tmp_path, tiny_decoder(name), "classification", **settings, **{"prompts.prompt_length": 60}
        )
        started, vocabulary = _start_and_vocabulary(config)
        assert float(started.std() / vocabulary.std()) == pytest.approx(0.5, rel=0.1)


def test_a_bert_decoders_prompt_says_which_way_it_looks(tmp_path: Path, tiny_run: TinyRun, tiny_backbone: Path) -> None:
    """Its file makes it causal and nothing else can: with another value there, weights and all sizes are the same."""
    causal, both_ways = tmp_path / "causal", tmp_path / "both-ways"
    for directory, is_decoder in ((causal, True), (both_ways, False)):
        shutil.copytree(tiny_backbone, directory)
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps({**config, "is_decoder": is_decoder}))
        train(_config(tiny_run, directory / "run", directory, "classification"))
    saved = json.loads((causal / "run" / "prompt" / "config.json").read_text())
    assert saved["backbone"]["architecture"]["attention_direction"] == "causal"
    assert load_config(causal / "run" / "config.yaml").attention_direction == "causal"
    with closing(ptuning.load(causal / "run")) as predictor:
        assert predictor.backbone.is_causal
    unsaid = json.loads((both_ways / "run" / "prompt" / "config.json").read_text())
    assert "attention_direction" not in unsaid["backbone"]["architecture"]
    assert load_config(both_ways / "run" / "config.yaml").attention_direction is None
    for trained, asked, said in ((causal, both_ways, "causal"), (both_ways, causal, "bidirectional")):
        value = "true" if said == "causal" else "false"
        with pytest.raises(
            BackboneMismatchError,
            match=f"was trained on .* with {said} attention, .* Use the checkpoint that it was trained on: a bert "
            f"whose config.json has is_decoder {value}",
        ):
            ptuning.load(trained / "run", backbone=load_backbone(asked))
