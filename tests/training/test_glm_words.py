"""Runs on a GLM whose head asks it for words: that they learn, where prompts start, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ptuning.backbones.capture import capture_keys_values
from ptuning.backbones.loading import load_backbone
from ptuning.config import METHODS, RunConfig, load_config
from ptuning.data.batching import collate
from ptuning.errors import ConfigError
from ptuning.inference import padding_ids
from ptuning.tasks.multiple_choice import MultipleChoice
from ptuning.training import assembly
from ptuning.training.run import load_backbone_of, prepare_task, resolve_config, train

WORDS = {"blue": "No", "green": "Maybe", "red": "Yes"}


@pytest.fixture
def settings(glm_with_words: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """A run on 12 rows in which a colour is to be read, asked for by words that are none of them."""
    rows = [
        {"text": f"the {thing} is {colour} {other}", "label": colour}
        for thing, other in (("lamp", "box"), ("box", "desk"), ("desk", "lamp"), ("box", "lamp"))
        for colour in WORDS
    ]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(**more: Any) -> RunConfig:
        method = METHODS[more.get("method", "p-tuning-v2")]
        return load_config(
            None,
            {
                "task": "classification",
                "backbone": str(glm_with_words),
                "data.path": str(tmp_path),
                "data.pattern": "{text} so {mask}.",
                "head.kind": "verbalizer",
                "head.words": WORDS,
                **({"prompts.prompt_length": 4} if method.reparameterizations else {}),
                "training.device": "cpu",
                "training.batch_size": 6,
                "training.epochs": 1,
                "output": str(tmp_path / "run"),
                **more,
            },
        )

    return make


@pytest.mark.parametrize(
    ("method", "rate", "epochs"), [("p-tuning-v2", 0.3, 60), ("fine-tuning", 3e-3, 15)], ids=["prompts", "all weights"]
)
def test_words_in_a_blank_are_learned(
    method: str, rate: float, epochs: int, settings: Callable[..., RunConfig]
) -> None:
    longer = {"training.epochs": epochs, "training.evaluation_epochs": epochs, "training.learning_rate": rate}
    assert train(settings(method=method, **longer)).metrics["accuracy"] > 0.8


def test_keys_and_values_to_start_from_are_those_of_tokens_that_see_pieces(glm_with_words: Path) -> None:
    backbone = load_backbone(glm_with_words, dtype=torch.float64)
    pieces = backbone.pieces
    assert pieces is not None
    row = {"text": "the lamp is", "choices": ["red", "not the blue one"]}
    (example,) = MultipleChoice("{text} {mask}.", ()).encode([row], backbone.tokenizer, 64, training=False)
    batch = collate([example], *padding_ids(backbone.tokenizer))
    given = pieces.inputs(batch.input_ids)
    together = capture_keys_values(backbone.model, batch.input_ids, batch.attention_mask, **given)
    alone = []
    for ids in (torch.tensor([own]) for own in example.sequences):
        alone.append(capture_keys_values(backbone.model, ids, torch.ones_like(ids), **pieces.inputs(ids)))
    torch.testing.assert_close(together, torch.cat(alone, dim=3))
    without = capture_keys_values(backbone.model, batch.input_ids, batch.attention_mask)
    assert not torch.allclose(together, without, atol=1e-3)


@pytest.mark.parametrize("head", ["verbalizer", "linear"])
@pytest.mark.parametrize("init", ["tokens", "statistics"])
def test_prompts_start_from_examples_as_the_head_shows_them(
    init: str, head: str, settings: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []

    def watch(model: Any, *args: Any, **inputs: Any) -> torch.Tensor:
        seen.append(set(inputs))
        return capture_keys_values(model, *args, **inputs)

    monkeypatch.setattr(assembly, "capture_keys_values", watch)
    own = {} if head == "verbalizer" else {"data.pattern": None, "head.words": None}
    config = settings(**{"prompts.init": init, "head.kind": head, **own})
    backbone = load_backbone_of(config)
    prepared = prepare_task(config, backbone)
    config = resolve_config(config, prepared, backbone, Path("run"))
    assembly.assemble_model(config, backbone, prepared.kind, prepared.train).detach()
    assert [{"context_lengths", "position_ids"} <= names for names in seen] == [head == "verbalizer"]


def test_answers_of_several_tokens_are_not_mixed(settings: Callable[..., RunConfig]) -> None:
    several = {"head.words": {**WORDS, "red": "Yes, it is"}}
    with pytest.raises(ConfigError, match="prompts.mixture is 2, .* or answers are sequences of their own"):
        train(settings(method="soft-prompts", **{"prompts.mixture": 2, **several}))


def test_words_for_choices_are_one_token_each(settings: Callable[..., RunConfig], tmp_path: Path) -> None:
    for split in ("train", "validation"):
        rows = [{"text": "the lamp is", "choice1": "red", "choice2": "blue", "label": number} for number in (0, 1)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = {"task": "multiple_choice", "data.pattern": "{text} {choice}? {mask}"}
    train(settings(**own, **{"head.words": {"right": "Yes", "wrong": "No"}, "output": str(tmp_path / "single")}))
    with pytest.raises(ConfigError, match="head.words for right and wrong are 4 and 1 tokens, expected one each"):
        train(settings(**own, **{"head.words": {"right": "Yes so", "wrong": "No"}}))
