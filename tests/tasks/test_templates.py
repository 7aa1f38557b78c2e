"""The official input formats, worked by hand on one record each."""

from __future__ import annotations

from typing import Any

import pytest

from ptuning.data.formats import table_of
from ptuning.errors import CheckpointError, ConfigError, DataError
from ptuning.tasks import PRESETS, get_task
from ptuning.tasks.templates import TEMPLATES, get_template

WIC = {
    "word": "bank",
    "sentence1": "She sat on the banks of the Aire.",
    "sentence2": "The bank was shut.",
    "start1": 15,
    "end1": 20,
    "start2": 4,
    "end2": 8,
    "idx": 3,
    "label": 0,
}
WSC = {
    "text": "Mark told Pete Smith many lies, and he was angry.",
    "span1_index": 2,
    "span1_text": "Pete Smith",
    "span2_index": 7,
    "span2_text": "he",
    "idx": 0,
    "label": 1,
}
COPA = {
    "premise": "The lamp went out.",
    "choice1": "The bulb broke.",
    "choice2": "The sun rose.",
    "question": "cause",
    "idx": 1,
    "label": 0,
}
MULTIRC = {
    "paragraph": "Ada lives in Cork.",
    "question": "Where does Ada live?",
    "answer": "Cork",
    "idx": {"paragraph": 4, "question": 2, "answer": 1},
    "label": 1,
}


def _kept(row: dict[str, Any]) -> list[str]:
    return [row["text"][start:end] for start, end in row["keep"]]


def test_wic_0_asks_in_words_behind_both_sentences() -> None:
    row = TEMPLATES["wic/0"].make(WIC)
    question = "Does bank have the same meaning in both sentences?"
    assert row["text"] == f"She sat on the banks of the Aire. The bank was shut. {question}"
    assert "text_pair" not in row
    assert _kept(row) == ["banks", "bank", question]


def test_wic_1_is_a_pair_with_the_word_in_front() -> None:
    row = TEMPLATES["wic/1"].make(WIC)
    assert (row["text"], row["text_pair"]) == ("bank: She sat on the banks of the Aire.", "bank: The bank was shut.")
    assert _kept(row) == ["bank:", "banks"]
    assert [row["text_pair"][start:end] for start, end in row["keep_pair"]] == ["bank:", "bank"]


def test_wic_finds_the_word_where_its_place_is_not_given() -> None:
    without = {name: WIC[name] for name in ("word", "sentence1", "sentence2")}
    assert _kept(TEMPLATES["wic/0"].make(without))[:2] == ["bank", "bank"]
    other = {**without, "word": "be", "sentence2": "They were."}
    assert _kept(TEMPLATES["wic/0"].make(other)) == ["Does be have the same meaning in both sentences?"]


def test_wsc_0_has_the_pronoun_in_front_and_the_phrase_as_the_second_text() -> None:
    row = TEMPLATES["wsc/0"].make(WSC)
    assert (row["text"], row["text_pair"]) == ("he: Mark told Pete Smith many lies, and he was angry.", "Pete Smith")
    assert _kept(row) == ["he:", "Pete Smith", "he"]


def test_wsc_1_has_asterisks_around_the_pronoun() -> None:
    row = TEMPLATES["wsc/1"].make(WSC)
    assert (row["text"], row["text_pair"]) == ("Mark told Pete Smith many lies, and *he* was angry.", "Pete Smith")
    assert _kept(row) == ["Pete Smith", "*he*"]


def test_wsc_1_counts_the_asterisks_where_the_phrase_stands_behind_the_pronoun() -> None:
    record = {
        "text": "When he came, Mark Lee slept.",
        "span1_index": 3,
        "span1_text": "Mark Lee",
        "span2_index": 1,
        "span2_text": "he",
    }
    row = TEMPLATES["wsc/1"].make(record)
    assert row["text"] == "When *he* came, Mark Lee slept."
    assert _kept(row) == ["*he*", "Mark Lee"]


@pytest.mark.parametrize(("question", "connective"), [("cause", "because"), ("effect", "so")])
def test_copa_joins_the_premise_with_its_full_stop_and_a_connective(question: str, connective: str) -> None:
    row = TEMPLATES["copa/0"].make({**COPA, "question": question})
    assert row == {
        "text": f"The lamp went out. {connective}",
        "choices": ["The bulb broke.", "The sun rose."],
    }


