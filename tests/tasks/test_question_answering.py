from __future__ import annotations

import logging
import math
import time
from typing import Any

import pytest
import torch
from torch import Tensor

from ptuning.data import TaskData
from ptuning.data.batching import Example
from ptuning.errors import ConfigError, DataError
from ptuning.tasks.question_answering import QuestionAnswering, best_threshold

KIND = QuestionAnswering(doc_stride=8)
FILLER = "The river runs slowly past the old mill, and nobody counts the boats. "


def _row(context: str, answer: str, question: str = "Who was it?") -> dict[str, Any]:
    found = {"text": [answer], "answer_start": [context.index(answer)]} if answer else {"text": [], "answer_start": []}
    return {"question": question, "context": context, "answers": found}


ROWS = [
    _row("Ada Lovelace wrote it.", "Ada Lovelace"),
    _row("It was written by Ada Lovelace", "Ada Lovelace"),
    _row(FILLER * 4 + "It was Anna." + FILLER * 3, "Anna"),
    _row("Anna" + FILLER * 6, "Anna"),
    _row(FILLER * 6 + "Anna", "Anna"),
    _row(FILLER * 3 + "(1843-1852)" + FILLER * 3, "1843-1852"),
    _row("Zoë Müller-Größe, 東京 and \u2764\ufe0f stood there. " + FILLER, "東京"),
    _row("Zoë Müller-Größe stood there. " + FILLER, "Zoë Müller-Größe"),
    _row("In 1999,  prices rose by 3.5 % in all." + FILLER, "3.5 %"),
    _row(FILLER, ""),
    _row(FILLER * 8, "", "   What is not said here?"),
    _row("x", "x"),
]


@pytest.mark.parametrize("max_length", [32, 48, 384])
def test_perfect_logits_score_one_however_short_the_windows(
    tokenizer: Any, perfect_logits: Any, batch_loss: Any, max_length: int
) -> None:
    examples = KIND.encode(ROWS, tokenizer, max_length, training=True)
    assert max(example.length for example in examples) <= max_length
    assert len(examples) > len(ROWS) or max_length == 384
    logits = perfect_logits(KIND, examples)
    predictions = KIND.predict(logits, examples, ROWS)
    for prediction, row in zip(predictions, ROWS, strict=True):
        assert prediction["answer"] == (row["answers"]["text"] or [""])[0]
        if prediction["answer"]:
            assert row["context"][prediction["start"] : prediction["end"]] == prediction["answer"]
        else:
            assert (prediction["start"], prediction["end"]) == (None, None)
    scores = KIND.score(predictions, ROWS)
    assert set(scores.values()) == {1.0}
    assert {"f1", "exact_match", "no_answer_accuracy", "has_answer_f1"} <= set(scores)
    sure = [index for index, example in enumerate(examples) if example.label != (0, 0)]
    assert batch_loss(KIND, [logits[index] for index in sure], [examples[index] for index in sure]) < 1e-5


@pytest.mark.parametrize("name", ["byte_tokenizer", "t5_like_tokenizer"])
def test_other_tokenizers_answer_without_the_blank_before_a_word(
    name: str, perfect_logits: Any, request: pytest.FixtureRequest
) -> None:
    other = request.getfixturevalue(name)
    rows = [
        _row("The blue lamp stands on a desk .", "blue lamp", " where is the lamp ?"),
        _row("The desk", "", "where is the lamp ?"),
    ]
    examples = KIND.encode(rows, other, 64, training=True)
    assert all(example.token_types is None for example in examples)
    predictions = KIND.predict(perfect_logits(KIND, examples), examples, rows)
    assert [(item["answer"], item["start"], item["end"]) for item in predictions] == [
        ("blue lamp", 4, 13),
        ("", None, None),
    ]


def test_labels_offsets_and_token_types_line_up(tokenizer: Any) -> None:
    example = KIND.encode([_row("It was Ada Lovelace.", "Ada Lovelace", "  Who?")], tokenizer, 32, training=True)[0]
    tokens = tokenizer.convert_ids_to_tokens(example.sequences[0])
    assert tokens == "[CLS] who ? [SEP] it was ada love ##lace . [SEP]".split()
    assert example.label == (6, 8)
    assert example.offsets == [None] * 4 + [(0, 2), (3, 6), (7, 10), (11, 15), (15, 19), (19, 20)] + [None]
    assert example.token_types == ([0] * 4 + [1] * 7,)


