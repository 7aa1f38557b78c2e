"""Runs whose head is the backbone's own language-modeling head, from data to predictions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

import ptuning
from ptuning.errors import BackboneError, ConfigError
from ptuning.evaluation import evaluate
from ptuning.training.run import train

COLOURS = {"red": "red", "blue": "the blue", "green": "green"}
RIGHT_WRONG = {"right": "nice", "wrong": "late"}


@pytest.fixture(scope="module")
def masked_backbone(tiny_backbone: Path, tiny_model: Callable[..., Any], tmp_path_factory: Any) -> Path:
    """The tiny backbone's tokenizer with [MASK], and a random BERT that has its language-modeling head."""
    directory: Path = tmp_path_factory.mktemp("backbone") / "tiny-masked"
    shutil.copytree(tiny_backbone, directory)
    vocab_size = json.loads((directory / "config.json").read_text())["vocab_size"]
    whole = tiny_model(
        "bert",
        auto=AutoModelForMaskedLM,
        vocab_size=vocab_size,
        num_hidden_layers=2,
        max_position_embeddings=64,
    )
    whole.save_pretrained(directory)
    return directory


def _settings(backbone: Path, kind: str, **more: Any) -> dict[str, Any]:
    patterns = {"classification": "{text} is {mask}", "multiple_choice": "{text} {choice} is {mask}"}
    words = COLOURS if kind == "classification" else RIGHT_WRONG
    return {
        "backbone": str(backbone),
        "head.kind": "verbalizer",
        "head.words": words,
        "data.pattern": patterns[kind],
        **({} if more.get("method") == "prompting" else {"training.epochs": 1}),
        **more,
    }


@pytest.mark.parametrize("kind", ["classification", "multiple_choice"])
def test_a_run_with_label_words_is_asked_and_scored_as_it_was_trained(
    kind: str, masked_backbone: Path, tiny_run: Any, tiny_data: Callable[..., Path], tmp_path: Path
) -> None:
    result = train(tiny_run(tmp_path / "run", kind, **_settings(masked_backbone, kind)))
    assert result.counts["head"] == 0 and result.counts["trained"] == result.counts["prompts"] == 2 * 2 * 4 * 32
    saved = {name for path in (tmp_path / "run/prompt").glob("*.safetensors") for name in load_file(path)}
    assert not any("head" in name or "predictions" in name or "word" in name for name in saved), saved
    assert evaluate(tmp_path / "run").metrics == pytest.approx(result.metrics)
    rows = [json.loads(line) for line in (tiny_data(kind) / "validation.jsonl").read_text().splitlines()]
    predictor = ptuning.load(tmp_path / "run")
    predictions = predictor.predict(rows)
    predictor.close()
    asked = "label" if kind == "classification" else "choice"
    right = [prediction[asked] == row["label"] for prediction, row in zip(predictions, rows, strict=True)]
    assert sum(right) / len(right) == pytest.approx(result.metrics["accuracy"])


def test_prompts_learn_through_the_frozen_head(masked_backbone: Path, tiny_run: Any, tmp_path: Path) -> None:
    longer = {"training.epochs": 50, "training.evaluation_epochs": 50, "training.learning_rate": 0.3}
    settings = _settings(masked_backbone, "classification", **longer)
    train(tiny_run(tmp_path / "run", "classification", **settings))
    train(tiny_run(tmp_path / "start", "classification", **{**settings, "training.max_steps": 1}))
    first, last = (evaluate(tmp_path / name, split="train").metrics["accuracy"] for name in ("start", "run"))
    assert last > 0.7 > first


def test_a_backbone_without_the_head_is_refused_before_anything_is_trained(
    tiny_backbone: Path, tiny_run: Any, tmp_path: Path
) -> None:
    with pytest.raises(BackboneError, match="has no pretrained language-modeling head"):
        train(tiny_run(tmp_path / "run", "classification", **_settings(tiny_backbone, "classification")))
    assert not (tmp_path / "run" / "prompt").exists()


def test_missing_words_are_named(masked_backbone: Path, tiny_run: Any, tmp_path: Path) -> None:
    settings = {**_settings(masked_backbone, "classification"), "head.words": {"red": "red"}}
    with pytest.raises(ConfigError, match="head.words has no words for .*blue"):
        train(tiny_run(tmp_path / "run", "classification", **settings))


def test_prompting_asks_the_backbone_as_it_is(masked_backbone: Path, tiny_run: Any, tmp_path: Path) -> None:
    result = train(
        tiny_run(tmp_path / "run", "classification", **_settings(masked_backbone, "classification", method="prompting"))
    )
    assert result.counts["trained"] == 0
    whole = AutoModelForMaskedLM.from_pretrained(masked_backbone)
    predictor = ptuning.load(tmp_path / "run")
    tokenizer = ptuning.load_backbone(masked_backbone).tokenizer
    text = "lamp red box"
    with torch.no_grad():
        logits = whole(**tokenizer(f"{text} is [MASK] [MASK]", return_tensors="pt")).logits[0, -3:-1]
    chances = logits.log_softmax(-1)
    scores = {}
    for label, words in COLOURS.items():
        ids = tokenizer(words, add_special_tokens=False)["input_ids"]
        scores[label] = float(sum(chances[place, own] for place, own in enumerate(ids)) / len(ids))
    expected = torch.tensor(list(scores.values())).softmax(0).tolist()
    predicted = predictor.predict([{"text": text}])[0]["scores"]
    assert predicted == pytest.approx(dict(zip(COLOURS, expected, strict=True)), abs=1e-4)
    predictor.close()
