from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from ptuning.errors import ConfigError, DataError
from ptuning.tasks.token_classification import TokenClassification

KIND = TokenClassification(("O", "B-PER", "I-PER", "B-LOC", "I-LOC"))
B_PER, I_PER, B_LOC = 1, 2, 3


def _row(text: str) -> dict[str, Any]:
    """Words, those of entities written as word/TAG."""
    pairs = [word.partition("/") for word in text.split()]
    return {"tokens": [word for word, _, _ in pairs], "tags": [tag or "O" for _, _, tag in pairs]}


ROWS = [
    _row(text)
    for text in (
        "Anna/B-PER Schmidt/I-PER lives in Berlin/B-LOC .",
        "Nobody here",
        "Paris/B-LOC London/B-LOC",
        "unbelievably/B-PER incomprehensible/I-PER antidisestablishmentarianism/I-PER words",
        "東京/B-LOC と 大阪/B-LOC",
        "Zoë/B-PER O'Neil-Größe/I-PER",
        "x",
        "I \u2764\ufe0f New/B-LOC York/I-LOC City/I-LOC !!!",
        "a/B-PER b/I-PER c/B-PER d/I-PER",
        "end with Rome/B-LOC",
        "words " * 30 + "Ada/B-PER Lovelace/I-PER",
        "Ada/B-PER Lovelace/I-PER " * 20,
    )
]


@pytest.mark.parametrize("max_length", [8, 16, 128])
def test_perfect_logits_score_one_however_short_the_chunks(
    tokenizer: Any, perfect_logits: Any, batch_loss: Any, max_length: int
) -> None:
    examples = KIND.encode(ROWS, tokenizer, max_length, training=False)
    assert max(example.length for example in examples) <= max_length
    logits = perfect_logits(KIND, examples)
    predictions = KIND.predict(logits, examples, ROWS)
    assert [prediction["tags"] for prediction in predictions] == [row["tags"] for row in ROWS]
    assert KIND.score(predictions, ROWS) == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "accuracy": 1.0}
    assert batch_loss(KIND, logits, examples) == pytest.approx(0.0, abs=1e-5)


def test_the_first_piece_of_each_word_is_labelled(tokenizer: Any) -> None:
    example = KIND.encode([_row("Schmidts/B-PER in Rome/B-LOC")], tokenizer, 16, training=True)[0]
    assert tokenizer.convert_ids_to_tokens(example.sequences[0]) == ["[CLS]", "schmidt", "##s", "in", "rome", "[SEP]"]
    assert example.label == [-100, B_PER, -100, 0, B_LOC, -100]
    assert example.offsets == [None, (0, 0), None, (1, 0), (2, 0), None]


