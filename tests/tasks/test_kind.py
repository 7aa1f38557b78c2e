from __future__ import annotations

import json
from typing import Any

import pytest

from ptuning.errors import CheckpointError, ConfigError, DataError
from ptuning.tasks import TaskKind, get_kind, kind_from_dict
from ptuning.tasks.classification import Classification
from ptuning.tasks.cloze import Cloze
from ptuning.tasks.multiple_choice import MultipleChoice
from ptuning.tasks.question_answering import QuestionAnswering
from ptuning.tasks.regression import Regression
from ptuning.tasks.token_classification import TokenClassification

KINDS: list[TaskKind] = [
    Classification(("no", "yes")),
    Regression(2.5, 0.5),
    MultipleChoice(),
    TokenClassification(("O", "B-X", "I-X")),
    QuestionAnswering(allow_no_answer=False, no_answer_threshold=1.5, doc_stride=64),
    Cloze(),
]
ids = [kind.name for kind in KINDS]


@pytest.mark.parametrize("kind", KINDS, ids=ids)
def test_a_kind_comes_back_from_json_as_it_was(kind: TaskKind) -> None:
    assert kind_from_dict(json.loads(json.dumps(kind.to_dict()))) == kind


@pytest.mark.parametrize("kind", KINDS, ids=ids)
def test_the_default_metric_is_one_that_can_be_chosen(kind: TaskKind) -> None:
    assert kind.resolve_metric(None) == kind.default_metric
    assert kind.resolve_metric(kind.default_metric) == kind.default_metric


@pytest.mark.parametrize("kind", KINDS, ids=ids)
def test_rows_without_labels_have_no_majority_score(kind: TaskKind) -> None:
    assert kind.majority_score([{"text": "a"}]) is None


@pytest.mark.parametrize("kind", KINDS, ids=ids)
def test_one_prediction_is_not_constant(kind: TaskKind) -> None:
    one: dict[str, Any] = {"label": "no", "value": 1.0, "choice": 0, "tags": ["O"], "answer": ""}
    assert not kind.is_constant([one])
    assert kind.is_constant([one, one])


@pytest.mark.parametrize("kind", KINDS, ids=ids)
def test_training_rows_need_labels(kind: TaskKind, tokenizer: Any) -> None:
    row = {"text": "a", "choices": ["b", "c"], "tokens": ["a"], "question": "q", "context": "c"}
    row |= {"passage": "a", "query": "b @placeholder", "entities": ["a"]}
    with pytest.raises(DataError, match=f"row 1 has no '{kind.label_role}'"):
        kind.encode([row], tokenizer, 32, training=True)
    assert kind.encode([row], tokenizer, 32, training=False)[0].label is None


def test_a_metric_of_which_lower_is_better_is_refused() -> None:
    with pytest.raises(ConfigError, match="training.metric is 'mse', but regression is judged by one of pearson"):
        Regression().resolve_metric("mse")


def test_saved_kinds_with_other_options_are_refused() -> None:
    with pytest.raises(CheckpointError, match="kind 'dancing', expected one of classification"):
        kind_from_dict({"kind": "dancing"})
    with pytest.raises(
        CheckpointError, match="with no options, expected kind 'classification' with label_names, pattern"
    ):
        kind_from_dict({"kind": "classification"})
    with pytest.raises(CheckpointError, match="with beam, expected kind 'multiple_choice' with pattern, words"):
        kind_from_dict({"kind": "multiple_choice", "beam": 3})


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        ({"kind": ["classification"]}, r"of kind \['classification'\], expected one of classification"),
        (
            {"kind": "classification", "label_names": ["no", "no"]},
            "options that do not fit: label_names are .*different",
        ),
        ({"kind": "classification", "label_names": 3}, "options that do not fit: "),
        ({"kind": "token_classification", "label_names": ["O", 1]}, "options that do not fit: "),
        ({"kind": "regression", "mean": "high"}, "options that do not fit: "),
        ({"kind": "regression", "standard_deviation": 0.0}, "options that do not fit: mean is 0.0 and standard_dev"),
        ({"kind": "question_answering", "doc_stride": -1}, "options that do not fit: doc_stride must be at least 0"),
        ({"kind": "question_answering", "doc_stride": None}, "options that do not fit: "),
    ],
)
def test_a_saved_kind_whose_options_do_not_fit_is_a_damaged_checkpoint(saved: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        kind_from_dict(saved)


def test_an_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="kind must be one of classification, .*question_answering.*, got 'ner'"):
        get_kind("ner")


def test_scoring_needs_labels_and_one_prediction_a_row() -> None:
    kind = KINDS[0]
    with pytest.raises(DataError, match="row 1 has no 'label'"):
        kind.score([{"label": "no"}], [{"text": "a"}])
    with pytest.raises(DataError, match="got 1 predictions for 2 rows"):
        kind.score([{"label": "no"}], [{"text": "a", "label": "no"}] * 2)
