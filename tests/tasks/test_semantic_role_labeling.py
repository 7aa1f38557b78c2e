from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from ptuning import load
from ptuning.backbones.loading import load_backbone
from ptuning.config import DataConfig, load_config
from ptuning.data.batching import Example
from ptuning.data.sources import TaskData
from ptuning.errors import ConfigError, DataError
from ptuning.evaluation import evaluate
from ptuning.tasks import get_task
from ptuning.tasks.loading import load_task_data
from ptuning.tasks.semantic_role_labeling import PredicateInput, SemanticRoleLabeling
from ptuning.training.run import prepare_task, train

NAMES = ("O", "B-V", "I-V", "B-A0", "I-A0", "B-A1", "I-A1", "B-C-A1")
KIND = SemanticRoleLabeling(NAMES)
APPENDED = SemanticRoleLabeling(NAMES, "appended")
KINDS = [KIND, APPENDED]
NO_ROLE, V, A0 = 0, 1, 3


def _row(text: str) -> dict[str, Any]:
    """Words, those of roles written as word/TAG; the predicate is the first word with B-V."""
    pairs = [word.partition("/") for word in text.split()]
    tags = [tag or "O" for _, _, tag in pairs]
    return {"tokens": [word for word, _, _ in pairs], "predicate_index": tags.index("B-V"), "tags": tags}


ROWS = [
    _row(text)
    for text in (
        "Schmidts/B-A0 sells/B-V old/B-A1 houses/I-A1 .",
        "runs/B-V",
        "She/B-A0 said/B-V yes/B-A1 and said no",
        "antidisestablishmentarianism/B-A0 incomprehensibly/B-V ends/B-A1",
        "a " * 30 + "b/B-A0 ends/B-V",
        "starts/B-V it/B-A1 " + "and on " * 20,
        "on and " * 15
        + "Ada/B-A0 Schmidts/I-A0 wrote/B-V unbelievably/B-A1 houses/I-A1 , "
        + "the end " * 15
        + "x/B-C-A1",
        "\ufe0f/B-A0 東京/B-A0 went/B-V",
    )
]


def _texts(tokenizer: Any, example: Example) -> list[str]:
    return list(tokenizer.convert_ids_to_tokens(example.sequences[0]))


@pytest.mark.parametrize("kind", KINDS, ids=["marked", "appended"])
@pytest.mark.parametrize("max_length", [16, 20, 128])
def test_perfect_logits_score_one_however_short_the_windows(
    kind: SemanticRoleLabeling, max_length: int, tokenizer: Any, perfect_logits: Any, batch_loss: Any
) -> None:
    rows = ROWS[:-1]  # its first word has no piece, so it cannot be asked
    examples = kind.encode(rows, tokenizer, max_length, training=False)
    assert max(example.length for example in examples) <= max_length
    logits = perfect_logits(kind, examples)
    predictions = kind.predict(logits, examples, rows)
    assert [prediction["tags"] for prediction in predictions] == [row["tags"] for row in rows]
    scores = kind.score(predictions, rows)
    assert set(scores) == set(kind.metric_names) and set(scores.values()) == {1.0}
    assert batch_loss(kind, logits, examples) == pytest.approx(0.0, abs=1e-5)


def test_marked_puts_the_predicate_between_asterisks(tokenizer: Any) -> None:
    example = KIND.encode(ROWS[:1], tokenizer, 32, training=True)[0]
    assert _texts(tokenizer, example) == "[CLS] schmidt ##s * sells * old houses . [SEP]".split()
    assert example.token_types == ([0] * 10,)
    assert example.label == [-100, A0, -100, -100, V, -100, 5, 6, NO_ROLE, -100]
    assert example.offsets == [None, (0, 0), None, None, (1, 0), None, (2, 0), (3, 0), (4, 0), None]


def test_appended_is_the_official_input(tokenizer: Any) -> None:
    example = APPENDED.encode(ROWS[:1], tokenizer, 32, training=True)[0]
    assert _texts(tokenizer, example) == "[CLS] schmidt ##s sells old houses . [SEP] sells [SEP]".split()
    assert example.token_types == ([0] * 10,)
    assert example.label == [-100, A0, -100, V, 5, 6, NO_ROLE, -100, -100, -100]


def test_appended_splits_the_separator_where_it_is_no_token(byte_tokenizer: Any) -> None:
    example = APPENDED.encode([_row("ab/B-V")], byte_tokenizer, 32, training=True)[0]
    assert "".join(_texts(byte_tokenizer, example)) == "<s>ĠabĠ[SEP]Ġab</s>"
    assert example.label == [-100, V, *[-100] * (example.length - 2)]
    assert example.token_types is None