def test_training_cuts_long_rows_and_says_how_many_words(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        examples = KIND.encode([_row("a b c d e f g h"), _row("a b")], tokenizer, 7, training=True)
    assert [example.length for example in examples] == [7, 4]
    assert "3 words in 1 of 2 rows lie beyond max_length 7" in caplog.text


def test_chunks_keep_words_whole_and_count_words_from_the_row(tokenizer: Any) -> None:
    row = _row("in Schmidts/B-PER Rome/B-LOC")
    examples = KIND.encode([row], tokenizer, 4, training=False)
    assert [tokenizer.convert_ids_to_tokens(example.sequences[0])[1:-1] for example in examples] == [
        ["in"],
        ["schmidt", "##s"],
        ["rome"],
    ]
    assert [example.offsets for example in examples] == [
        [None, (0, 0), None],
        [None, (1, 0), None, None],
        [None, (2, 0), None],
    ]
    assert [example.label for example in examples] == [[-100, 0, -100], [-100, B_PER, -100, -100], [-100, B_LOC, -100]]


def test_a_word_longer_than_a_chunk_keeps_its_first_pieces(tokenizer: Any) -> None:
    row = _row("antidisestablishmentarianism/B-PER yes")
    examples = KIND.encode([row], tokenizer, 4, training=False)
    assert [example.label for example in examples] == [[-100, B_PER, -100, -100], [-100, 0, -100]]


def test_a_word_without_pieces_is_predicted_o(tokenizer: Any, perfect_logits: Any, batch_loss: Any) -> None:
    rows = [_row("\ufe0f/B-PER Rome/B-LOC"), _row("\ufe0f")]
    examples = KIND.encode(rows, tokenizer, 16, training=True)
    assert [example.label for example in examples] == [[-100, B_LOC, -100], [-100, -100]]
    predictions = KIND.predict(perfect_logits(KIND, examples), examples, rows)
    assert [prediction["tags"] for prediction in predictions] == [["O", "B-LOC"], ["O"]]
    assert batch_loss(KIND, perfect_logits(KIND, examples[1:]), examples[1:]) == 0.0


def test_the_loss_is_the_mean_over_words_whatever_the_padding(tokenizer: Any, batch_loss: Any) -> None:
    examples = KIND.encode([_row("Rome/B-LOC is far away"), _row("Rome/B-LOC")], tokenizer, 16, training=True)
    logits = [torch.zeros(6, 5), torch.zeros(3, 5)]
    logits[1][1, B_LOC] = 30.0
    uniform = torch.log(torch.tensor(5.0)).item()
    assert batch_loss(KIND, logits, examples) == pytest.approx(4 * uniform / 5)


def test_raw_text_gives_entities_with_characters(tokenizer: Any) -> None:
    text = "  Did Zoë  Müller, of St. Gallen, call?"
    rows = [{"text": text}]
    examples = KIND.encode(rows, tokenizer, 64, training=False)
    words = ["Did", "Zoë", "Müller", ",", "of", "St", ".", "Gallen", ",", "call", "?"]
    logits = torch.zeros(examples[0].length, 5)
    assert examples[0].offsets is not None
    for position, place in enumerate(examples[0].offsets):
        if place is not None:
            tag = {"Zoë": B_PER, "Müller": I_PER, "St": B_LOC, ".": 4, "Gallen": 4}.get(words[place[0]], 0)
            logits[position, tag] = 1.0
    prediction = KIND.predict([logits], examples, rows)[0]
    assert prediction["tokens"] == words
    assert [(entity["type"], entity["text"]) for entity in prediction["entities"]] == [
        ("PER", "Zoë  Müller"),
        ("LOC", "St. Gallen"),
    ]
    assert all(text[entity["start"] : entity["end"]] == entity["text"] for entity in prediction["entities"])


def test_tokens_give_entities_with_word_numbers(tokenizer: Any, perfect_logits: Any) -> None:
    examples = KIND.encode(ROWS[:1], tokenizer, 64, training=False)
    prediction = KIND.predict(perfect_logits(KIND, examples), examples, ROWS[:1])[0]
    assert prediction["entities"] == [
        {"type": "PER", "text": "Anna Schmidt", "start": 0, "end": 2},
        {"type": "LOC", "text": "Berlin", "start": 4, "end": 5},
    ]


def test_predicted_tags_are_made_valid(tokenizer: Any) -> None:
    rows = [{"tokens": ["a", "b", "c", "d"]}]
    examples = KIND.encode(rows, tokenizer, 16, training=False)
    logits = torch.zeros(6, 5)
    for position, tag in enumerate((I_PER, I_PER, 4, 0), start=1):  # I-PER I-PER I-LOC O
        logits[position, tag] = 1.0
    prediction = KIND.predict([logits], examples, rows)[0]
    assert prediction["tags"] == ["B-PER", "I-PER", "B-LOC", "O"]
    assert [(entity["start"], entity["end"]) for entity in prediction["entities"]] == [(0, 2), (2, 3)]


def test_blank_text_has_no_words_and_no_entities(tokenizer: Any) -> None:
    rows = [{"text": " "}, {"text": "a"}]
    examples = KIND.encode(rows, tokenizer, 16, training=False)
    predictions = KIND.predict([torch.zeros(example.length, 5) for example in examples], examples, rows)
    assert predictions[0] == {"tokens": [], "tags": [], "entities": []}
    assert predictions[1]["tags"] == ["O"]


def test_byte_level_tokenizers_see_the_space_before_each_word(byte_tokenizer: Any) -> None:
    example = KIND.encode([_row("ab/B-PER \u00a0c")], byte_tokenizer, 32, training=True)[0]
    pieces = byte_tokenizer.convert_ids_to_tokens(example.sequences[0])
    assert pieces[:5] == ["<s>", "Ġ", "a", "b", "Ġ"]
    assert example.label is not None and example.label[1] == B_PER  # type: ignore[index]
    assert example.token_types is None


def test_majority_score_and_constant_predictions() -> None:
    assert KIND.majority_score(ROWS) == 0.0
    assert KIND.is_constant([{"tags": ["O", "O"]}, {"tags": ["O"]}])
    assert not KIND.is_constant([{"tags": ["O", "B-PER"]}, {"tags": ["O"]}])


def test_mistakes_are_named(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="expected BIO tags.*Rename PER"):
        TokenClassification(("O", "PER"))
    with pytest.raises(ConfigError, match="expected BIO tags.*Add O"):
        TokenClassification(("B-X", "I-X"))
    with pytest.raises(DataError, match="row 1 has the tag 'B-ORG' at 'ACME', expected one of O, B-PER"):
        KIND.encode([_row("ACME/B-ORG")], tokenizer, 16, training=True)
    with pytest.raises(DataError, match="row 1 has 1 tags for 2 tokens"):
        KIND.encode([{"tokens": ["a", "b"], "tags": ["O"]}], tokenizer, 16, training=True)
    with pytest.raises(DataError, match="row 1 has neither 'tokens' nor 'text', only 'sentence'"):
        KIND.encode([{"sentence": "a"}], tokenizer, 16, training=False)
    with pytest.raises(ConfigError, match="max_length is 2, but the tokenizer adds 2 special tokens"):
        KIND.encode(ROWS, tokenizer, 2, training=True)
    with pytest.raises(ConfigError, match="the tokenizer is a object without a fast version"):
        KIND.encode(ROWS, object(), 16, training=True)
