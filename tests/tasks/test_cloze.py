from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import ptuning
from ptuning.backbones.loading import load_backbone
from ptuning.data import TaskData
from ptuning.errors import DataError
from ptuning.evaluation import evaluate
from ptuning.tasks import kind_from_dict
from ptuning.tasks.cloze import Cloze
from ptuning.training.run import train

KIND = Cloze()
ROWS: list[dict[str, Any]] = [
    {
        "passage": "Ann met Bo in Rome.\n@highlight\nBo was late\n@highlight\nAnn left",
        "query": "For hours @placeholder waited for Bo.",
        "entities": ["Ann", "Bo", "Rome"],
        "answers": ["Ann"],
    },
    {
        "passage": "The lamp is from LEEDS, said Cy of Leeds.",
        "query": "@placeholder is where it was made.",
        "entities": ["LEEDS", "Cy", "Leeds", "Cy"],
        "answers": ["Leeds", "LEEDS"],
    },
]


def _without_answers(row: dict[str, Any]) -> dict[str, Any]:
    return {role: value for role, value in row.items() if role != "answers"}


def test_perfect_logits_score_one(tokenizer: Any, perfect_logits: Any, batch_loss: Any) -> None:
    examples = KIND.encode(ROWS, tokenizer, 64, training=True)
    logits = perfect_logits(KIND, examples)
    assert KIND.score(KIND.predict(logits, examples, ROWS), ROWS) == {"exact_match": 1.0, "f1": 1.0}
    assert batch_loss(KIND, logits, examples) == pytest.approx(0.0, abs=1e-6)


def test_every_entity_is_a_sequence_with_the_passage_first_and_the_filled_query_second(tokenizer: Any) -> None:
    examples = KIND.encode(ROWS[:1], tokenizer, 64, training=True)
    passage = "[CLS] ann met bo in rome. - bo was late - ann left [SEP]"
    assert [tokenizer.decode(example.sequences[0]) for example in examples] == [
        f"{passage} for hours {entity} waited for bo. [SEP]" for entity in ("ann", "bo", "rome")
    ]
    assert [example.label for example in examples] == [1, 0, 0]
    first = examples[0].token_types
    assert first is not None and first[0] == [0] * 15 + [1] * 8


def test_repeated_entities_are_asked_once_and_case_makes_a_difference(tokenizer: Any) -> None:
    examples = KIND.encode(ROWS, tokenizer, 64, training=True)
    assert [example.row for example in examples] == [0, 0, 0, 1, 1, 1]
    assert [example.label for example in examples[3:]] == [1, 0, 1]
    only_one = [{**ROWS[1], "answers": ["Leeds"]}]
    assert [example.label for example in KIND.encode(only_one, tokenizer, 64, training=True)] == [0, 0, 1]


def test_the_highest_second_output_wins_and_shares_are_over_the_rows_own_entities(tokenizer: Any) -> None:
    examples = KIND.encode(ROWS, tokenizer, 64, training=False)
    # The first output has no say: by probability, Bo would win.
    outputs = [[9.0, math.log(2)], [-9.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 5.0], [0.0, 1.0]]
    first, second = KIND.predict([torch.tensor(pair) for pair in outputs], examples, ROWS)
    shares = {"Ann": 0.5, "Bo": 0.25, "Rome": 0.25}
    assert first == {"answer": "Ann", "score": pytest.approx(0.5), "scores": pytest.approx(shares)}
    assert second["answer"] == "Cy" and set(second["scores"]) == {"LEEDS", "Cy", "Leeds"}


def test_of_equal_entities_the_last_by_name_wins(tokenizer: Any) -> None:
    examples = KIND.encode(ROWS, tokenizer, 64, training=False)
    answers = [prediction["answer"] for prediction in KIND.predict([torch.zeros(2)] * 6, examples, ROWS)]
    assert answers == ["Rome", "Leeds"]


def test_scores_are_the_best_over_the_answers_after_squads_normalization() -> None:
    rows = [{"answers": ["Rome", "the city of Rome"]}, {"answers": ["Ann Lee"]}, {"answers": ["Bo"]}]
    predictions = [{"answer": "City of Rome"}, {"answer": "ann"}, {"answer": "Ann"}]
    assert KIND.score(predictions, rows) == {
        "exact_match": pytest.approx(1 / 3),
        "f1": pytest.approx((1 + 2 / 3 + 0) / 3),
    }