def test_of_equal_words_the_predicate_alone_is_marked(tokenizer: Any) -> None:
    row = {"tokens": ["said", "said", "said"], "predicate_index": 1}
    example = KIND.encode([row], tokenizer, 16, training=False)[0]
    assert _texts(tokenizer, example) == "[CLS] said * said * said [SEP]".split()
    assert example.label is None


@pytest.mark.parametrize("kind", KINDS, ids=["marked", "appended"])
@pytest.mark.parametrize("place", [0, 1, 7, 38, 39])
@pytest.mark.parametrize("max_length", [7, 11, 24])
def test_every_window_shows_the_predicate_and_every_word_is_asked_once(
    kind: SemanticRoleLabeling, place: int, max_length: int, tokenizer: Any
) -> None:
    words = ["houses" if word % 3 else "schmidts" for word in range(40)]
    row = {"tokens": [*words[:place], "sells", *words[place + 1 :]], "predicate_index": place}
    examples = kind.encode([row], tokenizer, max_length, training=False)
    assert len(examples) > 1
    asked: list[int] = []
    shown = "* sells *" if kind is KIND else "[SEP] sells [SEP]"
    for example in examples:
        assert example.length <= max_length and example.offsets is not None
        assert shown in " ".join(_texts(tokenizer, example))
        asked += [offset[0] for offset in example.offsets if offset is not None]
    assert sorted(asked) == list(range(40))
    # Training sees the first window, and the predicate is asked there.
    assert examples[0].offsets is not None and (place, 0) in examples[0].offsets


def test_words_before_the_predicate_have_it_behind_them_and_words_after_it_in_front(tokenizer: Any) -> None:
    words = "a b c d e f".split()
    row = {"tokens": [*words, "sells", *"u v w x y z".split()], "predicate_index": 6}
    examples = KIND.encode([row], tokenizer, 9, training=False)
    assert [" ".join(_texts(tokenizer, example)[1:-1]) for example in examples] == [
        "e f * sells * u v",  # in the middle
        "a b c d * sells *",
        "* sells * w x y z",
    ]
    appended = APPENDED.encode([row], tokenizer, 9, training=False)
    assert [" ".join(_texts(tokenizer, example)[1:-1]) for example in appended] == [
        "e f sells u v [SEP] sells",
        "a b c d e [SEP] sells",
        "v w x y z [SEP] sells",
    ]


def test_room_that_is_left_is_filled_with_words_that_are_not_asked(tokenizer: Any) -> None:
    row = {"tokens": "a b c d e sells".split(), "predicate_index": 5}
    examples = KIND.encode([row], tokenizer, 9, training=False)
    assert [" ".join(_texts(tokenizer, example)[1:-1]) for example in examples] == [
        "b c d e * sells *",
        "a b c d * sells *",
    ]
    assert examples[1].offsets is not None
    assert [offset for offset in examples[1].offsets if offset is not None] == [(0, 0)]


