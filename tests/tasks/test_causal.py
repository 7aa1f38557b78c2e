"""What kinds ask of a backbone whose tokens see only what is to their left, and tokenizers as decoders have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ptuning.data.batching import IGNORED_LABEL, Example
from ptuning.errors import CheckpointError, ConfigError
from ptuning.tasks import TaskKind, kind_from_dict
from ptuning.tasks.classification import Classification
from ptuning.tasks.question_answering import QuestionAnswering
from ptuning.tasks.semantic_role_labeling import SemanticRoleLabeling
from ptuning.tasks.tagging import tokenize_words
from ptuning.tasks.token_classification import TokenClassification

TAGS = ("O", "B-X", "I-X")
ROW = {"tokens": ["ab", "cde", "f"], "tags": ["O", "B-X", "I-X"]}
QUESTION = {"question": "ab?", "context": "cd efg", "answers": {"text": ["efg"], "answer_start": [3]}}
UNANSWERABLE = {**QUESTION, "answers": {"text": [], "answer_start": []}}
Perfect = Callable[[TaskKind, Sequence[Example]], list[Tensor]]


def _texts(tokenizer: Any, example: Example) -> list[str]:
    return [str(token) for token in tokenizer.convert_ids_to_tokens(example.sequences[0])]


@pytest.fixture(scope="module")
def bare_tokenizer() -> Any:
    """A token a byte, and nothing around or between texts; offsets of words hold the space in front."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<end>", *letters])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")