def test_the_majority_is_the_text_that_answers_most_rows() -> None:
    rows = [{"answers": ["Bo", "Bo"]}, {"answers": ["Ann"]}, {"answers": ["Ann", "Ann Lee"]}]
    assert KIND.majority_score(rows, "exact_match") == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", ["tokenizer", "byte_tokenizer"])
def test_only_the_passage_is_cut(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    rows = [{**ROWS[0], "passage": "word " * 300}]
    for max_length in (48, 384 - 128):  # what prompts of 128 leave of 384 positions in shifted mode
        for entity, example in zip(
            rows[0]["entities"], KIND.encode(rows, tokenizer, max_length, training=True), strict=True
        ):
            query = tokenizer(f"For hours {entity} waited for Bo.", add_special_tokens=False)["input_ids"]
            assert example.length == max_length
            assert example.sequences[0][-len(query) - 1 : -1] == query


def test_a_query_that_leaves_no_room_for_the_passage_is_refused(tokenizer: Any) -> None:
    assert KIND.encode(ROWS[:1], tokenizer, 11, training=True)[0].length == 11
    with pytest.raises(DataError, match="row 1: its query with 'Ann' has 7 tokens, beside 3 special ones, which"):
        KIND.encode(ROWS[:1], tokenizer, 10, training=True)
    with pytest.raises(DataError, match="Raise data.max_length to more than 10, or shorten the query"):
        KIND.encode(ROWS[:1], tokenizer, 10, training=False)


def test_rows_whose_answers_are_no_entities_are_counted(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    rows = [ROWS[0], {**ROWS[0], "answers": ["ann"]}]
    with caplog.at_level(logging.WARNING):
        KIND.encode(rows, tokenizer, 64, training=False)
        assert not caplog.records
        examples = KIND.encode(rows, tokenizer, 64, training=True)
    assert [example.label for example in examples] == [1, 0, 0, 0, 0, 0]
    assert "1 of 2 rows have none of their answers among their entities" in caplog.text


def test_an_answer_that_fills_the_gap_need_be_no_entity(glm_with_words: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = load_backbone(glm_with_words).tokenizer
    row = {**ROWS[0], "answers": ["red"]}
    with caplog.at_level(logging.WARNING):
        (example,) = Cloze("{passage} {query}", ()).encode([row], tokenizer, 120, training=True)
    assert not caplog.records
    assert len(example.sequences) == 1 + len(ROWS[0]["entities"]) and example.label == 0


def test_rows_without_answers_are_encoded_without_labels(tokenizer: Any) -> None:
    rows = [_without_answers(row) for row in ROWS]
    examples = KIND.encode(rows, tokenizer, 64, training=False)
    assert [example.label for example in examples] == [None] * 6
    labelled = KIND.encode(ROWS, tokenizer, 64, training=True)
    assert [example.sequences for example in examples] == [example.sequences for example in labelled]


def test_the_kind_needs_nothing_of_the_data_and_is_saved_as_its_name() -> None:
    assert Cloze.from_data(TaskData(None, None, None, None, {}, "here", ())) == KIND
    assert KIND.to_dict() == {"kind": "cloze"} and kind_from_dict({"kind": "cloze"}) == KIND


def test_a_run_is_trained_evaluated_and_asked(tiny_run: Any, tmp_path: Path) -> None:
    result = train(tiny_run(tmp_path / "run", "cloze", **{"training.epochs": 1}))
    assert set(result.metrics) == {"exact_match", "f1"}
    assert evaluate(tmp_path / "run").metrics == pytest.approx(result.metrics)
    row = {"passage": "the lamp is red.", "query": "the lamp is @placeholder", "entities": ["red", "blue", "grey"]}
    predictor = ptuning.load(tmp_path / "run")
    predictions = predictor.predict([row, {**row, "entities": ["blue"], "answers": ["red"]}])
    assert set(predictions[0]["scores"]) == {"red", "blue", "grey"}
    assert sum(predictions[0]["scores"].values()) == pytest.approx(1.0)
    assert predictions[1] == {"answer": "blue", "score": 1.0, "scores": {"blue": 1.0}}
    predictor.close()
