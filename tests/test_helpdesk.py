"""The help-desk data that ship in the package: what they promise, and that validation is not a copy of train.

Near-duplicates are measured as the Jaccard overlap of 5-grams of characters, lower case. The largest that were measured
when this was written: tickets 0.28 across the splits and 0.21 inside one, sentences 0.19 and 0.27, articles 0.14, and
questions on one article 0.34. A sentence of ten words with one name exchanged has 0.58 to 0.71, one with a number and
a day exchanged 0.56.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import ptuning.tasks.presets as presets

DIRECTORY = Path(presets.__file__).resolve().parent.parent / "helpdesk"
SPLITS = ("train", "validation")
MOST_OVERLAP = 0.4
ENTITIES = ("PRODUCT", "ORDER", "DATE", "PERSON", "PLACE", "ERROR")


@cache
def rows(task: str, split: str) -> list[dict[str, Any]]:
    text = (DIRECTORY / task / f"{split}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@cache
def grams(text: str) -> frozenset[str]:
    text = re.sub(r"\s+", " ", text.lower()).strip()
    return frozenset(text[start : start + 5] for start in range(max(1, len(text) - 4)))


def overlap(first: str, second: str) -> float:
    one, other = grams(first), grams(second)
    return len(one & other) / len(one | other)


def near_duplicates(pairs: Iterable[tuple[str, str]]) -> list[tuple[float, str, str]]:
    found = [(overlap(*pair), *pair) for pair in pairs]
    return sorted((entry for entry in found if entry[0] > MOST_OVERLAP), reverse=True)


TEXTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "tickets": lambda row: str(row["text"]),
    "entities": lambda row: " ".join(row["tokens"]),
}


def texts(task: str, split: str) -> list[str]:
    return [TEXTS[task](row) for row in rows(task, split)]


def articles(split: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows("questions", split):
        found.setdefault(row["context"], []).append(row)
    return found


def test_the_measure_finds_what_it_looks_for() -> None:
    template = "Where is my order {}? I have been waiting since {}."
    assert overlap(template.format("HD-55102", "Monday"), template.format("HD-71930", "Friday")) > MOST_OVERLAP
    assert overlap("The Luma 3 shows E-17 again.", "the luma 3 shows e-17  again!") > 0.9


@pytest.mark.parametrize(
    ("task", "train", "validation"), [("tickets", 600, 150), ("entities", 450, 120), ("questions", 800, 200)]
)
def test_there_are_as_many_rows_as_promised(task: str, train: int, validation: int) -> None:
    assert len(rows(task, "train")) >= train and len(rows(task, "validation")) >= validation


@pytest.mark.parametrize("split", SPLITS)
def test_every_queue_has_as_many_tickets_as_any_other(split: str) -> None:
    counts = Counter(row["label"] for row in rows("tickets", split))
    assert sorted(counts) == sorted(presets.PRESETS["helpdesk/tickets"].label_names or ())
    assert len(counts) == 8 and min(counts.values()) >= 0.9 * max(counts.values())


@pytest.mark.parametrize("split", SPLITS)
def test_every_sentence_has_a_bio_tag_a_token(split: str) -> None:
    known = set(presets.PRESETS["helpdesk/entities"].label_names or ())
    counts: Counter[str] = Counter()
    for row in rows("entities", split):
        tokens, tags = row["tokens"], row["ner_tags"]
        assert len(tokens) == len(tags) > 0 and set(tags) <= known, row
        assert all(token and token == token.strip() and " " not in token for token in tokens), row
        for before, tag in zip(["O", *tags], tags, strict=False):
            assert not tag.startswith("I-") or before[2:] == tag[2:], (row, tag)
        counts.update(tag[2:] for tag in tags if tag.startswith("B-"))
    assert set(counts) == set(ENTITIES)
    assert min(counts.values()) >= 20


@pytest.mark.parametrize("split", SPLITS)
def test_some_sentences_have_no_entity(split: str) -> None:
    without = sum(set(row["ner_tags"]) == {"O"} for row in rows("entities", split))
    assert 0.05 < without / len(rows("entities", split)) < 0.4


@pytest.mark.parametrize("split", SPLITS)
def test_an_answer_is_the_text_where_it_starts(split: str) -> None:
    for row in rows("questions", split):
        assert set(row) == {"id", "title", "question", "context", "answers"}
        for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True):
            assert text == text.strip() != "" and row["context"][start : start + len(text)] == text, row


@pytest.mark.parametrize("split", SPLITS)
def test_about_a_quarter_of_the_questions_has_no_answer(split: str) -> None:
    unanswerable = sum(not row["answers"]["text"] for row in rows("questions", split))
    assert 0.2 < unanswerable / len(rows("questions", split)) < 0.3


def test_every_question_has_its_own_id() -> None:
    ids = [row["id"] for split in SPLITS for row in rows("questions", split)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("split", SPLITS)
def test_articles_have_40_to_80_words_and_both_kinds_of_questions(split: str) -> None:
    for context, asked in articles(split).items():
        assert 40 <= len(context.split()) <= 80, context
        answered = [bool(row["answers"]["text"]) for row in asked]
        assert any(answered) and not all(answered), context
        assert len({row["title"] for row in asked}) == 1


def test_no_article_is_in_both_splits() -> None:
    train, validation = articles("train"), articles("validation")
    assert len(train) + len(validation) >= 80
    titles = [{row["title"] for row in rows("questions", split)} for split in SPLITS]
    assert not titles[0] & titles[1]
    assert near_duplicates(itertools.product(train, validation)) == []


def test_no_two_articles_are_alike() -> None:
    everything = [*articles("train"), *articles("validation")]
    assert near_duplicates(itertools.combinations(everything, 2)) == []


@pytest.mark.parametrize("task", TEXTS)
def test_no_validation_text_is_nearly_one_of_train(task: str) -> None:
    assert near_duplicates(itertools.product(texts(task, "train"), texts(task, "validation"))) == []


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("task", TEXTS)
def test_no_two_texts_of_a_split_come_from_one_template(task: str, split: str) -> None:
    assert near_duplicates(itertools.combinations(texts(task, split), 2)) == []


@pytest.mark.parametrize("split", SPLITS)
def test_no_two_questions_on_an_article_are_nearly_the_same(split: str) -> None:
    pairs = (
        (one["question"], other["question"])
        for asked in articles(split).values()
        for one, other in itertools.combinations(asked, 2)
    )
    assert near_duplicates(pairs) == []


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("task", TEXTS)
def test_texts_do_not_open_alike(task: str, split: str) -> None:
    """A template shows in its first words even where what is filled in is long."""
    openings = Counter(" ".join(text.lower().split()[:4]) for text in texts(task, split))
    assert openings.most_common(1)[0][1] / len(texts(task, split)) < 0.03, openings.most_common(3)


@pytest.mark.parametrize("task", ["tickets", "entities", "questions"])
def test_the_files_are_read_as_their_preset_reads_them(task: str) -> None:
    from ptuning.data.sources import load_data, source_directory

    preset = presets.PRESETS[f"helpdesk/{task}"]
    data = load_data(
        source_directory(str(preset.source)),
        kind=preset.kind,
        columns=preset.columns or None,
        labels=preset.label_names,
    )
    assert len(data.train or []) == len(rows(task, "train"))
    assert data.notes == ()
