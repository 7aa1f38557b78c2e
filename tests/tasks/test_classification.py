from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import ptuning
from ptuning.data import TaskData
from ptuning.errors import ConfigError, DataError
from ptuning.evaluation import evaluate
from ptuning.tasks.classification import Classification
from ptuning.training.run import train

KIND = Classification(("no", "maybe", "yes"))
WORDS = ["lamp", "box"]
ROWS = [
    {"text": f"question {index}", "text_pair": "answer " * index, "label": KIND.label_names[index % 3]}
    for index in range(1, 13)
]


def test_perfect_logits_score_one(tokenizer: Any, perfect_logits: Any, batch_loss: Any) -> None:
    examples = KIND.encode(ROWS, tokenizer, 16, training=True)
    assert [example.label for example in examples] == [1, 2, 0] * 4
    logits = perfect_logits(KIND, examples)
    scores = KIND.score(KIND.predict(logits, examples, ROWS), ROWS)
    assert scores == {"accuracy": 1.0, "f1": 1.0, "f1_macro": 1.0, "f1_micro": 1.0, "matthews": 1.0}
    assert batch_loss(KIND, logits, examples) == pytest.approx(0.0, abs=1e-6)


def test_pairs_are_joined_and_the_longer_text_is_cut(tokenizer: Any) -> None:
    rows = [{"text": "one two", "text_pair": "three " * 50, "label": "no"}]
    example = KIND.encode(rows, tokenizer, 10, training=True)[0]
    assert tokenizer.decode(example.sequences[0]) == "[CLS] one two [SEP] three three three three three [SEP]"
    assert example.token_types == ([0, 0, 0, 0, 1, 1, 1, 1, 1, 1],)
    assert example.length == 10


def test_the_tokenizers_own_padding_is_not_used(tokenizer: Any) -> None:
    short, long = KIND.encode([{"text": "a"}, {"text": "a b c d"}], tokenizer, 128, training=False)
    assert (short.length, long.length) == (3, 6)
    assert len(KIND.encode([{"text": "word " * 300}], tokenizer, 200, training=False)[0].sequences[0]) == 200


def test_a_tokenizer_without_token_types_gives_none(byte_tokenizer: Any) -> None:
    example = KIND.encode([{"text": "ab"}], byte_tokenizer, 16, training=False)[0]
    assert example.token_types is None
    assert example.length == 4


def test_predictions_are_in_row_order_with_probabilities(tokenizer: Any) -> None:
    examples = KIND.encode(ROWS[:2], tokenizer, 16, training=False)
    logits = [torch.tensor([0.0, math.log(2), 0.0]), torch.tensor([math.log(8), 0.0, 0.0])]
    first, second = KIND.predict(logits[::-1], examples[::-1], ROWS[:2])
    assert first == {
        "label": "maybe",
        "score": pytest.approx(0.5),
        "scores": pytest.approx({"no": 0.25, "maybe": 0.5, "yes": 0.25}),
    }
    assert (second["label"], second["score"]) == ("no", pytest.approx(0.8))


