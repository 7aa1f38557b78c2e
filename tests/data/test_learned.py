"""Other data are read by what a prompt was trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptuning.data import load_data
from ptuning.data.formats import table_of
from ptuning.data.learned import Learned, columns_here
from ptuning.data.unlabelled import prediction_rows
from ptuning.errors import DataError

PAIR = {"text": "sentence1", "text_pair": "sentence2", "label": "label"}
USUAL = {"text": ("sentence1", "#1 String"), "text_pair": ("sentence2", "#2 String"), "label": ("label", "Quality")}
LABELS = ("no", "yes")


@pytest.mark.parametrize(
    ("available", "found"),
    [
        ("sentence1 sentence2 label text text_pair", PAIR),
        ("Quality|#1 String|#2 String", {"text": "#1 String", "text_pair": "#2 String", "label": "Quality"}),
        ("text text_pair label", {"text": "text", "text_pair": "text_pair", "label": "label"}),
        ("sentence1|#2 String", {"text": "sentence1", "text_pair": "#2 String"}),
        ("Quality|#1 String|text", {"text": "#1 String", "label": "Quality"}),
    ],
)
def test_the_column_of_training_then_a_usual_one_then_the_roles_own(available: str, found: dict[str, str]) -> None:
    columns = available.split("|") if "|" in available else available.split()
    assert columns_here(PAIR, columns, USUAL) == found


def test_a_column_stands_for_one_role() -> None:
    assert columns_here({"text": "a", "text_pair": "text"}, ["text"]) == {"text_pair": "text"}


@pytest.mark.parametrize("names", [("sentence1", "sentence2"), ("#1 String", "#2 String"), ("text", "text_pair")])
def test_evaluation_and_prediction_read_the_same_columns(
    names: tuple[str, str], folder: Callable[[dict[str, Any]], Path]
) -> None:
    record = {names[0]: "a", names[1]: "b", "label": "yes"}
    directory = folder({"validation.jsonl": [record]})
    learned = Learned(PAIR, LABELS)
    data = load_data(directory, kind="classification", learned=learned, usual_columns=USUAL, splits=["validation"])
    assert data.validation == [{"text": "a", "text_pair": "b", "label": "yes"}]
    rows = prediction_rows(table_of("x", [record]), "classification", PAIR, None, USUAL)
    assert rows == [{"text": "a", "text_pair": "b"}]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"sentence1": "a", "label": "yes"}, "no column 'sentence2' \\(text_pair\\), which classification reads here"),
        (
            {"sentence1": "a", "sentence2": "b"},
            "no label column .* trained on sentence1 \\(text\\), sentence2 \\(text_pair\\), label. Rename columns",
        ),
        (
            {"sentence1": "a", "sentence2": "b", "labels": "yes", "label_text": "yes"},
            "more than one .* Rename columns to",
        ),
    ],
)
def test_columns_that_are_not_there_are_not_to_be_set_in_a_config(
    record: dict[str, Any], words: str, folder: Callable[[dict[str, Any]], Path]
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        load_data(
            folder({"validation.jsonl": [record]}),
            kind="classification",
            learned=Learned(PAIR, LABELS),
            splits=["validation"],
        )
    assert "data.columns" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "record", "columns", "labels"),
    [
        ("classification", {"text": "a", "label": "maybe"}, {"text": "text", "label": "label"}, LABELS),
        (
            "token_classification",
            {"tokens": ["a"], "tags": ["B-Y"]},
            {"tokens": "tokens", "tags": "tags"},
            ("O", "B-X"),
        ),
    ],
)
def test_labels_that_were_not_learned_are_said_to_be_none_of_the_prompts(
    kind: str,
    record: dict[str, Any],
    columns: dict[str, str],
    labels: tuple[str, ...],
    folder: Callable[[dict[str, Any]], Path],
) -> None:
    directory = folder({"validation.jsonl": [record]})
    with pytest.raises(DataError) as caught:
        load_data(directory, kind=kind, learned=Learned(columns, labels), splits=["validation"])
    message = str(caught.value)
    assert f"is not among the 2 label names of the prompt: {', '.join(labels)}." in message
    assert message.endswith("Correct the row, or leave it out: the prompt knows what it was trained for alone.")
