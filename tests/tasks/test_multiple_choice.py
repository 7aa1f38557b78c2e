from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ptuning.data.batching import collate
from ptuning.errors import DataError
from ptuning.tasks.multiple_choice import MultipleChoice

KIND = MultipleChoice()
ROWS = [
    {"text": "It rained.", "choices": [f"choice {n}" for n in range(2 + index % 3)], "label": index % 2}
    for index in range(12)
]


def test_perfect_logits_score_one_with_ragged_choices(tokenizer: Any, perfect_logits: Any, batch_loss: Any) -> None:
    examples = KIND.encode(ROWS, tokenizer, 32, training=True)
    assert [len(example.sequences) for example in examples] == [2, 3, 4] * 4
    logits = perfect_logits(KIND, examples)
    predictions = KIND.predict(logits, examples, ROWS)
    assert KIND.score(predictions, ROWS) == {"accuracy": 1.0}
    assert [len(prediction["scores"]) for prediction in predictions] == [2, 3, 4] * 4
    assert batch_loss(KIND, logits, examples) == pytest.approx(0.0, abs=1e-6)


def test_text_and_question_are_the_first_segment_and_the_choice_is_the_second(tokenizer: Any) -> None:
    row = {"text": "It rained.", "question": "so", "choices": ["wet", "dry as dust"], "label": 1}
    example = KIND.encode([row], tokenizer, 32, training=True)[0]
    assert [tokenizer.decode(ids) for ids in example.sequences] == [
        "[CLS] it rained. so [SEP] wet [SEP]",
        "[CLS] it rained. so [SEP] dry as dust [SEP]",
    ]
    assert example.token_types is not None
    assert example.token_types[0] == [0] * 6 + [1, 1]
    assert example.label == 1


@pytest.mark.parametrize("name", ["tokenizer", "byte_tokenizer"])
def test_the_beginning_of_the_text_is_cut_and_the_choice_stays_whole(
    name: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = request.getfixturevalue(name)
    row = {"text": "It rained all day", "question": "so", "choices": ["the street was very wet", "no"]}
    whole = KIND.encode([row], tokenizer, 64, training=False)[0]
    first, second = (
        tokenizer(text, choice)["input_ids"]
        for text, choice in zip(["It rained all day so"] * 2, row["choices"], strict=True)
    )
    assert list(whole.sequences) == [first, second]
    length = len(first) - 3
    cut = KIND.encode([row], tokenizer, length, training=False)[0]
    assert cut.sequences[0] == [first[0], *first[4:]]  # longest first would cut the choice too
    assert cut.sequences[1] == (second if len(second) <= length else [second[0], *second[1 + len(second) - length :]])
    if cut.token_types is not None:
        assert [len(types) for types in cut.token_types] == [len(ids) for ids in cut.sequences]
        assert cut.token_types[0].count(1) == len(tokenizer.tokenize(row["choices"][0])) + 1
    assert not caplog.records


def test_a_choice_that_leaves_no_room_for_the_text_is_cut_and_counted(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    row = {"text": "It rained", "choices": ["the street was very wet", "no"]}  # 5 tokens and 3 special ones
    assert tokenizer.decode(KIND.encode([row], tokenizer, 9, training=False)[0].sequences[0]) == (
        "[CLS] rained [SEP] the street was very wet [SEP]"
    )
    assert not caplog.records
    assert KIND.encode([row], tokenizer, 8, training=False)[0].length == 8
    assert "1 of 2 choices leave no room for their text in max_length 8, and are cut" in caplog.text


def test_missing_choices_have_no_part_in_the_loss(tokenizer: Any, batch_loss: Any) -> None:
    examples = KIND.encode([ROWS[0], ROWS[2]], tokenizer, 32, training=True)  # 2 and 4 choices, label 0
    loss = batch_loss(KIND, [torch.zeros(2), torch.zeros(4)], examples)
    assert loss == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_the_gradient_of_ragged_choices_is_finite(tokenizer: Any) -> None:
    examples = KIND.encode([ROWS[0], ROWS[2]], tokenizer, 32, training=True)
    logits = torch.zeros(6, requires_grad=True)
    KIND.loss(logits, collate(examples, 0)).backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx([-0.25, 0.25, -0.375, 0.125, 0.125, 0.125])


def test_scores_are_probabilities_over_the_rows_own_choices(tokenizer: Any) -> None:
    examples = KIND.encode(ROWS[:1], tokenizer, 32, training=False)
    prediction = KIND.predict([torch.tensor([0.0, math.log(3)])], examples, ROWS[:1])[0]
    assert prediction == {"choice": 1, "scores": pytest.approx([0.25, 0.75])}


def test_majority_score_is_that_of_the_best_constant_choice() -> None:
    assert KIND.majority_score([{"label": 1}, {"label": 0}, {"label": 1}]) == pytest.approx(2 / 3)


def test_mistakes_are_named(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="row 1 has 1 choices, expected at least 2"):
        KIND.encode([{"text": "a", "choices": ["b"]}], tokenizer, 16, training=False)
    with pytest.raises(DataError, match="row 1 has the label 2, expected the number of its right choice, from 0 to 1"):
        KIND.encode([{"text": "a", "choices": ["b", "c"], "label": 2}], tokenizer, 16, training=True)


def test_each_choice_stands_in_the_pattern_behind_its_text(tokenizer: Any) -> None:
    kind = MultipleChoice("{text} {choice}? {mask}", ("true", "not true"))
    row = {"text": "It rained.", "question": "so", "choices": ["wet", "dry as dust"], "label": 1}
    example = kind.encode([row], tokenizer, 32, training=True)[0]
    assert [tokenizer.decode(ids) for ids in example.sequences] == [
        "[CLS] it rained. so wet? [MASK] [MASK] [SEP]",
        "[CLS] it rained. so dry as dust? [MASK] [MASK] [SEP]",
    ]
    assert example.label == 1


def test_in_a_pattern_the_beginning_of_the_text_is_cut_and_the_choice_stays(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    kind = MultipleChoice("{text} {choice}? {mask}")
    row = {"text": "It rained all day so", "choices": ["the street was wet", "no"]}
    example = kind.encode([row], tokenizer, 10, training=False)[0]
    assert [tokenizer.decode(ids) for ids in example.sequences] == [
        "[CLS] day so the street was wet? [MASK] [SEP]",
        "[CLS] it rained all day so no? [MASK] [SEP]",
    ]
    assert not caplog.records
    assert kind.encode([row], tokenizer, 8, training=False)[0].length == 8
    assert "1 of 2 choices leave no room for their text in max_length 8, and are cut" in caplog.text
