from __future__ import annotations

import math
from typing import Any

import pytest

from ptuning.data.formats import table_of
from ptuning.data.rows import Labels, convert_to_bio, read_rows
from ptuning.errors import DataError

CLASSES = {"text": "sentence", "label": "label"}
TAGS = {"tokens": "tokens", "tags": "ner_tags"}
CHOICES = {"text": "q", "choices": "choices", "label": "label"}
ROLES = {"id": "id", "tokens": "tokens", "predicate_index": "verb_index", "tags": "tags"}
SINGLE = {"text": "q", "choice1": "a", "choice2": "b", "label": "label"}
ANSWERS = {"id": "id", "question": "question", "context": "context", "answers": "answers"}


def _read(kind: str, columns: dict[str, str], *records: dict[str, Any], labels: Labels = "required") -> list[Any]:
    return read_rows(table_of("x", list(records), list(range(1, len(records) + 1))), kind, columns, labels)


def test_columns_become_roles_and_others_are_left_out() -> None:
    record = {"sentence": "good", "label": 1, "source": "web"}
    assert _read("classification", CLASSES, record) == [{"text": "good", "label": 1}]


def test_labels_are_dropped_or_optional() -> None:
    records = {"sentence": "a", "label": 1}, {"sentence": "b", "label": None}, {"sentence": "c"}
    assert _read("classification", CLASSES, *records, labels="dropped") == [{"text": "a"}, {"text": "b"}, {"text": "c"}]
    assert _read("classification", CLASSES, *records, labels="optional") == [
        {"text": "a", "label": 1},
        {"text": "b"},
        {"text": "c"},
    ]


def test_values_of_regression_become_floats() -> None:
    rows = _read("regression", CLASSES, {"sentence": "a", "label": "2.5"}, {"sentence": "b", "label": 3})
    assert [row["label"] for row in rows] == [2.5, 3.0]
    assert all(type(row["label"]) is float for row in rows)


def test_choices_come_from_a_list_or_from_single_columns() -> None:
    assert _read("multiple_choice", CHOICES, {"q": "?", "choices": ["x", "y", "z"], "label": 2}) == [
        {"text": "?", "choices": ["x", "y", "z"], "label": 2}
    ]
    assert _read("multiple_choice", SINGLE, {"q": "?", "a": "x", "b": "y", "label": 0}) == [
        {"text": "?", "choices": ["x", "y"], "label": 0}
    ]


def test_questions_without_id_get_their_row_number() -> None:
    answers = {"text": [], "answer_start": []}
    columns = {role: column for role, column in ANSWERS.items() if role != "id"}
    rows = _read("question_answering", columns, *[{"question": "q", "context": "c", "answers": answers}] * 2)
    assert [row["id"] for row in rows] == ["0", "1"]


def test_answers_may_be_a_list_of_objects() -> None:
    record = {"id": 7, "question": "q", "context": "the blue", "answers": [{"text": "blue", "answer_start": 4}]}
    assert _read("question_answering", ANSWERS, record) == [
        {"id": "7", "question": "q", "context": "the blue", "answers": {"text": ["blue"], "answer_start": [4]}}
    ]