@pytest.fixture(scope="module")
def gemma_like_tokenizer() -> Any:
    """Spaces become ▁ in front of the word behind them, and no text gets one of its own."""
    pieces = ["<unk>", "<eos>", "▁", *"abcdef", "▁a", "▁c", "▁f", "ab", "▁ab"]
    merges = [("▁", "a"), ("▁", "c"), ("▁", "f"), ("a", "b"), ("▁a", "b")]
    inner = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges, unk_token="<unk>"))
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    inner.add_special_tokens([AddedToken("<eos>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", unk_token="<unk>")


def test_words_are_tokenized_as_in_a_text(bare_tokenizer: Any, gemma_like_tokenizer: Any) -> None:
    for tokenizer in (bare_tokenizer, gemma_like_tokenizer):
        (sentence,) = tokenize_words(tokenizer, [["ab", "cde", "f"]])
        assert sentence.ids == tokenizer(" ab cde f")["input_ids"]
        assert [len(word) for word in sentence.words] == ([3, 4, 2] if tokenizer is bare_tokenizer else [1, 3, 1])
        assert sentence.before == sentence.after == []


def test_the_last_piece_of_a_word_carries_its_tag(bare_tokenizer: Any, perfect_logits: Perfect) -> None:
    kind = TokenClassification(TAGS).for_causal()
    (example,) = kind.encode([ROW], bare_tokenizer, 20, training=True)
    assert _texts(bare_tokenizer, example) == ["Ġ", "a", "b", "Ġ", "c", "d", "e", "Ġ", "f"]
    asked = {place: index for place, index in enumerate(example.label or []) if index != IGNORED_LABEL}  # type: ignore[arg-type]
    assert asked == {2: 0, 6: 1, 8: 2}
    (first,) = TokenClassification(TAGS).encode([ROW], bare_tokenizer, 20, training=True)
    assert [place for place, index in enumerate(first.label or []) if index != IGNORED_LABEL] == [0, 3, 7]  # type: ignore[arg-type]
    (prediction,) = kind.predict(perfect_logits(kind, [example]), [example], [ROW])
    assert prediction["tags"] == ROW["tags"]


def test_a_word_that_is_cut_is_asked_at_the_last_piece_that_is_left(bare_tokenizer: Any) -> None:
    kind = TokenClassification(TAGS).for_causal()
    row = {"tokens": ["abcdefgh"], "tags": ["B-X"]}
    (example,) = kind.encode([row], bare_tokenizer, 4, training=False)
    assert example.label == [IGNORED_LABEL] * 3 + [1]


def test_a_predicate_behind_the_words_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(
        ConfigError,
        match="predicate_input is appended, but .* no word would see its predicate.* Set data.predicate_input to "
        "marked, or attention_direction to bidirectional",
    ):
        SemanticRoleLabeling(("O", "B-V"), "appended").for_causal()
    assert not caplog.text


def test_roles_are_asked_at_last_pieces_and_it_is_said_what_that_means(
    bare_tokenizer: Any, perfect_logits: Perfect, caplog: pytest.LogCaptureFixture
) -> None:
    row = {"tokens": ["ab", "cd", "e"], "predicate_index": 1, "tags": ["B-A0", "B-V", "B-A1"]}
    kind = SemanticRoleLabeling(("O", "B-V", "B-A0", "B-A1")).for_causal()
    assert "words in front of a predicate are asked for their role without knowing it" in caplog.text
    for max_length in (20, 12):  # whole, and in windows
        examples = kind.encode([row], bare_tokenizer, max_length, training=False)
        asked = {}
        for example in examples:
            texts = _texts(bare_tokenizer, example)
            for place, offset in enumerate(example.offsets or ()):
                if offset is not None:
                    asked[offset[0]] = texts[place]
        assert asked == {0: "b", 1: "d", 2: "e"}
        (prediction,) = kind.predict(perfect_logits(kind, examples), examples, [row])
        assert prediction["tags"] == row["tags"]


def test_no_answer_is_said_at_the_end_which_sees_everything(bare_tokenizer: Any, perfect_logits: Perfect) -> None:
    kind = QuestionAnswering().for_causal()
    rows = [QUESTION, UNANSWERABLE]
    answered, empty = kind.encode(rows, bare_tokenizer, 30, training=True)
    assert _texts(bare_tokenizer, answered) == [*"ab?", *"cd", "Ġ", *"efg", "<end>"]
    assert answered.label == (6, 8) and empty.label == (9, 9), "the space in front of a word belongs to no answer"
    logits = perfect_logits(kind, [answered, empty])
    found, nothing = kind.predict(logits, [answered, empty], rows)
    assert (found["answer"], found["start"], nothing["answer"]) == ("efg", 3, "")
    assert found["no_answer_score"] < 0 < nothing["no_answer_score"]


def test_each_window_has_an_end_of_its_own(bare_tokenizer: Any) -> None:
    kind = QuestionAnswering(doc_stride=4).for_causal()
    row = {**QUESTION, "context": "abcd " * 10 + "efg", "answers": {"text": ["efg"], "answer_start": [50]}}
    examples = kind.encode([row], bare_tokenizer, 24, training=True)
    assert len(examples) > 1
    for example in examples:
        assert example.length <= 24 and example.sequences[0][-1] == 0
        assert example.label in ((example.length - 1,) * 2, (example.length - 4, example.length - 2))
    assert sum(example.label != (example.length - 1,) * 2 for example in examples) == 1


def test_a_window_that_ends_in_a_special_token_keeps_it(byte_tokenizer: Any) -> None:
    (causal,) = QuestionAnswering().for_causal().encode([UNANSWERABLE], byte_tokenizer, 30, training=True)
    (usual,) = QuestionAnswering().encode([UNANSWERABLE], byte_tokenizer, 30, training=True)
    assert causal.sequences == usual.sequences
    assert usual.label == (0, 0) and causal.label == (causal.length - 1,) * 2


def test_a_tokenizer_without_an_end_is_refused(bare_tokenizer: Any) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare_tokenizer.backend_tokenizer)
    with pytest.raises(ConfigError, match="without an end, separator or padding token.*Give it an eos_token, or set"):
        QuestionAnswering().for_causal().encode([QUESTION], tokenizer, 30, training=True)


@pytest.mark.parametrize("kind", [TokenClassification(TAGS), QuestionAnswering()])
def test_it_is_saved_only_where_it_is_so(kind: TaskKind) -> None:
    assert "attention_direction" not in kind.to_dict(), "what was saved before stays what it was"
    causal = kind.for_causal()
    assert causal.to_dict()["attention_direction"] == "causal"
    assert kind_from_dict(causal.to_dict()) == causal != kind
    with pytest.raises(
        CheckpointError, match="attention_direction of a kind is 'sideways', expected causal or nothing"
    ):
        kind_from_dict({**causal.to_dict(), "attention_direction": "sideways"})


def test_most_kinds_ask_the_same(bare_tokenizer: Any) -> None:
    kind = Classification(("no", "yes"))
    assert kind.for_causal() is kind