def test_multirc_puts_question_and_answer_behind_the_paragraph_and_knows_its_question() -> None:
    assert TEMPLATES["multirc/0"].make(MULTIRC) == {
        "text": "Ada lives in Cork.",
        "text_pair": "Where does Ada live? Cork",
        "group": "4-2",
    }
    without = TEMPLATES["multirc/0"].make({column: value for column, value in MULTIRC.items() if column != "idx"})
    assert "group" not in without


def test_a_table_of_records_becomes_one_of_roles_with_labels_and_places() -> None:
    template = TEMPLATES["copa/0"]
    table = table_of("a.jsonl", [dict(COPA), {**COPA, "label": None}], [1, 2])
    made = template.apply(table, template.resolve(table, {}))
    assert made.columns == ("text", "choices", "label")
    assert made.records[0]["label"] == 0 and "label" not in made.records[1]
    assert made.where(1) == "a.jsonl:2"


def test_columns_of_other_names_are_given_by_what_the_template_reads() -> None:
    template = TEMPLATES["copa/0"]
    record = {"sentence": COPA["premise"], **{name: COPA[name] for name in ("choice1", "choice2", "question")}}
    table = table_of("a.jsonl", [record])
    found = template.resolve(table, {"premise": "sentence"})
    assert found == {"premise": "sentence", "question": "question", "choice1": "choice1", "choice2": "choice2"}
    assert template.apply(table, found).records[0]["text"] == "The lamp went out. because"


@pytest.mark.parametrize(
    ("name", "record", "words"),
    [
        (
            "copa/0",
            {**COPA, "question": "why"},
            "a.jsonl:7: 'question' is 'why', expected cause or effect. Correct the",
        ),
        ("copa/0", {**COPA, "premise": " "}, "a.jsonl:7: 'premise' is ' ', expected text. Correct or remove the row"),
        ("copa/0", {**COPA, "choice1": None}, "a.jsonl:7: 'choice1' has no value, and the template copa/0 reads it"),
        ("wic/0", {**WIC, "end2": 99}, "start2 and end2 are 4 and 99, expected characters of sentence2, which has 18"),
        ("wsc/0", {**WSC, "span1_index": 40}, "span1_index is 40, but the text has 10 words, counted from 0"),
        ("wsc/1", {**WSC, "span2_index": 40}, "span2_index is 40, but the text has 10 words, counted from 0"),
        ("wsc/0", {**WSC, "span2_index": "x"}, "'span2_index' is 'x', expected a whole number from 0 on"),
        ("multirc/0", {"paragraph": "a", "question": "b"}, "no column 'answer', but the template multirc/0 reads para"),
        (
            "multirc/0",
            {**MULTIRC, "idx": 5},
            r"a.jsonl:7: 'idx' is 5, expected \{\"paragraph\": 0, \"question\": 0\}: the",
        ),
        (
            "multirc/0",
            {**MULTIRC, "idx": {"paragraph": 5}},
            "'idx' is {'paragraph': 5}, expected .*, or leave idx out of",
        ),
    ],
)
def test_a_record_that_does_not_fit_is_refused_with_its_place(name: str, record: dict[str, Any], words: str) -> None:
    template, table = TEMPLATES[name], table_of("a.jsonl", [record], [7])
    with pytest.raises(DataError, match=words):
        template.apply(table, template.resolve(table, {}))


def test_an_override_that_the_template_does_not_read_is_refused() -> None:
    with pytest.raises(
        DataError, match="data.columns names 'text', but the template copa/0 reads premise, question, c"
    ):
        TEMPLATES["copa/0"].resolve(table_of("a.jsonl", [COPA]), {"text": "premise"})


def test_presets_name_templates_that_there_are() -> None:
    named = {name for task in PRESETS.values() for name in task.templates}
    assert named == set(TEMPLATES)
    assert all(template.name == name for name, template in TEMPLATES.items())


def test_a_template_that_a_preset_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="data.template is 2, but super_glue/wic has the templates 0 to 1. Set one"):
        get_task("super_glue/wic").template(2)
    with pytest.raises(ConfigError, match="data.template is 1, but super_glue/rte has template 0 alone"):
        get_task("super_glue/rte").template(1)


def test_a_prompt_with_a_template_of_a_newer_version_is_refused() -> None:
    with pytest.raises(CheckpointError, match="trained with the template 'wic/7', which this version does not have"):
        get_template("wic/7")
