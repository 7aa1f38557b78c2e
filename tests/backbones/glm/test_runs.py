"""A GLM with its files as published learns, is saved, and predicts the same when it is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import ptuning
from ptuning import load_backbone
from ptuning.backbones.families import find_trunk
from ptuning.backbones.language_modeling import load_language_modeling_head
from ptuning.evaluation import evaluate
from ptuning.training.run import train


def _settings(backbone: Path, **more: Any) -> dict[str, Any]:
    return {"backbone": str(backbone), "data.max_length": 96, "training.max_steps": 3, **more}


@pytest.mark.parametrize("kind", ["classification", "token_classification", "question_answering"])
def test_a_linear_head_is_trained_saved_and_asked(
    kind: str, tiny_glm: Path, tiny_run: Any, tiny_data: Callable[..., Path], tmp_path: Path
) -> None:
    result = train(tiny_run(tmp_path / "run", kind, **_settings(tiny_glm)))
    assert result.counts["prompts"] == 2 * 2 * 4 * 32
    saved = load_file(tmp_path / "run/prompt/prompts.safetensors")
    assert not any("word_embeddings" in name or "transformer" in name for name in saved), saved.keys()
    assert evaluate(tmp_path / "run").metrics == pytest.approx(result.metrics)
    rows = [json.loads(line) for line in (tiny_data(kind) / "validation.jsonl").read_text().splitlines()]
    answers = []
    for backbone in (None, str(tiny_glm)):
        predictor = ptuning.load(tmp_path / "run", backbone=backbone)
        answers.append(predictor.predict(rows))
        predictor.close()
    assert answers[0] == answers[1] and len(answers[0]) == len(rows)
    if kind == "question_answering":
        for row, answer in zip(rows, answers[0], strict=True):
            assert all(
                row["context"][one["start"] : one["end"]] == one["answer"] for one in answer["n_best"] if one["answer"]
            )
    if kind == "token_classification":
        assert all(len(answer["tags"]) == len(row["tokens"]) for row, answer in zip(rows, answers[0], strict=True))


def test_prompts_learn_on_it(tiny_glm: Path, tiny_run: Any, tmp_path: Path) -> None:
    longer = {"training.epochs": 50, "training.evaluation_epochs": 50, "training.learning_rate": 0.3}
    settings = {"backbone": str(tiny_glm), "data.max_length": 96, "training.backbone_dropout": "off", **longer}
    train(tiny_run(tmp_path / "run", "classification", **settings))
    assert evaluate(tmp_path / "run", split="train").metrics["accuracy"] > 0.9


def test_another_backbone_is_refused(
    tiny_glm: Path, tiny_run: Any, published_config: Any, random_weights: Any, tmp_path: Path
) -> None:
    train(tiny_run(tmp_path / "run", "classification", **_settings(tiny_glm)))
    other = tmp_path / "other"
    other.mkdir()
    for file in tiny_glm.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "config.json").read_text())
    torch.save(random_weights(config, seed=1), other / "pytorch_model.bin")
    with pytest.raises(ptuning.PtuningError, match="has the same sizes and other weights"):
        ptuning.load(tmp_path / "run", backbone=str(other))


@pytest.mark.parametrize("method", ["p-tuning", "bitfit", "lora", "fine-tuning"])
def test_other_methods_train_on_it(method: str, tiny_glm: Path, tiny_run: Any, tmp_path: Path) -> None:
    if method == "lora":
        pytest.importorskip("peft")
    result = train(tiny_run(tmp_path / "run", "classification", **_settings(tiny_glm, method=method)))
    assert evaluate(tmp_path / "run").metrics == pytest.approx(result.metrics)


def test_scores_of_tokens_come_from_the_word_embeddings(tiny_glm: Path) -> None:
    backbone = load_backbone(tiny_glm)
    head = load_language_modeling_head(backbone)
    trunk: Any = find_trunk(backbone.model)[0]
    states = torch.randn(2, 5, 32, requires_grad=True)
    scores = head(states)
    torch.testing.assert_close(scores, states @ trunk.word_embeddings.weight.T)
    assert [id(parameter) for parameter in head.parameters()] == [id(trunk.word_embeddings.weight)], "no copy"
    scores[..., 3].sum().backward()
    assert states.grad is not None and not any(parameter.requires_grad for parameter in head.parameters())
    half = load_backbone(tiny_glm, dtype=torch.bfloat16)
    assert load_language_modeling_head(half)(states.detach().bfloat16()).dtype == torch.float32
