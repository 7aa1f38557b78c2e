from __future__ import annotations

from typing import Any

import pytest

from ptuning.data.columns import resolve_columns
from ptuning.errors import DataError


@pytest.mark.parametrize(
    ("available", "found"),
    [
        ("text label", {"text": "text", "label": "label"}),
        ("idx label sentence", {"text": "sentence", "label": "label"}),
        ("headline labels id", {"text": "headline", "label": "labels"}),
        ("premise hypothesis label idx", {"text": "premise", "text_pair": "hypothesis", "label": "label"}),
        ("question sentence label", {"text": "question", "text_pair": "sentence", "label": "label"}),
        ("second first label", {"text": "second", "text_pair": "first", "label": "label"}),
        ("text label_id", {"text": "text", "label": "label_id"}),
    ],
)
def test_texts_and_labels_are_found_in_file_order(available: str, found: dict[str, str]) -> None:
    for kind in ("classification", "regression"):
        assert resolve_columns(kind, available.split()) == found


def test_columns_without_text_are_not_taken_for_texts() -> None:
    columns = ["text", "stars", "label"]
    assert resolve_columns("classification", columns, text_columns=["text"]) == {"text": "text", "label": "label"}
    # A well-known name counts even if its cells look like numbers.
    assert resolve_columns("classification", ["sentence", "label"], text_columns=[])["text"] == "sentence"


def test_data_columns_settle_what_names_do_not() -> None:
    available = ["title", "body", "author", "team"]
    assert resolve_columns("classification", available, {"text": "body", "label": "team"}) == {
        "text": "body",
        "label": "team",
    }
    found = resolve_columns("classification", available, {"text": "title", "text_pair": "body", "label": "team"})
    assert found["text_pair"] == "body"
    found = resolve_columns("classification", ["a", "b", "label"], {"text_pair": "a"})
    assert found == {"text": "b", "text_pair": "a", "label": "label"}


def test_groups_and_marks_are_never_searched_for() -> None:
    available = ["text", "label", "group", "keep"]
    assert resolve_columns("classification", available, text_columns=["text"]) == {"text": "text", "label": "label"}
    found = resolve_columns("classification", available, {"group": "group", "keep": "keep"}, text_columns=["text"])
    assert found == {name: name for name in available}


def test_cloze_columns_are_found_by_their_names() -> None:
    names = ["passage", "query", "entities", "answers"]
    assert resolve_columns("cloze", ["idx", *names]) == {name: name for name in names}
    assert resolve_columns("cloze", names[:3], require_label=False) == {name: name for name in names[:3]}
    with pytest.raises(DataError, match="no column 'entities' for cloze"):
        resolve_columns("cloze", ["passage", "query", "answers"])
    with pytest.raises(DataError, match=r"no answers column \(answers\) for cloze"):
        resolve_columns("cloze", names[:3])


def test_labels_may_be_missing_when_predicting() -> None:
    assert resolve_columns("classification", ["text"], require_label=False) == {"text": "text"}
    assert resolve_columns("question_answering", ["question", "context"], require_label=False) == {
        "question": "question",
        "context": "context",
    }
    # Not guessed, and above all not read as a second text.
    assert resolve_columns("classification", ["text", "label", "label_text"], require_label=False) == {"text": "text"}


def test_choices_are_a_list_or_columns_in_the_order_of_their_numbers() -> None:
    assert resolve_columns("multiple_choice", ["text", "choices", "label"]) == {
        "text": "text",
        "choices": "choices",
        "label": "label",
    }
    available = ["choice10", "choice2", "choice_1", "premise", "question", "label"]
    assert resolve_columns("multiple_choice", available) == {
        "choice1": "choice_1",
        "choice2": "choice2",
        "choice3": "choice10",
        "text": "premise",
        "question": "question",
        "label": "label",
    }
    found = resolve_columns("multiple_choice", ["q", "a", "b", "label"], {"text": "q", "choice2": "a", "choice1": "b"})
    assert (found["choice1"], found["choice2"]) == ("b", "a")


def test_a_question_alone_is_the_text_of_choices() -> None:
    assert resolve_columns("multiple_choice", ["question", "choices", "label"])["text"] == "question"


@pytest.mark.parametrize("name", ["ner_tags", "tags", "labels"])
def test_words_and_their_tags_are_found(name: str) -> None:
    assert resolve_columns("token_classification", ["id", "tokens", name]) == {"tokens": "tokens", "tags": name}


