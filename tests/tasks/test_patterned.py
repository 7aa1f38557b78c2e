from __future__ import annotations

import json
from typing import Any

import pytest

from ptuning.errors import CheckpointError, ConfigError
from ptuning.tasks import PRESETS, TaskKind, get_task, kind_from_dict
from ptuning.tasks.classification import Classification
from ptuning.tasks.cloze import Cloze
from ptuning.tasks.multiple_choice import WORD_NAMES, MultipleChoice
from ptuning.tasks.patterned import label_word_ids, with_pattern
from ptuning.tasks.question_answering import QuestionAnswering
from ptuning.tasks.regression import Regression
from ptuning.tasks.semantic_role_labeling import SemanticRoleLabeling
from ptuning.tasks.token_classification import TokenClassification

KIND = Classification(("no", "yes"))
WORDS = {"yes": "true", "no": "false"}
OTHERS: list[TaskKind] = [
    Regression(2.5, 0.5),
    TokenClassification(("O", "B-X", "I-X")),
    SemanticRoleLabeling(("O", "B-V", "I-V")),
    QuestionAnswering(),
]


def test_words_are_put_in_label_order_and_virtual_tokens_into_the_pattern() -> None:
    kind = with_pattern(KIND, "{text} {prompt} {mask}", WORDS, prompt_length=3)
    assert kind == Classification(("no", "yes"), "{text} {prompt:3} {mask}", ("false", "true"))
    choice = with_pattern(MultipleChoice(), "{text} {choice} {mask}", {"wrong": "no", "right": "yes"}, prompt_length=0)
    assert choice == MultipleChoice("{text} {choice} {mask}", ("yes", "no"))


def test_without_pattern_and_words_a_kind_stays_as_it_is() -> None:
    for kind in (KIND, *OTHERS):
        assert with_pattern(kind, None, None, prompt_length=5) is kind


def test_a_pattern_may_have_no_words() -> None:
    assert with_pattern(KIND, "{text} so", None, prompt_length=1) == Classification(
        ("no", "yes"), "{prompt:1}{text} so"
    )


@pytest.mark.parametrize("kind", OTHERS, ids=[kind.name for kind in OTHERS])
def test_other_kinds_refuse_both_by_name(kind: TaskKind) -> None:
    with pytest.raises(ConfigError, match=f"data.pattern is '{{text}}', but the task is {kind.name}. .* alone: leave"):
        with_pattern(kind, "{text}", None, prompt_length=0)
    with pytest.raises(ConfigError, match=f"head.kind is verbalizer, but the task is {kind.name}. Label words"):
        with_pattern(kind, None, {}, prompt_length=0)
    with pytest.raises(ConfigError, match=f"head.kind is verbalizer, but {kind.name} has no label words"):
        label_word_ids(kind, None)


