"""With 128 prompts in shifted mode few positions are left: what a task needs is there all the same.

Cloze, semantic roles and marked words have such a test beside their others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from ptuning.backbones.loading import Backbone, load_backbone
from ptuning.predictor import load
from ptuning.training.run import PreparedTask, prepare_task, train

_LEFT = 40  # positions beside 128 prompts


@pytest.fixture(scope="module")
def backbone(tiny_backbone: Path, tiny_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    directory = tmp_path_factory.mktemp("backbone") / "small-bert"
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbone)
    tokenizer.save_pretrained(directory)
    tiny_model("bert", vocab_size=len(tokenizer), max_position_embeddings=128 + _LEFT).save_pretrained(directory)
    return load_backbone(directory)


@pytest.fixture
def run(
    backbone: Backbone, tiny_run: Callable[..., Any], tmp_path: Path
) -> Callable[[str, Sequence[dict[str, Any]]], tuple[PreparedTask, list[dict[str, Any]]]]:
    """Trains a step on rows; returns what training was given, and what the saved prompt predicts for the rows."""

    def of(task: str, rows: Sequence[dict[str, Any]]) -> tuple[PreparedTask, list[dict[str, Any]]]:
        data = tmp_path / "data"
        data.mkdir()
        for split in ("train", "validation"):
            (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = tiny_run(
            tmp_path / "run",
            **{
                "task": task,
                "backbone": backbone.name,
                "data.path": str(data),
                "data.max_length": None,
                "prompts.prompt_length": 128,
                "prompts.positions": "shifted",
                "training.max_steps": 1,
            },
        )
        prepared = prepare_task(config, backbone)
        assert prepared.max_length == _LEFT
        assert all(len(ids) <= _LEFT for example in prepared.train for ids in example.sequences)
        train(config)
        return prepared, load(tmp_path / "run").predict(rows)

    return of


@pytest.mark.parametrize("words_before", [0, 1, 20, 47, 75, 93, 94])
def test_the_answer_is_whole_in_a_window_wherever_it_stands(
    words_before: int, run: Callable[..., Any], backbone: Backbone
) -> None:
    answer = "red lamp in leeds"
    words = ["box", "door"] * 47
    context = " ".join([*words[:words_before], answer, *words[words_before:]])
    answers = {"text": [answer], "answer_start": [context.index(answer)]}
    row = {"question": "where is the lamp?", "context": context, "answers": answers}
    prepared, predictions = run("question_answering", [{**row, "id": str(number)} for number in range(2)])
    found = [one for one in prepared.train if one.label != (0, 0)]
    assert {one.row for one in found} == {0, 1} and len(prepared.train) > 2 * 2
    for one in found:
        start, end = one.label
        assert backbone.tokenizer.decode(one.sequences[0][start : end + 1]) == answer
    assert all(context[one["start"] : one["end"]] == one["answer"] for one in predictions)


def test_choices_are_whole_behind_long_texts(run: Callable[..., Any], backbone: Backbone) -> None:
    choices = ["the red lamp is in the box " * 3 + "door", "blue"]
    rows = [{"text": "box " * 60 + "kettle", "choices": choices, "label": label} for label in (0, 1)]
    prepared, predictions = run("multiple_choice", rows)
    for example in prepared.train:
        for ids, choice in zip(example.sequences, choices, strict=True):
            shown = backbone.tokenizer.decode(ids)
            assert shown.endswith(f"kettle [SEP] {choice} [SEP]") and len(ids) == _LEFT
    assert [len(one["scores"]) for one in predictions] == [2, 2]


def test_every_word_of_a_long_sentence_is_asked_once(run: Callable[..., Any]) -> None:
    words = ["box", "kettles", "leeds"] * 40
    rows = [{"tokens": words, "ner_tags": ["O", "O", "B-PLACE"] * 40}] * 2
    prepared, predictions = run("token_classification", rows)
    for number in range(2):
        asked = [place[0] for one in prepared.validation if one.row == number for place in one.offsets if place]
        assert asked == list(range(120)) and len(prepared.validation) > 2 * 2
    assert [len(one["tags"]) for one in predictions] == [120, 120]
    assert len(prepared.train) == 2  # training sees the first windows alone


def test_question_and_answer_are_whole_behind_long_paragraphs(run: Callable[..., Any], backbone: Backbone) -> None:
    row = {"paragraph": "box " * 60, "question": "where is the red lamp?", "answer": "in the box in leeds"}
    rows = [
        {**row, "idx": {"paragraph": 0, "question": 0, "answer": number}, "label": number % 2} for number in range(4)
    ]
    prepared, _ = run("super_glue/multirc", rows)
    asked = backbone.tokenizer(f"{row['question']} {row['answer']}", add_special_tokens=False)["input_ids"]
    for example in prepared.train:
        assert example.length == _LEFT and example.sequences[0][-len(asked) - 1 : -1] == asked