def test_training_sees_the_window_around_the_predicate_and_says_what_it_does_not(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        examples = KIND.encode([_row("a b c d e f g sells/B-V"), _row("a sells/B-V")], tokenizer, 9, training=True)
    assert [" ".join(_texts(tokenizer, example)[1:-1]) for example in examples] == ["d e f g * sells *", "a * sells *"]
    assert "3 words in 1 of 2 rows lie beyond max_length 9 and are not learned from" in caplog.text


@pytest.mark.parametrize("kind", KINDS, ids=["marked", "appended"])
def test_a_predicate_is_never_cut(kind: SemanticRoleLabeling, tokenizer: Any) -> None:
    row = {"id": "s1", "tokens": ["they", "schmidtsschmidts", "it"], "predicate_index": 1}
    pieces = tokenizer.tokenize("schmidtsschmidts")
    # Special tokens, marks or separator, the predicate once or twice, and another word.
    needed = 2 + (2 + len(pieces) + 1 if kind is KIND else 1 + 2 * len(pieces))
    for example in kind.encode([row], tokenizer, needed, training=False):
        assert " ".join(pieces) in " ".join(_texts(tokenizer, example))
    with pytest.raises(
        DataError,
        match=rf"row 1 \(id 's1'\): its predicate 'schmidtsschmidts' takes {len(pieces)} tokens, which leaves no room "
        rf"for the other words in max_length {needed - 1}. The predicate is never cut: shorten it or raise data.max",
    ):
        kind.encode([row], tokenizer, needed - 1, training=False)


def test_a_predicate_alone_needs_room_for_itself_only(tokenizer: Any) -> None:
    row = {"tokens": ["sells"], "predicate_index": 0}
    assert KIND.encode([row], tokenizer, 5, training=False)[0].length == 5


def test_a_word_longer_than_the_room_is_cut(tokenizer: Any) -> None:
    row = {"tokens": ["sells", "antidisestablishmentarianism"], "predicate_index": 0}
    examples = KIND.encode([row], tokenizer, 7, training=False)
    assert [example.length for example in examples] == [7]
    assert examples[0].offsets is not None and (1, 0) in examples[0].offsets


def test_predictions_name_the_roles(tokenizer: Any, perfect_logits: Any) -> None:
    examples = KIND.encode(ROWS[:1], tokenizer, 32, training=False)
    assert KIND.predict(perfect_logits(KIND, examples), examples, ROWS[:1]) == [
        {
            "tokens": ["Schmidts", "sells", "old", "houses", "."],
            "predicate_index": 1,
            "tags": ["B-A0", "B-V", "B-A1", "I-A1", "O"],
            "roles": [
                {"type": "A0", "text": "Schmidts", "start": 0, "end": 1},
                {"type": "V", "text": "sells", "start": 1, "end": 2},
                {"type": "A1", "text": "old houses", "start": 2, "end": 4},
            ],
        }
    ]


def test_predicted_tags_are_made_valid_and_the_predicate_is_what_the_model_says(tokenizer: Any) -> None:
    rows = [{"tokens": ["a", "b", "c"], "predicate_index": 1}]
    examples = KIND.encode(rows, tokenizer, 16, training=False)
    logits = torch.zeros(examples[0].length, len(NAMES))
    for position, tag in ((1, "I-A0"), (3, "I-A1"), (5, "I-A1")):
        logits[position, NAMES.index(tag)] = 1.0
    assert KIND.predict([logits], examples, rows)[0]["tags"] == ["B-A0", "B-A1", "I-A1"]


def test_the_score_leaves_the_predicate_out_and_joins_continuations() -> None:
    rows = [_row("she/B-A0 gave/B-V it/B-A1 up/B-C-V now/B-C-A1")]
    predictions = [{"tags": ["B-A0", "B-V", "B-A1", "O", "O"]}]
    # Right is A0; A1 lacks its second piece. Over all spans: A0, V and A1 of 3 predicted, of 5 that are there.
    assert KIND.score(predictions, rows) == {
        "precision": 1 / 2,
        "recall": 1 / 2,
        "f1": 1 / 2,
        "precision_with_predicate": 1.0,
        "recall_with_predicate": pytest.approx(3 / 5),
        "f1_with_predicate": pytest.approx(3 / 4),
    }


def test_predicates_alone_are_a_constant_answer() -> None:
    assert KIND.is_constant([{"tags": ["O", "B-V"]}, {"tags": ["B-V", "O", "O"]}])
    assert not KIND.is_constant([{"tags": ["O", "B-V"]}, {"tags": ["B-V", "B-A0"]}])
    assert KIND.majority_score(ROWS) == 0.0


def _data(rows: list[dict[str, Any]]) -> TaskData:
    return TaskData(rows, None, None, NAMES, {}, "here", ())


def test_the_setting_says_how_the_predicate_is_shown() -> None:
    assert SemanticRoleLabeling.from_data(_data(ROWS)) == KIND
    assert SemanticRoleLabeling.from_data(_data(ROWS), DataConfig()) == KIND
    assert SemanticRoleLabeling.from_data(_data(ROWS), DataConfig(predicate_input="appended")) == APPENDED


def test_a_predicate_index_counted_from_one_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    SemanticRoleLabeling.from_data(_data(ROWS))
    assert not caplog.text
    SemanticRoleLabeling.from_data(_data([ROWS[0], {**ROWS[0], "predicate_index": 2}]))
    assert "In 1 of 2 train rows the word at predicate_index has not the tag V, and another word has" in caplog.text


def test_a_role_that_was_never_seen_can_be_scored_but_not_learned(tokenizer: Any) -> None:
    row = _row("she/B-A7 gave/B-V it/B-A1")
    assert KIND.encode([row], tokenizer, 16, training=False)[0].label is not None
    with pytest.raises(DataError, match="row 1 has the tag 'B-A7' at 'she', expected one of O, B-V"):
        KIND.encode([row], tokenizer, 16, training=True)


def test_mistakes_are_named(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="predicate_input is 'both', expected marked or appended"):
        SemanticRoleLabeling(NAMES, "both")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected BIO tags.*Add O"):
        SemanticRoleLabeling(("B-V", "B-A0"))
    with pytest.raises(DataError, match="row 1 has no 'predicate_index', only 'tokens'"):
        KIND.encode([{"tokens": ["a", "b"]}], tokenizer, 16, training=False)
    with pytest.raises(DataError, match="row 1 has 1 tags for 2 tokens"):
        KIND.encode([{"tokens": ["a", "b"], "predicate_index": 0, "tags": ["O"]}], tokenizer, 16, training=True)


def test_the_setting_is_refused_where_there_is_no_predicate(tiny_run: Callable[..., Any], tmp_path: Path) -> None:
    config = tiny_run(tmp_path / "run", "classification", **{"data.predicate_input": "marked"})
    with pytest.raises(
        ConfigError, match="data.predicate_input is 'marked', but classification is classification, which"
    ):
        load_task_data(config, get_task("classification"))


@pytest.fixture(scope="module")
def small_backbone(
    tiny_backbone: Path, tiny_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """With 144 positions: 128 shifted prompts leave 16."""
    directory = tmp_path_factory.mktemp("backbone") / "small-bert"
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbone)
    tokenizer.save_pretrained(directory)
    tiny_model("bert", vocab_size=len(tokenizer), max_position_embeddings=144).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("predicate_input", ["marked", "appended"])
def test_with_128_shifted_prompts_the_predicate_is_seen_wherever_it_stands(
    predicate_input: PredicateInput,
    small_backbone: Path,
    tiny_run: Callable[..., Any],
    tmp_path: Path,
) -> None:
    words = ["lamp", "box", "kettle"] * 15
    rows = [
        {
            "tokens": [*words[:place], "is", *words[place:]],
            "predicate_index": place,
            "tags": ["B-A0", *["I-A0"] * (place - 1), "B-V", *["B-A1"] * (len(words) - place)],
        }
        for place in (45, 1, 20, 44)
    ]
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "validation"):
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tiny_run(
        tmp_path / "run",
        "semantic_role_labeling",
        **{
            "backbone": str(small_backbone),
            "data.path": str(data),
            "data.max_length": None,
            "data.predicate_input": predicate_input,
            "prompts.prompt_length": 128,
            "prompts.positions": "shifted",
            "training.max_steps": 1,
        },
    )
    backbone = load_backbone(small_backbone)
    task = prepare_task(config, backbone)
    assert task.max_length == 16
    shown = "[UNK] is [UNK]" if predicate_input == "marked" else "[SEP] is [SEP]"  # no asterisk in that vocabulary
    for example in [*task.train, *task.validation]:
        assert example.length <= 16
        assert shown in " ".join(_texts(backbone.tokenizer, example))
    for example, row in zip(task.train, rows, strict=True):
        assert example.offsets is not None and (row["predicate_index"], 0) in example.offsets
    train(config)
    predictor = load(tmp_path / "run" / "prompt")
    asked = [{"tokens": row["tokens"], "predicate_index": row["predicate_index"]} for row in rows]
    assert [len(prediction["tags"]) for prediction in predictor.predict(asked)] == [46] * 4


@pytest.mark.parametrize("predicate_input", [None, "appended"])
def test_a_run_trains_evaluates_and_predicts(
    predicate_input: PredicateInput | None, tiny_run: Callable[..., Any], tmp_path: Path
) -> None:
    overrides = {"training.epochs": 1, **({"data.predicate_input": predicate_input} if predicate_input else {})}
    result = train(tiny_run(tmp_path / "run", "semantic_role_labeling", **overrides))
    assert load_config(tmp_path / "run" / "config.yaml").data.predicate_input == (predicate_input or "marked")
    assert evaluate(tmp_path / "run").metrics == pytest.approx(result.metrics, abs=1e-6)
    predictor = load(tmp_path / "run" / "prompt")
    row = {"tokens": ["the", "blue", "lamp", "is", "late"], "predicate_index": 3}
    prediction = predictor.predict([row])[0]
    assert prediction["tokens"] == row["tokens"] and prediction["predicate_index"] == 3
    assert len(prediction["tags"]) == 5