def test_windows_cover_the_context_and_share_the_stride(tokenizer: Any) -> None:
    row = _row(" ".join(str(number % 10) for number in range(100)), "")
    examples = KIND.encode([row], tokenizer, 6 + 24, training=False)  # 6: [CLS] who was it ? [SEP] ... [SEP] less 1
    spans = [[place[0] // 2 for place in example.offsets or () if place is not None] for example in examples]
    assert sorted({token for span in spans for token in span}) == list(range(100))
    assert all(left[-8:] == right[:8] for left, right in zip(spans, spans[1:], strict=False))


def test_windows_without_the_whole_answer_ask_for_the_first_position(tokenizer: Any) -> None:
    context = " ".join(["the"] * 30 + ["red", "green", "blue"] + ["the"] * 30)
    examples = KIND.encode([_row(context, "red green blue")], tokenizer, 32, training=True)
    wanted = tokenizer.convert_tokens_to_ids(["red", "green", "blue"])
    labels = []
    for example in examples:
        assert isinstance(example.label, tuple)
        start, end = example.label
        has_all = set(wanted) <= set(example.sequences[0])
        labels.append(has_all)
        assert (example.sequences[0][start : end + 1] == wanted) == has_all
        assert has_all or (start, end) == (0, 0)
    assert True in labels and False in labels


def test_an_answer_that_fits_into_no_window_is_said(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    long = " ".join(["word"] * 60)
    with caplog.at_level(logging.WARNING):
        examples = KIND.encode([_row("so " + long, long), ROWS[0]], tokenizer, 32, training=True)
    assert "the answers of 1 of 2 rows fit into no window of max_length 32" in caplog.text
    assert {example.label for example in examples if example.row == 0} == {(0, 0)}


def test_a_long_question_that_leaves_no_room_is_refused_with_its_lengths(tokenizer: Any) -> None:
    row = {**_row(FILLER, ""), "question": "why " * 40, "id": "q7"}
    with pytest.raises(
        DataError, match=r"row 2 \(id 'q7'\): its question has 40 tokens, which leaves 5 of max_length 48"
    ):
        KIND.encode([ROWS[0], row], tokenizer, 48, training=False)
    short = {**row, "context": "Because."}  # fits as a whole
    assert len(KIND.encode([short], tokenizer, 48, training=False)) == 1


def _logits(example: Example, start: dict[int, float], end: dict[int, float]) -> Tensor:
    logits = torch.full((example.length, 2), -10.0)
    for column, values in enumerate((start, end)):
        for position, value in values.items():
            logits[position, column] = value
    return logits


def _encode_one(tokenizer: Any, context: str = "red green blue") -> tuple[Example, list[dict[str, Any]]]:
    rows = [{"question": "who", "context": context}]
    (example,) = KIND.encode(rows, tokenizer, 64, training=False)  # [CLS] who [SEP] red green blue [SEP]
    return example, rows


def test_scores_are_those_worked_out_by_hand(tokenizer: Any) -> None:
    example, rows = _encode_one(tokenizer)
    logits = _logits(example, {0: 0.5, 3: 2.0, 4: 1.0}, {0: 0.5, 3: 1.0, 5: 2.0})
    prediction = KIND.predict([logits], [example], rows)[0]
    # red green blue: 4, red: 3, green blue: 3, no answer: 1, all others below -5
    total = sum(math.exp(score) for score in (4, 3, 3, 1))
    assert (prediction["answer"], prediction["start"], prediction["end"]) == ("red green blue", 0, 14)
    assert prediction["score"] == pytest.approx(math.exp(4) / total, rel=1e-2)
    assert prediction["no_answer_score"] == pytest.approx(-3.0)
    assert [item["answer"] for item in prediction["n_best"][:4]] == ["red green blue", "red", "green blue", ""]
    assert sum(item["score"] for item in prediction["n_best"]) == pytest.approx(1.0)


def test_spans_outside_the_context_or_backwards_are_never_answers(tokenizer: Any) -> None:
    example, rows = _encode_one(tokenizer)
    logits = _logits(example, {1: 50.0, 5: 5.0, 4: 1.0}, {1: 50.0, 6: 50.0, 3: 5.0, 4: 1.0})
    prediction = KIND.predict([logits], [example], rows)[0]
    assert prediction["answer"] == "green"  # not blue…red, nor the question, nor [SEP]


def test_answers_have_at_most_thirty_tokens(tokenizer: Any) -> None:
    example, rows = _encode_one(tokenizer, " ".join(["a"] * 40))
    far = KIND.predict([_logits(example, {3: 9.0}, {3 + 30: 9.0})], [example], rows)[0]
    near = KIND.predict([_logits(example, {3: 9.0}, {3 + 29: 9.0})], [example], rows)[0]
    assert near["answer"] == " ".join(["a"] * 30)
    assert far["no_answer_score"] > near["no_answer_score"]


def test_no_answer_wins_above_the_threshold(tokenizer: Any) -> None:
    example, rows = _encode_one(tokenizer)
    logits = _logits(example, {0: 3.0, 3: 2.0}, {0: 3.0, 3: 2.0})  # no answer 6, red 4
    assert KIND.predict([logits], [example], rows)[0]["answer"] == ""
    assert QuestionAnswering(no_answer_threshold=2.5).predict([logits], [example], rows)[0]["answer"] == "red"
    forced = QuestionAnswering(allow_no_answer=False).predict([logits], [example], rows)[0]
    assert forced["answer"] == "red"
    assert forced["no_answer_score"] == pytest.approx(2.0)
    assert all(item["start"] is not None for item in forced["n_best"])


def test_no_answer_counts_as_the_least_sure_window_does(tokenizer: Any) -> None:
    rows = [_row(FILLER * 4, "")]
    examples = KIND.encode(rows, tokenizer, 40, training=False)
    assert len(examples) > 1
    logits = [_logits(example, {0: 8.0}, {0: 8.0}) for example in examples]
    assert KIND.predict(logits, examples, rows)[0]["answer"] == ""
    logits[1] = _logits(examples[1], {0: 1.0, 6: 2.0}, {0: 1.0, 6: 2.0})
    prediction = KIND.predict(logits, examples, rows)[0]
    assert prediction["no_answer_score"] == pytest.approx(-2.0)
    assert prediction["start"] == (examples[1].offsets or [])[6][0]  # type: ignore[index]


def test_windows_may_come_in_any_order(tokenizer: Any, perfect_logits: Any) -> None:
    examples = KIND.encode(ROWS, tokenizer, 40, training=True)
    logits = perfect_logits(KIND, examples)
    assert KIND.predict(logits[::-1], examples[::-1], ROWS) == KIND.predict(logits, examples, ROWS)


def test_a_context_without_tokens_has_no_answer(tokenizer: Any) -> None:
    kind = QuestionAnswering(allow_no_answer=False)
    example, rows = _encode_one(tokenizer, "\ufe0f")
    prediction = kind.predict([torch.zeros(example.length, 2)], [example], rows)[0]
    assert (prediction["answer"], prediction["start"], prediction["score"]) == ("", None, 1.0)


def test_padding_does_not_change_the_loss(tokenizer: Any, batch_loss: Any) -> None:
    short, long = KIND.encode([ROWS[0], ROWS[7]], tokenizer, 384, training=True)
    logits = [torch.zeros(example.length, 2) for example in (short, long)]
    each = [math.log(short.length), math.log(long.length)]
    assert batch_loss(KIND, logits, [short, long]) == pytest.approx(sum(each) / 2)


def test_no_answer_is_allowed_where_the_training_rows_have_some() -> None:
    def data(rows: list[dict[str, Any]]) -> TaskData:
        return TaskData(rows, None, None, None, {}, "here", ())

    assert not QuestionAnswering.from_data(data([ROWS[0]])).allow_no_answer
    assert QuestionAnswering.from_data(data([ROWS[0], ROWS[9]])).allow_no_answer


def test_majority_score_is_the_share_of_unanswerable_questions() -> None:
    assert KIND.majority_score(ROWS) == pytest.approx(2 / 12)
    assert KIND.majority_score(ROWS[:3]) == 0.0


def test_the_best_threshold_parts_answers_from_none() -> None:
    def prediction(answer: str, score: float) -> dict[str, Any]:
        return {"no_answer_score": score, "n_best": [{"answer": "", "start": None}, {"answer": answer, "start": 3}]}

    rows = [_row("Ada", "Ada"), _row("Ada", "Ada"), _row("Ada", ""), _row("Ada", "")]
    predictions = [prediction("Ada", 1.0), prediction("Ada", 2.0), prediction("Ada", 4.0), prediction("Ada", 5.0)]
    assert best_threshold(predictions, rows) == 3.0
    assert best_threshold(predictions[:2], rows[:2]) == 3.0  # always answer
    assert best_threshold(predictions[2:], rows[2:]) == 0.0  # never: 0 does as well as any
    assert best_threshold([prediction("Ada", -1.0), prediction("Ada", 4.0)], [rows[0], rows[2]]) == 0.0


def test_a_thousand_windows_are_decoded_in_about_a_second(tokenizer: Any) -> None:
    rows = [_row(FILLER * 25, "")]
    example = KIND.encode(rows, tokenizer, 384, training=False)[0]
    assert example.length > 300
    logits = torch.randn(example.length, 2, generator=torch.Generator().manual_seed(3))
    begin = time.process_time()
    KIND.predict([logits] * 1000, [example] * 1000, rows)
    assert time.process_time() - begin < 5.0  # generous: the machine may be busy


def test_a_negative_stride_is_refused() -> None:
    with pytest.raises(ConfigError, match="doc_stride must be at least 0, got -1"):
        QuestionAnswering(doc_stride=-1)