def test_raw_text_stands_for_words_only_when_predicting() -> None:
    assert resolve_columns("token_classification", ["text"], require_label=False) == {"text": "text"}
    with pytest.raises(DataError, match="no column 'tokens' for token_classification. The columns are: text, tags"):
        resolve_columns("token_classification", ["text", "tags"])


@pytest.mark.parametrize(("words", "predicate"), [("tokens", "predicate_index"), ("words", "verb_index")])
def test_words_predicate_and_roles_are_found(words: str, predicate: str) -> None:
    available = ["id", words, predicate, "predicate", "tags"]
    found = {"id": "id", "tokens": words, "predicate_index": predicate, "tags": "tags"}
    assert resolve_columns("semantic_role_labeling", available) == found
    del found["tags"]
    assert resolve_columns("semantic_role_labeling", available[:-1], require_label=False) == found


def test_questions_are_found() -> None:
    assert resolve_columns("question_answering", ["title", "id", "context", "question", "answers"]) == {
        "id": "id",
        "question": "question",
        "context": "context",
        "answers": "answers",
    }


@pytest.mark.parametrize(
    ("kind", "available", "overrides", "words"),
    [
        (
            "classification",
            "text",
            {},
            r"the data: no label column \(label or labels\) for classification. The columns are: text. "
            r"Name the right ones in data.columns, such as \{label: NAME\}",
        ),
        ("classification", "", {}, "no text column for classification. The columns are: none. Name the right ones"),
        ("classification", "label", {}, "no text column"),
        (
            "classification",
            "title body author label",
            {},
            r"3 text columns \(title, body, author\) .*such as \{text: title",
        ),
        (
            "classification",
            "text author label",
            {},
            "'text' and 'author' could be a pair, or one of them the only text",
        ),
        ("classification", "text label label_text", {}, "more than one column could be the label: label, label_text"),
        ("classification", "text label labels", {}, "more than one column could be the label: label, labels"),
        ("classification", "text label", {"txt": "text"}, "names the role 'txt', but .*Did you mean 'text'"),
        (
            "classification",
            "text label",
            {"zzz": "text"},
            "has the roles text, text_pair, group, keep, keep_pair, label. Use one",
        ),
        ("classification", "text label", {"text": "txt"}, "says text: txt, but there is no column 'txt'.*mean 'text'"),
        ("classification", "text label", {"text": "zzz"}, "The columns are: text, label. Name one of those"),
        ("classification", "text label", {"text": "text", "label": "text"}, "to both 'text' and 'label'.*drop one"),
        ("multiple_choice", "text label", {}, "no column 'choices' and no columns choice1, choice2, ..."),
        ("multiple_choice", "text choice1 label", {}, "no column 'choices' and no columns choice1"),
        ("multiple_choice", "text choice1 choice2 choices label", {}, "both 'choices' and 'choice1'"),
        ("multiple_choice", "text premise choices label", {}, r"2 text columns \(text, premise\)"),
        ("multiple_choice", "choices label", {}, "no text column for multiple_choice"),
        (
            "multiple_choice",
            "text a b label",
            {"choices": "a", "choice1": "b"},
            "one column with lists, or one column a",
        ),
        ("token_classification", "tokens tags ner_tags", {}, "more than one column could be the tags: tags, ner_tags"),
        ("semantic_role_labeling", "text verb_index tags", {}, r"no tokens column \(tokens or words\)"),
        ("semantic_role_labeling", "tokens tags", {}, r"no predicate_index column \(predicate_index or verb_index\)"),
        (
            "semantic_role_labeling",
            "tokens words verb_index tags",
            {},
            "more than one column could be the tokens: tokens, words",
        ),
        ("token_classification", "tokens", {}, r"no tags column \(ner_tags or tags or labels\)"),
        ("question_answering", "question answers", {}, "no column 'context' .*such as {context: NAME}"),
        ("question_answering", "question context", {}, r"no answers column \(answers\)"),
        ("clasification", "text label", {}, "kind must be one of classification, .*got 'clasification'. Name one of"),
    ],
)
def test_ambiguous_or_missing_columns_are_errors_that_list_the_columns(
    kind: str, available: str, overrides: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        resolve_columns(kind, available.split(), overrides)
