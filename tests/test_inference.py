from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from ptuning.backbones.loading import load_backbone
from ptuning.data.batching import Example
from ptuning.inference import padding_ids, run_examples
from ptuning.model import PromptedModel
from ptuning.training.assembly import assemble_model
from ptuning.training.run import prepare_task
from ptuning.training.together import run_together

Prepared = tuple[PromptedModel, list[Example], Any]
SHAPES = {
    "classification": lambda example: (3,),
    "regression": lambda example: (1,),
    "multiple_choice": lambda example: (len(example.sequences),),
    "token_classification": lambda example: (example.length, 3),
    "semantic_role_labeling": lambda example: (example.length, 7),
    "question_answering": lambda example: (example.length, 2),
    "cloze": lambda example: (2,),
}


@pytest.fixture
def prepared(tiny_run: Callable[..., Any], tiny_backbone: Path, tmp_path: Path) -> Iterator[Callable[[str], Prepared]]:
    made = []

    def build(kind: str) -> Prepared:
        backbone = load_backbone(tiny_backbone)
        config = tiny_run(tmp_path / "run", kind, **{"training.backbone_dropout": "checkpoint"})
        task = prepare_task(config, backbone)
        made.append(assemble_model(config, backbone, task.kind, task.train))
        return made[-1], task.validation, backbone.tokenizer

    yield build
    for model in made:
        model.detach()


@pytest.mark.parametrize("kind", SHAPES)
def test_every_example_gets_the_logits_it_gets_alone_in_input_order(
    kind: str, prepared: Callable[[str], Prepared]
) -> None:
    model, examples, tokenizer = prepared(kind)
    together = run_examples(model, examples, tokenizer)
    assert [tuple(logits.shape) for logits in together] == [SHAPES[kind](example) for example in examples]
    small = run_examples(model, examples, tokenizer, batch_tokens=40)
    for example, logits, other in zip(examples, together, small, strict=True):
        alone = run_examples(model, [example], tokenizer)[0]
        assert torch.allclose(logits, alone, atol=1e-5) and torch.allclose(other, alone, atol=1e-5)


@dataclass
class Sending:
    """Two processes as one of them sees them: it keeps what it sends, and gets what the other one has sent."""

    index: int
    others: Any = None
    sent: Any = None
    count: int = 2

    def gather_to_main(self, value: Any) -> list[Any] | None:
        self.sent = pickle.dumps(value)
        return [value, pickle.loads(self.others)] if self.index == 0 else None


@pytest.mark.parametrize("kind", ["token_classification", "multiple_choice"])
def test_processes_send_each_other_the_logits_and_not_what_these_are_views_of(
    kind: str, prepared: Callable[[str], Prepared]
) -> None:
    model, examples, tokenizer = prepared(kind)
    second = Sending(1)
    assert run_together(second, model, examples, tokenizer, batch_tokens=100) is None
    first = Sending(0, second.sent)
    found = run_together(first, model, examples, tokenizer, batch_tokens=100)
    expected = run_examples(model, examples, tokenizer, batch_tokens=100)
    assert found is not None
    for logits, other in zip(found, expected, strict=True):
        assert torch.equal(logits, other)
    numbers = sum(logits.numel() * logits.element_size() for logits in expected)
    assert len(first.sent) + len(second.sent) < 2 * numbers + 2 * 1000


def test_there_is_no_dropout_and_the_mode_comes_back(prepared: Callable[[str], Prepared]) -> None:
    model, examples, tokenizer = prepared("classification")
    model.train()
    first = run_examples(model, examples, tokenizer)
    assert model.training and model.backbone.training
    model.eval()
    assert all(map(torch.equal, first, run_examples(model, examples, tokenizer)))
    assert not model.training
    assert not first[0].requires_grad


def test_the_mode_comes_back_after_an_error(
    prepared: Callable[[str], Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, examples, tokenizer = prepared("classification")
    model.train()
    monkeypatch.setattr("ptuning.inference.collate", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_examples(model, examples, tokenizer)
    assert model.training


def test_progress_is_told_and_no_examples_give_no_logits(prepared: Callable[[str], Prepared]) -> None:
    model, examples, tokenizer = prepared("classification")
    done: list[int] = []
    run_examples(model, examples, tokenizer, batch_tokens=40, advance=done.append)
    assert len(done) > 1 and sum(done) == len(examples)
    assert run_examples(model, [], tokenizer) == []


def test_tokenizers_without_padding_pad_with_0() -> None:
    class Bare:
        pad_token_id = None

    assert padding_ids(Bare()) == (0, 0)