@pytest.mark.parametrize(
    ("pattern", "words", "said"),
    [
        (None, WORDS, "there is no pattern, at whose mask label words are asked for. Set data.pattern"),
        ("{text}", WORDS, "label words are false, true, but the pattern has no {mask}"),
        ("{text} {mask}", {}, "head.words has no words for no, yes, expected words for each of no, yes"),
        ("{text} {mask}", {"yes": "true"}, "head.words has no words for no, expected"),
        ("{text} {mask}", {**WORDS, "maybe": "so"}, "head.words has words for maybe, which is no label, expected"),
        ("{text} {mask}", {**WORDS, "no": " "}, "label words are ' ', 'true', expected some for each of no, yes"),
        ("{text} {choice} {mask}", WORDS, "{choice} is unknown. Expected {text}, {text_pair}, {mask}"),
    ],
)
def test_what_is_missing_or_too_much_is_named(pattern: str | None, words: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        with_pattern(KIND, pattern, words, prompt_length=0)
    assert said in str(raised.value)


def test_choices_and_entities_may_be_the_answers_themselves(tokenizer: Any) -> None:
    choice = with_pattern(MultipleChoice(), "{text} {mask}", {}, prompt_length=0)
    cloze = with_pattern(Cloze(), "{prompt} {passage} {query}", {}, prompt_length=2)
    assert choice == MultipleChoice("{text} {mask}", ()) and cloze == Cloze("{prompt:2} {passage} {query}", ())
    for kind in (choice, cloze):
        assert label_word_ids(kind, tokenizer) == []
        assert kind_from_dict(json.loads(json.dumps(kind.to_dict()))) == kind


@pytest.mark.parametrize(
    ("kind", "pattern", "words", "said"),
    [
        (
            MultipleChoice(),
            "{text}",
            {},
            "choices fill the mask themselves (head.words is empty), but the pattern has no {mask}",
        ),
        (
            MultipleChoice(),
            "{text} {mask}",
            {"right": "a"},
            "words for right, which is no label, expected none: the answers are",
        ),
        (MultipleChoice(), "{text} {choice} {mask}", {}, "head.words has no words for right, wrong, expected"),
        (
            Cloze(),
            None,
            {},
            "there is no pattern, at whose mask label words are asked for. Set data.pattern, such as `{passage}",
        ),
        (Cloze(), "{passage} {query} {mask}", {}, "but the mask stands in the gap of the query. Leave {mask} out"),
        (Cloze(), "{passage}", {}, "which has {query} 0 times, expected once"),
        (Cloze(), "{passage} {query}", None, "but the task is cloze. Label words in a pattern answer"),
    ],
)
def test_answers_of_the_rows_need_their_places_and_no_words(
    kind: TaskKind, pattern: str | None, words: dict[str, str] | None, said: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        with_pattern(kind, pattern, words, prompt_length=0)
    assert said in str(raised.value)


def test_choices_need_their_text_and_choice_in_the_pattern() -> None:
    with pytest.raises(ConfigError, match="which has {choice} 0 times, expected once"):
        with_pattern(MultipleChoice(), "{text} {mask}", None, prompt_length=0)


def test_pattern_and_words_are_saved_with_the_kind_and_damage_is_seen() -> None:
    for kind in (
        Classification(("no", "yes"), "{text} {prompt:3} {mask}", ("false", "true")),
        Classification(("no", "yes"), "{text} so"),
        MultipleChoice("{text} {choice} {mask}", ("yes", "no")),
    ):
        assert kind_from_dict(json.loads(json.dumps(kind.to_dict()))) == kind
    assert KIND.to_dict() == {"kind": "classification", "label_names": ["no", "yes"]}, "as before there were patterns"
    saved = Classification(("no", "yes"), "{text} {mask}", ("false", "true")).to_dict()
    for change in ({"pattern": "{text}"}, {"pattern": "{tex"}, {"pattern": 3}, {"words": ["a"]}, {"words": ["a", 3]}):
        with pytest.raises(CheckpointError, match="options that do not fit"):
            kind_from_dict({**saved, **change})


def test_word_ids_are_those_of_the_kinds_own_words(tokenizer: Any) -> None:
    kind = with_pattern(KIND, "{text} {mask}", {"yes": "true", "no": "not true"}, prompt_length=0)
    assert [tokenizer.convert_ids_to_tokens(ids) for ids in label_word_ids(kind, tokenizer)] == [
        ["not", "true"],
        ["true"],
    ]
    with pytest.raises(ConfigError, match="classification has no label words here. Set data.pattern and head.words"):
        label_word_ids(KIND, tokenizer)


@pytest.mark.parametrize("name", [name for name, task in PRESETS.items() if task.pattern is not None])
def test_patterns_of_presets_fit_their_kind_and_labels(name: str, tokenizer: Any) -> None:
    task = get_task(name)
    kind: TaskKind = MultipleChoice() if task.kind == "multiple_choice" else Classification(task.label_names or ())
    kind = with_pattern(kind, task.pattern, task.words, prompt_length=0)
    assert [len(ids) for ids in label_word_ids(kind, tokenizer)] == [1] * len(task.label_names or WORD_NAMES)


def test_the_papers_words_are_there() -> None:
    for name in ("glue/rte", "super_glue/rte", "super_glue/boolq", "glue/sst2"):
        assert sorted((get_task(name).words or {}).values()) == ["false", "true"]
    words = get_task("super_glue/cb").words
    assert words == {"entailment": "true", "contradiction": "false", "neutral": "neutral"}
    assert (get_task("glue/sst2").words or {})["positive"] == "true"