def test_the_second_of_two_labels_is_the_positive_one() -> None:
    kind = Classification(("no", "yes"))
    rows = [{"label": name} for name in ("yes", "yes", "no", "no")]
    scores = kind.score([{"label": name} for name in ("yes", "no", "no", "no")], rows)
    assert scores["f1"] == pytest.approx(2 / 3)  # precision 1, recall 1/2
    assert scores["f1_macro"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert scores["accuracy"] == 0.75


def test_majority_score_is_the_share_of_the_most_frequent_label() -> None:
    rows = [{"label": name} for name in ("yes", "no", "yes", "maybe")]
    assert KIND.majority_score(rows) == 0.5
    assert KIND.majority_score(rows, "matthews") == 0.0
    assert KIND.majority_score(rows, "f1") == pytest.approx((2 / 3) / 3)


def test_groups_are_right_if_all_their_rows_are() -> None:
    kind = Classification(("no", "yes"))
    rows = [{"label": name, "group": group} for name, group in zip(("yes", "no", "yes", "no"), "aabb", strict=True)]
    predictions = [{"label": name} for name in ("yes", "no", "yes", "yes")]
    scores = kind.score(predictions, rows)
    assert scores["exact_match"] == 0.5
    assert scores["f1"] == pytest.approx(0.8)  # over all rows: 2 right of 3 predicted, 2 found of 2
    assert "exact_match" not in kind.score(predictions, [*rows[:3], {"label": "no"}])
    assert kind.majority_score(rows) == 0.5


def test_groups_of_a_column_are_scored_when_a_run_is_evaluated(tiny_run: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = [{"text": f"a {word}", "label": word, "asked": f"q{index // 3}"} for index, word in enumerate(WORDS * 3)]
    for split in ("train", "validation"):
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"text": "text", "label": "label", "group": "asked"}
    config = tiny_run(tmp_path / "run", **{"data.path": str(data), "data.columns": columns, "training.max_steps": 1})
    result = train(config)
    assert 0 <= result.metrics["exact_match"] <= result.metrics["accuracy"]
    assert evaluate(tmp_path / "run").metrics == pytest.approx(result.metrics)
    predictor = ptuning.load(tmp_path / "run")
    assert predictor.predict([{"text": "a lamp"}])[0]["label"] in WORDS  # a group is for scores only
    predictor.close()


def test_from_data_takes_the_label_names() -> None:
    data = TaskData(None, None, None, ("a", "b"), {}, "here", ())
    assert Classification.from_data(data) == Classification(("a", "b"))
    with pytest.raises(DataError, match="the data of here have no label names"):
        Classification.from_data(TaskData(None, None, None, None, {}, "here", ()))


def test_mistakes_are_named(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="at least two different labels"):
        Classification(("one",))
    with pytest.raises(DataError, match="row 2 has the label 'never', expected one of no, maybe, yes"):
        KIND.encode([{"text": "a", "label": "no"}, {"text": "a", "label": "never"}], tokenizer, 16, training=True)
    with pytest.raises(DataError, match="row 1 has a 'text_pair', but row 2 has none"):
        KIND.encode([{"text": "a", "text_pair": "b"}, {"text": "a"}], tokenizer, 16, training=False)
    with pytest.raises(ConfigError, match="max_length is 4, but the tokenizer adds 3 special tokens, so at least 5"):
        KIND.encode(ROWS, tokenizer, 4, training=True)
    with pytest.raises(DataError, match="row 1 has no 'text', only 'sentence'"):
        KIND.encode([{"sentence": "a"}], tokenizer, 16, training=False)


def _in_pattern(
    pattern: str, tokenizer: Any, rows: list[dict[str, Any]], max_length: int = 64, **more: Any
) -> list[str]:
    kind = Classification(("no", "yes"), pattern, **more)
    examples = kind.encode(rows, tokenizer, max_length, training=False)
    return [tokenizer.decode(example.sequences[0]) for example in examples]


def test_a_pattern_has_as_many_masks_as_the_longest_word_has_tokens(tokenizer: Any) -> None:
    rows = [{"text": "a lamp", "label": "yes"}, {"text": "a box", "label": "no"}]
    kind = Classification(("no", "yes"), "{text} It is {mask}.", ("not at all", "true"))
    examples = kind.encode(rows, tokenizer, 32, training=True)
    assert [tokenizer.decode(example.sequences[0]) for example in examples] == [
        "[CLS] a lamp it is [MASK] [MASK] [MASK]. [SEP]",
        "[CLS] a box it is [MASK] [MASK] [MASK]. [SEP]",
    ]
    assert [example.label for example in examples] == [1, 0]
    assert examples[0].token_types == ([0] * 10,)


def test_a_pattern_shows_the_texts_that_rows_have(tokenizer: Any) -> None:
    pair = {"text": "a", "text_pair": "b"}
    assert _in_pattern("{text_pair}? {text} {mask}", tokenizer, [pair]) == ["[CLS] b? a [MASK] [SEP]"]
    with pytest.raises(DataError, match="row 1 has no 'text_pair', but it has {text_pair}, the pattern"):
        _in_pattern("{text} {text_pair} {mask}", tokenizer, [{"text": "a"}])
    with pytest.raises(DataError, match="row 1 has a 'text_pair', but {text_pair} is not in it, the pattern"):
        _in_pattern("{text} {mask}", tokenizer, [pair])
    assert _in_pattern("{text} {mask}", tokenizer, []) == []


def test_what_a_row_marks_stays_in_a_pattern_too(tokenizer: Any) -> None:
    row = {"text": "a b c d e f lamp g h", "text_pair": "s t", "keep": [[12, 16]]}
    pattern = "so {text} and {text_pair}? {mask}"
    assert _in_pattern(pattern, tokenizer, [row], 13) == ["[CLS] so e f lamp g h and s t? [MASK] [SEP]"]
    assert _in_pattern(pattern, tokenizer, [row], 9) == ["[CLS] so lamp and s t? [MASK] [SEP]"]
    with pytest.raises(DataError, match="row 1: what has to stay of it .* is 9 tokens, but max_length is 8"):
        _in_pattern(pattern, tokenizer, [row], 8)
    both = {**row, "keep_pair": [[2, 3]]}
    assert _in_pattern(pattern, tokenizer, [both], 8) == ["[CLS] so lamp and t? [MASK] [SEP]"]