def test_groups_are_names_and_marked_characters_may_be_missing() -> None:
    columns = {"text": "text", "group": "group", "keep": "keep", "label": "label"}
    first = {"text": "a blue lamp", "group": 7, "keep": [(2, 6), [7, 11]], "label": "x"}
    second = {"text": "a", "group": "7", "keep": None, "label": "y"}
    assert _read("classification", columns, first, second) == [
        {"text": "a blue lamp", "group": "7", "keep": [[2, 6], [7, 11]], "label": "x"},
        {"text": "a", "group": "7", "label": "y"},
    ]
    # Groups are for scores, marks for the model.
    assert _read("classification", columns, first, labels="dropped") == [
        {"text": "a blue lamp", "keep": [[2, 6], [7, 11]]}
    ]


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        (
            [[0, 12]],
            r"x:1: 'keep' has the range \[0, 12\], but its text has 11 characters. Expected \[first, end\] with",
        ),
        ([[3, 3]], r"has the range \[3, 3\]"),
        ([[-1, 3]], r"has the range \[-1, 3\]"),
        ([[0, 1, 2]], r"'keep' holds \[0, 1, 2\] \(list\), expected ranges of characters as \[\[first, end\], ...\]"),
        ([[0, True]], "expected ranges of characters"),
        ([2, 6], r"'keep' holds 2 \(int\), expected ranges of characters"),
        ("2-6", r"'keep' holds '2-6' \(str\), expected a list"),
    ],
)
def test_marked_characters_must_stand_in_the_text(keep: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        _read("classification", {"text": "text", "keep": "keep"}, {"text": "a blue lamp", "keep": keep})


CLOZE = {"passage": "passage", "query": "query", "entities": "entities", "answers": "answers"}
CLOZE_RECORD = {
    "passage": "Ann saw Bo.",
    "query": "@placeholder was seen.",
    "entities": ["Ann", "Bo"],
    "answers": ["Bo"],
}


def test_a_cloze_row_without_answers_is_unlabelled_in_a_test_split() -> None:
    assert _read("cloze", CLOZE, CLOZE_RECORD) == [CLOZE_RECORD]
    without = {role: value for role, value in CLOZE_RECORD.items() if role != "answers"}
    assert _read("cloze", CLOZE, {**CLOZE_RECORD, "answers": []}, without, labels="optional") == [without] * 2
    assert _read("cloze", CLOZE, CLOZE_RECORD, labels="dropped") == [without]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"answers": []}, "x:1: 'answers' is an empty list, expected texts. Fill it in or remove the row"),
        ({"answers": "Bo"}, r"'answers' holds 'Bo' \(str\), expected a list"),
        ({"entities": []}, "'entities' is an empty list, expected texts"),
        ({"entities": ["Ann", " "]}, "'entities' is empty, expected text"),
        ({"entities": [3]}, r"'entities' holds 3 \(int\), expected text"),
        ({"query": "Bo was seen."}, "'query' holds 'Bo was seen.', which has no @placeholder. Expected it where an"),
    ],
)
def test_cloze_rows_need_a_gap_entities_and_answers(values: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        _read("cloze", CLOZE, {**CLOZE_RECORD, **values})


def test_rows_are_not_the_lists_of_the_table() -> None:
    tags = ["I-X"]
    rows = _read("token_classification", TAGS, {"tokens": ["a"], "ner_tags": tags})
    rows[0]["tags"][0] = "B-X"
    assert tags == ["I-X"]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (
            {"sentence": None, "label": 1},
            "x:1: 'sentence' has no value, expected its text. Fill it in or remove the row",
        ),
        ({"label": 1}, "x:1: 'sentence' is missing, expected its text"),
        ({"sentence": "a"}, "x:1: 'label' is missing, expected its label"),
        ({"sentence": " \n", "label": 1}, "x:1: 'sentence' is empty, expected text. Fill it in or remove the row"),
        (
            {"sentence": 3, "label": 1},
            r"x:1: 'sentence' holds 3 \(int\), expected text. Correct it, or train with another col",
        ),
        ({"sentence": ["a"] * 99, "label": 1}, r"holds \['a', .*\.\.\. \(list\), expected text"),
        ({"sentence": b"a", "label": 1}, r"holds b'a' \(bytes\), expected text"),
        (
            {"sentence": "a\ud800", "label": 1},
            "half a surrogate pair .* at character 1. Expected text that can be written",
        ),
    ],
)
def test_texts_that_are_none_are_refused_with_their_place(record: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        _read("classification", CLASSES, record)


@pytest.mark.parametrize("value", ["good", "1e999", "nan", math.nan, math.inf, 10**400, True, [1.0]])
def test_values_of_regression_must_be_finite_numbers(value: Any) -> None:
    with pytest.raises(
        DataError, match=r"x:1: 'label' holds .*, expected a finite number. Correct it, or train with another"
    ):
        _read("regression", CLASSES, {"sentence": "a", "label": value})


@pytest.mark.parametrize(
    ("tokens", "tags", "words"),
    [
        (["a", "b"], ["O"], "x:1: 2 tokens but 1 tags. Expected one tag a token; correct the row"),
        ("a b", ["O"], r"'tokens' holds 'a b' \(str\), expected a list \(a CSV cell cannot hold one; use .jsonl\)"),
        ([], [], "'tokens' is an empty list, expected words. Fill it in or remove the row"),
        (["a", None], ["O", "O"], "'tokens' has a null in its list, expected values"),
        (["a", ""], ["O", "O"], "'tokens' has an empty word, expected text. Remove it and its tag"),
        (["a", 3], ["O", "O"], r"'tokens' holds 3 \(int\), expected a list of strings"),
        (["a"], [None], "'ner_tags' has a null in its list"),
        (["a\udc00"], ["O"], "'tokens' has half a surrogate pair"),
    ],
)
def test_words_and_tags_must_be_lists_of_one_length(tokens: Any, tags: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        _read("token_classification", TAGS, {"tokens": tokens, "ner_tags": tags})


@pytest.mark.parametrize(
    ("columns", "record", "words"),
    [
        (
            CHOICES,
            {"q": "?", "choices": ["a"], "label": 0},
            "'choices' has 1 choices, expected at least 2. Correct the row",
        ),
        (CHOICES, {"q": "?", "choices": "ab", "label": 0}, r"'choices' holds 'ab' \(str\), expected a list"),
        (CHOICES, {"q": "?", "choices": ["a", None], "label": 0}, "'choices' has a null in its list"),
        (CHOICES, {"q": "?", "choices": ["a", " "], "label": 0}, "'choices' is empty, expected text"),
        (
            SINGLE,
            {"q": "?", "a": "x", "b": None, "label": 0},
            "'b' has no value, expected a choice. Fill it in; where row",
        ),
        (SINGLE, {"q": "?", "a": 3, "b": "x", "label": 0}, r"'a' holds 3 \(int\), expected text"),
    ],
)
def test_choices_must_be_two_texts_at_least(columns: dict[str, str], record: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        _read("multiple_choice", columns, record)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (
            {"text": ["blue"], "answer_start": [3]},
            "x:1: question '7': the answer 'blue' should stand at character 3 of its context, but there stands ' blu'. "
            r"It first stands at 4; correct answer_start \(characters from 0, not bytes\)",
        ),
        ({"text": ["blue"], "answer_start": [-4]}, "at character -4 of its context, but there stands ''. It first"),
        ({"text": ["blue"], "answer_start": [10**30]}, "but there stands ''. It first stands at 4; correct"),
        ({"text": ["red"], "answer_start": [4]}, "but there stands 'blu'. It stands nowhere in it; correct"),
        ({"text": ["blue"], "answer_start": []}, "has 1 texts but 0 answer_start. Expected one start a text; correct"),
        ({"text": [" "], "answer_start": [3]}, "has an empty text, expected a piece of the context. Give a question"),
        ({"text": ["blue"], "answer_start": [4.0]}, r"expected answers as {\"text\": \[...\], \"answer_start\""),
        ({"text": "blue", "answer_start": 4}, "expected answers as"),
        ("blue", r"'answers' holds 'blue' \(str\), expected answers as"),
        ([{"text": "blue"}], "expected answers as"),
        (None, "'answers' has no value, expected its answers"),
    ],
)
def test_answers_must_stand_where_they_say(answers: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        _read("question_answering", ANSWERS, {"id": "7", "question": "q", "context": "the blue", "answers": answers})


def test_ids_must_be_different_strings_or_numbers() -> None:
    record = {"question": "q", "context": "c", "answers": {"text": [], "answer_start": []}}
    with pytest.raises(DataError, match="x:2: the id '7' stands at x:1 too. Expected every id once; rename one or"):
        _read("question_answering", ANSWERS, {"id": "7", **record}, {"id": 7, **record})
    with pytest.raises(DataError, match=r"'id' holds 1.5 \(float\), expected a string"):
        _read("question_answering", ANSWERS, {"id": 1.5, **record})


def _tagged(*sentences: str) -> tuple[list[Any], Any]:
    records = [
        {"tokens": [f"w{n}" for n, _ in enumerate(tags.split())], "ner_tags": tags.split()} for tags in sentences
    ]
    table = table_of("x", records)
    return read_rows(table, "token_classification", TAGS, "required"), table


def test_iob1_is_converted_and_bio_is_left_alone() -> None:
    rows, table = _tagged("I-X I-X B-X", "O I-Y")
    assert convert_to_bio(rows, table)
    assert [row["tags"] for row in rows] == [["B-X", "I-X", "B-X"], ["O", "B-Y"]]
    assert not convert_to_bio(rows, table)


def test_broken_bio_is_refused_with_the_word_and_its_sentence() -> None:
    rows, table = _tagged("B-X I-X O", "O I-Y O")
    with pytest.raises(
        DataError,
        match=r"x row 2: tag 'I-Y' of word 2 \('w1'\) follows 'O', in 'w0 w1 w2'. In BIO it follows B-Y or I-Y; "
        "the file is not IOB1 either, which would be converted. Correct the tag",
    ):
        convert_to_bio(rows, table)
    rows, table = _tagged("B-Y O", "I-X B-Z")
    with pytest.raises(DataError, match="begins the sentence"):
        convert_to_bio(rows, table)


def test_other_schemes_are_refused() -> None:
    rows, table = _tagged("O S-X")
    with pytest.raises(DataError, match=r"tag 'S-X' of word 2 \('w1'\) is not BIO. Expected O, .*such as BIOES, first"):
        convert_to_bio(rows, table)


def _roles(**values: Any) -> dict[str, Any]:
    return {"id": "s1", "tokens": ["she", "ran"], "verb_index": 1, "tags": ["B-A0", "B-V"], **values}


def test_a_sentence_has_a_row_for_each_predicate() -> None:
    first, second = _roles(), _roles(verb_index=0, tags=["B-V", "O"])
    rows = _read("semantic_role_labeling", ROLES, first, second)
    assert rows[0] == {"id": "s1", "tokens": ["she", "ran"], "predicate_index": 1, "tags": ["B-A0", "B-V"]}
    assert rows[1]["predicate_index"] == 0
    without = {role: column for role, column in ROLES.items() if role != "id"}
    assert "id" not in _read("semantic_role_labeling", without, first, first)[0]
    assert (
        _read("semantic_role_labeling", ROLES, first, first, labels="dropped")
        == [{"tokens": ["she", "ran"], "predicate_index": 1}] * 2
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"verb_index": 2}, "x:2: predicate_index is 2, but there are 2 tokens.*counted from 0; correct the row"),
        ({"verb_index": -1}, r"x:2: 'verb_index' holds -1 \(int\), expected the number of a word, counted from 0"),
        ({"verb_index": "1"}, r"x:2: 'verb_index' holds '1' \(str\), expected the number of a word"),
        ({"verb_index": 1.0}, r"x:2: 'verb_index' holds 1.0 \(float\), expected the number of a word"),
        ({"verb_index": True}, r"x:2: 'verb_index' holds True \(bool\), expected the number of a word"),
        ({"verb_index": None}, "x:2: 'verb_index' has no value, expected its predicate_index"),
        ({"tags": ["B-V"]}, "x:2: 2 tokens but 1 tags"),
        ({}, "x:2: the id 's1' with predicate_index 1 stands at x:1 too. Expected every predicate of a sentence once"),
        ({"tokens": ["he", "ran"], "verb_index": 0}, "x:2: the id 's1' stands at x:1 with other tokens"),
    ],
)
def test_predicates_must_be_words_of_their_sentence_and_stand_once(values: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        _read("semantic_role_labeling", ROLES, _roles(), _roles(**values))


def test_semantic_roles_are_not_taken_for_iob1() -> None:
    rows, table = _tagged("I-X I-X")
    with pytest.raises(DataError, match="In BIO it follows B-X or I-X. Correct the tag"):
        convert_to_bio(rows, table, iob1=False)
